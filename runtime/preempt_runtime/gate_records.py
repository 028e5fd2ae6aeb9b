"""What is told of jobs that ran behind gates: their stretches, preemptions and blocking."""

from collections import deque

from preempt_runtime.books import Books
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.in_flight import Launch
from preempt_runtime.job import Job, Key
from preempt_runtime.records import SegmentRecord

_NUM_RECENT = 64  # jobs that ended last; those that ran while another waited ended just before it


class GateRecords:
    """Tells observers of every stretch when its job has ended, by the times that gates wrote down.

    A job's blocking is what it waited at its first gate while no job of its own or a higher rank
    ran: until the stretch of a less urgent one had come to its end. At later gates it waits for
    more urgent ones alone.
    """

    def __init__(self, books: Books) -> None:
        self._books = books
        self._recent: deque[tuple[Key, StretchTimes]] = deque(maxlen=_NUM_RECENT)

    def called(self, job: Job, step: str, start_ns: int, end_ns: int) -> None:
        """Tell of a `pre` or `post` that has returned."""
        if self._books.instruments.active:
            self._tell(job, step, start_ns, end_ns)

    def ran(self, launch: Launch, times: StretchTimes) -> None:
        """Note in a job what its times say; in the order of ends."""
        job, rank = launch.job, launch.queue.level.rank
        if launch.queue.steps[0] != "pre":
            job.start_ns = times.passed_ns[0]
        job.num_preemptions += times.num_preemptions
        job.blocked_before_ns -= self._blocking_ns(rank, times.arrived_ns[0], times.passed_ns[0])
        self._recent.append((rank, times))

    def tell(self, job: Job, times: StretchTimes, first: int, num: int) -> int:
        """Tell of `num` of its stretches, from the first of them on; how many are told then."""
        if not self._books.instruments.active:
            return len(times.passed_ns)
        told = times.stretches[first : first + num]
        for idx, (begin_ns, end_ns) in enumerate(told, first):
            self._tell(job, idx, begin_ns, end_ns)
        return first + len(told)

    def _blocking_ns(self, rank: Key, from_ns: int, until_ns: int) -> int:
        left_ns = until_ns - from_ns
        for other_rank, times in self._recent if left_ns else ():
            if other_rank < rank or times.end_ns <= from_ns or times.passed_ns[0] >= until_ns:
                continue
            for begin_ns, end_ns in times.stretches:
                left_ns -= max(0, min(end_ns, until_ns) - max(begin_ns, from_ns))
        return max(left_ns, 0)

    def _tell(self, job: Job, segment_idx: int | str, start_ns: int, end_ns: int) -> None:
        self._books.instruments.segment_ended(
            SegmentRecord(
                job_id=job.id,
                task=job.task.name,
                segment_idx=segment_idx,
                start_ns=start_ns,
                end_ns=end_ns,
                is_urgent=job.priority is not None,
            )
        )
