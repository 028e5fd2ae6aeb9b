"""The command line: what each command says to people and to programs, and how it refuses."""

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from models.make import make
from preempt_runtime.backends import ort
from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import BuildError, BundleError, DeviceError
from preemptc import cli, targets, terminal
from preemptc.cache import FOLDERS
from preemptc.cli import SUMMARIES, main
from preemptc.commands import analyze, compile, explore, inspect
from preemptc.targets import CPU, LocalDevice, local_device
from tests.unit import onnx_models

ROOT = Path(__file__).parents[2]
PARTIAL = ".tmp-"
Arguments = Sequence[str | Path]


pytestmark = pytest.mark.usefixtures("quick_measurements")


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with models and a cache that all tests share."""
    folder = tmp_path_factory.mktemp("cli")
    for name in ("tiny_cnn", "tiny_branchy"):
        make(name, folder / f"{name}.onnx")
    onnx_models.save(onnx_models.dynamic(), folder / "dynamic.onnx")
    return folder


@pytest.fixture
def model(work: Path) -> Path:
    return work / "tiny_cnn.onnx"


@pytest.fixture
def run(work: Path, monkeypatch: pytest.MonkeyPatch) -> "Run":
    monkeypatch.setenv("PREEMPTC_CACHE", str(work / "cache"))
    return Run()


class Run:
    """Runs the command line; a bug raises here."""

    def __call__(self, *arguments: str | Path, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
        assert result.exit_code == code, result.output
        assert "\x1b" not in result.output
        return result

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self(*arguments, "--json").stdout)

    def refused(self, *arguments: str | Path, code: int = 1) -> str:
        """The one line of an error; nothing stands on stdout."""
        result = self(*arguments, code=code)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert [line.startswith("preemptc: error: ") for line in lines].count(True) == 1
        return lines[-1].removeprefix("preemptc: error: ")

    def misused(self, *arguments: str | Path) -> str:
        """The message of a usage error, on one line: click wraps it."""
        result = self(*arguments, code=2)
        assert result.stdout == ""
        return " ".join(result.stderr.partition("Error: ")[2].split())


@pytest.fixture
def split(run: Run, model: Path, tmp_path: Path) -> Arguments:
    """`compile` into three segments, by given costs: by measured ones no cut may be worth it."""
    costs = _even_costs(run, model, tmp_path / "costs.json")
    return ("compile", model, "--segments", "3", "--profile", costs)


@pytest.fixture
def bundle(run: Run, split: Arguments, tmp_path: Path) -> Path:
    run(*split, "-o", tmp_path / "net.bundle")
    return tmp_path / "net.bundle"


def _even_costs(run: Run, model: Path, path: Path) -> Path:
    """A profile of the model: 1000 ns a node, 100 ns a boundary."""
    run("profile", model, "-o", path)
    document = json.loads(path.read_text())
    document["node_ns"] = [1000] * len(document["node_ns"])
    document["boundary"] = {"fixed_ns": 100, "ns_per_byte": 0.0}
    path.write_text(json.dumps(document))
    return path


# --- the group


def test_version_and_help(run: Run) -> None:
    assert run("--version").stdout.startswith("preemptc, version 0.1.0")
    text = run("--help").stdout
    assert all(name in text and summary in text for name, summary in SUMMARIES.items())
    assert "No such command 'comple'" in run.misused("comple")


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_takes_json_and_keeps_its_summary(run: Run, name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(limit=200) == SUMMARIES[name]
    assert "--json" in run(name, "--help").stdout


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys\nfrom preemptc.cli import main\n"
        "for option in ('--help', '--version'): main([option], standalone_mode=False)\n"
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=_env(), stdout=subprocess.DEVNULL)


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"}


@contextlib.contextmanager
def _at_most_a_minute(child: "subprocess.Popen[str]") -> Iterator[None]:
    """Kill a process that runs longer, or that a test leaves: waiting for it would never end."""
    timer = threading.Timer(60, child.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        child.kill()


def test_a_bug_keeps_its_traceback(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(compile, "compile_model", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run("compile", model, "-o", tmp_path / "b")


def test_a_warning_is_one_line(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        logging.getLogger("preemptc.backends").warning("a\nfile \x1b[31mis damaged")
        raise BuildError("full")

    monkeypatch.setattr(compile, "compile_model", refuse)
    found = run("compile", model, "-o", tmp_path / "b", code=1)
    assert found.stderr.splitlines() == [
        r"preemptc: warning: a file \x1b[31mis damaged",
        "preemptc: error: full",
    ]


def test_an_error_that_a_library_makes_of_ctrl_c_is_an_interrupt(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*arguments: object) -> None:
        raise DeviceError("ONNX Runtime is missing or broken")

    monkeypatch.setattr(compile, "compile_model", broken_off)
    monkeypatch.setattr(cli, "was_interrupted", lambda: True)
    found = run("compile", model, "-o", tmp_path / "b", code=130)
    assert found.stderr == "preemptc: interrupted; nothing half-written\n"


def test_ctrl_c_is_one_line_and_leaves_nothing_half_written(model: Path, tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from preemptc.backends.ort import backend; measured = backend.profile\n"
        "backend.profile = lambda *given: (measured(*given), time.sleep(60))\n"  # time to interrupt
        "from preemptc.cli import main; main(prog_name='preemptc')"
    )
    cache, output = tmp_path / "cache", tmp_path / "net.bundle"
    arguments = ["compile", str(model), "--cache", str(cache), "-o", str(output)]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=_env(), text=True, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with child, _at_most_a_minute(child):
        assert child.stderr is not None
        assert child.stdout is not None
        told = []
        for line in child.stderr:
            told.append(line)
            if line.startswith("preemptc: profile"):
                break
        assert told[-1:] == ["preemptc: profile: whole network\n"], "".join(told)
        child.send_signal(signal.SIGINT)
        rest = child.stderr.read().splitlines()
        assert (child.wait(), child.stdout.read()) == (130, ""), rest
    assert rest[-1] == "preemptc: interrupted; nothing half-written"
    assert not any("Traceback" in line for line in rest)
    assert not output.exists()
    assert not list(cache.rglob(f"{PARTIAL}*"))
    assert list((cache / "load").iterdir()), "finished stages are kept"


def test_what_libraries_print_does_not_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.watched() as progress:
        print("a library's warning")
        progress("step", 0.0)
        progress("step", 0.5)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["a library's warning", "preemptc: step"]


# --- compile


def test_compile_says_what_it_made(run: Run, split: Arguments, tmp_path: Path) -> None:
    result = run(*split, "-o", tmp_path / "net.bundle")
    text = result.stdout
    assert text.startswith("compiled for cpu\n  segments         3\n")
    assert f"bundle           {tmp_path / 'net.bundle'}" in text
    assert "chained outputs bitwise equal to the whole network's" in text
    assert " segments, 3 kept\n" in text
    assert len(text.partition("segments of plan")[2].splitlines()) == 5
    assert all(line.startswith("preemptc: ") for line in result.stderr.splitlines())


def test_compile_json_is_complete(run: Run, split: Arguments, tmp_path: Path) -> None:
    report = run.json(*split, "-o", tmp_path / "net.bundle")
    assert {"bundle", "segments", "candidates", "built", "kept", "bound_ns", "predicted_max_ns",
            "tried", "measured", "notes", "check", "cache_hits",
            "wall_s"} <= report.keys()  # fmt: skip
    assert report["segments"] == report["kept"] == 3 <= report["built"]
    assert len(report["tried"]) <= report["rounds"]
    kept = [plan["segments"] for plan in report["tried"] if plan["kept"]]
    assert set(kept) == {3}, "more than once, where times made another plan the best meanwhile"
    assert sum(plan["newly_built"] for plan in report["tried"]) == report["built"]
    assert {"longest_ns", "overhead_ratio"} <= report["tried"][0].keys()
    assert list(report["candidates"]) == [
        "positions", "after_fusion", "after_live_bytes", "after_zero_cost", "after_dominance",
    ]  # fmt: skip
    assert len(report["measured"]["segment_p50_ns"]) == 3
    assert {"chained_p50_ns", "whole_p50_ns", "overhead_ratio", "machine_speed"} <= report[
        "measured"
    ].keys()
    assert report["check"]["bitwise"] is True
    assert report["check"]["max_abs_diff"] == 0.0


def test_another_speed_than_the_profile_s_is_noted_for_good(
    run: Run, model: Path, tmp_path: Path
) -> None:
    costs, output = _even_costs(run, model, tmp_path / "costs.json"), tmp_path / "net.bundle"
    document = json.loads(costs.read_text())
    document["whole"] = {"p50_ns": 1, "p99_ns": 1, "max_ns": 1, "num_samples": 9}
    costs.write_text(json.dumps(document))
    compile_ = ("compile", model, "--segments", "2", "--profile", costs, "-o", output)
    report = run.json(*compile_)
    assert report["measured"]["machine_speed"] < 0.1
    note = "of the profile's speed; measure again when it is idle"
    assert note in report["notes"][0]
    assert note in run(*compile_).stdout, "a result from the cache keeps the note"
    found = run.json("inspect", output)
    assert (found["machine_speed"], found["notes"]) == (
        report["measured"]["machine_speed"],
        report["notes"][:1],
    )
    assert note in run("inspect", output).stdout


def test_the_overhead_of_a_compile_cannot_be_misread(
    run: Run, split: Arguments, model: Path, tmp_path: Path
) -> None:
    text = run(*split, "-o", tmp_path / "three.bundle").stdout
    assert "each chained run over the whole run beside it, the median of these" in text
    assert "medians over all runs of each; not what the overhead is computed from" in text
    one = ("compile", model, "--segments", "1", "-o", tmp_path / "one.bundle")
    assert "overhead         0 %: one segment is the uncut network\n" in run(*one).stdout
    assert run.json(*one)["measured"]["overhead_ratio"] == 1.0


def test_a_second_compile_comes_from_the_cache(run: Run, split: Arguments, tmp_path: Path) -> None:
    arguments = (*split, "-o", tmp_path / "net.bundle")
    reports = [run.json(*arguments), run.json(*arguments)]
    for report in reports:
        assert report.pop("wall_s") >= 0
        report.pop("cache_hits")
    assert reports[0] == reports[1]
    again = run(*arguments)
    assert "3 results from the cache" in again.stdout
    assert "profile" not in again.stderr


def test_an_input_is_never_overwritten(run: Run, model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.onnx"
    mine.write_bytes(model.read_bytes())
    for arguments in (("profile", mine, "-o", mine), ("explore", mine, "--plot", mine)):
        assert "is an input of this command" in run(*arguments, code=1).stderr
    assert mine.read_bytes() == model.read_bytes()


def test_weights_beside_the_model_are_never_overwritten(run: Run, tmp_path: Path) -> None:
    net, weights = tmp_path / "net.onnx", tmp_path / "w.bin"
    onnx.save(
        onnx_models.chain(),
        str(net),
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    before = weights.read_bytes()
    for arguments in (("profile", net, "-o", weights), ("explore", net, "--plot", weights)):
        assert "is an input of this command" in run.refused(*arguments)
    assert weights.read_bytes() == before


def test_a_plot_that_is_no_svg_is_refused_before_any_work(
    run: Run, model: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "front.png"
    result = run("explore", model, "--plot", plot, code=1)
    assert f"--plot {plot}: plots are SVG; name a file that ends in .svg" in result.stderr
    assert not plot.exists()


@pytest.mark.parametrize("place", ["", ".", "a" * 300])
def test_where_no_file_can_be_is_refused_before_any_work(run: Run, model: Path, place: str) -> None:
    for arguments in (("profile", model, "-o", place), ("explore", model, "--plot", place)):
        result = run(*arguments, code=1)
        assert result.stderr.count("\n") == 1


def test_nothing_is_written_into_a_bundle_or_the_cache(
    run: Run, model: Path, bundle: Path, work: Path
) -> None:
    before = sorted(bundle.rglob("*"))
    places = {
        bundle: f"lies in the bundle {bundle}, which holds nothing else",
        work / "cache": f"lies in the cache {work / 'cache'}, which may be deleted at any time",
    }
    for folder, message in places.items():
        place = folder / ("graph" if folder == bundle else "profile") / "out"
        for arguments in (
            ("profile", model, "-o", place),
            ("explore", model, "--plot", place),
            ("compile", model, "-o", place),
            ("build", bundle, "-o", place),
        ):
            assert f"{place}: {message}" in run.refused(*arguments)
    assert sorted(bundle.rglob("*")) == before


def test_no_cache_is_put_into_a_bundle(run: Run, model: Path, bundle: Path, tmp_path: Path) -> None:
    before, place = sorted(bundle.rglob("*")), tmp_path / "other.bundle"
    (tmp_path / "link").symlink_to(bundle)
    (tmp_path / "within").mkdir()
    (tmp_path / "within" / "digests").symlink_to(bundle)
    for cache in (bundle, bundle / "cache", tmp_path / "link" / "graph", tmp_path / "within"):
        for arguments in (("compile", model, "--segments", "2"), ("profile", model)):
            error = run.refused(*arguments, "-o", place, "--cache", cache)
            assert f"{cache}: the cache would lie in the bundle {bundle}, which holds" in error
    assert sorted(bundle.rglob("*")) == before
    assert not place.exists()


def test_beside_what_the_cache_keeps_there_is_room_for_bundles(
    run: Run, model: Path, tmp_path: Path
) -> None:
    cache, place = tmp_path / "cache", tmp_path / "cache" / "mine" / "net.bundle"
    for _ in range(2):
        run("compile", model, "--segments", "1", "--cache", cache, "-o", place)
        run("verify", place)
    assert {each.name for each in cache.iterdir()} <= {*FOLDERS, "mine"}


def test_a_folder_of_the_cache_may_be_a_link_to_a_larger_disk(
    run: Run, model: Path, tmp_path: Path
) -> None:
    for name in ("cache", *FOLDERS):
        (tmp_path / "disk" / name).mkdir(parents=True)
    (tmp_path / "cache").symlink_to(tmp_path / "disk" / "cache")
    for name in FOLDERS:
        (tmp_path / "cache" / name).symlink_to(tmp_path / "disk" / name)
    for _ in range(2):
        arguments = ("--segments", "1", "--cache", tmp_path / "cache", "-o", tmp_path / "b")
        run("compile", model, *arguments)
        run("verify", tmp_path / "b")


def test_a_deleted_working_directory_is_one_line(
    run: Run, model: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taskset = tmp_path / "set.toml"
    taskset.write_text(
        f'[[task]]\nname = "t"\nmodel = "{model}"\nbundle = "t.bundle"\npriority = 1\n'
        'period = "1s"\ndeadline = "1s"\n'
    )
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for arguments in (
        ("compile", model, "-o", "b"),
        ("build", bundle, "-o", "b"),
        ("plan", taskset, "--compile", "--cache", "cache"),
        ("profile", model, "-o", "p"),
        ("explore", model, "--plot", "p.svg"),
    ):
        assert run.refused(*arguments).startswith("the working directory was deleted; change to")


def test_a_bound_is_kept_and_named(run: Run, model: Path, tmp_path: Path) -> None:
    arguments = ("compile", model, "--max-segment", "1 s", "--bound-quantile", "max")
    text = run(*arguments, "-o", tmp_path / "net.bundle").stdout
    assert "bound            1 s at max" in text
    assert "one segment: this network cannot be preempted" in text
    report = run.json(*arguments, "-o", tmp_path / "net.bundle")
    assert (report["bound_ns"], report["bound_quantile"]) == (10**9, "max")
    assert max(report["measured"]["segment_max_ns"]) <= 10**9


def test_output_and_cache_have_defaults(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.json("compile", model, "--max-overhead", "0%")["bundle"] == "tiny_cnn.bundle"
    assert (tmp_path / "tiny_cnn.bundle" / "manifest.json").is_file()
    assert not (tmp_path / "build_cache").exists(), "PREEMPTC_CACHE is set"
    monkeypatch.delenv("PREEMPTC_CACHE")
    run("analyze", model)
    assert (tmp_path / "build_cache" / "load").is_dir()
    run("analyze", model, "--cache", tmp_path / "other")
    assert (tmp_path / "other" / "load").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-segment", "3ms", "--segments", "2"), "--max-segment and --segments exclude"),
        (("--segments", "2", "--max-overhead", "3%"), "--segments and --max-overhead exclude"),
        (("--max-segment", "3ms", "--max-overhead", "3%"), "--max-segment and --max-overhead excl"),
        (("--max-segment", "3"), "'3' is not a duration; write a number and ns, us, ms, s"),
        (("--max-segment", "0ms"), "'0ms' is less than a nanosecond"),
        (("--max-segment", "-3ms"), "'-3ms' is not a duration"),
        (("--max-overhead", "3"), "'3' is no share below 1; for percent write 3%"),
        (("--max-overhead", "nan"), "'nan' is not a share; write one such as 3% or 0.03"),
        (("--max-overhead", "20000%"), "'20000%' is over 10000%"),
        (("--segments", "0"), "0 is not in the range x>=1"),
        (("--bound-quantile", "p95"), "'p95' is not one of 'p50', 'p99', 'max'"),
        (("--max-live-bytes", "4MB"), "'4MB' is not a size; write a number and B, KiB, MiB"),
        (("--shape", "image"), "'image' is not NAME=SHAPE"),
        (("--shape", "image=1x0x2"), "'image=1x0x2' is not NAME=SHAPE; write dimensions from 1"),
        (("--shape", "image=1", "--shape", "image=2"), "an input is named twice"),
        (("--target", "xavier"), "'xavier' is unknown, there is cpu, native, h100, h200, orin, "),
        (("--target", "Orin"), "'Orin' is unknown (did you mean 'orin'?), there is cpu, native, "),
        (("--threads", "0"), "0 is not in the range 1<=x<=1024"),
        (("--seed", "-1"), "-1 is not in the range 0<=x<=9223372036854775807"),
        (("--seed", str(2**63)), "is not in the range 0<=x<=9223372036854775807"),
    ],
)
def test_wrong_options_are_usage_errors(
    run: Run, model: Path, arguments: Sequence[str], message: str
) -> None:
    assert message in run.misused("compile", model, *arguments)


@pytest.mark.parametrize("option", ["--output", "--cache", "--profile", "--inputs"])
def test_paths_that_no_library_takes_are_refused(run: Run, model: Path, option: str) -> None:
    assert run.refused("compile", model, option, "") == f"{option}: the path is empty; write one"
    message = run.refused("compile", model, option, os.fsdecode(b"p\xff"))
    assert message == rf"{option}: 'p\udcff' is not UTF-8; rename it, or choose another"


def test_an_empty_argument_is_refused(run: Run) -> None:
    assert run.refused("analyze", "") == "model: the path is empty; write one"
    assert run.refused("inspect", "") == "bundle: the path is empty; write one"


def test_names_from_a_model_reach_no_terminal_as_they_are(run: Run, tmp_path: Path) -> None:
    message = run.refused("analyze", tmp_path / "a\x1b[31mb\n.onnx")
    assert "/a\\x1b[31mb .onnx: no such file; give" in message


def test_errors_of_onnx_runtime_are_told_once(tmp_path: Path, work: Path) -> None:
    proto = onnx_models.model_of(
        [onnx.helper.make_node("Gather", ["x", "far"], ["y"])],
        [onnx_models.f32("x", [3])], [onnx_models.f32("y", [1])],
        [onnx.numpy_helper.from_array(np.array([77]), "far")],
    )  # fmt: skip
    model = onnx_models.save(proto, tmp_path / "far.onnx")
    command = [sys.executable, "-m", "preemptc", "analyze", str(model), "--cache", "cache"]
    found = subprocess.run(command, env=_env(), capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 1, found.stderr
    lines = found.stderr.splitlines()
    assert lines[:-1] == ["preemptc: load", "preemptc: lower"]
    assert lines[-1].startswith("preemptc: error: far: ONNX Runtime ")
    assert "idx=77 must be within" in lines[-1]


def test_models_that_cannot_be_read(run: Run, model: Path, work: Path, tmp_path: Path) -> None:
    text, short = tmp_path / "text.onnx", tmp_path / "short.onnx"
    text.write_text("this is not a network")
    short.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    output = ("-o", tmp_path / "b")
    assert "no such file" in run.refused("compile", tmp_path / "none.onnx", *output)
    assert "not an ONNX model" in run.refused("compile", text, *output)
    assert f"{short}: not an ONNX model, or truncated" in run.refused("compile", short, *output)
    assert "is a directory" in run.refused("compile", tmp_path, *output)
    assert not (tmp_path / "b").exists()


def test_shapes_are_asked_for_by_name(run: Run, model: Path, work: Path) -> None:
    dynamic = work / "dynamic.onnx"
    name, rank = _dynamic_input(dynamic)
    message = run.refused("analyze", dynamic)
    assert "has the dynamic shape" in message
    assert f"--shape {name}=" in message
    assert f"--shape names 'nope', the inputs are {name}" in run.refused(
        "analyze", dynamic, "--shape", "nope=1x2"
    )
    shape = "x".join(str(dim or 2) for dim in rank)
    assert run.json("analyze", dynamic, "--shape", f"{name}={shape}")["model"] == "dynamic"


def _dynamic_input(path: Path) -> tuple[str, list[int]]:
    value = onnx.load(str(path)).graph.input[0]
    return value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_an_impossible_bound_names_node_and_smallest_bound(
    run: Run, model: Path, tmp_path: Path
) -> None:
    message = run.refused("compile", model, "--max-segment", "10ns", "-o", tmp_path / "b")
    names = [row["node"] for row in _slowest(run, model, tmp_path)]
    assert any(f"{name!r} alone takes " in message for name in names)
    assert "limit 10 ns" in message
    assert "the smallest feasible bound" in message


def test_what_is_only_estimated_is_called_so(run: Run, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "b"
    message = run.refused(
        "compile", model, "--target", "orin", "--max-segment", "10ns", "-o", output
    )
    assert re.match("by estimated costs, nodes? '.* alone takes .* the smallest feasible", message)
    assert not output.exists()


@pytest.mark.parametrize("command", ["profile", "explore"])
def test_nothing_is_measured_as_on_a_device_that_is_elsewhere(
    command: str, run: Run, model: Path, tmp_path: Path
) -> None:
    output = ("-o", tmp_path / "p.json") if command == "profile" else ()
    result = run(command, model, "--target", "orin", *output, code=1)
    assert "load" not in result.stderr  # before any work
    assert (
        f"target 'orin' is not here; run `preemptc {command} ... --target orin` where it is (here:"
        in result.stderr
    )
    assert not (tmp_path / "p.json").exists()


def _slowest(run: Run, model: Path, tmp_path: Path) -> Any:
    return run.json("profile", model, "-o", tmp_path / "p.json")["slowest"]


def test_more_segments_than_possible(run: Run, model: Path, tmp_path: Path) -> None:
    message = run.refused("compile", model, "--segments", "99", "-o", tmp_path / "b")
    assert "99 segments asked for; this network can be cut into 1 to " in message


def test_outputs_and_caches_that_cannot_be_written(run: Run, model: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("mine")
    message = run.refused("compile", model, "--segments", "3", "-o", blocked / "sub" / "b")
    assert message.startswith(f"{blocked}: cannot be written: Not a directory")
    message = run.refused("compile", model, "--segments", "3", "-o", blocked)
    assert "exists and is no bundle" in message
    assert blocked.read_text() == "mine"
    message = run.refused("analyze", model, "--cache", blocked / "cache")
    assert "cannot be written" in message
    for command, option in (("profile", "-o"), ("explore", "--plot")):
        message = run.refused(command, model, option, blocked / "out")
        assert "cannot be a file (Not a directory)" in message


def _saved(path: Path, **arrays: np.ndarray[Any, Any]) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_recorded_inputs_are_checked(run: Run, split: Arguments, tmp_path: Path) -> None:
    good = np.ones((1, 3, 32, 32), np.float32)
    nan = good.copy()
    nan[0, 0, 0, 0] = np.nan

    def refused(name: str, **arrays: np.ndarray[Any, Any]) -> str:
        path = _saved(tmp_path / f"{name}.npz", **arrays)
        return run.refused(*split, "--inputs", path, "-o", tmp_path / "b")

    assert "input 'image': 1 of 3072 values are NaN; record again" in refused("nan", image=nan)
    assert "'picture' is no input of the network, expected image" in refused("name", picture=good)
    assert "found float64 [1, 3, 32, 32], expected float32" in refused(
        "dtype", image=good.astype(np.float64)
    )
    assert "found float32 [1, 3, 32], expected float32 [1, 3, 32, 32]" in refused(
        "shape", image=good[..., 0]
    )
    (tmp_path / "text.npz").write_text("no")
    arguments = (*split, "-o", tmp_path / "b", "--inputs")
    assert "cannot read the inputs" in run.refused(*arguments, tmp_path / "text.npz")
    assert "inputs: No such file" in run.refused(*arguments, tmp_path / "none.npz")
    assert not (tmp_path / "b").exists()
    path = _saved(tmp_path / "good.npz", image=good)
    run(*arguments, path)
    check = run.json("inspect", tmp_path / "b")["check"]
    assert check["num_inputs"] == 3, "two random ones and the recorded one"


# --- analyze


def test_analyze_shows_candidates_and_reasons(run: Run, work: Path) -> None:
    text = run("analyze", work / "tiny_branchy.onnx").stdout
    assert ", estimated\n" in text
    assert "2^23 plans, 2^" in text
    assert "positions of the network     23" in text
    assert "which completes source nodes" in text


def test_analyze_json_accounts_for_every_position(run: Run, work: Path) -> None:
    found = run.json("analyze", work / "tiny_branchy.onnx")
    counts = found["counts"]
    steps = [entry["step"] for entry in found["pruned"]]
    assert found["costs"] == "estimated"
    assert len(found["candidates"]) == counts["after_dominance"]
    assert found["log2_plans"] == {"all": 23, "searched": len(found["candidates"])}
    assert steps.count("dominance") == counts["after_zero_cost"] - counts["after_dominance"]
    assert steps.count("fusion") > 0
    assert all(entry["reason"] for entry in found["pruned"])
    first = found["candidates"][0]
    assert first.keys() == {"position", "source_position", "tensors", "live_bytes", "is_critical"}


def test_analyze_shows_the_first_rows_or_all(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyze, "_NUM_SHOWN", 3)
    path = work / "tiny_branchy.onnx"
    num_pruned = len(run.json("analyze", path)["pruned"])
    some, everything = run("analyze", path).stdout, run("analyze", path, "--all").stdout
    assert f"and {num_pruned - 3} more rows: --all shows them" in some
    assert "more rows: --all" not in everything
    assert len(everything.splitlines()) > len(some.splitlines())


def test_live_bytes_limit_prunes_with_the_limit_in_the_reason(run: Run, work: Path) -> None:
    path = work / "tiny_branchy.onnx"
    found = run.json("analyze", path, "--max-live-bytes", "64KiB")
    assert all(candidate["live_bytes"] <= 64 << 10 for candidate in found["candidates"])
    pruned = [entry for entry in found["pruned"] if entry["step"] == "live-bytes"]
    assert len(pruned) == found["counts"]["after_fusion"] - found["counts"]["after_live_bytes"] > 0
    assert all("limit 65536" in entry["reason"] for entry in pruned)


# --- profile and explore


@pytest.mark.usefixtures("steady_machine")
def test_a_profile_is_measured_once_and_used_again(run: Run, model: Path, tmp_path: Path) -> None:
    path, cache = tmp_path / "p.json", ("--cache", tmp_path / "cache")
    first = run.json("profile", model, "-o", path, *cache)
    assert (first["source"], first["cached"], first["profile"]) == ("measured", False, str(path))
    assert first["whole"]["p50_ns"] > 0
    assert 0 < len(first["slowest"]) <= 10
    costs = [row["node_ns"] for row in first["slowest"]]
    assert costs == sorted(costs, reverse=True)
    assert first["machine"]["backend"] == "ort"
    text = run("profile", model, "-o", path, *cache).stdout
    at = first["measured_at"]
    shown = f"measured {at[:10]} {at[11:19]} UTC, found in the cache"
    assert shown in text
    assert "slowest nodes" in text
    assert f", {shown}\n" in run("explore", model, *cache).stdout
    document = run.json("explore", model, *cache)
    assert (document["cached"], document["measured_at"]) == (True, at)
    assert json.loads(path.read_text())["machine"]["measured_at"] == at
    given = run.json("explore", model, "--profile", path, *cache)
    assert (given["cached"], given["measured_at"]) == (False, at)
    found = run.json("analyze", model, "--profile", path, *cache)
    assert found["costs"] == "measured"
    assert found["total_ns"] == sum(json.loads(path.read_text())["node_ns"])


@pytest.mark.usefixtures("steady_machine")
def test_what_the_cache_holds_is_measured_again_when_asked(
    run: Run, model: Path, tmp_path: Path
) -> None:
    path, cache = tmp_path / "p.json", ("--cache", tmp_path / "cache")
    run("profile", model, "-o", path, *cache)
    assert run.json("profile", model, "-o", path, *cache)["cached"] is True
    assert run.json("profile", model, "-o", path, *cache, "--remeasure")["cached"] is False
    assert run.json("explore", model, *cache, "--remeasure")["cached"] is False
    compiling = ("compile", model, "--segments", "2", "-o", tmp_path / "b", *cache)
    found = [run.json(*compiling, *more)["cache_hits"] for more in ((), (), ("--remeasure",))]
    assert found == [3, 3, 2], "load and lower; the profile or the bundle"


def test_analyze_takes_a_measured_profile_from_the_cache(
    run: Run, model: Path, tmp_path: Path
) -> None:
    cache = ("--cache", tmp_path / "cache")
    hint = "estimate and may be far off: --profile gives measured times"
    before = run.json("analyze", model, *cache)
    assert (before["costs"], before["cached"], before["measured_at"]) == ("estimated", False, None)
    assert hint in run("analyze", model, *cache).stdout
    run("profile", model, "-o", tmp_path / "p.json", *cache)
    profile = json.loads((tmp_path / "p.json").read_text())
    after = run.json("analyze", model, *cache)
    assert (after["costs"], after["cached"]) == ("measured", True)
    assert after["measured_at"] == profile["machine"]["measured_at"]
    assert after["total_ns"] == sum(profile["node_ns"])
    text = run("analyze", model, *cache).stdout
    assert " UTC, found in the cache\n" in text
    assert hint not in text


def test_profiles_that_do_not_fit_are_refused(
    run: Run, model: Path, work: Path, tmp_path: Path
) -> None:
    path, output = tmp_path / "p.json", ("-o", tmp_path / "b")
    run("profile", model, "-o", path)
    branchy = work / "tiny_branchy.onnx"
    assert "a profile of another network" in run.refused("analyze", branchy, "--profile", path)
    for command in (("analyze",), ("explore",), ("compile", *output)):
        message = run.refused(*command, model, "--target", "orin", "--profile", path)
        assert "p.json: a profile for target 'cpu', which executes another graph than 'orin'" in (
            message
        )
        assert "write one with `preemptc profile MODEL --target orin -o FILE` on that" in message
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": None}))
    assert "machine: found None, expected an object" in run.refused(
        "explore", model, "--profile", path
    )
    path.write_text("{}")
    assert "not a latency profile" in run.refused("compile", model, "--profile", path, *output)
    path.unlink()
    assert "No such file" in run.refused("compile", model, "--profile", path, *output)
    assert "No such file" in run.refused("explore", model, "--profile", path)
    path.mkdir()
    assert "it is a directory" in run.refused("explore", model, "--profile", path)
    assert "Missing option '-o'" in run.misused("profile", model)


def test_inspect_refuses_segments_beyond_the_profiles_nodes(run: Run, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["plans"][0]["segments"][-1]["range"][1] = 99
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    message = run.refused("inspect", bundle)
    assert "end at node 99, but profile.json knows " in message
    assert message.endswith(" nodes; compile the bundle again")


def test_ctrl_c_ends_a_network_that_does_not(tmp_path: Path) -> None:
    model = onnx_models.save(onnx_models.with_loop(num_turns=2**62), tmp_path / "endless.onnx")
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from preemptc.start import main; main()"
    )
    arguments = ["profile", str(model), "--cache", str(tmp_path / "cache"), "-o", "p.json"]
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=_env(), text=True, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with child, _at_most_a_minute(child):
        assert child.stderr is not None
        assert child.stdout is not None
        while not list(tmp_path.glob("cache/lower/.tmp-*/probe.onnx")):  # lowering runs it next
            assert child.poll() is None, child.stderr.read()
        child.send_signal(signal.SIGINT)
        lines = child.stderr.read().splitlines()
        assert (child.wait(), child.stdout.read()) == (130, ""), lines
    assert lines[-1] == "preemptc: interrupted; nothing half-written"
    assert not any("Traceback" in line for line in lines)
    assert not (tmp_path / "p.json").exists()


@pytest.fixture
def chain_costs(run: Run, tmp_path: Path) -> tuple[Path, Path]:
    """A chain of eight nodes and its even costs."""
    model = onnx_models.save(onnx_models.chain(num_layers=4), tmp_path / "chain.onnx")
    path = _even_costs(run, model, tmp_path / "costs.json")
    assert len(json.loads(path.read_text())["node_ns"]) == 8
    return model, path


def test_explore_shows_the_front_and_draws_it(
    run: Run, chain_costs: tuple[Path, Path], tmp_path: Path
) -> None:
    model, profile = chain_costs
    plot = tmp_path / "front.svg"
    arguments = ("explore", model, "--profile", profile, "--plot", plot)
    found = run.json(*arguments)
    assert (found["costs"], found["plans"], found["plot"]) == ("measured", "predicted", str(plot))
    assert [(p["bound_ns"], p["overhead_ns"], p["segments"]) for p in found["front"]] == [
        (8000, 0, 1), (4100, 100, 2), (3100, 200, 3), (2100, 300, 4), (2000, 600, 7),
        (1100, 700, 8),
    ]  # fmt: skip
    assert [p["overhead_frac"] for p in found["front"]][:2] == [0.0, 0.0125]
    assert [p["split_points"] for p in found["front"]][:2] == [[], [4]]
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    text = run(*arguments).stdout
    assert "6, predicted from measured costs" in text
    assert "Pareto front, predicted\n   bound  overhead  segments\n    8 us       0 %" in text


def test_explore_measures_without_a_profile(run: Run, model: Path) -> None:
    found = run.json("explore", model)
    assert found["costs"] == "measured"
    assert found["front"][0]["overhead_ns"] == 0
    assert found["front"][0]["bound_ns"] <= found["total_ns"]


def test_explore_labels_estimated_costs(run: Run, chain_costs: tuple[Path, Path]) -> None:
    model, path = chain_costs
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "source": "estimated"}))
    assert run.json("explore", model, "--profile", path)["costs"] == "estimated"
    assert "predicted from estimated costs" in run("explore", model, "--profile", path).stdout


def test_explore_shows_evenly_spaced_plans(
    run: Run, chain_costs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explore, "_NUM_SHOWN", 3)
    model, profile = chain_costs
    some = run("explore", model, "--profile", profile).stdout
    assert [row.split()[0] for row in some.splitlines()[-5:-2]] == ["8", "3.1", "1.1"]
    assert "and 3 plans between: --all" in some
    assert some.splitlines()[-1].startswith("  the overhead is predicted: built segments have")
    assert "between" not in run("explore", model, "--profile", profile, "--all").stdout


# --- inspect, verify, targets


def test_inspect_tells_what_a_bundle_holds(run: Run, bundle: Path) -> None:
    text = run("inspect", bundle).stdout
    assert "plan 'segments' of graph 'main' for cpu\n  runs here        yes" in text
    assert "DIFFERS" not in text
    found = run.json("inspect", bundle)
    manifest = (bundle / "manifest.json").read_bytes()
    assert found["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert [plan["id"] for plan in found["plans"]] == ["segments", "whole"]
    assert len(found["plans"][0]["segments"]) == 3
    assert found["plans"][0]["runnable_here"] is True
    assert {entry["path"] for entry in found["artefacts"]} >= {"graph/model.onnx", "profile.json"}
    assert found["keys"].keys() == {found["plans"][0]["key"]}
    assert found["graphs"][0]["inputs"][0]["name"] == "image"


def _other_machine(target: targets.Target) -> LocalDevice:
    fields = {**local_device(CPU).fields, "isa": "sse2"}
    return LocalDevice(target=target, fields=fields, num_cores=1, unavailable=None)


def test_inspect_counts_what_jobs_in_flight_take(run: Run, bundle: Path) -> None:
    one, three = (run.json("inspect", bundle, *more)["plans"][0] for more in ((), ("--jobs", "3")))
    graph = run.json("inspect", bundle)["graphs"][0]
    sizes = {"float32": 4}
    tensors = [*graph["inputs"], *graph["outputs"], *one["boundaries"]]
    num_bytes = sum(sizes[spec["dtype"]] * math.prod(spec["shape"]) for spec in tensors)
    assert one["memory"]["per_job"] == three["memory"]["per_job"]
    assert one["memory"]["per_job"] == {
        "contexts": 0,
        "graphs": 0,
        "device_bytes": 0,
        "host_bytes": num_bytes,
    }
    assert (one["memory"]["jobs"], three["memory"]["jobs"]) == (1, 3)
    assert three["memory"]["host_bytes"] == 3 * num_bytes
    assert "3 jobs in flight" in run("inspect", bundle, "--jobs", "3").stdout
    refused = CliRunner().invoke(main, ["inspect", str(bundle), "--jobs", "65"])
    assert (refused.exit_code, "1<=x<=64" in refused.output) == (2, True)


def test_inspect_names_the_field_that_differs(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "local_device", _other_machine)
    plan = run.json("inspect", bundle)["plans"][0]
    assert plan["runnable_here"] is False
    assert [field["name"] for field in plan["key_match"] if not field["same"]] == ["isa"]
    text = run("inspect", bundle).stdout
    assert "runs here        no, see the key below" in text
    assert text.count("DIFFERS") == 1


def test_bundles_that_cannot_be_read(run: Run, bundle: Path, tmp_path: Path) -> None:
    manifest = bundle / "manifest.json"
    document = json.loads(manifest.read_text())
    newer = {**document, "schema_version": {"major": 99, "minor": 0}}
    foreign = {**document, "schema": "somebody/else"}
    for command in ("inspect", "verify"):
        assert "no such bundle" in run.refused(command, tmp_path / "none")
        manifest.write_text(json.dumps(newer))
        assert "99" in run.refused(command, bundle)
        manifest.write_text(json.dumps(foreign))
        assert 'no "schema": "preemptc/manifest"' in run.refused(command, bundle)
        manifest.write_text("{")
        assert str(manifest) in run.refused(command, bundle)


def test_verify_runs_every_plan(run: Run, bundle: Path, tmp_path: Path) -> None:
    text = run("verify", bundle).stdout
    assert "plan 'segments'  3 segments, bitwise equal on 3 inputs" in text
    assert "plan 'whole'     the reference" in text
    inputs = _saved(tmp_path / "in.npz", image=np.ones((2, 1, 3, 32, 32), np.float32))
    sha256 = run.json("inspect", bundle)["manifest_sha256"]
    found = run.json("verify", bundle, "--inputs", inputs, "--manifest-sha256", sha256.upper())
    assert [plan["num_inputs"] for plan in found["plans"]] == [5, 5]
    assert [plan["skipped"] for plan in found["plans"]] == [None, None]
    assert found["num_files"] == len(run.json("inspect", bundle)["artefacts"])


def test_verify_refuses_other_hashes_and_inputs(run: Run, bundle: Path, tmp_path: Path) -> None:
    assert "pinned" in run.refused("verify", bundle, "--manifest-sha256", "0" * 64)
    assert "64 hexadecimal digits" in run.misused("verify", bundle, "--manifest-sha256", "12")
    nan = _saved(tmp_path / "nan.npz", image=np.full((1, 3, 32, 32), np.nan, np.float32))
    assert "values are NaN" in run.refused("verify", bundle, "--inputs", nan)


def test_verify_finds_a_flipped_byte_and_a_stranger(run: Run, bundle: Path) -> None:
    for name in ("graph/weights.data", "profile.json"):
        path = bundle / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        message = run.refused("verify", bundle)
        assert message.startswith(f"{path}: sha256 ")
        path.write_bytes(content)
    (bundle / "extra").write_text("")
    assert "1 files are not part of the bundle: 'extra'" in run.refused("verify", bundle)


def test_a_run_hashes_what_it_opens_and_verify_everything(run: Run, bundle: Path) -> None:
    """As README, docs/example.md and docs/bundle-format.md say."""
    opened, unopened = next(bundle.glob("engines/*/whole.onnx")), bundle / "graph" / "model.onnx"
    unopened.write_bytes(b"x" * unopened.stat().st_size)
    ort.OrtDevice().load(open_bundle(bundle), "segments").close()
    assert run.refused("verify", bundle).startswith(f"{unopened}: sha256 ")
    opened.write_bytes(b"x" * opened.stat().st_size)
    with pytest.raises(BundleError, match=r"whole\.onnx: sha256 "):
        ort.OrtDevice().load(open_bundle(bundle), "segments")


def _double_the_last_layer(bundle: Path) -> None:
    """A bundle whose files all fit its manifest, but whose last segment computes something else."""
    manifest = bundle / "manifest.json"
    document = json.loads(manifest.read_text())
    name = document["plans"][0]["segments"][-1]["path"]
    segment = onnx.load(str(bundle / name), load_external_data=False)
    gemm = next(node for node in segment.graph.node if node.op_type == "Gemm")
    gemm.attribute.extend([onnx.helper.make_attribute("alpha", 2.0)])
    kept = {attribute.name: attribute for attribute in gemm.attribute}
    del gemm.attribute[:]
    gemm.attribute.extend(kept.values())
    content = segment.SerializeToString(deterministic=True)
    (bundle / name).write_bytes(content)
    entry = next(entry for entry in document["artefacts"] if entry["path"] == name)
    entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    manifest.write_text(json.dumps(document))


def test_verify_finds_segments_that_compute_something_else(run: Run, bundle: Path) -> None:
    _double_the_last_layer(bundle)
    message = run.refused("verify", bundle)
    assert "plan 'segments', inputs 0: output 'logits' differs from the whole network's by" in (
        message
    )


def test_verify_compares_with_the_source_where_the_whole_was_built_wrong(
    run: Run, bundle: Path
) -> None:
    manifest = bundle / "manifest.json"
    document = json.loads(manifest.read_text())
    (whole,) = (plan for plan in document["plans"] if plan["id"] == "whole")
    path = whole["segments"][0]["path"]
    document["plans"].remove(whole)
    document["artefacts"] = [a for a in document["artefacts"] if a["path"] != path]
    (bundle / path).unlink()
    manifest.write_text(json.dumps(document))
    assert "no plan 'whole' for this machine" in run.refused("verify", bundle)
    reference = "source graph in ONNX Runtime; the network built in one piece differs from it by 9"
    document["check"] |= {"reference": reference, "bitwise": False, "tolerance_frac": 0.05}
    manifest.write_text(json.dumps(document))
    (plan,) = run.json("verify", bundle)["plans"]
    assert (plan["id"], plan["num_inputs"], plan["is_reference"]) == ("segments", 3, False)
    _double_the_last_layer(bundle)
    assert "differs from the source graph's by" in run.refused("verify", bundle)


def test_verify_says_what_does_not_fit_this_machine(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = dict(local_device(CPU).fields)
    monkeypatch.setattr(ort, "local_fields", lambda: {**fields, "isa": "sse2"})
    message = run.refused("verify", bundle)
    assert "no plan for this machine" in message
    assert "isa: bundle has" in message


def test_verify_skips_a_plan_for_another_machine(
    run: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = bundle / "manifest.json"
    document = json.loads(manifest.read_text())
    (whole,) = (plan for plan in document["plans"] if plan["id"] == "whole")
    portable = {**whole, "id": "later", "key": None, "source": "estimated", "chained": None}
    (segment,) = whole["segments"]
    portable["segments"] = [{**segment, "latency": None, "path": "graph/model.onnx"}]
    document["plans"].append(portable)
    manifest.write_text(json.dumps(document))
    found = {plan["id"]: plan for plan in run.json("verify", bundle)["plans"]}
    assert "nothing is built for it yet" in found["later"]["skipped"]
    assert found["later"]["num_inputs"] == 0
    assert found["segments"]["num_inputs"] == 3
    assert "plan 'later'     not run here:" in run("verify", bundle).stdout
    assert "no, nothing is built for it yet" in run("inspect", bundle).stdout


def test_targets_say_what_this_machine_is(run: Run) -> None:
    found = run.json("targets")
    assert "cpu" in found["this_machine"]
    cpu = found["targets"][0]
    assert cpu["machine"].keys() >= {"cpu_model", "isa", "onnxruntime"}
    assert (cpu["available"], cpu["reason"]) == (True, None)
    text = run("targets").stdout
    assert "here         this machine" in text
    assert cpu["machine"]["cpu_model"] in text


def test_targets_say_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> dict[str, str | int]:
        raise DeviceError("ONNX Runtime is missing or broken")

    monkeypatch.setattr(ort, "local_fields", missing)
    found = run.json("targets")
    assert "cpu" not in found["this_machine"]
    assert found["targets"][0]["reason"] == "ONNX Runtime is missing or broken"
    assert "no: ONNX Runtime is missing or broken" in run("targets").stdout


def test_a_bundle_can_be_inspected_without_the_library(
    run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> dict[str, str | int]:
        raise DeviceError("ONNX Runtime is missing or broken")

    moved = tmp_path / "elsewhere"
    shutil.move(bundle, moved)
    monkeypatch.setattr(ort, "local_fields", missing)
    assert run.json("inspect", moved)["plans"][0]["runnable_here"] is False
