"""Kernels of our own, loaded by the driver from PTX: no compiler is needed on the device."""

import ctypes
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preempt_runtime.backends.cuda import Stream
from preempt_runtime.backends.cuda_driver import call, constant, new_struct
from preempt_runtime.backends.cuda_handle import Handle
from preempt_runtime.errors import DeviceError

Arg = tuple[int, type[Any]]


def pointer_arg(address: int) -> Arg:
    """A kernel's argument that is an address, or another 64-bit number."""
    return address, ctypes.c_uint64


def uint32_arg(value: int) -> Arg:
    """A kernel's argument that is a 32-bit number."""
    return value, ctypes.c_uint32


class Kernel:
    """One entry point of a module; usable until the module is closed."""

    def __init__(self, raw: Any, name: str) -> None:
        self.raw = raw
        self.name = name

    @property
    def num_registers(self) -> int:
        """How many registers a thread of it takes on this GPU."""
        return int(call("cuFuncGetAttribute", _function_attribute("NUM_REGS"), self.raw))

    @property
    def local_bytes(self) -> int:
        """How much memory a thread of it takes for what registers cannot hold."""
        return int(call("cuFuncGetAttribute", _function_attribute("LOCAL_SIZE_BYTES"), self.raw))

    def prefer_shared_memory(self) -> None:
        """Let the SMs that it runs on keep as much shared memory as they can.

        Otherwise a kernel beside it that needs much would have to wait for its end.
        """
        attribute = _function_attribute("PREFERRED_SHARED_MEMORY_CARVEOUT")
        call("cuFuncSetAttribute", self.raw, attribute, 100)

    def launch(
        self, stream: Stream, args: Sequence[Arg], *, grid: int = 1, block: int = 32
    ) -> None:
        """Enqueue it; the arguments are copied at once."""
        shape = (grid, 1, 1, block, 1, 1, 0)
        call("cuLaunchKernel", self.raw, *shape, stream._raw, _packed(args), 0)

    def node_params(self, args: Sequence[Arg], *, block: int = 32) -> Any:
        """The launch of one block as parameters of a graph's node, in the bindings' structure."""
        params = new_struct("CUDA_KERNEL_NODE_PARAMS")
        params.func = self.raw
        params.gridDimX, params.gridDimY, params.gridDimZ = 1, 1, 1
        params.blockDimX, params.blockDimY, params.blockDimZ = block, 1, 1
        params.sharedMemBytes = 0
        params.kernelParams = _packed(args)
        return params


class Module(Handle):
    """The kernels of one PTX file, compiled by the driver for the GPU that is here.

    Loading may synchronise the context: do it before any gate can wait.

    Raises:
        DeviceError: the file is missing, or the driver does not take it.
    """

    def __init__(self, path: Path, *, max_registers: int | None = None) -> None:
        try:
            text = path.read_bytes() + b"\0"
        except OSError as err:
            raise DeviceError(f"{path}: {err.strerror}; install preempt-runtime again") from err
        options = (
            [] if max_registers is None else [constant("CUjit_option", "CU_JIT_MAX_REGISTERS")]
        )
        values = [] if max_registers is None else [max_registers]
        try:
            raw = call("cuModuleLoadDataEx", text, len(options), options, values)
        except DeviceError as err:
            raise DeviceError(
                f"{path.name}: the driver refused it ({err}); it is made for CUDA 12.2"
                f"{_oldest_gpu(text)} or newer: update the driver"
            ) from err
        super().__init__(raw)
        self.name = path.name

    def kernel(self, name: str) -> Kernel:
        """The entry point of that name, loaded: its first launch is like every other.

        Raises:
            DeviceError: there is none.
        """
        try:
            return Kernel(call("cuModuleGetFunction", self._raw, name.encode()), name)
        except DeviceError as err:
            raise DeviceError(f"{self.name}: kernel {name!r}: {err}") from err

    def _destroy(self) -> None:
        call("cuModuleUnload", self._raw)


def _oldest_gpu(text: bytes) -> str:
    target = re.search(rb"^\.target sm_(\d+)(\d)", text, re.MULTILINE)
    if target is None:
        return ""
    return f" and GPUs of compute capability {int(target[1])}.{int(target[2])}"


def _function_attribute(name: str) -> Any:
    return constant("CUfunction_attribute", f"CU_FUNC_ATTRIBUTE_{name}")


def _packed(args: Sequence[Arg]) -> tuple[tuple[int, ...], tuple[type[Any], ...]]:
    return tuple(value for value, _ in args), tuple(kind for _, kind in args)
