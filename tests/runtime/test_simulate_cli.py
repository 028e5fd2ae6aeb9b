"""`preempt-rt simulate` as it is called: documents, tables, files, errors and signals."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from preempt_runtime import cli
from preempt_runtime.clock import VirtualClock

ROOT = Path(__file__).parents[2]
TASKS = """
[[task]]
name = "camera"
cost = "3ms"
priority = 2
period = "10ms"
deadline = "6ms"

[[task]]
name = "captions"
cost = "40ms"
max_segment = "2ms"
point_cost = "50us"
best_effort = true
arrival = { kind = "closed_loop" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set.toml").write_text(TASKS, encoding="utf-8")
    return tmp_path


def simulate(*arguments: str) -> int:
    return cli.main(("simulate", "set.toml", *arguments))


def test_the_document_is_that_of_a_run_and_says_simulated(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate("--json", "--duration", "1s", "--costs", "worst", "--seed", "4") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err == ""
    assert {"taskset", "policy", "duration_ns", "ended_by", "device_busy_frac"} < set(document)
    assert (document["device"], document["seed"]) == ("simulated", 4)
    assert document["simulated"] == {
        "costs": "worst",
        "resume_cost_ns": 0,
        "offered_load": 0.3,
        "warnings": [],
    }
    camera = document["tasks"]["camera"]
    assert (camera["released"], camera["finished"], camera["missed"]) == (100, 100, 0)
    assert (camera["bundle"], camera["plan"], camera["max_backlog"]) == (None, None, 1)
    assert camera["costs"]["source"] == "given"


def test_the_table_says_so_to_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--policy", "fifo", "--duration", "1s") == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"set: 1(\.\d+)? s with fifo, seed 0, on simulated, busy 100%", lines[0])
    told = "simulated: every segment takes its median; releases ask for 30% of the device"
    assert told in lines
    assert any(re.match(r"captions +given in the task set +4\d", line) for line in lines)
    assert lines[-1].startswith("warning: task 'camera': its queue grows") is False


def test_a_growing_queue_is_warned_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "set.toml").write_text(TASKS.replace('"3ms"', '"15ms"'), encoding="utf-8")
    assert simulate("--duration", "2s") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("warning: task 'camera': its queue grows without bound")


def test_a_trace_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--trace", "trace.json", "--duration", "100ms") == 0
    events = json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert len([event for event in events if event["name"] == "camera[0]"]) == 10


def test_a_sweep_prints_a_row_a_point_and_draws_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("--sweep", "load=40%,0.8", "--sweep", "policy=fifo,fixed-priority", "--seeds", "2")
    assert simulate(*sweep, "--duration", "500ms", "--jobs", "2", "--plot", "plot.svg") == 0
    head, _, header, *rows = capsys.readouterr().out.splitlines()
    assert head == "set: 500 ms simulated, 2 seeds from 0, every segment takes its median"
    assert header.split()[:4] == ["load", "policy", "camera", "missed"]
    assert [row.split()[:2] for row in rows[:4]] == [
        ["40%", "fifo"],
        ["40%", "fixed-priority"],
        ["80%", "fifo"],
        ["80%", "fixed-priority"],
    ]
    assert rows[1].split()[2:4] == ["0.00", "%"]
    assert float(rows[0].split()[2]) > 50  # behind whole captions of 41 ms
    ElementTree.parse(folder / "plot.svg")


def test_a_sweep_as_a_document_has_every_row(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--sweep", "max_segment:captions=1ms,40ms", "--duration", "200ms", "--json")
    assert simulate(*arguments, "--seeds", "2", "--seed", "7") == 0
    first = capsys.readouterr().out
    document = json.loads(first)
    assert (document["seed"], document["seeds"], document["costs"]) == (7, 2, "fixed")
    assert document["axes"] == {"max_segment:captions": [1_000_000, 40_000_000]}
    settings = [(row["settings"]["max_segment:captions"], row["seed"]) for row in document["rows"]]
    assert settings == [(1_000_000, 7), (1_000_000, 8), (40_000_000, 7), (40_000_000, 8)]
    short, whole = document["points"]
    assert short["miss_rates"]["camera"]["mean"] == 0
    assert whole["miss_rate"]["mean"] > 0.5
    assert document["rows"][0]["tasks"]["camera"]["released"] == 20
    assert simulate(*arguments, "--seeds", "2", "--seed", "7", "--jobs", "1") == 0
    assert capsys.readouterr().out == first


def test_seeds_alone_repeat_one_point(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate("--seeds", "3", "--duration", "100ms") == 0
    assert capsys.readouterr().out.splitlines()[3].split()[:5] == [
        "0.00",
        "%",
        "+-",
        "0.00",
        "0.79",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sweep", "max_segment:x=1ms"), "no task of that name; there are camera, captions"),
        (("--sweep", "load=0.5", "--sweep", "load=0.7"), "--sweep load is there twice"),
        (("--sweep", "policy=fifo", "--policy", "fifo"), "both --policy and --sweep policy"),
        (("--sweep", "load=0.5", "--trace", "t.json"), "--trace is of one simulation"),
        (("--sweep", "load=0.5", "--sweep", "max_segment=10us"), "allowed above 50.4 us"),
        # before any of its points is made, which would find the bound too short
        (("--sweep", "max_segment=10us,20us", "--seeds", "9999"), "are 19998 simulations"),
        (("--plot", "p.svg"), "--plot draws a sweep; add --sweep"),
        (("--jobs", "2"), "--jobs is for many simulations"),
        (("--trace", "set.toml"), "set.toml: is an input of this command"),
        (("--sweep", "load=0.5", "--plot", "set.toml"), "set.toml: is an input of this command"),
        (("--sweep", "load=0.5", "--plot", "no/p.svg"), "no directory to write the plot into"),
        (
            ("--sweep", "load=0.5", "--plot", "p.png"),
            "--plot p.png: plots are SVG; name a file tha",
        ),
        (("--sweep", "load=0.5", "--plot", "."), "is a directory; name a file to write"),
        (("--duration", "9000min", "--trace", "t.json"), "allowed with a trace 5e+06"),
        (("--sweep", "load=0.5", "--seeds", "10000", "--duration", "99999min"), "1e+09"),
    ],
)
def test_an_error_is_one_line_and_exit_1(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert simulate(*arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('cost = "3ms"', 'model = "net.onnx"', "task 'camera': no bundle, so its costs are not"),
        ('cost = "3ms"', "", "key 'bundle' is missing, write the bundle's directory; or what"),
        ('cost = "3ms"', 'cost = "-3ms"', "key 'cost'"),
        ('cost = "3ms"', 'bundle = "no.bundle"', "no.bundle does not exist"),
        ('cost = "40ms"', 'cost = "0ms"', "key 'cost'"),
    ],
)
def test_a_task_set_that_cannot_be_simulated_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    (folder / "net.onnx").write_bytes(b"")
    assert old in TASKS
    (folder / "set.toml").write_text(TASKS.replace(old, new), encoding="utf-8")
    for arguments in ((), ("--sweep", "load=0.5", "--json")):
        assert simulate(*arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert message in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sweep", "speed=1,2"), "found key 'speed', allowed load, policy, max_segment"),
        (("--sweep", "load=-1"), "load '-1', allowed 0.001 to 100"),
        (("--duration", "-5s"), "--duration"),
        (("--duration", "0s"), "is no time at all"),
        (("--costs", "lucky"), "invalid choice: 'lucky'"),
        (("--seeds", "0"), "allowed an integer, 1 to 10000"),
        (("--jobs", "0"), "allowed an integer, 1 to 256"),
    ],
)
def test_wrong_usage_is_exit_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as leaving:
        simulate(*arguments)
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err


def test_a_plot_that_cannot_be_written_does_not_take_the_results_along(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--sweep", "load=0.5", "--duration", "100ms", "--plot", "/dev/full")
    assert simulate(*arguments) == 1
    captured = capsys.readouterr()
    assert "50%" in captured.out
    assert "/dev/full: cannot write the plot: No space left on device" in captured.err


def test_ctrl_c_prints_what_was_simulated_and_writes_the_trace(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    advance, num_calls = VirtualClock.advance, 0

    def advance_and_interrupt(clock: VirtualClock, by_ns: int) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 100:
            signal.raise_signal(signal.SIGINT)
        advance(clock, by_ns)

    monkeypatch.setattr(VirtualClock, "advance", advance_and_interrupt)
    assert simulate("--trace", "trace.json", "--json") == 130
    document = json.loads(capsys.readouterr().out)
    assert document["ended_by"] == "SIGINT"
    assert 0 < document["duration_ns"] < 1_000_000_000
    assert (folder / "trace.json").stat().st_size > 1000


@pytest.fixture
def process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A long sweep in a process group of its own, after its first result."""
    paths = f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"
    code = "import sys; from preempt_runtime.start import main; sys.exit(main())"
    seeds = ("--seeds", "5000", "--duration", "20s", "--jobs", "2", "-v")
    with subprocess.Popen(
        [sys.executable, "-c", code, "simulate", "set.toml", *seeds],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stderr is not None
            assert "1 of 5000 simulated: seed=0" in process.stderr.readline()
            yield process
        finally:  # whatever a failed test left
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def told(text: str) -> list[str]:
    return [line for line in text.splitlines() if " simulated: seed=" not in line]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_signal_ends_every_process_with_one_line(
    process: subprocess.Popen[str], signum: signal.Signals, is_terminal: bool
) -> None:
    if is_terminal:  # Ctrl-C reaches the whole group
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)
    out, err = process.communicate(timeout=60)  # at the pipes' ends: no process holds them open
    assert process.returncode == 128 + signum
    assert out == ""
    assert told(err) == [f"preempt-rt: interrupted by {signum.name}, no results"]


def test_processes_end_with_a_command_that_is_killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=60)  # at the pipes' ends: no process holds them open
    assert process.returncode == -signal.SIGKILL


def test_a_killed_process_is_one_line(process: subprocess.Popen[str]) -> None:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [
        int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(workers[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = told(err)
    assert line.startswith("preempt-rt: error: a process of the sweep was killed")
