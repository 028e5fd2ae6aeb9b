"""Arrays in device memory, taken from other libraries and given to them without a copy."""

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from preempt_runtime.backends.cuda_driver import call
from preempt_runtime.buffer_pool import Lease
from preempt_runtime.device import is_dlpack_on_cuda
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.manifest import ITEM_BYTES
from preempt_runtime.strict_json import brief

_DLPACK_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}
_DLPACK_BRAIN = 4
_DLPACK_CUDA = 2
_LEGACY_STREAM = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceArray:
    """A dense array in device memory that `owner` keeps alive.

    `stream` is the handle of the stream that writes it; None: it is written already. Others take it
    by `__cuda_array_interface__` or DLPack, without a copy. Of an owner that can be released, it
    cannot be taken afterwards.
    """

    pointer: int
    dtype: str
    shape: tuple[int, ...]
    stream: int | None = None
    owner: object = None

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The protocol of CuPy, Numba, PyTorch and pycuda, version 3."""
        self._check_held()
        is_brain = self.dtype == "bfloat16"  # for which the protocol has no name
        return {
            "shape": self.shape,
            "typestr": "<V2" if is_brain else np.dtype(self.dtype).str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.stream,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Device 0 of CUDA."""
        return _DLPACK_CUDA, 0

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule that keeps this array; what writes it has ended, so any stream may read it.

        Raises:
            BufferError: it is asked for on another device, or as a copy.
        """
        self._check_held()
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("it is given as it is, on CUDA device 0; copy it from there")
        if self.stream is not None:
            call("cuStreamSynchronize", self.stream)
        # numpy makes the capsule and frees it; it never looks at the memory.
        block: Any = (ctypes.c_uint8 * max(1, self.num_bytes)).from_address(self.pointer)
        block.owner = self
        is_brain = self.dtype == "bfloat16"
        flat = np.ctypeslib.as_array(block)[: self.num_bytes]
        capsule = flat.view("u2" if is_brain else self.dtype).reshape(self.shape).__dlpack__()
        tensor = _tensor_of(capsule)
        tensor.device_type, tensor.device_id = self.__dlpack_device__()
        if is_brain:
            tensor.code = _DLPACK_BRAIN
        return capsule

    def _check_held(self) -> None:
        if isinstance(self.owner, Lease) and self.owner.is_released:
            raise DeviceError("these outputs were released, another job may be in their memory")


def checked_device_array(
    name: str, value: object, *, dtype: str, shape: tuple[int, ...]
) -> DeviceArray:
    """The array by its protocol, if it is what the network expects.

    DLPack goes first where there are both: with it the owner says what it still has to wait for.

    Raises:
        InputError: another dtype or shape, or not dense.
    """
    if isinstance(value, DeviceArray):
        found = _from_interface(name, value)
    elif is_dlpack_on_cuda(value):
        found = _from_dlpack(name, value)
    else:
        found = _from_interface(name, value)
    if found.dtype != dtype or found.shape != shape:
        raise InputError(
            f"input {name!r}: found {found.dtype} {list(found.shape)} in device memory,"
            f" the device holds {dtype} {list(shape)}; convert it first"
        )
    if not found.pointer and found.num_bytes:
        raise InputError(f"input {name!r}: its address in device memory is 0; was it freed?")
    return found


def _from_interface(name: str, value: Any) -> DeviceArray:
    interface = value.__cuda_array_interface__
    typestr, shape = str(interface["typestr"]), tuple(map(int, interface["shape"]))
    try:
        dtype = "bfloat16" if typestr[1:] == "V2" else np.dtype(typestr).name
    except TypeError as err:
        raise InputError(f"input {name!r}: unknown type {brief(typestr)}; convert it") from err
    item_bytes = ITEM_BYTES.get(dtype, 0)
    strides = interface.get("strides")
    if strides is not None:
        _check_dense(name, shape, tuple(int(stride) for stride in strides), item_bytes)
    return DeviceArray(
        pointer=int(interface["data"][0] or 0),
        dtype=dtype,
        shape=shape,
        stream=interface.get("stream"),
        owner=value,
    )


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(name: str, value: Any) -> DeviceArray:
    # A capsule that is not consumed frees its tensor when it goes, so it is kept as the owner.
    capsule = value.__dlpack__(stream=_LEGACY_STREAM)
    tensor = _tensor_of(capsule)
    kind = _DLPACK_KINDS.get(tensor.code, f"kind{tensor.code}_")
    dtype = "bool" if kind == "bool" else f"{kind}{tensor.bits}"
    shape = tuple(tensor.shape[axis] for axis in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[axis] for axis in range(tensor.ndim))
        _check_dense(name, shape, strides, 1)
    return DeviceArray(
        pointer=(tensor.data or 0) + tensor.byte_offset,
        dtype=dtype if tensor.lanes == 1 else f"{dtype}x{tensor.lanes}",
        shape=shape,
        stream=_LEGACY_STREAM,
        owner=(value, capsule),
    )


def _tensor_of(capsule: object) -> _DLTensor:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    return _DLTensor.from_address(get_pointer(capsule, b"dltensor"))


def _check_dense(
    name: str, shape: tuple[int, ...], strides: tuple[int, ...], item_size: int
) -> None:
    expected = item_size
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != expected:
            raise InputError(
                f"input {name!r}: strides {list(strides)} of shape {list(shape)} are not those of"
                " a dense row-major array; copy it into one first"
            )
        expected *= length
