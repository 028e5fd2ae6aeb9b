"""What the dispatcher itself costs, as `bench.dispatch` measures it; loose, for busy machines."""

import threading
import time

import pytest

from bench.dispatch import own_time_ns, turn_round_ns
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.executor import DEFAULT_SWITCH_INTERVAL_S, Executor
from preempt_runtime.policies import policy_from_name
from preempt_runtime.task import Task
from preempt_runtime.testing import EXAMPLE_INPUTS, FakeNetwork, NoopDevice


@pytest.mark.parametrize("num_segments", [1, 10])
def test_own_time_per_segment_is_small(num_segments: int) -> None:
    figures = own_time_ns(2000, num_segments)
    print(figures)
    assert figures["num_samples"] >= 2000
    assert figures["p50_ns"] < 40_000


def test_turn_round_beside_a_busy_thread_is_short() -> None:
    lowered = turn_round_ns(200, DEFAULT_SWITCH_INTERVAL_S, submitter_computes=True)
    print(lowered)
    # The interpreter's own interval of 5 ms is what it would be without lowering it.
    assert lowered["p50_ns"] < 2_500_000


def test_idle_dispatcher_uses_no_processor_time() -> None:
    with Executor(NoopDevice(), policy_from_name("fifo"), MonotonicClock()) as executor:
        executor.add_task(Task(name="t", network=FakeNetwork()))
        executor.start()
        executor.submit("t", EXAMPLE_INPUTS).result(timeout=60)
        before_s = time.process_time()
        threading.Event().wait(0.2)
        assert time.process_time() - before_s < 0.05
