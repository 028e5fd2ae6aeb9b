"""The tensors of one job: memory of the device or mapped from the host, and engine checks."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from preempt_runtime.backends.cuda import DeviceMemory, PinnedMemory
from preempt_runtime.device import Array
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.manifest import GraphSpec, TensorSpec
from preempt_runtime.strict_json import brief
from preempt_runtime.units import fmt_bytes

_COMPILE_AGAIN = "compile the bundle again"
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
PIECE_BYTES = 1 << 20
"""Copied at once: 0.1 to 0.3 ms, in which an urgent job waits (numpy, x86-64, estimated)."""
_NARROWED = {"int64": "int32", "float64": "float32"}
"""TensorRT before 10 has no INT64 and none has FLOAT64: its parser takes these instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTensor:
    """A tensor of one job: `spec` is what the manifest says, `stored` what the device holds.

    Its memory is the device's, or the host's where an input or output is mapped.
    """

    spec: TensorSpec
    stored: TensorSpec
    memory: DeviceMemory | PinnedMemory

    @property
    def pointer(self) -> int:
        """Where the device finds it."""
        return self.memory.device_pointer


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTensor:
    """An input or output: its tensor, and the pinned array that it is copied through or lies in."""

    tensor: DeviceTensor
    pinned: PinnedMemory
    array: Array

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.tensor.spec.name

    @property
    def num_bytes(self) -> int:
        """What a copy moves."""
        return self.tensor.stored.num_bytes

    @property
    def is_mapped(self) -> bool:
        """The device reads and writes the array itself, so nothing is copied."""
        return self.pinned is self.tensor.memory

    def pieces(self, values: Array) -> Iterator[None]:
        """Take the values of an input, a piece of at most `PIECE_BYTES` before each value.

        What must be converted, or is not contiguous, is one piece.

        Raises:
            InputError: an integer that the device's narrower type cannot hold.
        """
        stored = self.tensor.stored.dtype
        if stored == self.tensor.spec.dtype:
            if not values.flags.c_contiguous:
                np.copyto(self.array, values)
                return
            target, source = self.array.reshape(-1), values.reshape(-1)
            step = max(1, PIECE_BYTES // target.itemsize)
            for begin in range(0, target.size, step):
                if begin:
                    yield
                target[begin : begin + step] = source[begin : begin + step]
            return
        if stored == "int32" and values.size:
            limits, low, high = np.iinfo(np.int32), values.min(), values.max()
            if low < limits.min or high > limits.max:
                raise InputError(
                    f"input {self.name!r}: values from {low} to {high}, this version of TensorRT"
                    f" holds int64 as int32; give values that fit"
                )
        np.copyto(self.array, values, casting="same_kind")

    def read(self) -> Array:
        """A copy of an output, in the dtype of the manifest."""
        return self.array.astype(numpy_dtype(self.tensor.spec))


def numpy_dtype(spec: TensorSpec) -> np.dtype[Any]:
    """The numpy dtype of a tensor that the host reads or writes.

    Raises:
        DeviceError: bfloat16 without ml_dtypes.
    """
    if spec.dtype == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as err:
            raise DeviceError(
                f"tensor {brief(spec.name)}: numpy has no bfloat16;"
                " `pip install ml_dtypes`, or give the network float16 or float32 inputs and"
                " outputs"
            ) from err
        brain: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return brain
    return np.dtype(spec.dtype)


def stored_specs(
    engines: Sequence[Any],
    segments: Sequence[tuple[Sequence[str], Sequence[str]]],
    graph: GraphSpec,
    boundaries: Sequence[TensorSpec],
) -> dict[str, TensorSpec]:
    """Each tensor as the engines store it.

    Raises:
        DeviceError: an engine does not have these tensors.
    """
    interface = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
    stored = {spec.name: spec for spec in boundaries}
    formats = dict.fromkeys(interface, "LINEAR")  # the host reads and writes these
    for engine, (inputs, outputs) in zip(engines, segments, strict=True):
        _check_names(engine, inputs, outputs)
        for name in (*inputs, *outputs):
            expected = stored.get(name) or interface.get(name)
            if expected is None:
                raise DeviceError(f"tensor {brief(name)} is not described; {_COMPILE_AGAIN}")
            stored[name] = _checked_spec(engine, expected, may_narrow=name not in stored)
            _check_format(engine, name, formats)
    return {**interface, **stored}


def allocate(
    stored: Mapping[str, TensorSpec], graph: GraphSpec, stack: ExitStack, *, is_zero_copy: bool
) -> dict[str, DeviceTensor]:
    """Zeroed memory for each tensor; `stack` releases it.

    Zeroed, because an engine may read the padding of a vectorised layout that nobody writes. With
    `is_zero_copy` inputs and outputs lie in the host's memory, where the device reaches them.

    Raises:
        DeviceError: there is no memory.
    """
    interface = {spec.name: spec for spec in (*graph.inputs, *graph.outputs)}
    tensors = {}
    for name, spec in stored.items():
        memory = stack.enter_context(_memory(spec, is_mapped=is_zero_copy and name in interface))
        memory.fill(0)
        tensors[name] = DeviceTensor(spec=interface.get(name, spec), stored=spec, memory=memory)
    return tensors


def host_tensors(
    specs: Iterable[TensorSpec], tensors: dict[str, DeviceTensor], stack: ExitStack
) -> tuple[HostTensor, ...]:
    """Inputs or outputs with zeroed pinned staging, but where they are mapped; `stack` releases it.

    Raises:
        DeviceError: no memory, or numpy lacks the dtype.
    """
    found = []
    for spec in specs:
        tensor = tensors[spec.name]
        numpy_dtype(spec)
        dtype = numpy_dtype(tensor.stored)
        if isinstance(tensor.memory, PinnedMemory):
            pinned = tensor.memory
        else:
            pinned = stack.enter_context(PinnedMemory(tensor.stored.num_bytes))
            pinned.fill(0)
        array: Array = pinned.array.view(dtype).reshape(tensor.stored.shape)
        found.append(HostTensor(tensor=tensor, pinned=pinned, array=array))
    return tuple(found)


def _memory(spec: TensorSpec, *, is_mapped: bool) -> DeviceMemory | PinnedMemory:
    try:
        if is_mapped:
            return PinnedMemory(spec.num_bytes, is_mapped=True)
        return DeviceMemory(spec.num_bytes)
    except DeviceError as err:
        raise DeviceError(f"tensor {brief(spec.name)}: {err}") from err


def _check_names(engine: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    found: dict[str, list[str]] = {"INPUT": [], "OUTPUT": []}
    for idx in range(engine.num_io_tensors):
        name = engine.get_tensor_name(idx)
        found.setdefault(engine.get_tensor_mode(name).name, []).append(name)
    for kind, expected in (("INPUT", inputs), ("OUTPUT", outputs)):
        if sorted(found[kind]) != sorted(set(expected)):
            raise DeviceError(
                f"the engine has {kind.lower()}s {sorted(found[kind])}, its segment"
                f" {sorted(expected)}; {_COMPILE_AGAIN}"
            )


def _checked_spec(engine: Any, spec: TensorSpec, *, may_narrow: bool) -> TensorSpec:
    """The tensor as the engine stores it, once it needs no more memory than described.

    Beyond that an engine would write over its neighbours.
    """
    trt_dtype = engine.get_tensor_dtype(spec.name).name
    dtype = _DTYPES.get(trt_dtype, trt_dtype)
    if dtype != spec.dtype and not (may_narrow and _NARROWED.get(spec.dtype) == dtype):
        raise DeviceError(
            f"tensor {brief(spec.name)}: the engine has {dtype}, the manifest {spec.dtype};"
            f" {_COMPILE_AGAIN}"
        )
    stored = TensorSpec(name=spec.name, dtype=dtype, shape=spec.shape)
    shape = [int(length) for length in engine.get_tensor_shape(spec.name)]
    if any(length < 0 for length in shape):
        raise DeviceError(
            f"tensor {brief(spec.name)}: the engine's shape {shape} is dynamic;"
            " compile the network with fixed shapes"
        )
    elements = math.prod(_padded(engine, spec.name, shape))
    item_bytes = stored.num_bytes // max(1, math.prod(spec.shape))
    if elements * item_bytes > stored.num_bytes:
        raise DeviceError(
            f"tensor {brief(spec.name)}: the engine needs {fmt_bytes(elements * item_bytes)} for"
            f" {shape}, the manifest gives {fmt_bytes(stored.num_bytes)} for {list(spec.shape)};"
            f" {_COMPILE_AGAIN}"
        )
    return stored


def _check_format(engine: Any, name: str, formats: dict[str, str]) -> None:
    """Return if the engine lays the tensor out as all before it; the first one decides."""
    found = str(engine.get_tensor_format(name).name)
    expected = formats.setdefault(name, found)
    if found != expected:
        raise DeviceError(
            f"tensor {brief(name)}: this engine has the format {found}, its neighbour or the host"
            f" {expected}; {_COMPILE_AGAIN}"
        )


def _padded(engine: Any, name: str, shape: list[int]) -> list[int]:
    """The shape with its vectorised dimension filled up, as the layout stores it."""
    vector = int(engine.get_tensor_components_per_element(name))
    axis = int(engine.get_tensor_vectorized_dim(name))
    if vector > 1 and 0 <= axis < len(shape):
        shape = list(shape)
        shape[axis] = -(-shape[axis] // vector) * vector
    return shape
