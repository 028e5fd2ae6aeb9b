"""Task sets on the simulated device: hand-drawn schedules, and what a run would report."""

import dataclasses
import hashlib
import json
import signal
import time
from pathlib import Path

import pytest

from preempt_runtime.clock import VirtualClock
from preempt_runtime.errors import BundleError, InputError
from preempt_runtime.manifest import Latency, Manifest
from preempt_runtime.policies import POLICIES
from preempt_runtime.records import JobRecord
from preempt_runtime.run_options import RunOptions
from preempt_runtime.run_report import document_from_report
from preempt_runtime.run_taskset import run_taskset
from preempt_runtime.simulation.costs import (
    COST_MODES,
    CostMode,
    SegmentCost,
    TaskCosts,
    read_costs,
)
from preempt_runtime.simulation.device import CostStream
from preempt_runtime.simulation.report import document_from_simulation
from preempt_runtime.simulation.simulate import SimulationOptions, SimulationReport, simulate
from preempt_runtime.taskset import read_taskset
from preempt_runtime.testing import Recording, lines_from_recording
from preempt_runtime.trace import TraceRecorder, text_from_trace
from tests.runtime.fake_bundles import (
    FIELDS,
    FakeBackend,
    LoadingFakeDevice,
    manifest_of,
    write_bundle,
)

MS = 1_000_000
PAIR = """
[[task]]
name = "urgent"
cost = "4ns"
priority = 2
deadline = "7ns"
arrival = { kind = "trace", path = "releases.txt" }

[[task]]
name = "long"
segments = ["5ns", "5ns", "5ns"]
priority = 1
period = "1s"
"""
MIXED = """
[taskset]
name = "mixed"
seed = 11
resume_cost = "20us"

[[task]]
name = "camera"
bundle = "camera.bundle"
priority = 9
period = "10ms"
jitter = "3ms"
deadline = "6ms"
mailbox = "latest"

[[task]]
name = "lidar"
cost = "6ms"
max_segment = "2ms"
point_cost = "100us"
priority = 5
deadline = "25ms"
arrival = { kind = "sporadic", min_interval = "20ms", mean_interval = "27ms" }

[[task]]
name = "radar"
segments = ["1ms", "500us"]
priority = 4
period = "16ms"
max_pending = 2
deadline = "40ms"
arrival = { kind = "sporadic", min_interval = "16ms", mean_interval = "20ms" }

[[task]]
name = "captions"
bundle = "captions.bundle"
best_effort = true
arrival = { kind = "closed_loop", think = "1ms" }
"""


def measured(manifest: Manifest, *, p99: float = 1.2, longest: float = 1.5) -> Manifest:
    """The same with latencies around its predictions."""

    def with_latency(ns: int) -> Latency:
        return Latency(
            p50_ns=ns, p99_ns=round(ns * p99), max_ns=round(ns * longest), num_samples=50
        )

    plans = tuple(
        dataclasses.replace(
            plan,
            source="measured",
            segments=tuple(
                dataclasses.replace(segment, latency=with_latency(segment.predicted_ns))
                for segment in plan.segments
            ),
        )
        for plan in manifest.plans
    )
    return dataclasses.replace(manifest, plans=plans)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "camera.bundle", measured(manifest_of((1 * MS, 2 * MS))))
    write_bundle(tmp_path / "captions.bundle", measured(manifest_of((3 * MS,) * 6)))
    return tmp_path


@pytest.mark.parametrize("mode", COST_MODES)
def test_buffers_change_nothing_with_one_segment_in_flight(folder: Path, mode: CostMode) -> None:
    """Every job costs the same, whichever buffers it is in; with more in flight, too."""
    more = MIXED.replace("best_effort = true", "best_effort = true\nbuffers = 2").replace(
        "priority = 4", "priority = 4\nbuffers = 3"
    )

    def jobs_of(text: str) -> tuple[list[str], dict[tuple[str, int], int]]:
        _, recording = run(folder, text, duration_ns=500 * MS, mode=mode)
        costs: dict[tuple[str, int], int] = {}
        for seg in recording.segments:
            costs[seg.task, seg.job_id] = costs.get((seg.task, seg.job_id), 0) + seg.elapsed_ns
        return lines_from_recording(recording), costs

    assert jobs_of(more) == jobs_of(MIXED)
    deep, costs = jobs_of(more.replace("seed = 11", "seed = 11\ndepth = 3"))
    assert len(deep) > 100
    assert len(costs) > 50


def run(
    folder: Path,
    text: str,
    *,
    duration_ns: int = 1000,
    mode: CostMode = "fixed",
    policy: str | None = None,
) -> tuple[SimulationReport, Recording]:
    (folder / "set.toml").write_text(text, encoding="utf-8")
    taskset = read_taskset(folder / "set.toml")
    recording = Recording()
    options = SimulationOptions(duration_ns=duration_ns, mode=mode, policy=policy)
    report = simulate(taskset, read_costs(taskset), options, instruments=(recording,))
    return report, recording


def test_a_hand_drawn_schedule(tmp_path: Path) -> None:
    (tmp_path / "releases.txt").write_text("1\n7\n", encoding="utf-8")
    report, recording = run(tmp_path, PAIR)
    assert lines_from_recording(recording) == [
        "0-5 long#0[0]",
        "5-9 urgent#1[0]",
        "9-13 urgent#2[0]",
        "13-18 long#0[1]",
        "18-23 long#0[2]",
        "long#0 finished release=0 start=0 end=23 response=23 preemptions=1",
        "urgent#1 finished release=1 start=5 end=9 response=8 blocking=4 missed=1",
        "urgent#2 finished release=7 start=9 end=13 response=6",
    ]
    assert report.run.tasks["urgent"].metrics.missed == 1
    assert report.run.tasks["urgent"].bundle is None
    assert report.max_backlogs == {"urgent": 1, "long": 1}  # seen at points: one ended at 9


def test_going_on_costs_only_after_another_job_ran(tmp_path: Path) -> None:
    (tmp_path / "releases.txt").write_text("1\n7\n", encoding="utf-8")
    text = '[taskset]\nresume_cost = "3ns"\n' + PAIR
    _, recording = run(tmp_path, text)
    assert [line for line in lines_from_recording(recording) if "[" in line] == [
        "0-5 long#0[0]",
        "5-9 urgent#1[0]",
        "9-13 urgent#2[0]",
        "13-21 long#0[1]",  # 5 and 3 more
        "21-26 long#0[2]",
    ]


def test_a_cost_is_cut_under_its_bound_and_pays_for_every_cut(tmp_path: Path) -> None:
    text = (
        '[[task]]\nname = "a"\ncost = "10ns"\npoint_cost = "1ns"\nmax_segment = "4ns"\n'
        'priority = 1\nperiod = "100ns"\n'
    )
    report, recording = run(tmp_path, text, duration_ns=100)
    assert [(s.start_ns, s.end_ns) for s in recording.segments] == [(0, 4), (4, 8), (8, 12)]
    assert report.run.tasks["a"].num_segments == 3
    assert report.costs["a"].source == "given"


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_simulation_is_what_the_same_run_records_on_a_device_of_the_same_costs(
    folder: Path, policy: str
) -> None:
    text = MIXED.replace('resume_cost = "20us"', "")
    for name, segments in (("lidar", (2 * MS,) * 3), ("radar", (MS, MS // 2))):
        write_bundle(folder / f"{name}.bundle", manifest_of(segments))
    text = text.replace('cost = "6ms"\nmax_segment = "2ms"\npoint_cost = "100us"', 'bundle = "b"')
    text = text.replace('bundle = "b"', 'bundle = "lidar.bundle"')
    text = text.replace('segments = ["1ms", "500us"]', 'bundle = "radar.bundle"')
    report, simulated = run(folder, text, duration_ns=500 * MS, policy=policy)
    clock, real = VirtualClock(), Recording()
    run_report = run_taskset(
        read_taskset(folder / "set.toml"),
        RunOptions(duration_ns=500 * MS, policy=policy, num_warmup_runs=0),
        find_backend=lambda _: FakeBackend(make_device=lambda: LoadingFakeDevice(clock)),
        clock=clock,
        instruments=(real,),
    )
    assert len(real.jobs) > 100
    assert simulated == real
    expected = {**document_from_report(run_report), "device": "simulated"}
    del expected["guarantee"]  # a simulation promises nothing
    for task in expected["tasks"].values():
        del task["response_bound_ns"], task["drift"]
    assert document_from_report(report.run) == expected


def test_modes_take_the_median_the_maximum_and_what_lies_between(folder: Path) -> None:
    lengths = {}
    for mode in COST_MODES:
        _, recording = run(folder, MIXED, duration_ns=2_000 * MS, mode=mode)
        lengths[mode] = [
            s.elapsed_ns for s in recording.segments if (s.task, s.segment_idx) == ("camera", 0)
        ]
    assert set(lengths["fixed"]) == {1_000_000}
    assert set(lengths["worst"]) == {1_500_000}
    assert min(lengths["random"]) == 1_000_000
    assert max(lengths["random"]) <= 1_500_000
    assert len(set(lengths["random"])) > 20


COST = SegmentCost(p50_ns=1_000_000, p99_ns=1_200_000, max_ns=1_500_000)


def stream_of(*segments: SegmentCost, seed: int = 1, task: str = "a") -> CostStream:
    return CostStream(
        TaskCosts(segments=segments, source="measured"), "random", seed=seed, task=task
    )


def test_draws_have_the_quantiles_that_they_are_made_from() -> None:
    stream = stream_of(COST)
    drawn = sorted(stream.job_ns(idx)[0] for idx in range(100_000))
    assert drawn[49_000] == 1_000_000
    assert drawn[51_000] > 1_000_000
    # Log-normal: 1.2 ** (1 / 2) half of the way to p99 in standard deviations, 1.163 of 2.326.
    assert drawn[87_760] == pytest.approx(1_000_000 * 1.2**0.5, rel=0.002)
    assert drawn[99_000] == pytest.approx(1_200_000, rel=0.005)
    assert drawn[99_500] == pytest.approx(1_350_000, rel=0.02)  # half of the way to the maximum
    assert 1_480_000 < drawn[-1] <= 1_500_000
    assert sum(drawn) / 100_000 == pytest.approx(COST.mean_ns("random"), rel=1e-3)


@pytest.mark.parametrize("p99_ns", [1_000, 1_001, 2_000, 800_000, 10**12])
def test_the_mean_is_that_of_the_quantiles(p99_ns: int) -> None:
    cost = SegmentCost(p50_ns=1_000, p99_ns=p99_ns, max_ns=3 * p99_ns)
    num_steps = 200_000
    drawn_ns = [cost.drawn_ns((step + 0.5) / num_steps) for step in range(num_steps)]
    assert cost.mean_ns("random") == pytest.approx(sum(drawn_ns) / num_steps, rel=1e-3)
    assert drawn_ns == sorted(drawn_ns)


def test_a_median_of_nothing_is_no_log_normal() -> None:
    cost = SegmentCost(p50_ns=0, p99_ns=100, max_ns=200)
    assert [cost.drawn_ns(share) for share in (0.2, 0.98, 0.99, 0.995)] == [0, 0, 100, 150]
    assert cost.mean_ns("random") == 1.5


def test_a_job_costs_the_same_whichever_were_skipped_before_it() -> None:
    every, some = stream_of(COST, COST), stream_of(COST, COST)
    costs = [every.job_ns(idx) for idx in range(20)]
    assert [some.job_ns(idx) for idx in (0, 3, 4, 19)] == [costs[idx] for idx in (0, 3, 4, 19)]
    assert len({tuple(cost) for cost in costs}) > 10


def test_streams_of_tasks_and_seeds_differ() -> None:
    streams = (stream_of(COST), stream_of(COST, task="b"), stream_of(COST, seed=2))
    drawn = [[stream.job_ns(idx)[0] for idx in range(10)] for stream in streams]
    assert drawn[0] != drawn[1]
    assert drawn[0] != drawn[2]


def test_a_tasks_draws_do_not_depend_on_other_tasks(folder: Path) -> None:
    alone = MIXED[: MIXED.index('[[task]]\nname = "lidar"')].replace("20us", "0us")
    together = MIXED.replace("20us", "0us").replace('mailbox = "latest"', "")
    drawn = []
    for text in (alone.replace('mailbox = "latest"', ""), together):
        _, recording = run(folder, text, duration_ns=1_000 * MS, mode="random")
        drawn.append([s.elapsed_ns for s in recording.segments if s.task == "camera"])
    assert len(drawn[0]) == 200
    assert drawn[0] == drawn[1]


def texts(folder: Path, mode: CostMode) -> tuple[str, str]:
    """Report and trace."""
    (folder / "set.toml").write_text(MIXED, encoding="utf-8")
    taskset = read_taskset(folder / "set.toml")
    recorder = TraceRecorder()
    options = SimulationOptions(duration_ns=3_000 * MS, mode=mode)
    report = simulate(taskset, read_costs(taskset), options, instruments=(recorder,))
    return json.dumps(document_from_simulation(report)), text_from_trace(recorder.trace())


@pytest.mark.parametrize("mode", COST_MODES)
def test_report_and_trace_are_the_same_bytes_each_time(folder: Path, mode: CostMode) -> None:
    assert texts(folder, mode) == texts(folder, mode)


@pytest.mark.parametrize(
    ("mode", "digest"),
    [("fixed", "9952bf3eb5ff69aa"), ("worst", "398cdd248c00799a"), ("random", "c7609c297a7d64d6")],
)
def test_the_schedule_is_the_same_on_every_python(
    folder: Path, mode: CostMode, digest: str
) -> None:
    _, recording = run(folder, MIXED, duration_ns=3_000 * MS, mode=mode)
    lines = "\n".join(lines_from_recording(recording))
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest


def test_the_report_says_where_costs_come_from(folder: Path) -> None:
    write_bundle(folder / "captions.bundle", manifest_of((3 * MS,) * 6))
    report, _ = run(folder, MIXED, duration_ns=100 * MS, mode="worst")
    document = document_from_simulation(report)
    assert document["device"] == "simulated"
    assert document["simulated"]["costs"] == "worst"
    assert document["simulated"]["resume_cost_ns"] == 20_000
    tasks = document["tasks"]
    sources = {name: task["costs"]["source"] for name, task in tasks.items()}
    assert sources == {
        "camera": "measured",
        "lidar": "given",
        "radar": "given",
        "captions": "estimated",
    }
    assert tasks["camera"]["costs"] == {
        "source": "measured",
        "machine": "Testium 1",
        "job": {"p50_ns": 3 * MS, "p99_ns": 3_600_000, "max_ns": 4_500_000},
        "longest_segment": {"p50_ns": 2 * MS, "p99_ns": 2_400_000, "max_ns": 3 * MS},
    }
    assert (tasks["camera"]["bundle"], tasks["camera"]["plan"]) == ("camera.bundle", "cut")
    assert tasks["camera"]["offered_load"] == 0.45
    assert tasks["captions"]["offered_load"] == 0
    assert tasks["radar"]["offered_load"] == pytest.approx(0.0015 * 50)


def test_a_measured_plan_is_taken_before_an_estimated_one(folder: Path) -> None:
    manifest = manifest_of((1000, 1000))
    cut, whole = manifest.plans
    (segment,) = whole.segments
    latency = Latency(p50_ns=1900, p99_ns=2000, max_ns=2100, num_samples=9)
    whole = dataclasses.replace(
        whole, source="measured", segments=(dataclasses.replace(segment, latency=latency),)
    )
    write_bundle(folder / "camera.bundle", dataclasses.replace(manifest, plans=(cut, whole)))
    report, _ = run(folder, MIXED, duration_ns=MS)
    assert (report.costs["camera"].plan, report.costs["camera"].source) == ("whole", "measured")
    named = MIXED.replace('"camera.bundle"', '"camera.bundle"\nplan = "cut"')
    report, _ = run(folder, named, duration_ns=MS)
    assert (report.costs["camera"].plan, report.costs["camera"].source) == ("cut", "estimated")
    with pytest.raises(BundleError, match=r"no plan 'x', it holds 'cut' \(segments, threads: 2\)"):
        run(folder, MIXED.replace('"camera.bundle"', '"camera.bundle"\nplan = "x"'))
    with pytest.raises(BundleError, match="no plan for 3 threads, it holds 'cut'"):
        run(folder, MIXED.replace("seed = 11", "threads = 3"))


def test_no_file_of_a_bundle_but_its_manifest_is_opened(folder: Path) -> None:
    for file in (folder / "camera.bundle").rglob("*.onnx"):
        file.unlink()
    report, _ = run(folder, MIXED, duration_ns=50 * MS)
    assert report.run.tasks["camera"].metrics.finished == 5


def test_ctrl_c_ends_it_at_the_next_point_with_a_report(folder: Path) -> None:
    class Interrupter(Recording):
        def job_ended(self, record: JobRecord) -> None:
            super().job_ended(record)
            if len(self.jobs) == 20:
                signal.raise_signal(signal.SIGINT)

    (folder / "set.toml").write_text(MIXED, encoding="utf-8")
    taskset = read_taskset(folder / "set.toml")
    seen = Interrupter()
    report = simulate(
        taskset,
        read_costs(taskset),
        SimulationOptions(duration_ns=10_000 * MS),
        instruments=(seen,),
    )
    assert report.run.ended_by is signal.SIGINT
    assert report.run.duration_ns < 1_000 * MS
    assert sum(task.metrics.cancelled for task in report.run.tasks.values()) > 0


def test_ten_thousand_segments_a_second_at_the_very_least(folder: Path) -> None:
    """A tenth of what bench/simulation.py finds, in processor time: others share the machine."""
    start_ns = time.process_time_ns()
    _, recording = run(folder, MIXED, duration_ns=30_000 * MS)
    elapsed_ns = time.process_time_ns() - start_ns
    assert len(recording.segments) > 15_000
    assert elapsed_ns < len(recording.segments) * 100_000


def one_task(arrival: str, cost: str = '"1ms"') -> str:
    return f'[[task]]\nname = "a"\ncost = {cost}\npriority = 1\narrival = {arrival}\n'


def test_a_loop_that_would_stand_still_is_refused(folder: Path) -> None:
    write_bundle(folder / "free.bundle", manifest_of((0, 0)))
    text = one_task('{ kind = "closed_loop" }').replace('cost = "1ms"', 'bundle = "free.bundle"')
    with pytest.raises(InputError, match="task 'a': a closed loop whose jobs cost nothing"):
        run(folder, text)
    report, _ = run(folder, text.replace('loop"', 'loop", think = "1ns"'), duration_ns=10)
    assert report.run.tasks["a"].metrics.finished == 10


@pytest.mark.parametrize(
    ("arrival", "cost"),
    [
        ('{ kind = "closed_loop" }', '"1ns"'),
        ('{ kind = "periodic", period = "1ns" }', '"1s"'),
        ('{ kind = "poisson", rate = 1e9 }', '"1s"'),
    ],
)
def test_what_would_never_end_is_refused(folder: Path, arrival: str, cost: str) -> None:
    with pytest.raises(InputError, match=r"about 1e\+10 segments, most of them of task 'a'"):
        run(folder, one_task(arrival, cost), duration_ns=10_000 * MS)


def test_a_trace_of_too_many_segments_is_refused(folder: Path) -> None:
    (folder / "set.toml").write_text(one_task('{ kind = "closed_loop" }'), encoding="utf-8")
    taskset = read_taskset(folder / "set.toml")
    options = SimulationOptions(duration_ns=6_000_000 * MS)
    with pytest.raises(InputError, match=r"allowed with a trace 5e\+06; shorten the duration"):
        simulate(taskset, read_costs(taskset), options, is_traced=True)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('model = "net.onnx"', "no bundle, so its costs are not known"),
        ('model = "net.onnx"\nbundle = "later.bundle"', "does not exist yet, so its costs"),
    ],
)
def test_a_task_without_costs_is_refused(folder: Path, lines: str, message: str) -> None:
    (folder / "net.onnx").write_bytes(b"")
    text = f'[[task]]\nname = "a"\n{lines}\npriority = 1\nperiod = "1s"\n'
    with pytest.raises(InputError, match=f"task 'a': .*{message}"):
        run(folder, text)


def test_gates_on_a_cpu_are_simulated_by_segments_which_is_said(folder: Path) -> None:
    fields = {**FIELDS, "backend": "ort"}
    write_bundle(folder / "cpu.bundle", manifest_of((10,) * 3, fields=fields))
    text = '[taskset]\nmechanism = "gates"\n[[task]]\nname = "a"\nbundle = "cpu.bundle"\n'
    text += 'priority = 1\nperiod = "1us"\n'
    report, _ = run(folder, text)
    (warning,) = report.warnings
    assert "the bundle of task 'a' is for a CPU, which has no gates" in warning
    assert not run(folder, text.replace("gates", "segments"))[0].warnings


def test_bundles_for_two_devices_are_told(folder: Path) -> None:
    for name in ("Testium 1", "Testium 2"):
        fields = {**FIELDS, "cpu_model": name}
        write_bundle(folder / f"{name[-1]}.bundle", manifest_of((10,) * 3, fields=fields))
    task = '[[task]]\nname = "NAME"\nbundle = "NAME.bundle"\npriority = 1\nperiod = "1us"\n'
    text = task.replace("NAME", "1") + task.replace("NAME", "2")
    (warning,) = run(folder, text)[0].warnings
    assert "(Testium 1), task '2' for " in warning
    assert not run(folder, text.replace('"2.bundle"', '"1.bundle"'))[0].warnings


def test_bundles_for_a_cpu_have_one_segment_in_flight_as_in_a_run(folder: Path) -> None:
    fields = {**FIELDS, "backend": "ort"}
    write_bundle(folder / "cpu.bundle", manifest_of((10,) * 3, fields=fields))
    text = '[taskset]\ndepth = 2\n[[task]]\nname = "a"\nbundle = "cpu.bundle"\n'
    report, _ = run(folder, text + 'priority = 1\nperiod = "1us"\n')
    assert report.run.depth == 1
    (option,) = report.run.options
    assert (option.name, option.requested, option.applied) == ("depth", "2", False)
    assert option.reason == "the CPU that task 'a' is for allows 1"


@pytest.mark.parametrize(("depth", "start_ns"), [(1, 5), (2, 10), (3, 15)])
def test_segments_in_flight_hold_up_an_urgent_job(
    depth: int, start_ns: int, tmp_path: Path
) -> None:
    (tmp_path / "releases.txt").write_text("1\n", encoding="utf-8")
    report, recording = run(tmp_path, f"[taskset]\ndepth = {depth}\n" + PAIR)
    assert report.run.depth == depth
    assert [job.start_ns for job in recording.jobs if job.task == "urgent"] == [start_ns]


def test_skipped_jobs_draw_what_they_would_have_drawn() -> None:
    """Also very many of them at once, as behind a latest mailbox."""
    cost = SegmentCost(p50_ns=100, p99_ns=150, max_ns=900)
    costs = TaskCosts(segments=(cost, cost, cost), source="measured")
    one, other = (CostStream(costs, "random", seed=7, task="t") for _ in range(2))
    every = [one.job_ns(idx) for idx in range(20_001)]
    assert [other.job_ns(idx) for idx in (0, 1, 5, 20_000)] == [
        every[idx] for idx in (0, 1, 5, 20_000)
    ]


def test_setting_up_many_tasks_takes_a_time_that_grows_with_their_number(tmp_path: Path) -> None:
    """A thousand tasks took 14 s, by the cube of their number; they take half a second."""
    tables = "".join(
        f'[[task]]\nname = "t{idx}"\ncost = "1ms"\npriority = {idx}\nperiod = "9s"\n'
        for idx in range(1000)
    )
    (tmp_path / "set.toml").write_text(tables, encoding="utf-8")
    taskset = read_taskset(tmp_path / "set.toml")
    start_s = time.monotonic()
    report = simulate(taskset, read_costs(taskset), SimulationOptions(duration_ns=MS))
    assert sum(task.metrics.finished for task in report.run.tasks.values()) == 1000
    assert report.run.tasks["t0"].metrics.response is not None
    assert report.run.tasks["t0"].metrics.response.max_ns == 1000 * MS
    assert time.monotonic() - start_s < 5
