"""Sources: what releases a task's jobs while the executor runs."""

from collections.abc import Callable, Iterator, Mapping

from preempt_runtime.arrivals import ClosedLoop
from preempt_runtime.device import Array
from preempt_runtime.errors import InputError

Arrivals = Iterator[int] | ClosedLoop
MakeInputs = Callable[[int], Mapping[str, Array]]


class Source:
    """Releases of one task: at offsets from an origin, or after the previous job has ended.

    `make_inputs(job_idx)` is called on the dispatcher at each release, so it must be short: choose
    among arrays that are ready.
    """

    __slots__ = ("_arrivals", "_last_offset_ns", "make_inputs", "num_released", "origin_ns", "task")

    def __init__(self, task: str, arrivals: Arrivals, make_inputs: MakeInputs) -> None:
        self.task = task
        self.make_inputs = make_inputs
        self.origin_ns = 0
        self.num_released = 0
        self._arrivals = arrivals
        self._last_offset_ns = 0

    def first_ns(self) -> int | None:
        """When to release the first job."""
        return self.origin_ns if isinstance(self._arrivals, ClosedLoop) else self.next_ns()

    def next_ns(self) -> int | None:
        """When to release the next job, if that is known now and there is one.

        Raises:
            InputError: the offsets decrease or are not integers.
        """
        if isinstance(self._arrivals, ClosedLoop):
            return None
        offset_ns = next(self._arrivals, None)
        if offset_ns is None:
            return None
        if not isinstance(offset_ns, int) or offset_ns < self._last_offset_ns:
            raise InputError(
                f"task {self.task!r}: release {self.num_released} is at {offset_ns!r} ns, allowed"
                f" an integer of at least {self._last_offset_ns}; sort the offsets"
            )
        self._last_offset_ns = offset_ns
        return self.origin_ns + offset_ns

    def after_end_ns(self, end_ns: int) -> int | None:
        """When to release the next job after one that ended at `end_ns`, in a closed loop."""
        if isinstance(self._arrivals, ClosedLoop):
            return end_ns + self._arrivals.think_ns
        return None
