"""Engines bound to the tensors of one job, warmed up and captured."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from preempt_runtime.backends.cuda import Stream, gpu_properties
from preempt_runtime.backends.trt_buffers import TrtBuffers
from preempt_runtime.backends.trt_context import Scratch, new_context, place_context
from preempt_runtime.backends.trt_library import EngineLogger
from preempt_runtime.backends.trt_tensors import (
    DeviceTensor,
    allocate,
    host_tensors,
    stored_specs,
)
from preempt_runtime.errors import DeviceError
from preempt_runtime.manifest import GraphSpec, TensorSpec


def bind(
    engines: Sequence[Any],
    segments: Sequence[tuple[Sequence[str], Sequence[str]]],
    graph: GraphSpec,
    boundaries: Sequence[TensorSpec],
    name: str,
    scratch: Scratch,
    stream: Stream,
    *,
    zero_copy: bool | None = None,
    captures: bool = True,
) -> TrtBuffers:
    """Buffers for one job: each tensor allocated once, each segment warmed up and captured.

    Jobs in other buffers of that scratch block may run meanwhile: the warm-up then has one of its
    own, and captured work does not run.

    Args:
        engines: one per segment, in order; they must outlive the buffers.
        segments: names of the tensors that each segment reads and writes.
        graph: the network's interface.
        boundaries: the tensors that segments hand over, dtype and shape as stored.
        name: what messages call the network.
        scratch: shared by all that runs in order; must outlive the buffers.
        stream: nobody else may use it meanwhile; what is captured may be launched on any stream.
        zero_copy: whether inputs and outputs lie in host memory that the GPU reaches, instead of
            being copied; None: if they share one memory, as on a Jetson.
        captures: whether segments are captured; else whoever asks for `capture_segment` does.

    Raises:
        DeviceError: no memory, a tensor that is not as described, or TensorRT or the driver
            refused; nothing is left allocated.
    """
    if zero_copy is None:
        zero_copy = gpu_properties().is_integrated
    with ExitStack() as stack, ExitStack() as temporary:
        try:
            own = temporary.enter_context(Scratch(engines)) if scratch.is_bound else scratch
            scratch.is_bound = True
            stored = stored_specs(engines, segments, graph, boundaries)
            tensors = allocate(stored, graph, stack, is_zero_copy=zero_copy)
            inputs = host_tensors(graph.inputs, tensors, stack)
            outputs = host_tensors(graph.outputs, tensors, stack)
            contexts: list[Any] = []
            stack.callback(contexts.clear)
            for engine, interface in zip(engines, segments, strict=True):
                contexts.append(new_context(engine, own))
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
            buffers.warm_up(stream)
            for context in contexts if own is not scratch else ():
                place_context(context, scratch)
            if captures:
                buffers.capture(stream)
        except DeviceError as err:
            if str(err).startswith(name):
                raise
            raise DeviceError(f"{name}: {err}") from err
        buffers.keep(stack.pop_all())
    return buffers


def _set_addresses(
    context: Any,
    interface: tuple[Sequence[str], Sequence[str]],
    tensors: Mapping[str, DeviceTensor],
) -> None:
    for tensor in {*interface[0], *interface[1]}:
        if not context.set_tensor_address(tensor, int(tensors[tensor].pointer)):
            raise DeviceError(
                f"TensorRT refused the address of tensor {tensor!r}"
                f" ({EngineLogger().last_error}); compile the bundle again"
            )
