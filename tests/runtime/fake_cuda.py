"""A CUDA driver made of Python: device memory is host memory, streams run what they get at once.

It is put in the place of `cuda.bindings.driver`. Every handle is counted, so that a test can say
that nothing was left open; every function can be told to fail.
"""

import ctypes
import enum
import itertools
from collections.abc import Callable
from typing import Any

Work = tuple[str, Callable[[], None]]
OUT_OF_MEMORY = 2
INVALID_VALUE = 1
NO_DEVICE = 100
NOT_READY = 600
ILLEGAL_ADDRESS = 700
CAPTURE_INVALIDATED = 901
_NAMES = {
    INVALID_VALUE: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    OUT_OF_MEMORY: ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
    NO_DEVICE: ("CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"),
    ILLEGAL_ADDRESS: ("CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    CAPTURE_INVALIDATED: ("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "capture was invalidated"),
}


class CUdevice_attribute(enum.IntEnum):
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
    CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT = 17
    CU_DEVICE_ATTRIBUTE_INTEGRATED = 18
    CU_DEVICE_ATTRIBUTE_COMPUTE_MODE = 20
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
    CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED = 90


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class FakeDriver:
    """`log` is what ran or was asked for, in order; `open` what was made and not given back.

    `failures` maps a function to the code that it returns; `failures_at` only at its n-th call.
    """

    CUdevice_attribute = CUdevice_attribute
    CUstreamCaptureMode = CUstreamCaptureMode

    def __init__(self, memory_bytes: int = 1 << 20) -> None:
        self.log: list[str] = []
        self.open: dict[int, str] = {}
        self.failures: dict[str, int] = {}
        self.failures_at: dict[tuple[str, int], int] = {}
        self.num_calls: dict[str, int] = {}
        self.queries_until_done = 0
        self.current = 0
        self.memory_bytes = memory_bytes
        self.spoils_capture = False
        self.attributes = {16: 14, 17: 0, 18: 0, 20: 0, 75: 8, 76: 7, 90: 1}
        self._blocks: dict[int, Any] = {}
        self._mapped: set[int] = set()
        self._capturing: dict[int, list[Work]] = {}
        self._graphs: dict[int, list[Work]] = {}
        self._ids = itertools.count(1)
        self._streams: dict[int, str] = {}

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cu") or not callable(found) or name.startswith("cuGetError"):
            return found

        def checked(*args: Any) -> Any:
            self.num_calls[name] = number = self.num_calls.get(name, 0) + 1
            code = self.failures.get(name) or self.failures_at.get((name, number))
            if code:
                return (code,) if found.__annotations__["return"] == tuple[int] else (code, None)
            return found(*args)

        return checked

    # What libraries that share the device do

    def enqueue(self, stream: int, label: str, work: Callable[[], None]) -> None:
        if stream in self._capturing:
            self._capturing[stream].append((label, work))
            return
        self.log.append(f"{self._streams.get(stream, stream)}: {label}")
        work()

    def is_capturing(self) -> bool:
        return bool(self._capturing)

    def used_bytes(self) -> int:
        return sum(
            ctypes.sizeof(self._blocks[at])
            for at, kind in list(self.open.items())  # another thread may make something
            if kind == "memory"
        )

    # Errors, device, context

    def cuGetErrorName(self, code: int) -> tuple[int, bytes]:
        return 0, _NAMES.get(code, (f"CUDA_ERROR_{code}", ""))[0].encode()

    def cuGetErrorString(self, code: int) -> tuple[int, bytes]:
        return 0, _NAMES.get(code, ("", f"error {code}"))[1].encode()

    def cuInit(self, flags: int) -> tuple[int]:
        return (0,)

    def cuDriverGetVersion(self) -> tuple[int, int]:
        return 0, 12060

    def cuDeviceGet(self, ordinal: int) -> tuple[int, int]:
        return 0, ordinal

    def cuDeviceGetName(self, length: int, device: int) -> tuple[int, bytes]:
        return 0, b"Testium 9000".ljust(length, b"\0")

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        return 0, self.attributes[attribute]

    def cuDeviceGetPCIBusId(self, length: int, device: int) -> tuple[int, bytes]:
        return 0, b"0000:18:00.0".ljust(length, b"\0")

    def cuDeviceTotalMem(self, device: int) -> tuple[int, int]:
        return 0, self.memory_bytes

    def cuMemGetInfo(self) -> tuple[int, int, int]:
        return 0, self.memory_bytes - self.used_bytes(), self.memory_bytes

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int, int]:
        return 0, self._made("context")

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[int]:
        context = next(handle for handle, kind in self.open.items() if kind == "context")
        return self._gone(context, "context")

    def cuCtxSetCurrent(self, context: int) -> tuple[int]:
        self.current = context
        return (0,)

    def cuCtxGetCurrent(self) -> tuple[int, int]:
        return 0, self.current

    def cuCtxSynchronize(self) -> tuple[int]:
        return (0,)

    # Streams and events

    def cuCtxGetStreamPriorityRange(self) -> tuple[int, int, int]:
        return 0, 0, -5

    def cuStreamCreateWithPriority(self, flags: int, priority: int) -> tuple[int, int]:
        assert flags == 1, "every stream is non-blocking"
        stream = self._made("stream")
        self._streams[stream] = {0: "low", -5: "high"}[priority]
        return 0, stream

    def cuStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream not in self._capturing
        return (0,)

    def cuStreamDestroy(self, stream: int) -> tuple[int]:
        return self._gone(stream, "stream")

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[int]:
        self.enqueue(stream, "wait for event", lambda: None)
        return (0,)

    def cuEventCreate(self, flags: int) -> tuple[int, int]:
        return 0, self._made("event")

    def cuEventRecord(self, event: int, stream: int) -> tuple[int]:
        self.enqueue(stream, "event", lambda: None)
        return (0,)

    def cuEventQuery(self, event: int) -> tuple[int]:
        self.queries_until_done -= 1
        return (NOT_READY if self.queries_until_done >= 0 else 0,)

    def cuEventSynchronize(self, event: int) -> tuple[int]:
        self.log.append("synchronize event")
        return (0,)

    def cuEventElapsedTime(self, start: int, end: int) -> tuple[int, float]:
        return 0, 1.5

    def cuEventDestroy(self, event: int) -> tuple[int]:
        return self._gone(event, "event")

    # Memory

    def cuMemAlloc(self, num_bytes: int) -> tuple[int, int | None]:
        if num_bytes + self.used_bytes() > self.memory_bytes:
            return OUT_OF_MEMORY, None
        return 0, self._block(num_bytes, "memory")

    def cuMemFree(self, pointer: int) -> tuple[int]:
        return self._gone(pointer, "memory")

    def cuMemHostAlloc(self, num_bytes: int, flags: int) -> tuple[int, int]:
        pointer = self._block(num_bytes, "pinned memory")
        if flags & 2:  # CU_MEMHOSTALLOC_DEVICEMAP
            self._mapped.add(pointer)
        return 0, pointer

    def cuMemHostGetDevicePointer(self, pointer: int, flags: int) -> tuple[int, int | None]:
        if pointer not in self._mapped or flags != 0:
            return INVALID_VALUE, None
        return 0, pointer

    def cuMemFreeHost(self, pointer: int) -> tuple[int]:
        return self._gone(pointer, "pinned memory")

    def cuMemsetD8(self, pointer: int, byte: int, num_bytes: int) -> tuple[int]:
        ctypes.memset(pointer, byte, num_bytes)
        return (0,)

    def cuMemcpyAsync(self, dst: int, src: int, num_bytes: int, stream: int) -> tuple[int]:
        self.enqueue(stream, f"copy {num_bytes}", lambda: _copy(dst, src, num_bytes))
        return (0,)

    # Graphs

    def cuStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        assert mode == CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        assert isinstance(mode, CUstreamCaptureMode)
        self._capturing[stream] = []
        return (0,)

    def cuStreamEndCapture(self, stream: int) -> tuple[int, int | None]:
        works = self._capturing.pop(stream)
        if self.spoils_capture:
            return CAPTURE_INVALIDATED, None
        graph = self._made("graph")
        self._graphs[graph] = works
        return 0, graph

    def cuGraphGetNodes(self, graph: int) -> tuple[int, list[int], int]:
        return 0, [], len(self._graphs[graph])

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        executable = self._made("graph exec")
        self._graphs[executable] = self._graphs[graph]
        return 0, executable

    def cuGraphDestroy(self, graph: int) -> tuple[int]:
        return self._gone(graph, "graph")

    def cuGraphExecDestroy(self, executable: int) -> tuple[int]:
        return self._gone(executable, "graph exec")

    def cuGraphUpload(self, executable: int, stream: int) -> tuple[int]:
        return (0,)

    def cuGraphLaunch(self, executable: int, stream: int) -> tuple[int]:
        assert self.open[executable] == "graph exec"
        for label, work in self._graphs[executable]:
            self.enqueue(stream, label, work)
        return (0,)

    def _made(self, kind: str) -> int:
        handle = next(self._ids)
        self.open[handle] = kind
        return handle

    def _block(self, num_bytes: int, kind: str) -> int:
        raw = ctypes.create_string_buffer(b"\xaa" * (num_bytes + 256), num_bytes + 256)
        pointer = -(-ctypes.addressof(raw) // 256) * 256
        block = (ctypes.c_char * num_bytes).from_buffer(raw, pointer - ctypes.addressof(raw))
        self._blocks[pointer] = block
        self.open[pointer] = kind
        return pointer

    def _gone(self, handle: int, kind: str) -> tuple[int]:
        assert self.open.pop(handle) == kind, f"{kind} {handle} given back twice, or never made"
        return (0,)


def _copy(dst: int, src: int, num_bytes: int) -> None:
    ctypes.memmove(dst, src, num_bytes)
