"""Steps of a job that the host does: bring its inputs, fetch its outputs, call `pre` and `post`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from preempt_runtime.books import Books
from preempt_runtime.buffer_pool import DeviceOutputs
from preempt_runtime.device import Array
from preempt_runtime.job import Job
from preempt_runtime.mailbox import TaskQueue
from preempt_runtime.task import checked_inputs

_Pieces = Callable[[Mapping[str, Array]], Iterator[None]]


class CallableDevice(Protocol):
    """What callables need of a device."""

    def stream(self, *, is_urgent: bool) -> object | None:
        """The stream that they enqueue on."""
        ...

    def wait(self) -> None:
        """Return when what they have put there has completed."""
        ...


class JobSteps:
    """What every dispatcher does around the network itself, on the dispatching thread."""

    def __init__(self, device: CallableDevice, books: Books) -> None:
        self._device = device
        self._books = books

    def copy_inputs(self, job: Job, queue: TaskQueue) -> bool:
        """Copy the job's inputs into buffers of its own, or a piece of large ones; whether all are.

        Raises:
            InputError: they are not what the device expects.
        """
        if job.buffers is None:
            assert job.inputs is not None
            job.buffers = queue.pool.take()
            # Of `PiecewiseBuffers`; isinstance of a protocol takes as long as the rest of a turn.
            pieces: _Pieces | None = getattr(job.buffers, "input_pieces", None)
            if pieces is None:
                job.buffers.write_inputs(job.inputs)
                job.inputs = None
                return True
            job.pieces = pieces(job.inputs)
        assert job.pieces is not None
        for _ in job.pieces:
            return False
        job.inputs = job.pieces = None
        return True

    def read_outputs(self, job: Job, queue: TaskQueue) -> None:
        """Give the job its outputs: copies, or what is in its buffers, which are lent with them."""
        buffers = job.buffers
        assert buffers is not None
        if queue.task.outputs == "host":
            job.value = buffers.read_outputs()
        else:
            job.value = queue.pool.lend(buffers, lambda: self._books.returned(queue))
            job.buffers = None

    def call(self, job: Job, queue: TaskQueue, step: str) -> None:
        """Call `pre` or `post`, and wait for what it has put on the device.

        Raises:
            Exception: what it raised; `pre` returned other inputs than the network's.
        """
        task = queue.task
        stream = self._device.stream(is_urgent=job.priority is not None)
        result: Any
        if step == "pre":
            assert task.pre is not None
            assert job.inputs is not None
            result = task.pre(job.inputs, stream)
            self._device.wait()
            job.inputs = checked_inputs(task, result)
        else:
            assert task.post is not None
            outputs = job.value
            result = task.post(outputs, stream)
            self._device.wait()
            if isinstance(outputs, DeviceOutputs):
                outputs.release()
            job.value = result
