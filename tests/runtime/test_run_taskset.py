"""Whole runs on a virtual clock: exact numbers."""

import dataclasses
import io
import json
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import JobBuffers
from preempt_runtime.errors import AdmissionError, BundleError, InputError
from preempt_runtime.manifest import Latency, Manifest
from preempt_runtime.metrics import Quantiles
from preempt_runtime.policies import POLICIES
from preempt_runtime.process import OptionReport, ProcessOptions
from preempt_runtime.run_options import RunOptions
from preempt_runtime.run_report import document_from_report, print_report
from preempt_runtime.run_taskset import RunReport, run_taskset
from preempt_runtime.taskset import read_taskset
from preempt_runtime.testing import Recording
from tests.runtime.fake_bundles import (
    FakeBackend,
    LoadingFakeDevice,
    manifest_of,
    write_bundle,
)
from tests.runtime.test_process import FakeCalls

MS = 1_000_000
TWO_TASKS = """
[taskset]
name = "pair"

[[task]]
name = "urgent"
bundle = "short.bundle"
priority = 9
deadline = "4ms"
[task.arrival]
kind = "periodic"
period = "20ms"
offset = "5ms"

[[task]]
name = "long"
bundle = "long.bundle"
best_effort = true
[task.arrival]
kind = "closed_loop"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "short.bundle", manifest_of((2 * MS,)))
    write_bundle(tmp_path / "long.bundle", manifest_of((3 * MS,) * 10))
    return tmp_path


class Bench:
    """One run of a task set on a fake device, and what was seen of it."""

    def __init__(
        self,
        folder: Path,
        text: str,
        *,
        failures: Iterable[tuple[str, int]] = (),
        on_launch: Callable[[int], object] = lambda _: None,
        hazards: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
    ) -> None:
        self.hazards = hazards
        (folder / "set.toml").write_text(text, encoding="utf-8")
        self.taskset = read_taskset(folder / "set.toml")
        self.clock, self.recording, self.calls = VirtualClock(), Recording(), FakeCalls()
        self.device = LoadingFakeDevice(self.clock, failures, on_launch)

    def run(
        self,
        *,
        duration_ns: int = 100 * MS,
        policy: str | None = None,
        num_warmup_runs: int = 0,
        pins: dict[str, str] | None = None,
        process: ProcessOptions | None = None,
    ) -> RunReport:
        return run_taskset(
            self.taskset,
            RunOptions(
                duration_ns=duration_ns,
                policy=policy,
                num_warmup_runs=num_warmup_runs,
                pins=pins or {},
                process=process or ProcessOptions(),
            ),
            find_backend=lambda _: FakeBackend(
                make_device=lambda: self.device, hazards=self.hazards
            ),
            clock=self.clock,
            instruments=(self.recording,),
            os_calls=self.calls,
        )


def test_the_urgent_task_waits_for_one_segment_at_most(folder: Path) -> None:
    bench = Bench(folder, TWO_TASKS)
    report = bench.run()
    # Released at 5, 25, … ms, in the middle of a 3 ms segment of the long task.
    urgent, long = report.tasks["urgent"].metrics, report.tasks["long"].metrics
    releases = [job.release_ns for job in bench.recording.jobs if job.task == "urgent"]
    assert releases == [5 * MS, 25 * MS, 45 * MS, 65 * MS, 85 * MS]
    starts = [s.start_ns for s in bench.recording.segments if s.task == "urgent"]
    assert starts == [6 * MS, 26 * MS, 46 * MS, 66 * MS, 86 * MS]
    assert (urgent.released, urgent.finished, urgent.missed, urgent.cancelled) == (5, 5, 0, 0)
    assert urgent.response == Quantiles(
        p50_ns=3 * MS, p95_ns=3 * MS, p99_ns=3 * MS, max_ns=3 * MS, num_samples=5
    )
    assert urgent.blocking is not None
    assert urgent.blocking.max_ns == MS
    # 30 ms each and the urgent jobs between; the one at 66 ms comes as a long one has ended.
    assert [job.end_ns for job in bench.recording.jobs if job.task == "long"] == [
        34 * MS,
        66 * MS,
        100 * MS,
    ]
    assert (long.finished, long.num_preemptions) == (3, 4)
    assert (report.duration_ns, report.device_busy_frac) == (100 * MS, 1.0)
    assert (report.taskset, report.policy, report.device) == ("pair", "fixed-priority", "fake")
    assert (report.ended_by, report.options) == (None, ())
    assert (report.tasks["long"].plan, report.tasks["long"].num_segments) == ("cut", 10)


def test_fifo_makes_the_urgent_task_wait_for_the_whole_network(folder: Path) -> None:
    report = Bench(folder, TWO_TASKS).run(policy="fifo")
    response = report.tasks["urgent"].metrics.response
    assert (report.policy, response is not None and response.max_ns >= 27 * MS) == ("fifo", True)
    assert report.tasks["urgent"].metrics.missed > 0


def test_real_time_without_a_priority_is_not_called_best_effort(folder: Path) -> None:
    text = TWO_TASKS.replace("priority = 9\n", "")
    report = Bench(folder, text.replace('name = "pair"', 'policy = "edf"')).run()
    tasks = document_from_report(report)["tasks"]
    assert [(task["priority"], task["is_best_effort"]) for task in tasks.values()] == [
        (None, False),
        (None, True),
    ]
    out = io.StringIO()
    print_report(report, out)
    urgent, long = out.getvalue().splitlines()[3:5]
    assert urgent.split()[:3] == ["urgent", "-", "1"]
    assert long.split()[:3] == ["long", "best", "effort"]


def test_a_plan_can_be_named(folder: Path) -> None:
    text = TWO_TASKS.replace('"long.bundle"', '"long.bundle"\nplan = "whole"')
    report = Bench(folder, text).run()
    assert (report.tasks["long"].plan, report.tasks["long"].num_segments) == ("whole", 1)
    assert report.tasks["long"].metrics.num_preemptions == 0


def test_jobs_released_in_time_run_to_their_end(folder: Path) -> None:
    report = Bench(folder, TWO_TASKS).run(duration_ns=10 * MS)
    assert report.duration_ns == 32 * MS
    assert [task.metrics.finished for task in report.tasks.values()] == [1, 1]


def test_a_task_without_jobs_is_reported_too(folder: Path) -> None:
    report = Bench(folder, TWO_TASKS.replace('offset = "5ms"', 'offset = "5s"')).run()
    assert list(report.tasks) == ["urgent", "long"]
    metrics = report.tasks["urgent"].metrics
    assert (metrics.released, metrics.response) == (0, None)


def test_a_bundle_is_loaded_once_and_everything_is_closed_in_order(folder: Path) -> None:
    text = TWO_TASKS.replace("short.bundle", "long.bundle")
    bench = Bench(folder, text)
    bench.run()
    assert bench.device.events == ["load long.bundle:cut", "close long.bundle:cut", "close device"]


def test_warm_up_runs_every_network_before_the_first_job(folder: Path) -> None:
    bench = Bench(folder, TWO_TASKS)
    bench.run(num_warmup_runs=2)
    short, long = [("short.bundle:cut", 0)], [("long.bundle:cut", idx) for idx in range(10)]
    assert bench.device.launches[:22] == short * 2 + long * 2
    assert bench.recording.segments[0].start_ns == 64 * MS


def test_the_warm_up_uses_the_buffers_of_the_jobs_and_memory_is_locked_after_it(
    folder: Path,
) -> None:
    used: list[JobBuffers] = []
    used_before_lock: list[JobBuffers] = []

    class Watching(LoadingFakeDevice):
        def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
            used.append(buffers)
            super().launch(buffers, segment_idx, is_urgent=is_urgent)

    class WatchingCalls(FakeCalls):
        def lock_memory(self) -> None:
            used_before_lock.extend(used)
            super().lock_memory()

    bench = Bench(folder, TWO_TASKS)
    bench.device, bench.calls = Watching(bench.clock), WatchingCalls()
    bench.run(num_warmup_runs=1, process=ProcessOptions(mlock=True))
    assert len(used_before_lock) == 11
    assert {id(buffers) for buffers in used} == {id(buffers) for buffers in used_before_lock}
    assert len({id(buffers) for buffers in used}) == 2


def test_jobs_take_the_recorded_samples_in_turn(folder: Path) -> None:
    np.savez(folder / "in.npz", x=np.arange(3, dtype=np.float32).reshape(3, 1))
    written: list[float] = []

    class Watching(LoadingFakeDevice):
        def launch(self, buffers: object, segment_idx: int, *, is_urgent: bool) -> None:
            written.append(float(buffers._value[0]))  # type: ignore[attr-defined]
            super().launch(buffers, segment_idx, is_urgent=is_urgent)  # type: ignore[arg-type]

    text = TWO_TASKS[: TWO_TASKS.rindex("[[task]]")].replace(
        "priority = 9", 'priority = 9\ninputs = "in.npz"'
    )
    bench = Bench(folder, text)
    bench.device = Watching(bench.clock)
    bench.run()
    assert written == [0.0, 1.0, 2.0, 0.0, 1.0]


def test_a_failing_segment_is_told_and_the_others_go_on(folder: Path) -> None:
    report = Bench(folder, TWO_TASKS, failures=[("short.bundle:cut", 0)]).run()
    assert report.tasks["urgent"].metrics.failed == 5
    assert report.tasks["urgent"].first_error == (
        "DeviceError: short.bundle:cut: segment 0 was told to fail"
    )
    assert report.tasks["long"].first_error is None
    assert report.tasks["long"].metrics.finished == 3


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_at_the_next_preemption_point(
    folder: Path, signum: signal.Signals
) -> None:
    def on_launch(num_launches: int) -> None:
        if num_launches == 4:
            signal.raise_signal(signum)

    before = signal.getsignal(signum)
    report = Bench(folder, TWO_TASKS, on_launch=on_launch).run()
    assert signal.getsignal(signum) is before
    assert report.ended_by is signum
    # 3 + 3 ms of the long task, 2 ms urgent, and the 3 ms in which the signal came.
    assert report.duration_ns == 11 * MS
    assert report.tasks["urgent"].metrics.finished == 1
    assert report.tasks["long"].metrics.cancelled == 1


def test_a_signal_before_the_first_release_ends_with_an_empty_report(folder: Path) -> None:
    text = TWO_TASKS[: TWO_TASKS.rindex("[[task]]")]
    bench = Bench(folder, text)
    bench.clock.call_at(MS, lambda: signal.raise_signal(signal.SIGINT))
    report = bench.run()
    assert (report.ended_by, report.duration_ns) == (signal.SIGINT, MS)
    metrics = report.tasks["urgent"].metrics
    assert (metrics.released, metrics.cancelled, metrics.response) == (0, 0, None)
    document = document_from_report(report)
    assert json.loads(json.dumps(document))["tasks"]["urgent"]["rate_per_s"] == 0.0


def test_a_signal_that_is_ignored_stays_ignored(folder: Path) -> None:
    def on_launch(num_launches: int) -> None:
        if num_launches == 4:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        report = Bench(folder, TWO_TASKS, on_launch=on_launch).run()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert (report.ended_by, report.duration_ns) == (None, 100 * MS)


def test_outside_the_main_thread_a_run_leaves_signals_alone(folder: Path) -> None:
    reports: list[RunReport] = []
    bench = Bench(folder, TWO_TASKS)
    thread = threading.Thread(target=lambda: reports.append(bench.run()))
    thread.start()
    thread.join(timeout=60)
    assert [report.tasks["long"].metrics.finished for report in reports] == [3]


def test_a_signal_while_the_last_jobs_end_cancels_them(folder: Path) -> None:
    def on_launch(num_launches: int) -> None:
        if num_launches == 6:
            signal.raise_signal(signal.SIGINT)

    report = Bench(folder, TWO_TASKS, on_launch=on_launch).run(duration_ns=6 * MS)
    assert report.duration_ns == 17 * MS
    assert report.tasks["long"].metrics.cancelled == 1


def test_a_second_signal_does_not_wait(folder: Path) -> None:
    def on_launch(num_launches: int) -> None:
        if num_launches == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    bench = Bench(folder, TWO_TASKS, on_launch=on_launch)
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    assert bench.device.events[-1] == "close device"


def test_process_options_are_in_force_while_loading_and_put_back(folder: Path) -> None:
    bench = Bench(folder, TWO_TASKS)
    options = ProcessOptions(sched_fifo=7, affinity=(0,), mlock=True)
    report = bench.run(process=options)
    assert [option.name for option in report.options] == [
        "affinity",
        "sched_fifo",
        "mlock",
    ]
    assert all(option.applied for option in report.options)
    assert bench.calls.log == [
        "affinity [0]",
        f"scheduler {1} 7",
        "lock",
        "unlock",
        f"scheduler {0} 0",
        "affinity [0, 1, 2]",
    ]


def test_pins_are_of_a_task_and_of_its_manifest(folder: Path) -> None:
    bench = Bench(folder, TWO_TASKS)
    good = write_bundle(folder / "long.bundle", manifest_of((3 * MS,) * 10))
    assert bench.run(pins={"long": good}).tasks["long"].metrics.finished == 3
    with pytest.raises(BundleError, match=r"manifest.json: sha256 [0-9a-f]{64}, pinned"):
        Bench(folder, TWO_TASKS).run(pins={"long": "0" * 64})
    with pytest.raises(InputError) as caught:
        Bench(folder, TWO_TASKS).run(pins={"lang": good})
    assert str(caught.value) == (
        f"{folder / 'set.toml'}: no task is called 'lang', so its manifest cannot be pinned;"
        " there are urgent, long"
    )


def test_threads_choose_the_plan(folder: Path) -> None:
    text = TWO_TASKS.replace('name = "pair"', 'name = "pair"\nthreads = 4')
    with pytest.raises(BundleError, match="threads: bundle has 2, this machine 4"):
        Bench(folder, text).run()


def test_bundles_of_different_backends_are_refused(folder: Path) -> None:
    other = manifest_of(fields={"backend": "other", "cpu_model": "x"})
    write_bundle(folder / "other.bundle", other)
    text = TWO_TASKS.replace("long.bundle", "other.bundle")
    with pytest.raises(BundleError) as caught:
        Bench(folder, text).run()
    assert str(caught.value).endswith(
        "the bundles need different backends: 'fake' of task 'urgent', 'other' of task 'long';"
        " one process runs one device, compile them for the same target"
    )


def test_wrong_recorded_inputs_stop_before_the_run_and_close_the_device(folder: Path) -> None:
    np.savez(folder / "in.npz", x=np.full(1, np.nan, np.float32))
    text = TWO_TASKS.replace("priority = 9", 'priority = 9\ninputs = "in.npz"')
    bench = Bench(folder, text)
    with pytest.raises(InputError, match="input 'x': 1 of 1 values are NaN; record again"):
        bench.run()
    assert bench.device.events == [
        "load short.bundle:cut",
        "close short.bundle:cut",
        "close device",
    ]


def test_an_unknown_policy_is_refused_before_anything_is_loaded(folder: Path) -> None:
    bench = Bench(folder, TWO_TASKS)
    with pytest.raises(InputError, match="no policy is called 'best'; there are deadline-mono"):
        bench.run(policy="best")
    assert bench.device.events == []


@pytest.mark.parametrize(
    ("arrival", "rate"),
    [
        ('kind = "periodic"\nperiod = "1ns"', "1e+09"),
        ('kind = "poisson"\nrate = 100001', "100001"),
        ('kind = "sporadic"\nmin_interval = "1ns"\nmean_interval = "2us"', "500000"),
    ],
)
def test_more_releases_than_can_be_dispatched_are_refused_before_anything_is_loaded(
    folder: Path, arrival: str, rate: str
) -> None:
    text = TWO_TASKS.replace('kind = "periodic"\nperiod = "20ms"\noffset = "5ms"', arrival)
    bench = Bench(folder, text)
    with pytest.raises(InputError) as caught:
        bench.run()
    assert str(caught.value) == (
        f"{folder / 'set.toml'}: {rate} releases a second, {rate} of them of task 'urgent', a run"
        " allows 100000 in all; give it a longer period or a lower rate"
    )
    assert bench.device.events == []


@pytest.mark.parametrize("policy", ["edf", None])
def test_a_policy_that_needs_more_than_a_task_has_is_refused_before_anything_is_loaded(
    folder: Path, policy: str | None
) -> None:
    text = TWO_TASKS.replace('kind = "periodic"', 'kind = "poisson"')
    text = text.replace('period = "20ms"\noffset = "5ms"', "rate = 50").replace(
        'deadline = "4ms"', ""
    )
    if policy is None:
        text = text.replace('name = "pair"', 'name = "pair"\npolicy = "edf"')
    bench = Bench(folder, text)
    with pytest.raises(InputError) as caught:
        bench.run(policy=policy)
    assert str(caught.value) == (
        f"{folder / 'set.toml'}: policy 'edf' needs a deadline of every real-time task, and task"
        " 'urgent' has none; write its deadline or its period, make it best effort, or take another"
        " policy"
    )
    assert bench.device.events == []


def test_every_policy_runs_a_task_set_that_has_all_they_need(folder: Path) -> None:
    for policy in POLICIES:
        report = Bench(folder, TWO_TASKS).run(policy=policy)
        assert report.policy == policy
        response = report.tasks["urgent"].metrics.response
        assert response is not None
        assert (response.max_ns == 3 * MS) == (policy != "fifo")


def test_late_jobs_are_dropped_by_deadline_or_period(folder: Path) -> None:
    text = TWO_TASKS.replace('deadline = "4ms"', 'deadline = "4ms"\nlate = "drop"')
    report = Bench(folder, text).run(policy="fifo")
    metrics = report.tasks["urgent"].metrics
    # Released at 5, 25, 45 ... ms; each of the long jobs takes 30 ms and more.
    assert (metrics.finished, metrics.dropped, metrics.missed) == (0, 5, 0)
    by_period = text.replace('deadline = "4ms"', "")
    assert Bench(folder, by_period).run(policy="fifo").tasks["urgent"].metrics.dropped > 0


def test_a_depth_that_the_device_allows_is_in_force(folder: Path) -> None:
    bench = Bench(folder, TWO_TASKS.replace('name = "pair"', 'name = "pair"\ndepth = 2'))
    bench.device.max_depth = 4
    report = bench.run()
    assert (report.depth, document_from_report(report)["depth"]) == (2, 2)
    assert report.options == (OptionReport(name="depth", requested="2", applied=True, reason=""),)
    # One segment of 3 ms more is in flight when a job of the urgent task comes; at 65 ms there is
    # none, the last one of the long task is running.
    urgent = report.tasks["urgent"].metrics
    assert urgent.response is not None
    assert (urgent.response.max_ns, urgent.missed) == (6 * MS, 4)


def test_a_depth_that_the_device_does_not_allow_is_reported(folder: Path) -> None:
    bench = Bench(folder, TWO_TASKS.replace('name = "pair"', 'name = "pair"\ndepth = 3'))
    report = bench.run()
    assert report.depth == 1
    reason = "device 'fake' allows 1"
    assert report.options == (
        OptionReport(name="depth", requested="3", applied=False, reason=reason),
    )
    file = io.StringIO()
    print_report(report, file)
    assert f"option depth = 3: refused: {reason}\n" in file.getvalue()


@pytest.mark.parametrize(
    ("max_depth", "depth", "reason"),
    [
        (4, 3, ""),
        (4, 2, "a depth of 2 uses 2 at most; give the task set depth = 3"),
        (1, 1, "a depth of 1 uses 1 at most; device 'fake' allows a depth of 1"),
        (2, 2, "a depth of 2 uses 2 at most; device 'fake' allows a depth of 2"),
    ],
)
def test_buffers_that_the_depth_cannot_use_are_reported(
    folder: Path, max_depth: int, depth: int, reason: str
) -> None:
    text = TWO_TASKS.replace('name = "pair"', f'name = "pair"\ndepth = {depth}')
    bench = Bench(folder, text.replace("best_effort", "buffers = 3\nbest_effort"))
    bench.device.max_depth = max_depth
    (option,) = (option for option in bench.run().options if option.name != "depth")
    assert option == OptionReport(
        name="buffers of task long", requested="3", applied=not reason, reason=reason
    )


def measured(segments: tuple[int, ...], *, longest_frac: float) -> Manifest:
    """A bundle whose segments were measured at that share of what they take on the device."""
    manifest = manifest_of(segments)
    latencies = [
        Latency(p50_ns=ns, p99_ns=ns, max_ns=ns, num_samples=9)
        for ns in (round(longest_frac * cost_ns) for cost_ns in segments)
    ]
    plans = tuple(
        dataclasses.replace(
            plan,
            source="measured",
            segments=tuple(
                dataclasses.replace(segment, latency=latency)
                for segment, latency in zip(plan.segments, latencies, strict=False)
            ),
        )
        for plan in manifest.plans
    )
    return dataclasses.replace(manifest, plans=plans)


PERIODIC_40_MS = 'kind = "periodic"\nperiod = "40ms"'
ADMITTED = TWO_TASKS.replace('name = "pair"', 'name = "pair"\nmargin = 0.0\nadmit = "refuse"')


@pytest.fixture
def measured_folder(folder: Path) -> Path:
    write_bundle(folder / "m2.bundle", measured((2 * MS,), longest_frac=1.0))
    write_bundle(folder / "m3.bundle", measured((3 * MS,) * 3, longest_frac=1.0))
    write_bundle(folder / "fast3.bundle", measured((3 * MS,) * 3, longest_frac=0.5))
    return folder


def test_a_run_reports_what_it_promised(measured_folder: Path) -> None:
    text = ADMITTED.replace("short.bundle", "m2.bundle").replace("long.bundle", "m3.bundle")
    text = text.replace('deadline = "4ms"', 'deadline = "5ms"')
    report = Bench(measured_folder, text).run()
    urgent, long = report.tasks["urgent"], report.tasks["long"]
    assert urgent.bound is not None
    assert urgent.bound.response_ns == 5 * MS - 1  # 3 ms - 1 ns blocked, and its own 2 ms
    assert urgent.metrics.response is not None
    assert urgent.metrics.response.max_ns <= urgent.bound.response_ns
    assert long.drift is not None
    assert (long.drift.num_exceeded, long.drift.slowdown_factor) == (0, 1.0)
    assert long.drift.num_segments_run > 20
    document = document_from_report(report)
    assert document["guarantee"] == {
        "is_schedulable": True,
        "source": "measured",
        "margin_frac": 0.0,
        "reason": None,
        "num_exceeded": 0,
        "num_jobs_exceeded": 0,
        "is_schedulable_with_observed": None,
        "shed": [],
        "hazards": [],
    }
    assert document["tasks"]["urgent"]["response_bound_ns"] == 5 * MS - 1
    out = io.StringIO()
    print_report(report, out)
    assert "bounds, of measured costs and a margin of 0%: every deadline is kept, as long as" in (
        out.getvalue()
    )
    assert "as long as no segment takes longer than that" in out.getvalue()


def test_what_makes_bounds_false_is_told_at_the_start_and_in_the_report(
    measured_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = ADMITTED.replace("short.bundle", "m2.bundle").replace("long.bundle", "m3.bundle")
    text = text.replace('deadline = "4ms"', 'deadline = "5ms"')
    bench = Bench(measured_folder, text, hazards=(("others use it",), ("it is hot",)))
    said_by_launch: list[int] = []
    bench.device = LoadingFakeDevice(
        bench.clock, (), lambda _: said_by_launch.append(len(caplog.records))
    )
    report = bench.run(num_warmup_runs=1)
    warnings = [f"{text}; see `preempt-rt doctor`" for text in ("others use it", "it is hot")]
    assert caplog.messages[:2] == warnings
    num_segments_warmed_up = 4
    assert said_by_launch[:num_segments_warmed_up] == [0] * num_segments_warmed_up
    assert said_by_launch[num_segments_warmed_up] == 2
    assert document_from_report(report)["guarantee"]["hazards"] == ["others use it", "it is hot"]
    out = io.StringIO()
    print_report(report, out)
    assert "\nwarning: others use it\n\nwarning: it is hot\n" in out.getvalue()


def test_a_run_reports_jobs_that_take_longer_than_whole_jobs_did(measured_folder: Path) -> None:
    eight = Latency(p50_ns=8 * MS, p99_ns=8 * MS, max_ns=8 * MS, num_samples=9)
    manifest = measured((3 * MS,) * 3, longest_frac=1.0)
    plans = tuple(dataclasses.replace(plan, chained=eight) for plan in manifest.plans)
    write_bundle(measured_folder / "c3.bundle", dataclasses.replace(manifest, plans=plans))
    text = ADMITTED.replace("short.bundle", "m2.bundle").replace("long.bundle", "c3.bundle")
    text = text.replace('deadline = "4ms"', 'deadline = "5ms"')
    report = Bench(measured_folder, text.replace('kind = "closed_loop"', PERIODIC_40_MS)).run()
    assert report.guarantee is not None
    found = report.guarantee.drifts["long"]
    assert (found.num_exceeded, found.num_jobs_exceeded, found.num_jobs_run) == (0, 3, 3)
    out = io.StringIO()
    print_report(report, out)
    assert "as long as no segment and no job takes longer than that" in out.getvalue()
    assert (
        "all segments of 3 of 3 jobs took longer than its bound allows (up to 9 ms, allowed 8 ms)"
        in (out.getvalue())
    )
    document = document_from_report(report)
    assert document["guarantee"]["num_jobs_exceeded"] == 3
    assert document["tasks"]["long"]["drift"]["allowed_job_ns"] == 8 * MS


def test_a_task_set_that_cannot_keep_its_deadlines_is_refused(measured_folder: Path) -> None:
    text = ADMITTED.replace("short.bundle", "m2.bundle").replace("long.bundle", "m3.bundle")
    with pytest.raises(AdmissionError, match="these 2 tasks are not admitted, with a margin of 0%"):
        Bench(measured_folder, text).run()  # 4 ms: 3 ms blocked and 2 ms of its own
    warned = Bench(measured_folder, text.replace('"refuse"', '"warn"')).run()
    out = io.StringIO()
    print_report(warned, out)
    assert "task 'urgent' (deadline 4 ms): may end 1 ms after its deadline" in out.getvalue()


@pytest.mark.parametrize("key", ["dispatch", "job_dispatch"])  # each has one segment, and blocks
def test_what_dispatching_costs_counts_in_what_a_run_promises(
    key: str, measured_folder: Path
) -> None:
    text = ADMITTED.replace("short.bundle", "m2.bundle").replace("long.bundle", "m3.bundle")
    text = text.replace('deadline = "4ms"', 'deadline = "5ms"')
    with pytest.raises(AdmissionError, match=r"task 'urgent' .deadline 5 ms.: may end 2 us after"):
        Bench(measured_folder, text.replace("[taskset]", f'[taskset]\n{key} = "1us"')).run()


@pytest.mark.parametrize("drift", ["say", "readmit", "shed"])
def test_a_bundle_that_has_become_slower_breaks_the_promise_and_is_told(
    drift: str, measured_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = ADMITTED.replace("short.bundle", "m2.bundle").replace("long.bundle", "fast3.bundle")
    bench = Bench(measured_folder, text.replace("margin = 0.0", f'margin = 0.0\ndrift = "{drift}"'))
    report = bench.run()
    guarantee = report.guarantee
    assert guarantee is not None
    assert guarantee.promised is not None
    assert guarantee.promised.is_schedulable  # with the 1.5 ms that the bundle holds
    found = guarantee.drifts["long"]
    assert found.num_exceeded == found.num_segments_run > 20
    assert (found.worst_elapsed_ns, found.worst_allowed_ns) == (3 * MS, 3 * MS // 2)
    assert found.slowdown_factor > 1.4
    assert len([text for text in caplog.messages if "segment 0 took 3 ms" in text]) == 1
    out = io.StringIO()
    print_report(report, out)
    assert "segments took longer than its bound allows (segment 0 took 3 ms, allowed 1.5 ms)" in (
        out.getvalue()
    )
    assert out.getvalue().count("task long: ") == 1
    assert out.getvalue().count("no bound holds that rests on what took longer") == 1
    if drift == "say":
        assert guarantee.readmitted is None
        return
    assert guarantee.readmitted is not None
    assert not guarantee.readmitted.is_schedulable
    assert "task 'urgent' (deadline 4 ms): may end 1 ms after" in out.getvalue()
    assert guarantee.shed == (("urgent",) if drift == "shed" else ())
