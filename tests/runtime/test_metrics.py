"""Metrics: counts and nearest-rank quantiles, by hand and against the definition."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from preempt_runtime.metrics import (
    MetricsCollector,
    json_from_metrics,
    metrics_from_records,
    quantiles_from_samples,
)
from preempt_runtime.records import JobRecord, JobState


def job(response_ns: int | None = None, **changes: Any) -> JobRecord:
    values: dict[str, Any] = {
        "job_id": 0,
        "task": "t",
        "priority": 1,
        "release_ns": 1000,
        "start_ns": 1000,
        "end_ns": 1000 + (response_ns or 0),
        "deadline_ns": None,
        "state": JobState.FINISHED,
        "blocking_ns": 0,
        "num_preemptions": 0,
        "num_segments_run": 1,
        "error": None,
    }
    return JobRecord(**(values | changes))


def test_metrics_of_a_run_by_hand() -> None:
    records = [
        job(10, blocking_ns=1, num_preemptions=2, deadline_ns=1010),
        job(30, blocking_ns=5, deadline_ns=1029),
        job(20, blocking_ns=3),
        job(state=JobState.SKIPPED, start_ns=None, deadline_ns=900),
        job(state=JobState.CANCELLED, start_ns=None),
        job(state=JobState.DROPPED, end_ns=4000, blocking_ns=4, deadline_ns=4000),
        job(state=JobState.FAILED, blocking_ns=9, end_ns=5000, deadline_ns=1001),
        job(state=JobState.PENDING, start_ns=None, end_ns=None),
        job(7, task="a"),
    ]
    metrics = metrics_from_records(records, duration_ns=2_000_000_000)
    assert list(metrics) == ["a", "t"]
    assert json_from_metrics(metrics["t"]) == {
        "task": "t",
        "released": 8,
        "finished": 3,
        "missed": 1,
        "skipped": 1,
        "dropped": 1,
        "cancelled": 1,
        "failed": 1,
        "num_preemptions": 2,
        "response": {"p50_ns": 20, "p95_ns": 30, "p99_ns": 30, "max_ns": 30, "num_samples": 3},
        "blocking": {"p50_ns": 4, "p95_ns": 9, "p99_ns": 9, "max_ns": 9, "num_samples": 5},
        "rate_per_s": 1.5,
    }
    assert json.loads(json.dumps(json_from_metrics(metrics["a"])))["rate_per_s"] == 0.5


def test_no_samples_are_none_and_no_duration_is_no_rate() -> None:
    metrics = metrics_from_records([job(state=JobState.SKIPPED, start_ns=None)], 0)["t"]
    assert (metrics.response, metrics.blocking, metrics.rate_per_s) == (None, None, 0.0)
    assert quantiles_from_samples([]) is None


@given(samples=st.lists(st.integers(0, 50), min_size=1, max_size=250))
def test_a_quantile_is_the_smallest_value_that_enough_samples_do_not_exceed(
    samples: list[int],
) -> None:
    found = quantiles_from_samples(samples)
    assert found is not None
    for percent, value in ((50, found.p50_ns), (95, found.p95_ns), (99, found.p99_ns)):
        enough = [
            sample
            for sample in samples
            if 100 * sum(other <= sample for other in samples) >= percent * len(samples)
        ]
        assert value == min(enough)
    assert found.max_ns == max(samples)


def test_a_bounded_collector_counts_all_and_keeps_the_last_samples() -> None:
    collector = MetricsCollector(max_samples=2)
    for response_ns in (100, 2, 1):
        collector.job_released(0, "t", 0)
        collector.job_ended(job(response_ns))
    metrics = collector.metrics(1_000_000_000)["t"]
    assert (metrics.released, metrics.finished) == (3, 3)
    assert metrics.response is not None
    assert (metrics.response.max_ns, metrics.response.num_samples) == (2, 2)


def test_a_job_at_its_deadline_has_met_it() -> None:
    assert not job(10, deadline_ns=1010).is_missed
    assert job(11, deadline_ns=1010).is_missed
    assert not job(state=JobState.CANCELLED, end_ns=2000, deadline_ns=1010).is_missed
