"""One job in flight: its tensors, execution contexts, and one captured CUDA graph per segment."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from preempt_runtime.backends.cuda import Event, GraphExec, Stream, capture, copy_async
from preempt_runtime.backends.cuda_graph import CudaGraph, capture_graph
from preempt_runtime.backends.device_arrays import DeviceArray, checked_device_array
from preempt_runtime.backends.trt_context import Scratch
from preempt_runtime.backends.trt_library import EngineLogger
from preempt_runtime.backends.trt_tensors import DeviceTensor, HostTensor
from preempt_runtime.device import Array, is_device_array
from preempt_runtime.errors import DeviceError, InputError


class TrtBuffers:
    """One job's tensors and, per segment, an execution context and its captured graph.

    A graph holds the segment's kernels alone: they are what an urgent job may have to wait for,
    and what is measured. The copies of inputs and outputs are enqueued around the first and the
    last one (`launch`), where copy engines run them beside other jobs' kernels. Mapped inputs and
    outputs need none: the kernels reach them where they are. `trt_bind.bind` makes these.
    """

    def __init__(
        self,
        *,
        name: str,
        scratch: Scratch,
        tensors: Mapping[str, DeviceTensor],
        inputs: Sequence[HostTensor],
        outputs: Sequence[HostTensor],
        contexts: list[Any],
        stack: ExitStack,
    ) -> None:
        self.name = name
        self.scratch = scratch
        self.tensors = dict(tensors)
        self.contexts = contexts
        self.graphs: tuple[GraphExec, ...] = ()
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._from_device: dict[str, DeviceArray] = {}
        self._leaves_outputs = False
        self._stack = stack
        self._fence = stack.enter_context(Event(timing=False))

    def write_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Copy checked host arrays into pinned memory, which is all where that is mapped.

        An object with `__cuda_array_interface__` or DLPack in device memory is copied there when
        the first segment is launched, in the order of the stream that it names. It is kept alive
        until the next call, and must not be written before the job has ended.

        Raises:
            InputError: a device array of another dtype or shape than the device holds.
        """
        for _ in self.input_pieces(inputs):
            pass

    def input_pieces(self, inputs: Mapping[str, Array]) -> Iterator[None]:
        """As `write_inputs`, but a piece of about a mebibyte before each value."""
        from_device = {}
        for host in self._inputs:
            value: object = inputs[host.name]
            if isinstance(value, np.ndarray):
                yield from host.pieces(value)
            elif is_device_array(value):
                stored = host.tensor.stored
                from_device[host.name] = checked_device_array(
                    host.name, value, dtype=stored.dtype, shape=stored.shape
                )
            else:
                raise InputError(
                    f"input {host.name!r}: found {type(value).__name__}, expected a numpy array"
                    " or one in device memory"
                )
        self._from_device = from_device

    def read_outputs(self) -> dict[str, Array]:
        """Copies of the outputs, owned by the caller; the last segment must have completed."""
        assert not self._leaves_outputs, "they were not copied to the host"
        return {host.name: host.read() for host in self._outputs}

    def leave_outputs(self) -> None:
        """Copy no outputs to the host from now on."""
        self._leaves_outputs = True

    def outputs_on_device(self, owner: object = None) -> dict[str, DeviceArray]:
        """The outputs where they are, for other libraries; overwritten by the next job.

        Args:
            owner: what the arrays keep alive, by default these buffers.
        """
        return {
            host.name: DeviceArray(
                pointer=host.tensor.pointer,
                dtype=host.tensor.stored.dtype,
                shape=host.tensor.stored.shape,
                owner=owner or self,
            )
            for host in self._outputs
        }

    def launch(self, segment_idx: int, stream: Stream) -> None:
        """Enqueue one segment, behind the first one's inputs, before the last one's outputs.

        Raises:
            DeviceError: the driver's own text.
        """
        try:
            if segment_idx == 0:
                self.await_inputs(stream)
                self.copy_inputs(stream)
            self.graphs[segment_idx].launch(stream)
            if segment_idx == len(self.graphs) - 1:
                self.copy_outputs(stream)
        except DeviceError as err:
            raise DeviceError(
                f"{self.name}: segment {segment_idx} could not be launched: {err}"
            ) from err

    def run(self, stream: Stream) -> None:
        """Run all segments, in order, to their end.

        Raises:
            DeviceError: the driver's own text.
        """
        for idx in range(len(self.graphs)):
            self.launch(idx, stream)
        stream.synchronize()

    def keep(self, stack: ExitStack) -> None:
        """Own what `stack` holds, of what these were made."""
        self._stack = stack

    def use_graphs(self, graphs: Sequence[GraphExec]) -> None:
        """Launch these from now on, one for each segment; they are closed with the rest."""
        for graph in graphs:
            self._stack.enter_context(graph)
        self.graphs = tuple(graphs)

    def close(self) -> None:
        """Release graphs, contexts and memory, in this order."""
        self._from_device = {}
        self.graphs = ()
        self._inputs = self._outputs = ()  # views of pinned memory
        self._stack.close()
        self.tensors = {}

    def __enter__(self) -> "TrtBuffers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def await_inputs(self, stream: Stream) -> None:
        """Enqueue the wait for whoever writes inputs that lie in device memory."""
        for given in self._from_device.values():
            if given.stream is not None:
                self._fence.record(given.stream)
                stream.wait_for(self._fence)

    def copy_inputs(self, stream: Stream) -> None:
        """Enqueue the copies of inputs; those from device memory must be complete by then."""
        for host in self._inputs:
            if (given := self._from_device.get(host.name)) is not None:
                copy_async(host.tensor.pointer, given.pointer, host.num_bytes, stream)
            elif not host.is_mapped:
                copy_async(host.tensor.pointer, host.pinned.pointer, host.num_bytes, stream)

    def copy_outputs(self, stream: Stream) -> None:
        """Enqueue the copies of outputs to the host, unless they are left."""
        for host in self._outputs if not self._leaves_outputs else ():
            if not host.is_mapped:
                copy_async(host.pinned.pointer, host.tensor.pointer, host.num_bytes, stream)

    def _execute(self, segment_idx: int, stream: Stream) -> None:
        execute(self.contexts[segment_idx], f"{self.name}: segment {segment_idx}", stream)

    def warm_up(self, stream: Stream) -> None:
        """Run each segment once, in order: loads kernels, which cannot be captured."""
        self.copy_inputs(stream)
        for idx in range(len(self.contexts)):
            self._execute(idx, stream)
        self.copy_outputs(stream)
        stream.synchronize()

    def capture(self, stream: Stream) -> None:
        """Make one graph of each segment."""
        self.graphs = tuple(self._captured(idx, stream) for idx in range(len(self.contexts)))
        stream.synchronize()

    def capture_segment(self, segment_idx: int, stream: Stream) -> CudaGraph:
        """A graph of one segment that can be read and edited; the caller closes it."""
        return capture_graph(stream, lambda: self._execute(segment_idx, stream))

    def _captured(self, segment_idx: int, stream: Stream) -> GraphExec:
        graph = capture(stream, lambda: self._execute(segment_idx, stream))
        self._stack.enter_context(graph)
        graph.upload(stream)
        return graph


def execute(context: Any, what: str, stream: Stream) -> None:
    """Enqueue one execution of a context.

    Raises:
        DeviceError: TensorRT refused, with its own text.
    """
    logger = EngineLogger()
    mark = logger.num_messages
    if not context.execute_async_v3(int(stream.handle)):
        raise DeviceError(
            f"{what}: TensorRT could not enqueue it ({logger.error_since(mark)});"
            " compile the bundle again on this machine"
        )
