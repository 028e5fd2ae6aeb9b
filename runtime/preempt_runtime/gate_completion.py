"""GateCompletion: outputs first, then the books, of jobs that gates let through to their end."""

from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter

from preempt_runtime.books import Books
from preempt_runtime.device import JobBuffers
from preempt_runtime.device_clock import DeviceClock
from preempt_runtime.gate_records import GateRecords
from preempt_runtime.gated_device import GatedDevice, StretchTimes
from preempt_runtime.in_flight import Launch
from preempt_runtime.job_steps import JobSteps
from preempt_runtime.mailbox import TaskQueue
from preempt_runtime.records import JobState

_FINISHED, _FAILED = JobState.FINISHED, JobState.FAILED
_AT_ONCE = 8  # stretches that are told in one piece
_ALL = 1 << 62


class Ended:
    """A job that is on the device no more, seen at `seen_ns`; it has failed if there is an error.

    `buffers` hold its stamps, unless the device has failed it. `end_ns` is when its outputs were
    there, `times` where it was when, by the host's clock; `num_told` stretches have been told.
    """

    __slots__ = ("buffers", "end_ns", "error", "launch", "num_told", "seen_ns", "times")

    def __init__(self, launch: Launch, seen_ns: int, error: Exception | None = None) -> None:
        self.launch = launch
        self.seen_ns = seen_ns
        self.error = error
        self.buffers: JobBuffers | None = launch.job.buffers if error is None else None
        self.times: StretchTimes | None = None
        self.end_ns = seen_ns
        self.num_told = 0

    @property
    def device_end_ns(self) -> int:
        """For the order of ends; 0 where it is not known."""
        return 0 if self.times is None else self.times.end_ns

    @property
    def is_told(self) -> bool:
        """Nothing is left to tell of its stretches."""
        return self.times is None or self.num_told == len(self.times.passed_ns)


class GateCompletion:
    """Completes jobs: whoever waits for outputs waits for nothing else.

    What is told of best effort is left, to be told in pieces: a long network has many stretches.
    """

    def __init__(
        self, device: GatedDevice, books: Books, steps: JobSteps, now_ns: Callable[[], int]
    ) -> None:
        self.records = GateRecords(books)
        self.device_clock = DeviceClock()
        self.left: deque[Ended] = deque()
        self._device = device
        self._books = books
        self._steps = steps
        self._now_ns = now_ns

    def complete(self, ended: Sequence[Ended]) -> None:
        """Bring the outputs of them all; end those of real time, in the order of their ends."""
        for each in ended:
            self._bring_outputs(each)
        for each in ended:
            self._find_times(each)
        for each in sorted(ended, key=attrgetter("device_end_ns")):
            if each.times is not None:
                self.records.ran(each.launch, each.times)
            self.left.append(each)
            if each.launch.job.priority is not None:
                self._end_of(each.launch.queue)

    def go_on(self) -> None:
        """Tell some stretches of the oldest job that is left, or else end it."""
        each = self.left[0]
        if not each.launch.job.is_settled and not each.is_told:  # else it was cancelled meanwhile
            self._tell(each, _AT_ONCE)
            return
        self.left.popleft()
        self._close(each)

    def end_all(self) -> None:
        """End all jobs that are left."""
        while self.left:
            self.go_on()

    def _end_of(self, queue: TaskQueue) -> None:
        """End all jobs of a task that are left, in the order of release."""
        for each in [each for each in self.left if each.launch.queue is queue]:
            self._tell(each, _ALL)
            self.left.remove(each)
            self._close(each)

    def _tell(self, ended: Ended, num: int) -> None:
        if ended.times is not None:
            job, first = ended.launch.job, ended.num_told
            ended.num_told = self.records.tell(job, ended.times, first, num)

    def _bring_outputs(self, ended: Ended) -> None:
        job = ended.launch.job
        if job.fate is None and ended.error is None:
            job.num_segments_run += len(ended.launch.queue.task.network.segments)
            try:
                self._steps.read_outputs(job, ended.launch.queue)
            except Exception as err:
                ended.error = err
        ended.end_ns = self._now_ns()

    def _find_times(self, ended: Ended) -> None:
        if ended.buffers is None:
            return
        try:
            times = self._device.times(ended.buffers)
        except Exception as err:
            ended.error = err
            return
        self.device_clock.observe(
            launch_ns=ended.launch.launch_ns,
            begin_ns=times.arrived_ns[0],
            end_ns=times.end_ns,
            seen_ns=ended.seen_ns,
        )
        ended.times = times.shifted(self.device_clock.offset_ns)

    def _close(self, ended: Ended) -> None:
        job, queue = ended.launch.job, ended.launch.queue
        if job.is_settled:
            return
        if job.fate is not None:
            self._books.stop(job, queue, job.fate[0], ended.end_ns, job.fate[1])
            return
        if ended.error is None and queue.steps[-1] == "post":
            self._call_post(ended)
        state = _FINISHED if ended.error is None else _FAILED
        self._books.stop(job, queue, state, ended.end_ns, ended.error)

    def _call_post(self, ended: Ended) -> None:
        job = ended.launch.job
        start_ns = self._now_ns()
        try:
            self._steps.call(job, ended.launch.queue, "post")
        except Exception as err:
            ended.error = err
        else:
            job.num_segments_run += 1
            self.records.called(job, "post", start_ns, self._now_ns())
        ended.end_ns = self._now_ns()
