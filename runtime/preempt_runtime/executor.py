"""Executor: the most urgent ready job gets the device at every preemption point."""

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from preempt_runtime.agenda import Agenda
from preempt_runtime.books import Books
from preempt_runtime.clock import Clock
from preempt_runtime.device import Array, Device
from preempt_runtime.dispatch_thread import DispatchThread
from preempt_runtime.dispatcher import Dispatcher
from preempt_runtime.errors import InputError, PreemptError
from preempt_runtime.gate_dispatcher import GateDispatcher
from preempt_runtime.gated_device import GatedDevice
from preempt_runtime.handle import JobHandle
from preempt_runtime.inbox import Inbox
from preempt_runtime.instruments import Instruments
from preempt_runtime.integrity import check_books, counts_from_queue
from preempt_runtime.job import NEVER_NS, Job
from preempt_runtime.mailbox import TaskQueue
from preempt_runtime.ownership import Ownership
from preempt_runtime.policies import Policy, check_needs, gate_policy, policy_from_name
from preempt_runtime.records import Instrument
from preempt_runtime.run_loop import RunLoop
from preempt_runtime.source import Arrivals, MakeInputs, Source
from preempt_runtime.task import Task, checked_submission
from preempt_runtime.whole_number import checked_whole

if TYPE_CHECKING:  # who wants admission brings it; the analysis takes a third of an import's time
    from preempt_runtime.admission import Admission

# From `submit` to the launch, beside a busy Python thread, p99 of 3000 jobs on 2 quiet x86 cores:
# 10.3 ms at the interpreter's own 5 ms, 0.6 ms at 200 us, 0.30 ms at 50 us, 0.24 ms at 20 us.
# If the submitter goes on computing, too: 0.63 ms at 50 us, 0.40 ms at 20 us. Two threads that
# compete for the interpreter lose 2 to 6 % of their throughput at 20 us.
DEFAULT_SWITCH_INTERVAL_S = 20e-6


class Executor:
    """Runs the jobs of its tasks on one device, at most `depth` segments in flight.

    Tasks, jobs and cancellations may come from any thread; the device is driven by one: the
    caller's in `run` and `step`, its own between `start` and `stop`. The device, its networks and
    the instruments stay the caller's, to be closed after the executor.

    `switch_interval_s` is the interpreter's switch interval while the executor runs; None leaves
    it as it is. `policy` may be the name of one in `policies`.

    On a device with gates jobs are launched whole, and many are on it at a time.

    With a `depth` above 1 the device gets the next segment while one runs. It saves the time
    between two segments, and costs blocking: an urgent job waits for all that is in flight.

    With `admission`, a task joins or changes only if the analysis lets it.

    Raises:
        InputError: no policy has that name, the device does not allow such a depth, its gates
            cannot keep the policy's order, or admission analyses another policy or depth.
    """

    def __init__(
        self,
        device: Device | GatedDevice,
        policy: Policy | str,
        clock: Clock,
        instruments: Iterable[Instrument] = (),
        *,
        switch_interval_s: float | None = DEFAULT_SWITCH_INTERVAL_S,
        depth: int = 1,
        admission: "Admission | None" = None,
    ) -> None:
        if isinstance(policy, str):
            policy = policy_from_name(policy)
        if not 1 <= depth <= device.max_depth:
            raise InputError(
                f"depth {depth}, device {device.name!r} allows 1 to {device.max_depth};"
                " let fewer segments be in flight"
            )
        if admission is not None:
            _check_same(admission, policy, depth)
        self._policy = policy
        self._admission = admission
        self._clock = clock
        self._new_job_id = itertools.count().__next__
        self._books = Books(policy, clock.now_ns, Instruments(instruments))
        self._agenda = Agenda(self._books, clock.now_ns, self._new_job_id)
        self._dispatcher: Dispatcher | GateDispatcher
        if isinstance(device, GatedDevice):
            self._dispatcher = GateDispatcher(
                device, gate_policy(policy), clock, self._books, self._agenda
            )
        else:
            self._dispatcher = Dispatcher(device, policy, clock, self._books, self._agenda, depth)
        self._inbox = Inbox()
        self._books.returned = lambda queue: self._inbox.post(self._books.relist, queue)
        self._loop = RunLoop(self._dispatcher, self._agenda, self._inbox, clock, switch_interval_s)
        self._tasks_lock = threading.Lock()
        self._ownership = Ownership()
        self._dispatching = DispatchThread(
            self._loop, self._ownership, self._inbox.wake, self._end_all
        )
        self._is_closed = False

    def __enter__(self) -> "Executor":
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(drain=error is None)

    # Tasks and jobs, from any thread

    def add_task(self, task: Task) -> None:
        """Make a task known and allocate its buffers; also while the executor runs.

        Raises:
            InputError: another task has that name, its network is closed, it lacks what the policy
                needs, gates do not know its priority, or its outputs are to stay on a device that
                has them in host memory.
            DeviceError: there is no memory for its buffers; nothing has changed.
            AdmissionError: with it a deadline might be missed; nothing has changed.
            PreemptError: the executor is closed.
        """
        self.add_tasks([task])

    def add_tasks(self, tasks: Sequence[Task]) -> None:
        """Make several tasks known, all or none: admission judges them together.

        Raises:
            PreemptError: as `add_task`; nothing has changed.
        """
        self._check(*tasks)
        names = [task.name for task in tasks]
        with self._tasks_lock:
            for idx, name in enumerate(names):
                if self._is_closed:
                    raise PreemptError(f"task {name!r}: the executor is closed; make another one")
                if name in self._books.queues or name in names[:idx]:
                    raise InputError(f"task {name!r} is there already; name this one otherwise")
            if self._admission is not None and tasks:
                self._admission.admit(self.tasks(), *tasks)
            added: list[TaskQueue] = []
            try:
                for task in tasks:
                    self._books.add_queue(task)
                    added.append(self._books.queues[task.name])
            except BaseException:
                for queue in added:
                    self._books.close_queue(queue, drain=False)
                raise

    def change_task(self, task: Task) -> None:
        """Give the task of that name other values, also while the executor runs.

        Priority and late policy hold for its unfinished jobs, too, from the next preemption point
        on; jobs that are released already keep their deadlines.

        Raises:
            InputError: there is no such task, it has another network, `pre`, `post`, number of
                buffers or place of outputs, or it lacks what the policy needs.
            AdmissionError: changed so, a deadline might be missed; nothing has changed.
        """
        self._check(task)
        with self._tasks_lock:
            queue = self._queue(task.name)
            if _fixed_of(task) != _fixed_of(queue.task):
                raise InputError(
                    f"task {task.name!r}: its network, pre, post, buffers and outputs cannot"
                    " change; remove the task and add another"
                )
            if self._admission is not None and not self._admission.judges_alike(
                task, queue.newest_task
            ):
                others = [other for other in self.tasks() if other.name != task.name]
                self._admission.admit(others, task, done="changed")
            queue.newest_task = task
            self._inbox.post(lambda new: self._books.change_task(queue, new), task)

    def tasks(self) -> tuple[Task, ...]:
        """The tasks as they were last added or changed, those among them that are being removed."""
        return tuple(queue.newest_task for queue in list(self._books.queues.values()))

    def remove_task(self, name: str, *, drain: bool = False, wait: bool = True) -> None:
        """Forget a task; return when its jobs have ended.

        Its unfinished jobs are cancelled, a running one at its next preemption point; with
        `drain` they run to their end first, those that wait for buffers once held outputs are
        released. It returns at once without `wait`, as a signal's
        handler needs it, and when a job's own callbacks call it.

        Raises:
            InputError: there is no such task.
        """
        queue = self._queue(name)
        queue.is_refusing = True  # what was submitted before is still on its way
        self._inbox.post(lambda closed: self._books.close_queue(closed, drain=drain), queue)
        if not wait or self._ownership.is_mine:
            return
        while not queue.removed.is_set():
            if self._ownership.reserve():
                with self._ownership.reserved():
                    while not queue.removed.is_set():
                        self._loop.turn()
                    self._inbox.drain()  # what callbacks have posted in the last turn
            else:
                queue.removed.wait(0.1)  # the run may end before it has seen the message

    def submit(
        self, task_name: str, inputs: Mapping[str, Array], *, release_ns: int | None = None
    ) -> JobHandle:
        """Release a job of a task, now or at `release_ns` of the executor's clock.

        Response time counts from the release. The inputs are borrowed, see `JobHandle`.

        Raises:
            InputError: no such task; wrong input names, dtypes or shapes; NaN, if it is scanned;
                a release that is no whole number of ns.
            PreemptError: the executor is stopping or closed.
        """
        queue = self._queue(task_name)
        checked = checked_submission(queue.task, inputs)
        if self._loop.is_stopping:
            raise PreemptError(f"task {task_name!r}: the executor is stopping; start it again")
        release_ns = self._clock.now_ns() if release_ns is None else _release(task_name, release_ns)
        job = Job(id=self._new_job_id(), task=queue.task, inputs=checked, release_ns=release_ns)
        self._inbox.post(self._agenda.arrive, job)
        if self._is_closed:  # looked at after the post, so that no job is left behind
            self._cancel(job)
            crash = self._dispatching.crash
            reason = f": {crash}" if crash is not None else ""
            raise PreemptError(f"task {task_name!r}: the executor is closed{reason}")
        return JobHandle(job, self._cancel)

    def announce(self, task_name: str) -> bool:
        """Hold less urgent jobs back at their gates for the task's next job, which comes soon.

        It saves that job the wait for the stretch that runs. It expires by itself after 2 ms, and
        has no effect on a device without gates; whether this one has them.

        Raises:
            InputError: there is no such task.
        """
        queue = self._queue(task_name)
        if not isinstance(self._dispatcher, GateDispatcher):
            return False
        self._inbox.post(self._dispatcher.announce, queue)
        return True

    def gate_faults(self) -> tuple[str, ...]:
        """What gates did since the last call that voids bounds; nothing without gates.

        Raises:
            DeviceError: the device does not tell.
        """
        dispatcher = self._dispatcher
        return dispatcher.gate_faults() if isinstance(dispatcher, GateDispatcher) else ()

    def add_source(self, task_name: str, arrivals: Arrivals, make_inputs: MakeInputs) -> None:
        """Release jobs of a task for one run: the present one, or else the next.

        `arrivals` yields release offsets in ns from the start of the run, non-decreasing, or is a
        `ClosedLoop`. A job that is released late keeps its scheduled release, so that its response
        time is honest. `make_inputs(job_idx)` is called on the dispatcher; if it raises or its
        inputs are wrong, that job fails and the source stops.

        Raises:
            InputError: there is no such task.
        """
        self._queue(task_name)
        self._inbox.post(self._loop.begin_source, Source(task_name, arrivals, make_inputs))

    def warm_up(self, task_name: str, inputs: Mapping[str, Array], *, num_runs: int = 1) -> None:
        """Run the task's segments in all its buffers, so that its first jobs are like every other.

        Between runs only. It counts as no job, and instruments do not see it.

        Raises:
            InputError: there is no such task, or its inputs are others.
            PreemptError: the executor runs or is closed, or a job of the task has started.
            Exception: what a segment, `pre` or `post` raised.
        """
        queue = self._queue(task_name)
        checked = checked_submission(queue.task, inputs)
        self._claim()
        with self._ownership.reserved():
            for _ in range(num_runs):
                self._dispatcher.warm_up(queue, checked)

    def counts(self, task_name: str) -> dict[str, int]:
        """How many jobs of a task were released, and how many are in each state.

        Exact on the dispatching thread and between runs.
        """
        return counts_from_queue(self._queue(task_name))

    def num_held_outputs(self, task_name: str) -> int:
        """Of how many jobs of a task the outputs are held on the device, and so their buffers.

        Where it is as many as the task has buffers, its next job waits until one is released.
        """
        return self._queue(task_name).pool.num_lent

    def check_integrity(self) -> None:
        """Add up the books, between turns: every job is somewhere, and in one place.

        Raises:
            AssertionError: a bug of the executor.
        """
        check_books(self._books.queues, self._books.ready)

    # The dispatching thread

    def step(self) -> bool:
        """One turn: take in what has arrived, run one segment of the job that the policy picks.

        For whoever drives the executor himself. With a depth above 1 the segment may be in flight
        when it returns. False: nothing was ready or in flight.

        Raises:
            PreemptError: it is driven already, by `run`, `start` or another `step`.
        """
        if not self._ownership.reserve():
            raise PreemptError("the executor runs already; stop it before you step it")
        with self._ownership.reserved():
            return self._loop.turn()

    def run(
        self,
        duration_ns: int | None = None,
        *,
        until: Callable[[], bool] | None = None,
        drain: bool = True,
    ) -> None:
        """Dispatch on the caller's thread, for a duration or until `until()`, or until idle.

        `until` is called at every preemption point and when the executor wakes up. With neither,
        it returns when nothing is ready and no release is to come. In the end sources stop,
        jobs whose release is still to come are cancelled, and those released so far run to their
        end or, without `drain`, are cancelled too. An exception such as KeyboardInterrupt cancels
        all of them.

        Raises:
            PreemptError: the executor runs already.
        """
        self._claim()
        with self._ownership.reserved():
            self._loop.drains = drain
            self._loop.run(duration_ns, until)

    def start(self) -> None:
        """Dispatch on a thread of its own until `stop`.

        Raises:
            PreemptError: the executor runs already.
        """
        self._dispatching.start(self._claim)

    def stop(self, *, drain: bool = True) -> None:
        """End what `start` began; return when the thread has ended.

        Sources stop and `submit` is refused. Jobs released so far run to their end or, without
        `drain`, are cancelled, a running one at its next preemption point. Called by a job's own
        callbacks it does not wait.

        Raises:
            Exception: what made the dispatcher end early, such as a policy that raised.
        """
        self._dispatching.stop(drain=drain)

    def close(self, *, drain: bool = False) -> None:
        """Stop, cancel what is left and refuse further jobs; the device stays open.

        Raises:
            PreemptError: `run` has not returned, on another thread or below this call.
            Exception: as `stop`.
        """
        try:
            self.stop(drain=drain)
        finally:
            if not self._ownership.reserve():
                who = "calls this" if self._ownership.is_mine else "still runs on another thread"
                raise PreemptError(f"the executor {who}; let it end, then close it")
            with self._ownership.reserved():
                self._end_all()
                self._books.close_buffers()

    def _claim(self) -> None:
        if self._is_closed:
            raise PreemptError("the executor is closed; make another one")
        if not self._ownership.reserve():
            raise PreemptError("the executor runs already; stop it first")

    def _end_all(self) -> None:
        self._is_closed = True
        self._inbox.drain()
        self._dispatcher.cancel_all()

    # Messages to the dispatching thread

    def _cancel(self, job: Job) -> bool:
        is_cancelled = job.cancel(self._clock.now_ns())
        if is_cancelled:
            if job.is_done:
                job.notify()
            self._inbox.post(self._books.reap, job)
        return is_cancelled

    def _check(self, *tasks: Task) -> None:
        check_needs(self._policy, tasks)
        for task in tasks:
            self._dispatcher.check_task(task)

    def _queue(self, name: str) -> TaskQueue:
        queue = self._books.queues.get(name)
        if queue is None or queue.is_refusing:
            queues = list(self._books.queues.items())
            known = sorted(each for each, found in queues if not found.is_refusing)
            raise InputError(f"no task is called {name!r}; there are {known}")
        return queue


def _check_same(admission: "Admission", policy: Policy, depth: int) -> None:
    """Refuse an admission whose bounds would be promises of another executor."""
    analysed = admission.policy, admission.assumptions.depth
    if analysed != (policy.name, depth):
        raise InputError(
            f"admission analyses policy {analysed[0]!r} at depth {analysed[1]}, the executor has"
            f" policy {policy.name!r} at depth {depth}; give both the same"
        )


def _release(task_name: str, release_ns: int) -> int:
    """The release if the dispatcher can compare it: there, an error would end all tasks."""
    what = f"task {task_name!r}: release_ns"
    return checked_whole(what, release_ns, at_least=0, at_most=NEVER_NS, unit="of ns")


def _fixed_of(task: Task) -> tuple[object, ...]:
    """What of a task its buffers and unfinished jobs rest on."""
    return task.network, task.pre, task.post, task.buffers, task.outputs
