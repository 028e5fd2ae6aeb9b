import logging
from dataclasses import replace

import pytest

from preempt_runtime.admission import Admission, analysed_task
from preempt_runtime.errors import AdmissionError, InputError
from preempt_runtime.manifest import Latency
from preempt_runtime.schedulability import Assumptions
from preempt_runtime.task import Task
from preempt_runtime.testing import FakeNetwork

URGENT = Task(name="urgent", network=FakeNetwork(segment_ns=(3,)), priority=2, period_ns=10)
LONG = Task(name="long", network=FakeNetwork(segment_ns=(4, 4)), priority=1, period_ns=40)
BACKGROUND = Task(name="background", network=FakeNetwork(segment_ns=(9,)))


def admission(mode: str = "refuse", **assumptions: float) -> Admission:
    found = Assumptions(**assumptions)  # type: ignore[arg-type]
    return Admission(policy="fixed-priority", mode=mode, assumptions=found)  # type: ignore[arg-type]


def test_a_task_that_fits_gets_its_bound() -> None:
    bound = admission().admit((URGENT,), LONG)
    assert bound is not None
    assert [task.response_ns for task in bound.tasks] == [6, 11]
    assert bound.source == "estimated"  # fake segments were never measured


def test_a_task_that_breaks_a_promise_to_another_is_refused() -> None:
    with pytest.raises(AdmissionError, match="'background' is not admitted") as caught:
        admission().admit((URGENT, LONG), BACKGROUND)
    # Blocked for 9 - 1, then 3: one after the deadline of 10.
    assert "task 'urgent' (deadline 10 ns): may end 1 ns after its deadline" in str(caught.value)


def test_the_margin_counts() -> None:
    assert admission().admit((URGENT,), LONG) is not None
    with pytest.raises(AdmissionError, match="with a margin of 100%"):
        admission(margin_frac=1.0).admit((URGENT,), LONG)


def test_a_warning_admits(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bound = admission("warn").admit((URGENT, LONG), BACKGROUND)
    assert bound is not None
    assert not bound.is_schedulable
    assert "task background is admitted without a guarantee" in caplog.messages[0]
    assert admission("off").admit((URGENT, LONG), BACKGROUND) is None


def test_what_the_analysis_is_not_told_is_an_objection(caplog: pytest.LogCaptureFixture) -> None:
    with_pre = replace(LONG, pre=lambda inputs, stream: inputs)
    with pytest.raises(AdmissionError, match="how long pre takes is not known; give pre_ns"):
        admission().admit((URGENT,), with_pre)
    with caplog.at_level(logging.WARNING):
        assert admission("warn").admit((URGENT,), with_pre) is None
    assert "pre_ns" in caplog.messages[0]
    with pytest.raises(AdmissionError, match="no least time between them"):
        admission().admit((URGENT,), replace(LONG, period_ns=None))


def test_every_step_counts_with_its_longest_time() -> None:
    task = replace(
        LONG,
        pre=lambda inputs, stream: inputs,
        post=lambda outputs, stream: outputs,
        pre_ns=2,
        post_ns=5,
        jitter_ns=7,
    )
    found = analysed_task(task, (3, 6))
    assert found.segment_ns == (2, 4, 6, 5)
    assert (found.jitter_ns, found.period_ns, found.effective_deadline_ns) == (7, 40, 40)


class _Measured(FakeNetwork):
    @property
    def segments(self):  # type: ignore[no-untyped-def]
        latency = Latency(p50_ns=4, p99_ns=5, max_ns=6, num_samples=9)
        return tuple(replace(segment, latency=latency) for segment in super().segments)


def test_a_measured_maximum_is_what_counts() -> None:
    found = analysed_task(replace(LONG, network=_Measured(segment_ns=(4, 4))))
    assert (found.segment_ns, found.source) == ((6, 6), "measured")


def test_tasks_are_told_what_is_wrong_with_their_times() -> None:
    with pytest.raises(InputError, match="jitter -1 ns"):
        replace(LONG, jitter_ns=-1)
    with pytest.raises(InputError, match="time of pre 0 ns"):
        replace(LONG, pre_ns=0)
