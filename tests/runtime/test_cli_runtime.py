import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest

import preempt_runtime
from preempt_runtime import cli
from preempt_runtime.clock import VirtualClock
from preempt_runtime.doctor import AskedPlan, Finding
from preempt_runtime.loading import Backend
from preempt_runtime.tables import plain_table, print_table
from tests.runtime.fake_bundles import (
    FIELDS,
    FakeBackend,
    LoadingFakeDevice,
    manifest_of,
    write_bundle,
)

TASKSET = """
[taskset]
seed = 3

[[task]]
name = "urgent"
bundle = "short.bundle"
priority = 9
deadline = "1s"
[task.arrival]
kind = "periodic"
period = "1ms"

[[task]]
name = "long"
bundle = "long.bundle"
best_effort = true
[task.arrival]
kind = "trace"
path = "releases.txt"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "short.bundle", manifest_of((1000,)))
    write_bundle(tmp_path / "long.bundle", manifest_of((1000,) * 3))
    (tmp_path / "releases.txt").write_text("0\n0\n1ms\n", encoding="utf-8")
    (tmp_path / "set.toml").write_text(TASKSET, encoding="utf-8")
    return tmp_path


def main(*arguments: str, device: LoadingFakeDevice | None = None) -> int:
    def find_backend(name: str) -> Backend:
        assert name == FIELDS["backend"]
        return FakeBackend(make_device=lambda: device or LoadingFakeDevice(VirtualClock()))

    return cli.main(arguments, find_backend)


def run(*arguments: str, device: LoadingFakeDevice | None = None) -> int:
    return main("run", "set.toml", "--duration", "5ms", *arguments, device=device)


def test_json_is_one_document_with_every_figure(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--json") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err == ""
    assert list(document) == [
        *("taskset", "policy", "seed", "duration_ns", "ended_by", "device"),
        *("depth", "mechanism", "gate_mode", "gate_faults", "device_busy_frac"),
        *("tasks", "options", "guarantee"),
    ]
    assert (document["taskset"], document["policy"], document["seed"]) == (
        "set",
        "fixed-priority",
        3,
    )
    assert document["duration_ns"] >= 5_000_000
    assert 0 <= document["device_busy_frac"] <= 1
    assert (document["ended_by"], document["options"], document["device"]) == (None, [], "fake")
    urgent, long = document["tasks"]["urgent"], document["tasks"]["long"]
    assert (urgent["released"], urgent["finished"], urgent["failed"]) == (5, 5, 0)
    assert (long["released"], long["finished"], long["priority"]) == (3, 3, None)
    assert (urgent["priority"], urgent["deadline_ns"], urgent["first_error"]) == (9, 10**9, None)
    assert (long["plan"], long["num_segments"], long["bundle"]) == ("cut", 3, "long.bundle")
    assert urgent["response"]["num_samples"] == 5
    assert 0 < urgent["response"]["p50_ns"] <= urgent["response"]["max_ns"]
    assert urgent["rate_per_s"] == pytest.approx(5e9 / document["duration_ns"])


def test_the_table_says_the_same_to_people(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--policy", "fifo", "--seed", "8") == 0
    head, _, header, urgent, long, _, bounds = capsys.readouterr().out.splitlines()
    assert bounds.startswith("bounds, of estimated costs and a margin of 10%: ")
    assert head.startswith("set: ")
    assert " with fifo, seed 8, on fake, busy " in head
    assert header.startswith("task    priority     segments  jobs  finished  missed  lost")
    assert urgent.split()[:7] == ["urgent", "9", "1", "5", "5", "0", "-"]
    assert long.split()[:8] == ["long", "best", "effort", "3", "3", "3", "-", "-"]


def test_a_trace_is_written_with_a_track_for_each_task(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--trace", "trace.json") == 0
    events = json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    tracks = [event["args"]["name"] for event in events if event["name"] == "thread_name"]
    assert tracks == ["urgent", "long"]
    slices = [event["name"] for event in events if event["ph"] == "X"]
    assert (slices.count("urgent[0]"), slices.count("long[2]")) == (5, 3)


def test_spinning_is_reported_among_the_options(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--spin", "200us", "--json") == 0
    assert json.loads(capsys.readouterr().out)["options"] == [
        {"name": "spin", "requested": "200 us", "applied": True, "reason": ""}
    ]
    assert run("--spin", "200us") == 0
    assert "\noption spin = 200 us: in force\n" in capsys.readouterr().out


def test_options_are_reported_where_they_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--affinity", "4096", "--json") == 0
    (affinity,) = json.loads(capsys.readouterr().out)["options"]
    assert (affinity["name"], affinity["requested"], affinity["applied"]) == (
        "affinity",
        "4096",
        False,
    )
    assert "name cores that this process may use" in affinity["reason"]
    assert run("--affinity", "4096") == 0
    out = capsys.readouterr().out
    assert "\noption affinity = 4096: refused: Invalid argument; name cores" in out


def test_warm_up_can_be_chosen(folder: Path) -> None:
    device = LoadingFakeDevice(VirtualClock())
    assert run("--warmup", "0", device=device) == 0
    num_cold = len(device.launches)
    device = LoadingFakeDevice(VirtualClock())
    assert run("--warmup", "7", device=device) == 0
    assert len(device.launches) == num_cold + 7 * (1 + 3)


def test_failed_jobs_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = LoadingFakeDevice(VirtualClock(), failures=[("long.bundle:cut", 1)])
    assert run("--warmup", "0", device=device) == 0
    out = capsys.readouterr().out
    assert "3 failed" in out
    assert (
        "\ntask long: its first failed job: DeviceError: long.bundle:cut: segment 1 was told" in out
    )


def interrupting_device() -> LoadingFakeDevice:
    def on_launch(num_launches: int) -> None:
        if num_launches == 2:
            signal.raise_signal(signal.SIGINT)

    return LoadingFakeDevice(VirtualClock(), on_launch=on_launch)


def test_ctrl_c_prints_what_was_measured_and_writes_the_trace(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--warmup", "0", "--trace", "trace.json", "--duration", "60s")
    assert run(*arguments, "--json", device=interrupting_device()) == 130
    document = json.loads(capsys.readouterr().out)
    assert document["ended_by"] == "SIGINT"
    assert document["tasks"]["long"]["cancelled"] >= 1
    assert document["duration_ns"] < 10e9
    assert json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    assert run(*arguments, device=interrupting_device()) == 130
    assert ", ended by SIGINT\n" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_ctrl_c_before_the_run_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run("--warmup", "1", *arguments, device=interrupting_device()) == 130
    assert capsys.readouterr() == ("", "preempt-rt: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "none.toml"],
            "none.toml: cannot read the task set: No such file or directory; check the path",
        ),
        (
            ["run", "set.toml", "--trace", "none/trace.json"],
            "none/trace.json: no directory to write the trace into; make it first",
        ),
        (
            ["run", "set.toml", "--manifest-sha256", f"nobody={'0' * 64}"],
            "set.toml: no task is called 'nobody', so its manifest cannot be pinned;"
            " there are urgent, long",
        ),
    ],
)
def test_an_error_is_one_line_and_exit_1(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(*arguments) == 1
    assert capsys.readouterr() == ("", f"preempt-rt: error: {message}\n")


def test_a_bundle_that_is_not_there_is_told_with_its_task_and_what_makes_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TASKSET.replace('"short.bundle"', '"later.bundle"\nmodel = "net.onnx"')
    (folder / "net.onnx").touch()
    (folder / "set.toml").write_text(text, encoding="utf-8")
    assert run() == 1
    error = capsys.readouterr().err
    assert "task 'urgent': later.bundle: no such bundle; make it of the task's model with" in error
    assert "`preemptc plan TASKSET --compile`" in error


def test_a_flipped_byte_is_found_before_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = (folder / "long.bundle").glob("engines/*/segment-001.onnx")
    path.write_bytes(b"segmenu")
    assert run() == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"preempt-rt: error: {path}: sha256 ")
    assert captured.err.endswith("; damaged, compile the bundle again\n")


def test_a_trace_that_cannot_be_written_does_not_take_the_results_along(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # as a disk that fills up
    try:
        assert run("--json", "--trace", "trace.json") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    captured = capsys.readouterr()
    assert json.loads(captured.out)["tasks"]["urgent"]["finished"] == 5
    assert captured.err.startswith("preempt-rt: error: trace.json: cannot write the trace: ")


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ("set.toml", "is an input of this command"),
        ("releases.txt", "is an input of this command"),
        ("recorded.npz", "is an input of this command"),
        ("link.toml", "is an input of this command"),
        ("short.bundle/trace.json", "lies in the bundle short.bundle"),
        ("short.bundle/manifest.json", "lies in the bundle short.bundle"),
        ("linked/trace.json", "lies in the bundle short.bundle"),
        ("other.bundle/engines/trace.json", "other.bundle, which holds nothing else"),
        (".", "is a directory"),
        ("a" * 300, "cannot be a file (File name too long)"),
        ("loop", "cannot be a file (Too many levels of symbolic links)"),
    ],
)
def test_a_trace_over_an_input_or_where_no_file_can_be_is_refused_before_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str], trace: str, message: str
) -> None:
    np.savez(folder / "recorded.npz", x=np.zeros(4, np.float32))
    text = TASKSET.replace('name = "urgent"\n', 'name = "urgent"\ninputs = "recorded.npz"\n')
    (folder / "set.toml").write_text(text, encoding="utf-8")
    (folder / "link.toml").symlink_to("set.toml")
    (folder / "linked").symlink_to("short.bundle")
    (folder / "loop").symlink_to("loop")
    write_bundle(folder / "other.bundle", manifest_of((1000,)))  # of no task
    before = _contents(folder)
    assert run("--trace", trace) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert _contents(folder) == before


@pytest.mark.parametrize("command", ["run", "simulate"])
def test_a_deleted_working_directory_is_one_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()
    assert main(command, str(folder / "set.toml"), "--trace", "trace.json") == 1
    assert capsys.readouterr() == (
        "",
        "preempt-rt: error: the working directory was deleted; change to one that exists, and run"
        " this again\n",
    )


class FullStdout(io.StringIO):
    """A disk without space, noticed when the buffer is written."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class NarrowStdout(io.TextIOWrapper):
    """A terminal that knows ASCII only."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="ascii")


@pytest.mark.parametrize(
    ("stdout", "message"),
    [
        (FullStdout, "stdout: cannot be written: No space left on device; free space"),
        (NarrowStdout, "stdout: its encoding ascii cannot write '\\xe9'; use --json"),
    ],
)
def test_stdout_that_fails_does_not_take_the_trace_along(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    stdout: Callable[[], TextIO],
    message: str,
) -> None:
    text = TASKSET.replace('"urgent"', '"\u00e9"')
    (folder / "set.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", stdout())
    assert run("--trace", "trace.json") == 1
    assert json.loads((folder / "trace.json").read_text(encoding="utf-8"))["traceEvents"]
    error = capsys.readouterr().err
    assert error.startswith(f"preempt-rt: error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", ["doctor", "run set.toml --trace trace.json", "--help"])
def test_a_closed_stdout_is_one_line_before_any_work(folder: Path, arguments: str) -> None:
    code = "from preempt_runtime.start import main; raise SystemExit(main())"
    command = f'{sys.executable} -c "{code}" {arguments} >&-'
    found = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True)
    assert found.returncode == 1
    assert found.stderr == (
        "preempt-rt: error: stdout is closed; redirect it to a file, or to /dev/null\n"
    )
    assert not (folder / "trace.json").exists()


@pytest.mark.parametrize("module", ["preempt_runtime.cli", "numpy"])
def test_ctrl_c_while_it_starts_is_one_line_and_130(tmp_path: Path, module: str) -> None:
    code = (
        "import importlib.abc, os, signal, sys\n"
        "class Interrupt(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from preempt_runtime.start import main\n"
        "raise SystemExit(main())"
    )
    found = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "preempt-rt: interrupted\n")


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["walk"], "invalid choice: 'walk'"),
        (["run"], "the following arguments are required: TASKSET.toml"),
        (["run", "a", "--duration", "10"], "'10' is not a duration; write a number and ns, us, ms"),
        (["run", "a", "--duration", "0s"], "'0s' is no time at all"),
        (["run", "a", "--sched-fifo", "100"], "'100', allowed an integer, 1 to 99"),
        (["run", "a", "--sched-fifo", "x"], "'x', allowed an integer, 1 to 99"),
        (["run", "a", "--seed", "9" * 5000], "allowed an integer, 0 to 9223372036854775807"),
        (
            ["run", "a", "--policy", "best"],
            "argument --policy: no policy is called 'best'; there are deadline-monotonic",
        ),
        (["run", "a", "--warmup=-1"], "'-1', allowed an integer, 0 to 10000"),
        (["run", "a", "--affinity", "0-3"], "'0-3', allowed core numbers such as 0,1"),
        (["run", "a", "--affinity", ""], "'', allowed core numbers such as 0,1"),
        (["run", "a", "--manifest-sha256", "abc"], "'abc', allowed TASK= and 64 hexadecimal dig"),
        (["run", "a", "--manifest-sha256", f"={'0' * 64}"], "allowed TASK= and 64 hexadecimal"),
    ],
)
def test_wrong_usage_is_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(*arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["run", ""], "TASKSET.toml"),
        (["run", "a", "--trace", ""], "--trace"),
        (["doctor", ""], "TASKSET|BUNDLE"),
    ],
)
def test_an_empty_path_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], name: str
) -> None:
    assert main(*arguments) == 1
    message = f"preempt-rt: error: {name}: the path is empty; write one\n"
    assert capsys.readouterr() == ("", message)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"preempt-rt {preempt_runtime.__version__}\n"


def test_a_bug_keeps_its_traceback(folder: Path) -> None:
    class Broken(LoadingFakeDevice):
        def stream(self, *, is_urgent: bool) -> None:
            raise AssertionError

        def load(self, bundle: object, plan_id: str | None = None) -> object:  # type: ignore[override]
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(device=Broken(VirtualClock()))


@pytest.fixture
def quick_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preempt_runtime.doctor.host.WINDOW_S", 0.001)


@pytest.mark.usefixtures("quick_doctor")
def test_the_doctor_examines_task_sets_and_bundles(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main("doctor", "set.toml", "short.bundle", "--json")
    document = json.loads(capsys.readouterr().out)
    by_name = {finding["what"]: finding for finding in document["findings"]}
    assert {"cores", "memory", "bundle short.bundle", "bundle long.bundle"} <= set(by_name)
    assert len(by_name) == len(document["findings"])
    assert by_name["bundle long.bundle"]["found"].startswith("plan 'cut', 3 segments, estimated")
    assert document["ok"] == all(f["level"] != "fail" for f in document["findings"])


@pytest.mark.usefixtures("quick_doctor")
def test_the_doctor_says_what_a_run_refuses_of_a_task_set_as_a_whole(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gates on a CPU, and tasks for different devices; each of its bundles is well."""
    cpu = {**FIELDS, "backend": "ort"}
    for name, target, fields in (("a", "cpu", cpu), ("b", "orin", {**FIELDS, "gpu": "Orin"})):
        manifest = manifest_of(fields=fields)
        plans = tuple(replace(plan, target=target) for plan in manifest.plans)
        write_bundle(folder / f"{name}.bundle", replace(manifest, plans=plans))
    task = (
        '[[task]]\nname = "{0}"\nbundle = "{0}.bundle"\nbest_effort = true\n'
        '[task.arrival]\nkind = "closed_loop"\n'
    )
    sets = {"gates": ("a",), "segments": ("a", "b"), "auto": ("a",)}
    for mechanism, names in sets.items():
        text = f'[taskset]\nmechanism = "{mechanism}"\n' + "".join(map(task.format, names))
        (folder / f"{mechanism}.toml").write_text(text, encoding="utf-8")

    def found_of(mechanism: str) -> dict[str, str]:
        cli.main(["doctor", f"{mechanism}.toml", "--json"], lambda _: FakeBackend(cpu))
        findings = json.loads(capsys.readouterr().out)["findings"]
        return {
            each["what"]: each["found"]
            for each in findings
            if each["level"] == "fail" and each["what"].startswith("task set")
        }

    assert found_of("gates") == {
        "task set gates.toml": "mechanism = \"gates\", the bundle of task 'a' is for a CPU, which"
        " has no gates"
    }
    (line,) = found_of("segments").values()
    assert line.startswith(
        "task 'a' is for cpu (Testium 1), task 'b' for orin (Orin): a run has one"
    )
    assert found_of("auto") == {}


@pytest.mark.usefixtures("quick_doctor")
def test_the_doctor_counts_the_buffers_of_all_tasks_of_a_bundle(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[AskedPlan] = []

    def doctor(plans: list[AskedPlan], **options: object) -> tuple[Finding, ...]:
        asked.extend(plans)
        return ()

    monkeypatch.setattr(cli, "doctor", doctor)
    tasks = (("a", 60), ("b", 3))
    text = "".join(
        f'[[task]]\nname = "{name}"\nbundle = "short.bundle"\npriority = 1\nbuffers = {buffers}\n'
        f'[task.arrival]\nkind = "closed_loop"\n'
        for name, buffers in tasks
    )
    (folder / "two.toml").write_text(text, encoding="utf-8")
    assert main("doctor", "two.toml", "short.bundle") == 0
    assert [plan.buffers for plan in asked] == [63]


@pytest.mark.usefixtures("quick_doctor")
def test_the_doctor_fails_what_cannot_be_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "foreign.bundle").mkdir()
    write_bundle(folder / "foreign.bundle", manifest_of(fields={**FIELDS, "library": "9"}))
    (folder / "empty").mkdir()
    (folder / "bad.toml").write_text("[taskset]\n", encoding="utf-8")
    for name in ("net.onnx", "my net.onnx"):
        (folder / name).write_bytes(bytes(64))
    (folder / "gone.toml").symlink_to("nowhere")
    targets = ("foreign.bundle", "empty", "bad.toml", "none.bundle", "net.onnx", "gone.toml")
    assert main("doctor", *targets, "my net.onnx", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    failed = {f["what"]: f["found"] for f in document["findings"] if f["level"] == "fail"}
    assert document["ok"] is False
    assert "library: bundle has '9', this machine '2.0'" in failed["bundle foreign.bundle"]
    assert "no manifest.json" in failed["empty"]
    assert "key 'task' is missing" in failed["bad.toml"]
    for name in ("none.bundle", "gone.toml"):
        assert failed[name] == f"{name}: no such bundle or task set; check the path"
    assert failed["net.onnx"] == (
        "net.onnx: an ONNX network; compile it first (`preemptc compile net.onnx`), and name the"
        " bundle"
    )
    assert "(`preemptc compile 'my net.onnx'`)" in failed["my net.onnx"]


@pytest.mark.usefixtures("quick_doctor")
def test_the_doctor_prints_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main("doctor")
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["level", "what", "found", "advice"]
    assert any(row.startswith("ok") and "Python" in row for row in rows)


def test_why_a_plan_was_passed_over_is_logged_on_demand(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(folder / "long.bundle", manifest_of(fields={**FIELDS, "library": "9"}))
    assert run() == 1
    assert "preempt-rt: INFO" not in capsys.readouterr().err
    assert run("-v") == 1
    err = capsys.readouterr().err
    assert "preempt-rt: INFO: " in err
    assert "plan 'cut' left out: library: bundle has '9', this machine '2.0'" in err


def test_an_unknown_backend_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "set.toml"]) == 1
    assert capsys.readouterr().err == (
        "preempt-rt: error: backend 'fake' is not part of this preempt-runtime, it has ort,"
        " tensorrt; install a newer one\n"
    )


def test_columns_line_up() -> None:
    rows = [("camera", "3 ms", "-"), ("x", "10 ms", "no")]
    assert plain_table(("task", "p99", "lost"), rows) == (
        "task      p99  lost\ncamera   3 ms  -\nx       10 ms  no\n"
    )
    assert plain_table(("task",), []) == "task\n"


def test_a_terminal_gets_rich_where_it_is_installed() -> None:
    pytest.importorskip("rich")

    class Terminal:
        encoding = "utf-8"

        def __init__(self) -> None:
            self.text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None:
            pass

    terminal = Terminal()
    print_table(("task",), [("[bold]x",)], terminal)  # type: ignore[arg-type]
    assert "[bold]x" in terminal.text
    assert "━" in terminal.text
