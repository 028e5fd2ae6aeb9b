"""The buffers of one task's jobs in flight: free, with a job, or lent out with its outputs."""

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from preempt_runtime.device import JobBuffers, LendableBuffers, StreamedBuffers
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.task import Task


class Lease:
    """Who may use a job's buffers after its end; given back once.

    At the latest that is when nobody refers to it any more, so that outputs which nobody fetches
    do not keep their task's buffers for ever. That may happen on any thread and inside any call.
    """

    __slots__ = ("__weakref__", "_finalizer")

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._finalizer = weakref.finalize(self, give_back)
        self._finalizer.atexit = False  # with the process everything goes

    @property
    def is_released(self) -> bool:
        """The buffers are another job's, or gone."""
        return not self._finalizer.alive

    def release(self) -> None:
        """Give them back; without effect the second time."""
        self._finalizer()


class DeviceOutputs(Mapping[str, Any]):
    """A job's outputs in device memory by name, each with a `__cuda_array_interface__`.

    They are complete, and stay as they are until `release`, or the end of a `with` block: until
    then no other job gets these buffers. Work that reads them must have completed by then. Arrays
    that other libraries have made of them keep them, too; they must not be used after `release`.
    Release them before the network is closed.
    """

    __slots__ = ("_arrays", "_lease")

    def __init__(self, arrays: Mapping[str, Any], lease: Lease) -> None:
        self._arrays = arrays
        self._lease = lease

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def release(self) -> None:
        """Let another job of the task have the buffers; without effect the second time."""
        self._lease.release()

    def __enter__(self) -> "DeviceOutputs":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class BufferPool:
    """As many buffers as jobs of the task may be in flight, allocated at once.

    The dispatcher takes and puts them; those that are lent come back from any thread, so nothing
    here takes a lock that a finalizer might wait for.

    Raises:
        DeviceError: there is no memory for all of them; none is left allocated.
        InputError: the network is closed, or outputs are to stay on a device that has them in host
            memory.
    """

    __slots__ = ("_lent", "_new_loan", "free", "is_closed", "num_buffers")

    def __init__(self, task: Task) -> None:
        self.num_buffers = task.buffers
        self.free: deque[JobBuffers] = deque()
        self._lent: set[int] = set()  # one number for each time that some were lent
        self._new_loan = itertools.count().__next__
        self.is_closed = False
        try:
            while len(self.free) < task.buffers:
                self.free.append(_new_buffers(task, len(self.free)))
        except BaseException:
            self.close()
            raise

    @property
    def num_lent(self) -> int:
        """How many are held outside, with the outputs of jobs that have ended."""
        return len(self._lent)

    @property
    def has_any(self) -> bool:
        """Not all are held outside: one is free, or will be when a job in flight ends."""
        return len(self._lent) < self.num_buffers

    def take(self) -> JobBuffers:
        """The buffers that have been free the longest."""
        return self.free.popleft()

    def put(self, buffers: JobBuffers) -> None:
        """They are free again, or closed where the pool is."""
        self.free.append(buffers)
        if self.is_closed:
            self._close_free()

    def lend(self, buffers: JobBuffers, returned: Callable[[], None]) -> DeviceOutputs:
        """The outputs in them; `returned` is called, on any thread, once they are released."""
        assert isinstance(buffers, LendableBuffers)
        loan = self._new_loan()

        def give_back() -> None:
            if loan in self._lent:
                # First, so that whoever sees that they are not lent finds them. They may be lent
                # again before the next line.
                self.put(buffers)
                self._lent.discard(loan)
                returned()

        lease = Lease(give_back)
        outputs = DeviceOutputs(buffers.outputs_on_device(lease), lease)
        self._lent.add(loan)
        return outputs

    def close(self) -> None:
        """Release the memory of all that are free; of those that are lent, when they come back."""
        self.is_closed = True
        self._close_free()

    def _close_free(self) -> None:
        while self.free:
            try:
                buffers = self.free.popleft()
            except IndexError:  # another thread was faster
                return
            buffers.close()


def _new_buffers(task: Task, number: int) -> JobBuffers:
    try:
        buffers = task.network.new_buffers()
        _choose_stream(buffers, task)
    except InputError as err:
        raise InputError(f"task {task.name!r}: {err}") from err
    except DeviceError as err:
        if task.buffers == 1:
            raise
        raise type(err)(
            f"task {task.name!r}: buffers for job {number + 1} of {task.buffers} in flight: {err};"
            " or lower its buffers"
        ) from err
    if task.outputs == "device":
        if not isinstance(buffers, LendableBuffers):
            buffers.close()
            raise InputError(
                f"task {task.name!r}: outputs 'device', but {task.network.name!r} has them in host"
                " memory; leave it out"
            )
        buffers.leave_outputs()
    return buffers


def _choose_stream(buffers: JobBuffers, task: Task) -> None:
    """Now, on the thread that adds the task, lest its first job make all others wait."""
    if isinstance(buffers, StreamedBuffers):
        try:
            buffers.use_stream(is_urgent=task.priority is not None)
        except BaseException:
            buffers.close()
            raise
