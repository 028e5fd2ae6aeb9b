import logging
from dataclasses import replace

import pytest

from preempt_runtime.cost_watch import AllowedCosts, CostWatch, Excess
from preempt_runtime.manifest import Latency
from preempt_runtime.records import JobRecord, JobState, SegmentRecord
from preempt_runtime.schedulability import AnalysedTask, Assumptions, analyse


def latency(p50_ns: int, max_ns: int) -> Latency:
    return Latency(p50_ns=p50_ns, p99_ns=max_ns, max_ns=max_ns, num_samples=9)


MARGIN = Assumptions(margin_frac=0.1)
COSTS = {"net": AllowedCosts(latencies=(latency(100, 200), latency(300, 400)), assumptions=MARGIN)}


def ran(
    watch: CostWatch, segment_idx: int | str, elapsed_ns: int, task: str = "net", job_id: int = 0
) -> None:
    watch.segment_ended(
        SegmentRecord(
            job_id=job_id,
            task=task,
            segment_idx=segment_idx,
            start_ns=1000,
            end_ns=1000 + elapsed_ns,
            is_urgent=True,
        )
    )


def ended(watch: CostWatch, job_id: int, state: JobState = JobState.FINISHED) -> None:
    watch.job_ended(
        JobRecord(
            job_id=job_id,
            task="net",
            priority=1,
            release_ns=0,
            start_ns=0,
            end_ns=1,
            deadline_ns=None,
            state=state,
            blocking_ns=0,
            num_preemptions=0,
            num_segments_run=2,
            error=None,
        )
    )


def test_what_stays_within_the_margin_is_no_excess() -> None:
    watch = CostWatch(COSTS)
    for segment_idx, elapsed_ns in ((0, 220), (1, 440)):
        ran(watch, segment_idx, elapsed_ns)
    drift = watch.drifts()["net"]
    assert (drift.num_segments_run, drift.num_exceeded) == (2, 0)
    assert drift.worst_segment_idx is None
    assert drift.max_observed_ns == (220, 440)


def test_an_excess_is_told_once_and_counted_on(caplog: pytest.LogCaptureFixture) -> None:
    watch = CostWatch(COSTS)
    with caplog.at_level(logging.WARNING):
        for elapsed_ns in (221, 500, 100):
            ran(watch, 0, elapsed_ns)
        ran(watch, 1, 450)
    assert len(caplog.messages) == 1
    assert "segment 0 took 221 ns, its bound allows 220 ns" in caplog.messages[0]
    drift = watch.drifts()["net"]
    assert (drift.num_exceeded, drift.worst_segment_idx) == (3, 0)
    assert (drift.worst_elapsed_ns, drift.worst_allowed_ns) == (500, 220)


def test_whoever_asked_is_told_instead_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Excess] = []
    watch = CostWatch(COSTS, told.append)
    for elapsed_ns in (500, 500, 550, 551, 560):  # each time by more than the margin
        ran(watch, 1, elapsed_ns)
    first = Excess(task="net", segment_idx=1, elapsed_ns=500, allowed_ns=440, is_first=True)
    assert told == [first, replace(first, elapsed_ns=551, is_first=False)]
    assert not caplog.messages
    assert watch.drifts()["net"].num_exceeded == 5


def test_a_machine_that_slows_down_is_seen_in_the_factor() -> None:
    watch = CostWatch(COSTS)
    assert watch.drifts()["net"].slowdown_factor == 1.0
    for _ in range(200):
        ran(watch, 0, 200)
        ran(watch, 1, 600)
    assert watch.drifts()["net"].slowdown_factor == pytest.approx(2.0, rel=1e-4)
    ran(watch, 0, 3200)  # one outlier of 16 times the time
    assert watch.drifts()["net"].slowdown_factor < 2.5


def test_a_short_run_tells_the_factor_of_the_runs_that_were_seen() -> None:
    watch = CostWatch(COSTS)
    for elapsed_ns in (300, 500):
        ran(watch, 0, elapsed_ns)
        ran(watch, 1, 3 * elapsed_ns)
    assert watch.drifts()["net"].slowdown_factor == 4.0
    ran(watch, 0, 1200)  # the mean of three, beside one of 1200
    assert watch.drifts()["net"].slowdown_factor == pytest.approx((2000 / 3 + 1200) / 400)


def test_what_was_not_measured_is_not_compared() -> None:
    costs = {"net": AllowedCosts(latencies=(None, latency(300, 400)), assumptions=Assumptions())}
    watch = CostWatch(costs)
    ran(watch, 0, 10**9)
    ran(watch, "pre", 10**9)
    ran(watch, 0, 10**9, task="another")
    drift = watch.drifts()["net"]
    assert (drift.num_segments_run, drift.num_exceeded, drift.slowdown_factor) == (1, 0, 1.0)


ALL = Assumptions(resume_cost_ns=50, dispatch_ns=7, margin_frac=0.1, corun_factor=1.5)
LATENCIES = (latency(100, 200), latency(300, 400))


def test_what_is_allowed_is_what_the_analysis_counts() -> None:
    costs = AllowedCosts(latencies=LATENCIES, assumptions=ALL, total_ns=500)
    assert (costs.allowed_ns(0), costs.allowed_ns(1)) == (337, 667)
    task = AnalysedTask(name="net", segment_ns=(200, 400), period_ns=9000, total_ns=500, priority=1)
    (bound,) = analyse((task,), "fixed-priority", ALL).tasks
    assert (bound.longest_ns, bound.cost_ns) == (667 + 50, costs.allowed_job_ns())
    # Where the bound does not rest on what whole jobs took, nothing is asked of them.
    assert AllowedCosts(latencies=LATENCIES, assumptions=ALL).allowed_job_ns() is None
    assert replace(costs, total_ns=600).allowed_job_ns() is None
    assert replace(costs, latencies=(None, LATENCIES[1])).allowed_job_ns() is None
    assert replace(costs, total_ns=1).allowed_job_ns() == 667


def test_what_a_job_pays_once_may_show_in_its_first_and_its_last_segment() -> None:
    assumed = replace(ALL, job_dispatch_ns=1000)
    three = (*LATENCIES, latency(100, 200))
    costs = AllowedCosts(latencies=three, assumptions=assumed, total_ns=600)
    assert [costs.allowed_ns(idx) for idx in range(3)] == [1337, 667, 1337]
    task = AnalysedTask(
        name="net", segment_ns=(200, 400, 200), period_ns=9000, total_ns=600, priority=1
    )
    (bound,) = analyse((task,), "fixed-priority", assumed).tasks
    assert bound.cost_ns == costs.allowed_job_ns()
    # The device's own times of stretches hold none of it.
    gates = replace(costs, assumptions=replace(assumed, is_launched_whole=True, dispatch_ns=0))
    assert gates.allowed_ns(0) == 330


def test_a_job_that_goes_on_after_another_may_take_longer_by_what_resuming_costs() -> None:
    told: list[Excess] = []
    watch = CostWatch({"net": AllowedCosts(latencies=LATENCIES, assumptions=ALL)}, told.append)
    ran(watch, 0, 337)
    ran(watch, 0, 9, task="another", job_id=1)
    ran(watch, 1, 667 + 50)
    assert told == []
    assert watch.drifts()["net"].max_observed_ns == (337, 667)
    ran(watch, 0, 337, job_id=2)
    ran(watch, 1, 668, job_id=2)  # at once after its own first segment
    ran(watch, 0, 338, job_id=3)  # its job begins with it
    assert [(excess.segment_idx, excess.allowed_ns) for excess in told] == [(1, 667), (0, 337)]
    ran(watch, "pre", 9, job_id=4)
    ran(watch, 0, 9, task="another", job_id=5)
    ran(watch, 0, 437, job_id=4)
    assert told[-1] == Excess(
        task="net", segment_idx=0, elapsed_ns=437, allowed_ns=387, is_first=False
    )


def test_a_whole_job_is_compared_with_what_whole_jobs_took(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[Excess] = []
    plain = Assumptions(margin_frac=0.1, resume_cost_ns=20)
    costs = {"net": AllowedCosts(latencies=LATENCIES, assumptions=plain, total_ns=500)}
    for watch in (CostWatch(costs, told.append), CostWatch(costs)):
        for job_id, first_ns, state in (
            (0, 110, JobState.FINISHED),  # 550, as allowed
            (1, 111, JobState.FAILED),  # it says nothing
            (2, 111, JobState.FINISHED),
            (3, 112, JobState.FINISHED),  # by less than the margin more
        ):
            ran(watch, 0, first_ns, job_id=job_id)
            ran(watch, 0, 9, task="another", job_id=9)
            ran(watch, 1, 440 + 20, job_id=job_id)
            ended(watch, job_id, state)
        drift = watch.drifts()["net"]
        assert (drift.num_exceeded, drift.num_jobs_exceeded, drift.num_jobs_run) == (0, 2, 3)
        assert (drift.max_observed_job_ns, drift.allowed_job_ns) == (552, 550)
    assert told == [
        Excess(task="net", segment_idx=None, elapsed_ns=571, allowed_ns=570, is_first=True)
    ]
    assert len(caplog.messages) == 1
    assert "all segments of a job took 571 ns, its bound allows 570 ns" in caplog.messages[0]
