"""The executor on a thread of its own, with submitters on others."""

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from preempt_runtime.books import Books
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array, JobBuffers
from preempt_runtime.errors import DeviceError, InputError, JobCancelledError, PreemptError
from preempt_runtime.executor import Executor
from preempt_runtime.handle import JobHandle
from preempt_runtime.instruments import Instruments
from preempt_runtime.policies import Fifo, FixedPriority
from preempt_runtime.records import JobState
from preempt_runtime.switch_interval import lowered_switch_interval
from preempt_runtime.task import Task
from preempt_runtime.testing import (
    EXAMPLE_INPUTS,
    FakeNetwork,
    NoopDevice,
    Recording,
)
from tests.runtime.executor_world import task


class GatedDevice(NoopDevice):
    """Holds every segment until it is let through."""

    def __init__(self) -> None:
        self.launched = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        self.launched.release()

    def wait(self, num_left: int = 0) -> None:
        assert self.gate.acquire(timeout=60)


def dispatcher_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "preempt-dispatcher"]


def failure_of(action: Callable[[], object]) -> Exception | None:
    try:
        action()
    except Exception as err:
        return err
    return None


def test_a_thread_preempts_at_the_boundary_and_drains_at_stop() -> None:
    device, recording = GatedDevice(), Recording()
    executor = Executor(device, FixedPriority(), MonotonicClock(), [recording])
    executor.add_task(task("b", 1, 1))
    executor.add_task(task("u", 1, priority=1))
    executor.start()
    with pytest.raises(PreemptError, match="runs already"):
        executor.start()
    below = executor.submit("b", EXAMPLE_INPUTS)
    assert device.launched.acquire(timeout=60)
    above = executor.submit("u", EXAMPLE_INPUTS)
    device.gate.release(3)
    executor.stop()
    assert (below.state, above.state) == (JobState.FINISHED, JobState.FINISHED)
    assert [(seg.task, seg.segment_idx) for seg in recording.segments] == [
        ("b", 0),
        ("u", 0),
        ("b", 1),
    ]
    assert below.record.num_preemptions == 1
    assert above.record.blocking_ns > 0
    executor.check_integrity()


def test_stop_without_drain_cancels_at_the_next_preemption_point() -> None:
    device = GatedDevice()
    executor = Executor(device, FixedPriority(), MonotonicClock())
    executor.add_task(task("b", 1, 1, 1))
    executor.start()
    running, waiting = (executor.submit("b", EXAMPLE_INPUTS) for _ in range(2))
    assert device.launched.acquire(timeout=60)
    stopper = threading.Thread(target=lambda: executor.stop(drain=False))
    stopper.start()
    while True:  # stop has begun when submit is refused
        try:
            executor.submit("b", EXAMPLE_INPUTS).cancel()
        except PreemptError:
            break
    device.gate.release()
    stopper.join(timeout=60)
    assert (running.state, waiting.state) == (JobState.CANCELLED, JobState.CANCELLED)
    assert running.record.num_segments_run == 1
    executor.check_integrity()


def test_the_switch_interval_is_lowered_and_restored() -> None:
    before_s = sys.getswitchinterval()
    seen: list[float] = []

    def pre(inputs: Mapping[str, Array], stream: object | None) -> Mapping[str, Array]:
        seen.append(sys.getswitchinterval())
        return inputs

    for interval_s in (1e-4, None):
        with Executor(
            NoopDevice(), Fifo(), MonotonicClock(), switch_interval_s=interval_s
        ) as executor:
            executor.add_task(task("t", 1, pre=pre))
            executor.start()
            executor.submit("t", EXAMPLE_INPUTS).result(timeout=60)
    assert seen == pytest.approx([1e-4, before_s])
    assert sys.getswitchinterval() == pytest.approx(before_s)


def test_many_threads_submit_and_cancel_and_the_books_add_up() -> None:
    recording = Recording()
    with Executor(NoopDevice(), FixedPriority(), MonotonicClock(), [recording]) as executor:
        executor.add_task(task("u", 1, 1, priority=1, mailbox="latest"))
        executor.add_task(task("b", 1, 1, 1))
        executor.start()

        def work(idx: int) -> None:
            for number in range(100):
                handle = executor.submit("ub"[number % 2], EXAMPLE_INPUTS)
                if (number + idx) % 3 == 0:
                    handle.cancel()

        threads = [threading.Thread(target=work, args=(idx,)) for idx in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        executor.stop()
        executor.check_integrity()
        assert executor.counts("u")["released"] == executor.counts("b")["released"] == 200
    assert sorted(job.job_id for job in recording.jobs) == list(range(400))


def test_a_task_is_removed_from_another_thread_while_the_executor_runs() -> None:
    device = GatedDevice()
    with Executor(device, FixedPriority(), MonotonicClock()) as executor:
        executor.add_task(task("t", 1, 1))
        executor.start()
        running = executor.submit("t", EXAMPLE_INPUTS)
        assert device.launched.acquire(timeout=60)
        remover = threading.Thread(target=executor.remove_task, args=("t",))
        remover.start()
        device.gate.release(2)
        remover.join(timeout=60)
        assert running.done()
        with pytest.raises(InputError, match="no task is called"):
            executor.submit("t", EXAMPLE_INPUTS)


def require_crash(executor: Executor, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    """The first job of task `t` ends the dispatcher, and whoever waits for it is told."""
    executor.start()
    with pytest.raises(JobCancelledError):
        executor.submit("t", EXAMPLE_INPUTS).result(timeout=60)
    with pytest.raises(LookupError, match=reason):
        executor.stop()
    assert "the dispatcher ended" in caplog.text


def test_a_policy_that_raises_ends_the_dispatcher_and_leaves_nobody_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(FixedPriority):
        def pick(self, ready: Any, now_ns: int) -> Any:
            raise LookupError("cannot decide")

    executor = Executor(NoopDevice(), Broken(), MonotonicClock())
    executor.add_task(task("t", 1))
    require_crash(executor, "cannot decide", caplog)
    with pytest.raises(PreemptError, match="is closed: cannot decide"):
        executor.submit("t", EXAMPLE_INPUTS)


@pytest.mark.parametrize("release_ns", ["soon", 1.5, float("nan"), True, -1, 1 << 63, [1]])
def test_a_release_that_is_no_time_is_refused_and_the_dispatcher_goes_on(release_ns: Any) -> None:
    executor = Executor(NoopDevice(), FixedPriority(), MonotonicClock())
    executor.add_task(task("t", 1))
    with executor:
        executor.start()
        with pytest.raises(InputError, match=r"^task 't': release_ns .*, expected a whole number"):
            executor.submit("t", EXAMPLE_INPUTS, release_ns=release_ns)
        executor.submit("t", EXAMPLE_INPUTS, release_ns=np.int64(1)).result(timeout=60)


def test_a_job_that_the_dispatcher_cannot_take_in_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(books: Books, job: object) -> None:
        raise LookupError("cannot admit")

    monkeypatch.setattr(Books, "admit", refuse)
    executor = Executor(NoopDevice(), FixedPriority(), MonotonicClock())
    executor.add_task(task("t", 1))
    require_crash(executor, "cannot admit", caplog)


def test_a_callback_may_remove_a_task_when_the_dispatcher_has_crashed() -> None:
    class Broken(FixedPriority):
        def pick(self, ready: Any, now_ns: int) -> Any:
            gate.acquire(timeout=60)
            raise LookupError("cannot decide")

    gate = threading.Semaphore(0)
    executor = Executor(NoopDevice(), Broken(), MonotonicClock())
    executor.add_task(task("t", 1))
    executor.add_task(task("other", 1))
    executor.start()

    def submit_another(_: JobHandle) -> None:
        late = executor.submit("t", EXAMPLE_INPUTS)
        late.add_done_callback(lambda _: executor.remove_task("other"))

    executor.submit("t", EXAMPLE_INPUTS).add_done_callback(submit_another)
    gate.release()
    stopper = threading.Thread(target=lambda: failure_of(executor.stop), daemon=True)
    stopper.start()
    stopper.join(timeout=20)
    assert not stopper.is_alive()


def test_a_callback_may_stop_the_thread_that_calls_it(caplog: pytest.LogCaptureFixture) -> None:
    device = GatedDevice()
    executor = Executor(device, FixedPriority(), MonotonicClock())
    executor.add_task(task("t", 1))
    for _ in range(2):  # it can be started again
        executor.start()
        handle = executor.submit("t", EXAMPLE_INPUTS)
        handle.add_done_callback(lambda _: executor.stop())
        (thread,) = dispatcher_threads()
        device.gate.release()
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert handle.state is JobState.FINISHED
    executor.close()
    assert caplog.records == []


def test_a_slow_stop_leaves_alone_what_was_started_meanwhile() -> None:
    executor = Executor(NoopDevice(), FixedPriority(), MonotonicClock())
    executor.add_task(task("t", 1))
    executor.start()
    (first,) = dispatcher_threads()

    def join_while_others_stop_and_start(timeout: float | None = None) -> None:
        del first.join
        executor.stop()
        executor.start()

    first.join = join_while_others_stop_and_start  # type: ignore[method-assign]
    executor.stop()
    (second,) = dispatcher_threads()
    assert set(executor.submit("t", EXAMPLE_INPUTS).result(timeout=60)) == {"y"}
    executor.stop()
    assert not second.is_alive()
    executor.close()


def test_a_closed_executor_refuses_everything() -> None:
    with Executor(NoopDevice(), Fifo(), MonotonicClock()) as executor:
        executor.add_task(task("t", 1))
        left = executor.submit("t", EXAMPLE_INPUTS)
    assert left.state is JobState.CANCELLED
    for attempt in (executor.run, executor.start, lambda: executor.submit("t", EXAMPLE_INPUTS)):
        with pytest.raises(PreemptError, match="is closed"):
            attempt()


def test_a_device_error_leaves_the_executor_alive_on_its_thread() -> None:
    class FailsOnce(NoopDevice):
        def __init__(self) -> None:
            self.has_failed = False

        def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
            if not self.has_failed:
                self.has_failed = True
                raise DeviceError("out of memory")

    with Executor(FailsOnce(), FixedPriority(), MonotonicClock()) as executor:
        executor.add_task(task("t", 1))
        executor.start()
        with pytest.raises(DeviceError, match="out of memory"):
            executor.submit("t", EXAMPLE_INPUTS).result(timeout=60)
        assert set(executor.submit("t", EXAMPLE_INPUTS).result(timeout=60)) == {"y"}


def test_close_refuses_while_run_has_not_returned_elsewhere() -> None:
    device, is_over = GatedDevice(), threading.Event()
    executor = Executor(device, Fifo(), MonotonicClock())
    executor.add_task(task("t", 1))
    runner = threading.Thread(target=lambda: executor.run(until=is_over.is_set))
    runner.start()
    handle = executor.submit("t", EXAMPLE_INPUTS)
    assert device.launched.acquire(timeout=60)
    with pytest.raises(PreemptError, match="still runs on another thread"):
        executor.close()
    is_over.set()
    device.gate.release()
    runner.join(timeout=60)
    executor.close()
    assert handle.state is JobState.FINISHED


def test_the_smallest_asked_switch_interval_is_in_force() -> None:
    before_s = sys.getswitchinterval()
    with lowered_switch_interval(1e-3):
        with lowered_switch_interval(1e-4), lowered_switch_interval(None):
            assert sys.getswitchinterval() == pytest.approx(1e-4)
        assert sys.getswitchinterval() == pytest.approx(1e-3)
        with lowered_switch_interval(1.0):
            assert sys.getswitchinterval() == pytest.approx(1e-3)
    assert sys.getswitchinterval() == pytest.approx(before_s)


def come_and_go(executor: Executor, thread_idx: int) -> None:
    names = [f"t{thread_idx}-{idx}" for idx in range(4)]
    for round_idx in range(60):
        for idx, name in enumerate(names):
            executor.add_task(task(name, 1, 1, priority=1000 * thread_idx + round_idx + idx))
            executor.submit(name, EXAMPLE_INPUTS)
        for found in executor.tasks():
            if found.name in names:
                executor.change_task(replace(found, priority=-(found.priority or 0)))
        for name in names:
            executor.remove_task(name, wait=name == names[-1])


def test_tasks_come_change_and_go_from_many_threads_while_it_runs() -> None:
    failures: list[Exception] = []
    executor = Executor(NoopDevice(), FixedPriority(), MonotonicClock(), switch_interval_s=None)

    def work(thread_idx: int) -> None:
        if (failure := failure_of(lambda: come_and_go(executor, thread_idx))) is not None:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(idx,)) for idx in range(4)]
    with lowered_switch_interval(1e-6):
        executor.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        executor.stop()  # raises what ended the dispatcher
    executor.check_integrity()
    executor.close()
    assert failures == []
    assert executor.tasks() == ()


def test_of_a_task_that_was_removed_nothing_is_kept() -> None:
    books = Books(FixedPriority(), lambda: 0, Instruments(()))
    for round_idx in range(3):
        for name in ("a", "b"):
            books.add_queue(task(name, 1, priority=round_idx))
        kept = books.queues["b"]
        books.change_task(kept, replace(kept.task, priority=round_idx + 100))
        assert sorted(books._levels) == [(1, round_idx), (1, round_idx + 100)]
        for queue in list(books.queues.values()):
            books.close_queue(queue, drain=False)
        assert (books.queues, books._levels) == ({}, {})
        books.change_task(kept, kept.task)  # posted before, met after its removal
        assert books._levels == {}
    executor = Executor(NoopDevice(), FixedPriority(), MonotonicClock())
    network = FakeNetwork()
    before = sys.getrefcount(network)
    executor.add_task(Task(name="a", network=network))
    executor.remove_task("a")
    assert sys.getrefcount(network) == before
