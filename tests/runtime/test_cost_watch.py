import logging
from dataclasses import replace

import pytest

from preempt_runtime.cost_watch import AllowedCosts, CostWatch, Excess
from preempt_runtime.manifest import Latency
from preempt_runtime.records import SegmentRecord


def latency(p50_ns: int, max_ns: int) -> Latency:
    return Latency(p50_ns=p50_ns, p99_ns=max_ns, max_ns=max_ns, num_samples=9)


COSTS = {"net": AllowedCosts(latencies=(latency(100, 200), latency(300, 400)), margin_frac=0.1)}


def ran(watch: CostWatch, segment_idx: int | str, elapsed_ns: int, task: str = "net") -> None:
    watch.segment_ended(
        SegmentRecord(
            job_id=0,
            task=task,
            segment_idx=segment_idx,
            start_ns=1000,
            end_ns=1000 + elapsed_ns,
            is_urgent=True,
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
    assert "segment 0 took 221 ns, its bundle and the margin allow 220 ns" in caplog.messages[0]
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


def test_what_was_not_measured_is_not_compared() -> None:
    costs = {"net": AllowedCosts(latencies=(None, latency(300, 400)), margin_frac=0.0)}
    watch = CostWatch(costs)
    ran(watch, 0, 10**9)
    ran(watch, "pre", 10**9)
    ran(watch, 0, 10**9, task="another")
    drift = watch.drifts()["net"]
    assert (drift.num_segments_run, drift.num_exceeded, drift.slowdown_factor) == (1, 0, 1.0)
