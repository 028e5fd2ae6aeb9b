import asyncio
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import compiling, deadlines, demo, networks
from bench.compiling import bound_of, bound_text, compile_at_speed
from bench.intervals import MedianInterval, median_interval, quantiles_of
from bench.machine import steal_frac
from bench.modes import MODES, ModeRun, rate_per_s
from bench.paired import PairedTimes, is_bitwise_equal
from bench.publish import README, RESULTS, price_of_points, published
from bench.report import (
    Block,
    acceptance,
    acceptance_lines,
    best_effort_kept,
    report_of,
    sentence,
    table_rows,
)
from bench.rows import failed_row, markdown, not_reached, row_of
from docs import example
from models.make import make
from preempt_runtime.errors import InputError
from preempt_runtime.manifest import Latency
from preempt_runtime.metrics import metrics_from_records
from preempt_runtime.records import JobRecord, JobState
from preempt_runtime.system_view import CpuTimes
from preempt_runtime.testing import Recording
from preemptc.backends import Progress
from preemptc.cache import BuildCache
from preemptc.deliver import check_place
from preemptc.profile import BoundaryCost, LatencyProfile

MACHINE = {
    "cpu_model": "X",
    "cores": 2,
    "onnxruntime": "1",
    "python": "3",
    "preemptc": "0",
    "steal_frac": 0.0,
    "date": "2026-01-02T03:04:05+00:00",
}
QUANTILES = {"p50_ns", "p95_ns", "p99_ns", "max_ns", "jobs"}


def median_tail(num: int, rank: int) -> float:
    """P(median of a resample of 1..num is at most rank), num odd: a binomial tail."""
    share = rank / num
    return sum(
        math.comb(num, hits) * share**hits * (1 - share) ** (num - hits)
        for hits in range((num + 1) // 2, num + 1)
    )


@pytest.mark.parametrize("num", [3, 5, 11, 25])
def test_bootstrap_ends_are_the_exact_quantiles_of_the_median(num: int) -> None:
    tails = [median_tail(num, rank) for rank in range(num + 1)]
    # Only where a quantile of the resamples' distribution is not a coin toss between two ranks.
    assert all(abs(tail - edge) > 0.004 for tail in tails for edge in (0.025, 0.975))
    low = next(rank for rank in range(1, num + 1) if tails[rank] > 0.025)
    high = next(rank for rank in range(1, num + 1) if tails[rank] > 0.975)
    values = [float(value) for value in range(num, 0, -1)]
    assert median_interval(values, seed=1) == MedianInterval(
        median=(num + 1) / 2, low=low, high=high, num_samples=num
    )


def test_bootstrap_of_two_values_spans_them() -> None:
    interval = median_interval([3.0, 1.0], seed=0)
    assert (interval.low, interval.median, interval.high) == (1.0, 2.0, 3.0)


def test_bootstrap_repeats_with_its_seed() -> None:
    values = list(np.random.default_rng(0).normal(size=50))
    assert median_interval(values, seed=5) == median_interval(values, seed=5)


def test_steal_is_the_share_of_the_time_between_two_readings() -> None:
    before = CpuTimes(total_ticks=1000, steal_ticks=50)
    assert steal_frac(before, CpuTimes(total_ticks=1400, steal_ticks=60)) == 0.025
    assert steal_frac(before, before) is None
    assert steal_frac(None, before) is None


def test_rate_counts_whole_jobs_between_the_first_and_the_last_end() -> None:
    assert rate_per_s([100_000_000, 300_000_000, 500_000_000, 700_000_000]) == 5.0
    with pytest.raises(InputError, match=r"2 jobs .* needed 3; raise --jobs"):
        rate_per_s([1, 2])


def profile(whole_ns: int, *node_ns: int) -> LatencyProfile:
    return LatencyProfile(
        graph_digest="d",
        target="cpu",
        source="measured",
        node_names=tuple(f"n{idx}" for idx in range(len(node_ns))),
        node_ns=node_ns,
        node_latency=(),
        whole=Latency(p50_ns=whole_ns, p99_ns=whole_ns, max_ns=whole_ns, num_samples=9),
        boundary=BoundaryCost(fixed_ns=0, ns_per_byte=0.0),
        machine={},
    )


@pytest.mark.parametrize(
    ("node_ns", "parts", "bound_ns", "source"),
    [
        ((50, 50, 900), 10, 1080, "longest node"),
        ((80,) * 12 + (40,), 10, 100, "whole network"),
        ((80,) * 12 + (40,), 5, 200, "whole network"),
    ],
)
def test_bound_is_a_part_of_the_network_or_covers_its_longest_node(
    node_ns: tuple[int, ...], parts: int, bound_ns: int, source: str
) -> None:
    bound = bound_of(profile(1000, *node_ns), parts=parts)
    assert (bound["bound_ns"], bound["bound_from"]) == (bound_ns, source)


class Speeds:
    """A network whose whole takes what two lists say: when profiled, and when compiled."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, profiled_ms: list[int], compiled_ms: list[int]
    ) -> None:
        self.profiled_ms, self.compiled_ms, self.bounds_ns = profiled_ms, compiled_ms, list[int]()
        monkeypatch.setattr(compiling, "measured_bound", self.bound)
        monkeypatch.setattr(compiling, "compile_under", self.compile)

    def bound(self, *arguments: object, **options: object) -> dict[str, Any]:
        whole_ns = self.profiled_ms.pop(0) * 1_000_000
        return bound_of(profile(whole_ns, *[whole_ns // 20] * 20))

    def compile(
        self, model: Path, output: Path, bound_ns: int, *arguments: object, **options: object
    ) -> dict[str, Any]:
        self.bounds_ns.append(bound_ns)
        whole_ns = self.compiled_ms.pop(0) * 1_000_000
        measured = {"whole_p50_ns": whole_ns, "segment_p50_ns": [whole_ns // 11, whole_ns // 12]}
        return {"bound_ns": bound_ns, "measured": measured, "refused": []}


@pytest.mark.parametrize(
    ("profiled_ms", "compiled_ms", "bounds_ms", "text"),
    [
        ([110], [121], [11], "11 ms (1/10 of the whole network's 110 ms), the longest 11 ms at"),
        (
            [380, 110], [110, 110], [38, 11],
            "11 ms (1/10 of the whole network's 110 ms, derived 2 times as the machine's speed"
            " changed), the longest 10 ms at the median",
        ),
        (
            [380, 110, 200], [110, 220, 110], [38, 11, 20],
            "20 ms (1/10 of the whole network's 200 ms, derived 3 times as the machine's speed"
            " changed), the longest 10 ms at the median, measured at 1.82 of the speed",
        ),
        (
            [110, 110], [220], [11],
            "11 ms (1/10 of the whole network's 110 ms), the longest 20 ms at the median, measured"
            " at 0.5 of the speed that the bound is for",
        ),
    ],
)  # fmt: skip
def test_a_bound_from_another_speed_is_derived_again_twice_at_most(
    monkeypatch: pytest.MonkeyPatch,
    profiled_ms: list[int],
    compiled_ms: list[int],
    bounds_ms: list[int],
    text: str,
) -> None:
    speeds = Speeds(monkeypatch, profiled_ms, compiled_ms)
    bound, report = compile_at_speed(Path("m"), Path("b"), BuildCache(Path("c")), threads=2)
    assert speeds.bounds_ns == [ms * 1_000_000 for ms in bounds_ms]
    assert not profiled_ms
    assert bound_text(bound, report, parts=10).startswith(text)


def test_how_a_bound_was_chosen_names_node_and_raise() -> None:
    bound = {**bound_of(profile(1_000_000, 100_000, 900_000)), "rederived": 0}
    bound["compiled_whole_p50_ns"] = 1_000_000
    report = {
        "bound_ns": 1_350_000,
        "refused": ["no"],
        "measured": {"segment_p50_ns": [900_000, 1_300_000]},
    }
    assert bound_text(bound, report, parts=10) == (
        "1.35 ms (1.2 times the longest node's 900 us, raised from 1.08 ms: no plan kept that),"
        " the longest 1.3 ms at the median"
    )


def test_outputs_are_compared_byte_by_byte() -> None:
    nan = {"y": np.array([np.nan, 1.0])}
    assert is_bitwise_equal(nan, {"y": np.array([np.nan, 1.0])})
    assert not is_bitwise_equal(nan, {"y": np.array([1.0, np.nan])})
    assert not is_bitwise_equal(nan, {"z": nan["y"]})
    assert not is_bitwise_equal({"y": np.zeros(2)}, {"y": np.zeros((2, 1))})


def mode_run(
    mode: str, response_ns: tuple[int, ...], rate: float | None, *segment_ns: tuple[int, ...]
) -> ModeRun:
    return ModeRun(
        mode=mode,
        response_ns=response_ns,
        segment_ns=segment_ns,
        best_effort_per_s=rate,
        recording=Recording(),
    )


def block(alone_ns: int, preemptive_ns: int, rate: float, ratio: float) -> Block:
    runs = (
        mode_run("alone", (alone_ns,), None),
        mode_run("best_effort_alone", (), 10.0, (90_000_000,)),
        mode_run("fifo", (100_000_000,), 8.0, (90_000_000,)),
        mode_run("preemptive", (preemptive_ns,), rate, (10_000_000,), (4_000_000, 12_000_000)),
    )
    return Block(runs={run.mode: run for run in runs}, overhead_ratio=ratio, urgent_per_s=40.0)


BLOCKS = (
    block(5_000_000, 17_000_000, 7.2, 1.01),
    block(5_000_000, 18_000_000, 7.6, 1.05),
    block(6_000_000, 40_000_000, 6.0, 1.02),
)


def test_every_figure_of_the_report_is_the_median_over_the_blocks() -> None:
    report = report_of(BLOCKS, bound_ns=11, settings={}, machine=MACHINE)
    runs = report["runs"]
    assert (report["bound_ns"], report["segments"], report["blocks"]) == (11, 2, 3)
    assert report["overhead_ratio"] == 1.02
    # 40 jobs a second of 5 ms leave 0.8 of 10 jobs a second: 0.9, 0.95; of 6 ms 0.76: 0.789
    assert [round(best_effort_kept(entry), 3) for entry in BLOCKS] == [0.9, 0.95, 0.789]
    assert report["best_effort_kept"] == 0.9
    assert report["max_segment_ns"] == {"p50": 10_000_000, "p99": 10_000_000, "max": 12_000_000}
    assert runs["alone"]["urgent"]["p99_ns"] == 5_000_000
    assert runs["preemptive"]["urgent"] == {
        **dict.fromkeys(("p50_ns", "p95_ns", "p99_ns", "max_ns"), 18_000_000),
        "jobs": 3,
    }
    assert runs["preemptive"]["best_effort"] == {"jobs_per_s": 7.2}
    assert runs["alone"]["best_effort"] is None
    assert runs["best_effort_alone"]["urgent"] is None


def test_acceptance_compares_with_what_was_asked() -> None:
    report = report_of(BLOCKS, bound_ns=11, settings={}, machine=MACHINE)
    found = report["acceptance"]
    assert found["preemptive_p99_ns"] == {
        "found": 18_000_000,
        "at_most": 18_000_000,
        "is_reached": True,
    }
    assert found["fifo_over_preemptive_p99"]["found"] == 5.556
    assert found["best_effort_kept"]["is_reached"]
    report["runs"]["preemptive"]["urgent"]["p99_ns"] += 1
    report["best_effort_kept"] = 0.8999
    report["runs"]["fifo"]["urgent"]["p99_ns"] = 53_000_000
    assert not any(entry["is_reached"] for entry in acceptance(report).values())


def test_the_sentence_says_gain_and_price_and_does_not_hide_a_loss() -> None:
    report = report_of(BLOCKS, bound_ns=11, settings={}, machine=MACHINE)
    assert "18 ms instead of 100 ms, 5.6 times less (alone 5 ms)" in sentence(report)
    assert "1.020 of its uncut time and did 7.20 jobs/s beside the urgent ones" in sentence(report)
    assert [line.split(":")[0] for line in acceptance_lines(report)] == ["reached"] * 3
    assert table_rows(report)[0] == ("alone", "5 ms", "5 ms", "5 ms", "5 ms", "3", "-")
    report["runs"]["preemptive"]["urgent"]["p99_ns"] = 200_000_000
    assert "2.0 times more" in sentence(report)


def pairs(segment_ns: tuple[int, ...], whole_ns: int, num_pairs: int = 50) -> PairedTimes:
    return PairedTimes(
        segment_ns=(segment_ns,) * num_pairs, whole_ns=(whole_ns,) * num_pairs, is_bitwise=True
    )


def row(
    measured: PairedTimes, *, built: int = 3, bound_ns: int = 12_000_000, slower: int = 1
) -> dict[str, Any]:
    steps = ("positions", "fusion", "live_bytes", "zero_cost", "dominance")
    names = [steps[0], *(f"after_{step}" for step in steps[1:])]
    report = {
        "bound_ns": bound_ns,
        "refused": [],
        "built": built,
        "kept": 2,
        "rounds": 2,
        "wall_s": 9.6,
        "candidates": dict.fromkeys(names, 7),
        "check": {"bitwise": True, "max_abs_diff": 0.0},
        "measured": {
            "segment_p50_ns": [1, 2],
            "overhead_ratio": 1.0,
            "whole_p50_ns": measured.whole_ns[0] // slower,
        },
    }
    bound = {"bound_ns": bound_ns, "bound_from": "whole network"}
    return row_of("resnet50", report, measured, bound, MACHINE)


def test_a_row_that_reached_everything_has_no_reasons() -> None:
    done = row(pairs((11_000_000, 12_000_000), 22_000_000))
    assert done["not_reached"] == []
    assert done["chained_over_whole"] == {
        "median": 1.0455,
        "low": 1.0455,
        "high": 1.0455,
        "pairs": 50,
    }
    assert done["longest_segment"] == {"idx": 1, "p50_ns": 12_000_000, "p99_ns": 12_000_000}
    assert "Nothing" in markdown([done], "make bench")


def test_a_machine_that_is_slower_now_breaks_no_bound() -> None:
    done = row(pairs((22_000_000, 24_000_000), 44_000_000), slower=2)
    assert done["speed"] == 2.0
    assert done["not_reached"] == []


def test_every_miss_is_reported_with_its_figures() -> None:
    missed = row(pairs((11_000_000, 13_000_000), 21_000_000, num_pairs=49), built=4)
    missed["is_bitwise"] = False
    over, bits, few, slow, built = not_reached(missed)
    assert over.startswith("segment 1 takes 13 ms at the median at the compile's speed")
    assert bits.startswith("outputs differ")
    assert few == "only 49 pairs measured, asked 50"
    assert "1.143 of the whole network [1.143, 1.143]" in slow
    assert "3 ms for each of 1 preemption points" in slow
    assert built.startswith("4 segments built for 2 kept")
    short = row(pairs((1_000_000, 1_000_000), 1_000_000))
    assert short["not_reached"] == []


def measured_row(whole_ms: float, ratio: float, segments: int) -> dict[str, Any]:
    return {
        "whole_p50_ns": round(whole_ms * 1e6),
        "chained_over_whole": {"median": ratio},
        "segments": segments,
    }


def test_the_price_of_a_point_is_the_table_s_range_of_what_it_cost() -> None:
    rows = [
        measured_row(40, 1.05, 11),  # 2 ms over 10 points
        measured_row(4, 1.2, 9),  # 0.8 ms over 8
        measured_row(3, 1.1, 4),  # 0.3 ms over 3
        measured_row(60, 0.95, 9),  # faster: no price
        measured_row(30, 1.0, 1),  # no point
    ]
    assert price_of_points(rows) == (
        "Where the chain was slower (3 of 4 networks), a preemption point cost 100 us to 200 us,"
        " median 100 us.\nShort networks pay a larger share: those under 5 ms took 1.10 to 1.20"
        " times their uncut time."
    )
    assert price_of_points(rows[:1]).endswith("200 us to 200 us, median 200 us.")
    assert price_of_points(rows[3:]) == "No network was slower for its preemption points."


def test_the_demo_and_the_deadlines_may_write_where_they_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    options, (times, _) = demo._options([]), deadlines._options([])
    for folder, cache in ((options.out, options.cache), (times.folder, times.cache)):
        check_place(folder / "urgent.bundle", BuildCache(cache))


def test_the_readme_holds_the_published_results() -> None:
    root = Path(__file__).parents[2]
    text = (root / README).read_text()
    assert published(text, root / RESULTS) == text


def test_markdown_lists_networks_without_a_bundle() -> None:
    text = markdown([failed_row("vgg19", "no plan", MACHINE)], "make bench")
    assert "* `vgg19`: no bundle: no plan" in text


def test_rows_are_merged_by_network_in_the_order_of_the_zoo(tmp_path: Path) -> None:
    networks.merge([failed_row("vgg19", "old", MACHINE)], tmp_path)
    merged = networks.merge(
        [failed_row("vgg19", "new", MACHINE), failed_row("resnet50", "x", MACHINE)], tmp_path
    )
    assert [(entry["network"], entry["error"]) for entry in merged] == [
        ("resnet50", "x"),
        ("vgg19", "new"),
    ]
    assert json.loads((tmp_path / "cpu-networks.json").read_text())["rows"] == merged
    assert (tmp_path / "cpu-networks.md").read_text().count("no bundle") == 2


@pytest.mark.slow
def test_a_compile_under_a_share_tells_its_steps(tmp_path: Path) -> None:
    told: list[str] = []
    make("light/squeezenet", tmp_path / "net.onnx")  # long enough to be measured at one speed
    compile_at_speed(
        tmp_path / "net.onnx",
        tmp_path / "net.bundle",
        BuildCache(tmp_path / "cache"),
        threads=1,
        parts=2,
        progress=lambda what, frac: told.append(what),
    )
    steps = list(dict.fromkeys(told))
    assert steps[:4] == ["load", "lower", "profile: whole network", "profile: nodes"]
    assert any(what.startswith("plan: round 1 of at most ") for what in steps)
    assert told.count("profile: whole network") >= 15, "a sign of life for each run"
    assert sum(what.startswith("measure: ") for what in told) >= 9


def demo_arguments(folder: Path) -> list[str]:
    small = ["--urgent", "tiny_cnn", "--best-effort", "tiny_cnn", "--out", str(folder)]
    return [*small, "--cache", str(folder / "cache")]


def test_the_demo_shows_its_compiles_and_ctrl_c_ends_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, progress: Progress, **options: object) -> None:
        progress("plan: round 1, 9 segments", 0.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "compile_at_speed", interrupted)
    assert demo.main(demo_arguments(tmp_path)) == 130
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert "about 2 minutes on 2 idle cores" in lines[0]
    assert lines[1:3] == ["compiling tiny_cnn (urgent, uncut)", "preemptc: load"]
    assert "preemptc: deliver" in lines
    assert lines[-3:] == [
        "compiling tiny_cnn (best effort)",
        "preemptc: plan: round 1, 9 segments",
        "demo: interrupted",
    ]


@pytest.mark.parametrize("when", ["importing", "compiling"])
def test_ctrl_c_is_no_bug_of_the_demo(tmp_path: Path, when: str) -> None:
    module, name = {"importing": ("numpy", ""), "compiling": ("bench.demo", "make")}[when]
    code = f"""
import importlib, importlib.abc, os, signal, sys
def interrupt(*arguments):
    os.kill(os.getpid(), signal.SIGINT)
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}: interrupt()
sys.argv[1:] = {demo_arguments(tmp_path)!r}
if {name!r}:
    setattr(importlib.import_module({module!r}), {name!r}, interrupt)
else:
    sys.meta_path.insert(0, Interrupt())
from bench.start import main
sys.exit(main())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (130, ""), found.stderr
    assert found.stderr.splitlines()[-1] == "demo: interrupted"
    assert "Traceback" not in found.stderr


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    arguments = ["--urgent", "tiny_cnn", "--best-effort", "light/squeezenet", "--jobs", "240"]
    arguments += ["--blocks", "3", "--parts", "6", "--out", str(folder)]
    assert demo.main([*arguments, "--cache", str(folder / "cache")]) == 0
    return folder


@pytest.mark.slow
def test_demo_report_has_the_published_keys_and_preemption_helps(demo_folder: Path) -> None:
    report = json.loads((demo_folder / "report.json").read_text())
    assert report.keys() >= {
        "bound_ns",
        "segments",
        "max_segment_ns",
        "overhead_ratio",
        "best_effort_kept",
        "runs",
        "machine",
    }
    assert report["max_segment_ns"].keys() == {"p50", "p99", "max"}
    assert tuple(report["runs"]) == MODES
    for mode, run in report["runs"].items():
        assert run.keys() == {"urgent", "best_effort"}
        assert (run["urgent"] is None) == (mode == "best_effort_alone")
        assert (run["best_effort"] is None) == (mode == "alone")
    assert report["machine"].keys() >= {"cpu_model", "cores", "steal_frac", "onnxruntime", "date"}
    urgent = {mode: report["runs"][mode]["urgent"] for mode in ("alone", "fifo", "preemptive")}
    assert all(figures.keys() == QUANTILES for figures in urgent.values())
    assert all(figures["jobs"] == 240 for figures in urgent.values())
    assert report["segments"] >= 2
    assert urgent["preemptive"]["p99_ns"] < urgent["fifo"]["p99_ns"]


@pytest.mark.slow
def test_demo_trace_shows_an_urgent_job_between_two_segments_of_the_long_one(
    demo_folder: Path,
) -> None:
    events = json.loads((demo_folder / "trace.json").read_text())["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    triples = zip(slices, slices[1:], slices[2:], strict=False)
    assert any(
        before["cat"] == after["cat"] == "best_effort"
        and before["args"]["job"] == after["args"]["job"]
        and between["cat"] == "urgent"
        for before, between, after in triples
    )


@pytest.mark.slow
def test_example_application_answers_its_frames(
    demo_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    urgent, long = demo_folder / "urgent.bundle", demo_folder / "best_effort.bundle"
    asyncio.run(example.main(urgent, long, 100))  # a second: time for one caption anywhere
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("of 100 frames done")
    assert int(lines[0].split()[0]) >= 1
    assert [line.split(":")[0] for line in lines[1:]] == ["captioner", "detector"]


def test_example_names_a_task_without_a_finished_job() -> None:
    cancelled, done = (
        JobRecord(
            job_id=idx, task="captioner", priority=None, release_ns=0, deadline_ns=None,
            start_ns=0, end_ns=2_000_000, state=state, blocking_ns=0, num_preemptions=0,
            num_segments_run=1, error=None,
        )
        for idx, state in enumerate((JobState.CANCELLED, JobState.FINISHED))
    )  # fmt: skip
    assert example.task_line("captioner", None) == "captioner: 0 jobs"
    found = metrics_from_records([cancelled], 1)["captioner"]
    assert example.task_line("captioner", found) == "captioner: 0 jobs"
    found = metrics_from_records([cancelled, done], 1)["captioner"]
    assert example.task_line("captioner", found) == "captioner: 1 jobs, response p50 2 ms, p99 2 ms"


def test_example_without_a_bundle_ends_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.command([str(tmp_path / "none"), str(tmp_path / "none")]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {tmp_path / 'none'}: no such bundle")


@pytest.mark.slow
def test_bench_measures_a_network_and_does_not_measure_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--only", "tiny_branchy", "--pairs", "50", "--out", str(tmp_path / "out")]
    arguments += ["--work", str(tmp_path / "work")]
    assert networks.main(arguments) == 0
    (found,) = json.loads((tmp_path / "out" / "cpu-networks.json").read_text())["rows"]
    assert found["network"] == "tiny_branchy"
    assert found["is_bitwise"]
    assert len(found["segment_p50_ns"]) == found["segments"] == found["kept"]
    assert found["chained_over_whole"]["pairs"] == 50
    assert quantiles_of(found["segment_p50_ns"]).max_ns == found["longest_segment"]["p50_ns"]
    assert not (tmp_path / "work" / "now").exists()
    capsys.readouterr()
    assert networks.main(arguments) == 0
    assert "measured before" in capsys.readouterr().out
