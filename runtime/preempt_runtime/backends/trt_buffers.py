"""One job in flight: its tensors, execution contexts, and one captured CUDA graph per segment."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from preempt_runtime.backends.cuda import Event, GraphExec, Stream, capture, copy_async
from preempt_runtime.backends.device_arrays import (
    DeviceArray,
    checked_device_array,
    is_device_array,
)
from preempt_runtime.backends.trt_context import Scratch, new_context
from preempt_runtime.backends.trt_library import EngineLogger
from preempt_runtime.backends.trt_tensors import (
    DeviceTensor,
    HostTensor,
    allocate,
    host_tensors,
)
from preempt_runtime.device import Array
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.manifest import GraphSpec, TensorSpec


class TrtBuffers:
    """One job's tensors and, per segment, an execution context and its captured graph.

    `graphs[0]` begins with the copies of the inputs to the device, the last one ends with the
    copies of the outputs to the host. Inputs may lie in device memory, too (`write_inputs`); then
    a graph of the first segment without those copies is launched. `bind` makes these.
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
        self._stack = stack
        self._fence = stack.enter_context(Event(timing=False))
        self._first_without_copies: GraphExec | None = None

    def write_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Copy checked host arrays into pinned memory.

        An object with `__cuda_array_interface__` or DLPack in device memory is copied there when
        the first segment is launched, in the order of the stream that it names. It is kept alive
        until the next call, and must not be written before the job has ended.

        Raises:
            InputError: a device array of another dtype or shape than the device holds.
        """
        from_device = {}
        for host in self._inputs:
            value: object = inputs[host.name]
            if isinstance(value, np.ndarray):
                host.write(value)
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
        return {host.name: host.read() for host in self._outputs}

    def outputs_on_device(self) -> dict[str, DeviceArray]:
        """The outputs where they are, for other libraries; overwritten by the next job."""
        return {
            host.name: DeviceArray(
                pointer=host.tensor.memory.pointer,
                dtype=host.tensor.stored.dtype,
                shape=host.tensor.stored.shape,
                owner=self,
            )
            for host in self._outputs
        }

    def launch(self, segment_idx: int, stream: Stream) -> None:
        """Enqueue one segment.

        Raises:
            DeviceError: the driver's own text.
        """
        try:
            if segment_idx == 0 and self._from_device:
                self._launch_from_device(stream)
            else:
                self.graphs[segment_idx].launch(stream)
        except DeviceError as err:
            raise DeviceError(
                f"{self.name}: segment {segment_idx} could not be launched: {err}"
            ) from err

    def close(self) -> None:
        """Release graphs, contexts and memory, in this order."""
        self._from_device = {}
        self.graphs = ()
        self._first_without_copies = None
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

    def _launch_from_device(self, stream: Stream) -> None:
        assert self._first_without_copies is not None
        for host in self._inputs:
            given = self._from_device.get(host.name)
            if given is None:
                self._copy_in(host, stream)
                continue
            if given.stream is not None:
                self._fence.record(given.stream)
                stream.wait_for(self._fence)
            copy_async(host.tensor.memory.pointer, given.pointer, host.num_bytes, stream)
        self._first_without_copies.launch(stream)

    def _copy_in(self, host: HostTensor, stream: Stream) -> None:
        copy_async(host.tensor.memory.pointer, host.pinned.pointer, host.num_bytes, stream)

    def _enqueue(self, segment_idx: int, stream: Stream, *, copies_in: bool) -> None:
        if segment_idx == 0 and copies_in:
            for host in self._inputs:
                self._copy_in(host, stream)
        execute(self.contexts[segment_idx], f"{self.name}: segment {segment_idx}", stream)
        if segment_idx == len(self.contexts) - 1:
            for host in self._outputs:
                copy_async(host.pinned.pointer, host.tensor.memory.pointer, host.num_bytes, stream)

    def _warm_up(self, stream: Stream) -> None:
        """Run each segment once, in order: loads kernels, which cannot be captured."""
        for idx in range(len(self.contexts)):
            self._enqueue(idx, stream, copies_in=True)
        stream.synchronize()

    def _capture(self, stream: Stream) -> None:
        self.graphs = tuple(
            self._captured(idx, stream, copies_in=True) for idx in range(len(self.contexts))
        )
        if self._inputs and self.graphs:
            self._first_without_copies = self._captured(0, stream, copies_in=False)
        stream.synchronize()

    def _captured(self, segment_idx: int, stream: Stream, *, copies_in: bool) -> GraphExec:
        graph = capture(stream, lambda: self._enqueue(segment_idx, stream, copies_in=copies_in))
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


def bind(
    engines: Sequence[Any],
    segments: Sequence[tuple[Sequence[str], Sequence[str]]],
    graph: GraphSpec,
    boundaries: Sequence[TensorSpec],
    name: str,
    scratch: Scratch,
    stream: Stream,
) -> TrtBuffers:
    """Buffers for one job: each tensor allocated once, each segment warmed up and captured.

    Args:
        engines: one per segment, in order; they must outlive the buffers.
        segments: names of the tensors that each segment reads and writes.
        graph: the network's interface.
        boundaries: the tensors that segments hand over, dtype and shape as stored.
        name: what messages call the network.
        scratch: shared by all that runs in order; must outlive the buffers.
        stream: what is captured may be launched on any stream.

    Raises:
        DeviceError: no memory, a tensor that is not as described, or TensorRT or the driver
            refused; nothing is left allocated.
    """
    if scratch.last_stream is not None:
        scratch.last_stream.synchronize()
    with ExitStack() as stack:
        try:
            tensors = allocate(engines, segments, graph, boundaries, stack)
            inputs = host_tensors(graph.inputs, tensors, stack)
            outputs = host_tensors(graph.outputs, tensors, stack)
            contexts: list[Any] = []
            stack.callback(contexts.clear)
            for engine, interface in zip(engines, segments, strict=True):
                contexts.append(new_context(engine, scratch))
                _set_addresses(contexts[-1], interface, tensors)
            buffers = TrtBuffers(
                name=name,
                scratch=scratch,
                tensors=tensors,
                inputs=inputs,
                outputs=outputs,
                contexts=contexts,
                stack=stack,
            )
            buffers._warm_up(stream)
            buffers._capture(stream)
        except DeviceError as err:
            if str(err).startswith(name):
                raise
            raise DeviceError(f"{name}: {err}") from err
        buffers._stack = stack.pop_all()
    return buffers


def _set_addresses(
    context: Any,
    interface: tuple[Sequence[str], Sequence[str]],
    tensors: Mapping[str, DeviceTensor],
) -> None:
    for tensor in {*interface[0], *interface[1]}:
        if not context.set_tensor_address(tensor, int(tensors[tensor].memory.pointer)):
            raise DeviceError(
                f"TensorRT refused the address of tensor {tensor!r}"
                f" ({EngineLogger().last_error}); compile the bundle again"
            )
