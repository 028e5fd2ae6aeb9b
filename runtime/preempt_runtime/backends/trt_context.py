"""Execution contexts of engines that share one block of scratch memory."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from preempt_runtime.backends.cuda import DeviceMemory
from preempt_runtime.backends.trt_library import EngineLogger, library
from preempt_runtime.errors import DeviceError
from preempt_runtime.network_memory import scratch_block_bytes

_ALIGNMENT = 256


class Scratch:
    """One block of device memory for the intermediate tensors of all segments of a network.

    Its users must be ordered, by a stream or by events. `is_bound`: there are buffers in it, of
    which a job may run at any time.
    """

    def __init__(self, engines: Sequence[Any]) -> None:
        self.num_bytes = self.size_of(engines)
        self.is_bound = False
        self._memory = DeviceMemory(self.num_bytes)
        assert self._memory.pointer % _ALIGNMENT == 0

    @staticmethod
    def size_of(engines: Sequence[Any]) -> int:
        """Bytes of a block for these engines."""
        return scratch_block_bytes(max(map(scratch_bytes, engines), default=0))

    @property
    def pointer(self) -> int:
        """Its address on the device."""
        return self._memory.pointer

    def close(self) -> None:
        """Release it; no context that uses it may run any more."""
        self._memory.close()

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def scratch_bytes(engine: Any) -> int:
    """What one execution of the engine needs beside its tensors and weights."""
    if hasattr(engine, "device_memory_size_v2"):  # 10.3 and newer
        return int(engine.device_memory_size_v2)
    return int(engine.device_memory_size)


def weights_bytes(engine: Any) -> int | None:
    """The engine's weights; None before TensorRT 10.16, which does not tell."""
    if hasattr(engine, "get_engine_stat"):
        return int(engine.get_engine_stat(library().EngineStat.TOTAL_WEIGHTS_SIZE))
    return None


def new_context(engine: Any, scratch: Scratch) -> Any:
    """An execution context of the engine in that scratch block.

    Three ways to say so: TensorRT 8.6; 10.0; 10.3 and newer.

    Raises:
        DeviceError: TensorRT refused, most often for want of memory.
    """
    logger = EngineLogger()
    mark = logger.num_messages
    strategies = getattr(library(), "ExecutionContextAllocationStrategy", None)
    if strategies is None:
        context = engine.create_execution_context_without_device_memory()
    else:
        context = engine.create_execution_context(strategies.USER_MANAGED)
    if context is None:
        raise DeviceError(
            f"TensorRT made no execution context ({logger.error_since(mark)});"
            " run fewer or smaller networks"
        )
    place_context(context, scratch)
    return context


def place_context(context: Any, scratch: Scratch) -> None:
    """Let the context use that scratch block from its next execution on."""
    if hasattr(context, "set_device_memory"):
        context.set_device_memory(scratch.pointer, scratch.num_bytes)
    else:
        context.device_memory = scratch.pointer
