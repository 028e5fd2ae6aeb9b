"""What the executor needs of a device: load a plan, launch a segment, wait for it.

The same executor runs on a CPU, on a GPU and in simulation; each is one `Device`. A backend lives
in `preempt_runtime.backends` and is imported only when a bundle asks for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.errors import InputError
from preempt_runtime.manifest import GraphSpec, SegmentSpec

Array = NDArray[Any]
MAX_DEPTH = 16  # segments in flight; each one more blocks an urgent job longer
MAX_BUFFERS = 64  # jobs of one task in flight, those whose outputs are held on the device included
MAX_THREADS = 1024  # of a segment on a CPU
_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


class JobBuffers(Protocol):
    """The inputs, boundary tensors and outputs of one job in flight of one network.

    The device owns the memory. One job uses it at a time, from its first segment to its last;
    then it is used again for the next job of that network.
    """

    def write_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Copy checked host arrays into the device's input buffers."""
        ...

    def read_outputs(self) -> dict[str, Array]:
        """Fresh host arrays of the network's outputs, owned by the caller."""
        ...

    def close(self) -> None:
        """Release the memory; none of it may be in use. Without effect the second time."""
        ...


class PiecewiseBuffers(Protocol):
    """Buffers that large inputs can be copied into bit by bit, with other jobs' work in between."""

    def input_pieces(self, inputs: Mapping[str, Array]) -> Iterator[None]:
        """Copy checked host arrays, a piece before each value; then the rest, and end."""
        ...


@runtime_checkable
class LendableBuffers(Protocol):
    """Buffers whose outputs lie in a GPU's memory and can be used there."""

    def leave_outputs(self) -> None:
        """Copy no outputs to the host from now on."""
        ...

    def outputs_on_device(self, owner: object) -> dict[str, Any]:
        """The outputs where they are, each with a `__cuda_array_interface__`; they keep `owner`."""
        ...


@runtime_checkable
class StreamedBuffers(Protocol):
    """Buffers whose jobs run on a stream of their own."""

    def use_stream(self, *, is_urgent: bool) -> None:
        """Run on a stream of that urgency from now on; no job may be in these buffers.

        To make a stream may hold up all others, so it is done before the first job comes.

        Raises:
            DeviceError: the driver refused.
        """
        ...


class Network(Protocol):
    """One plan of one bundle, loaded on a device: its segments are ready to be launched."""

    @property
    def name(self) -> str:
        """What messages and traces call this network."""
        ...

    @property
    def graph(self) -> GraphSpec:
        """The names, dtypes and shapes of the inputs and outputs."""
        ...

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """The segments in the order in which they run."""
        ...

    def new_buffers(self) -> JobBuffers:
        """Buffers for one more job in flight."""
        ...

    def close(self) -> None:
        """Release sessions and memory; the network must have no job in flight."""
        ...


class Device(Protocol):
    """Executes segments one after another, in the order in which they were launched."""

    @property
    def name(self) -> str:
        """What messages and traces call this device."""
        ...

    @property
    def max_depth(self) -> int:
        """How many segments it can hold, the running one included; 1 where `launch` runs it."""
        ...

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        """Start one segment of the job that owns `buffers`; real-time work is urgent.

        Raises:
            DeviceError: the device or its library refused, with its text.
        """
        ...

    def wait(self, num_left: int = 0) -> None:
        """Return when at most the last `num_left` launched segments may not have completed.

        With 0 the work that `pre` and `post` have put on its streams has completed, too.

        Raises:
            DeviceError: of the segments that were waited for one failed; with `num_left` one less
                than are in flight it was the oldest.
        """
        ...

    def stream(self, *, is_urgent: bool) -> object | None:
        """The stream that pre and post callables enqueue on; None where there are no streams."""
        ...

    def close(self) -> None:
        """Release the device; its networks must be closed before."""
        ...


def check_array(name: str, array: object, *, dtype: str, shape: tuple[int, ...]) -> Array:
    """The array itself, if it is what the network expects.

    Raises:
        InputError: not a numpy array, or another dtype or shape, found against expected.
    """
    if not isinstance(array, np.ndarray):
        raise InputError(f"input {name!r}: found {type(array).__name__}, expected a numpy array")
    if array.dtype.name != dtype or array.shape != shape:
        raise InputError(
            f"input {name!r}: found {array.dtype.name} {list(array.shape)},"
            f" expected {dtype} {list(shape)}"
        )
    return array


def check_open(network: str, parts: Sequence[object]) -> None:
    """Return if the network still has the sessions or engines that closing it releases.

    Raises:
        InputError: it is closed.
    """
    if not parts:
        raise InputError(f"network {network!r} is closed; load it again")


def is_device_array(value: object) -> bool:
    """Whether it says that it lies in a GPU's memory.

    >>> is_device_array(np.zeros(1))
    False
    """
    return hasattr(value, "__cuda_array_interface__") or is_dlpack_on_cuda(value)


def is_dlpack_on_cuda(value: object) -> bool:
    """Whether it can be taken by DLPack, from CUDA memory."""
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        return False
    return int(value.__dlpack_device__()[0]) in _DLPACK_CUDA
