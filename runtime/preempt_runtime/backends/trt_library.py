"""The edge to TensorRT: the library, what it is here, its log, and engines from bytes."""

import functools
import logging
import re
from collections import deque
from typing import Any

from preempt_runtime.backends.cuda_driver import driver_version, gpu_properties
from preempt_runtime.errors import DeviceError

_log = logging.getLogger("preempt_runtime.backends.tensorrt")
_OLDEST = (8, 6)
_KEPT_MESSAGES = 200
_LEVELS = {
    "INTERNAL_ERROR": logging.INFO,  # whoever called raises it, with what to do
    "ERROR": logging.INFO,
    "WARNING": logging.INFO,  # of weights that round, of types it casts: nothing to act upon
    "INFO": logging.DEBUG,
}
_NO_MEMORY = re.compile(r"out ?of ?memory|could not be allocated", re.IGNORECASE)
_NO_REASON = "it gave no reason"
_BUILD_AGAIN = "build the bundle again on this machine: preemptc build"
_FREE_MEMORY = "run fewer or smaller networks, or free what other processes hold"
_INSTALL = (
    "on a Jetson `sudo apt install python3-libnvinfer` and make the virtual environment with"
    " --system-site-packages; elsewhere `pip install tensorrt`"
)


def library() -> Any:
    """The tensorrt module.

    Raises:
        DeviceError: missing, broken, or too old, and how to install it.
    """
    try:
        import tensorrt as trt
    except (ImportError, OSError, RuntimeError) as err:  # its parts are loaded when imported
        text = " ".join(str(err).split())
        raise DeviceError(f"TensorRT cannot be imported ({text}); {_INSTALL}") from err
    version = str(getattr(trt, "__version__", ""))
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None or not hasattr(trt, "Runtime"):
        raise DeviceError(f"TensorRT is broken, it has no version or no Runtime; {_INSTALL}")
    if (int(match[1]), int(match[2])) < _OLDEST:
        raise DeviceError(
            f"TensorRT is {version}, at least {_OLDEST[0]}.{_OLDEST[1]} is needed;"
            f" install JetPack 6.0 or newer on a Jetson; elsewhere `pip install -U tensorrt`"
        )
    return trt


def library_version() -> str:
    """Version of TensorRT.

    Raises:
        DeviceError: missing, broken, or too old.
    """
    return str(library().__version__)


@functools.cache
def local_fields() -> dict[str, str | int]:
    """What a TensorRT plan's key must match on this machine, field by field.

    Raises:
        DeviceError: no TensorRT, no driver or no GPU, and what to do.
    """
    version = library_version()
    gpu = gpu_properties()
    return {
        "backend": "tensorrt",
        "tensorrt": version,
        "cuda_driver": driver_version(),
        "gpu": gpu.name,
        "num_sms": gpu.num_sms,
        "compute_capability": gpu.compute_capability,
    }


def EngineLogger() -> Any:
    """The logger of this process: an `ILogger` with `newest`, `last_error` and `messages_since`.

    Its class can be made only when TensorRT is there, hence a function. TensorRT keeps the first
    logger it is given and warns of any other, so there is one.
    """
    return _logger_of(library())


@functools.cache
def _logger_of(trt: Any) -> Any:
    verbose = trt.ILogger.VERBOSE

    class _EngineLogger(trt.ILogger):  # type: ignore[misc]
        """Passes on what TensorRT says, and keeps the newest of it for error messages."""

        def __init__(self) -> None:
            super().__init__()
            self.num_messages = 0
            self.newest = ""
            self._kept: deque[tuple[int, str, str]] = deque(maxlen=_KEPT_MESSAGES)

        def log(self, severity: Any, message: str) -> None:
            """Take a message; TensorRT calls this, from any thread."""
            self.newest = message
            if severity == verbose:  # hundreds of thousands while an engine is built
                _log.debug("TensorRT: %s", message)
                return
            level = severity.name
            self.num_messages += 1
            self._kept.append((self.num_messages, level, " ".join(message.split())))
            _log.log(_LEVELS.get(level, logging.WARNING), "TensorRT: %s", message)

        @property
        def last_error(self) -> str:
            """The newest error, or that there was none."""
            return self.error_since(0)

        def messages_since(self, num_messages: int) -> tuple[str, ...]:
            """What was said since `num_messages` had this value, as far as it was kept."""
            return tuple(text for idx, _, text in tuple(self._kept) if idx > num_messages)

        def errors_since(self, num_messages: int) -> tuple[str, ...]:
            """The errors since `num_messages` had this value, as far as they were kept."""
            return tuple(
                text
                for idx, level, text in tuple(self._kept)
                if idx > num_messages and level.endswith("ERROR")
            )

        def error_since(self, num_messages: int) -> str:
            """The newest error since `num_messages` had this value."""
            return (self.errors_since(num_messages) or (_NO_REASON,))[-1]

        def cause_since(self, num_messages: int) -> str:
            """The first error since then, which tells why, and the newest, which tells of what."""
            errors = self.errors_since(num_messages) or (_NO_REASON,)
            return "; ".join(dict.fromkeys((errors[0], errors[-1])))

        def lacked_memory_since(self, num_messages: int) -> bool:
            """Whether it said so since `num_messages` had this value."""
            return any(map(_NO_MEMORY.search, self.messages_since(num_messages)))

    return _EngineLogger()


@functools.cache
def _runtime_of(trt: Any) -> Any:
    return trt.Runtime(_logger_of(trt))


def deserialize(blob: bytes, name: str) -> Any:
    """The engine in `blob`, whose hash, key and TensorRT version the caller has checked.

    An engine is code: bytes of unknown origin must not come here.

    Args:
        blob: the serialised engine.
        name: what messages call it.

    Raises:
        DeviceError: TensorRT refused it, with its own text, or it cannot keep a priority.
    """
    trt = library()
    logger = EngineLogger()
    mark = logger.num_messages
    try:
        engine = _runtime_of(trt).deserialize_cuda_engine(blob)
    except Exception as err:  # pybind11 makes TypeError or RuntimeError of what fails in C++
        text = f"{' '.join(str(err).split())}; {logger.cause_since(mark)}"
        raise _refused(name, text, logger, mark) from err
    if engine is None:
        raise _refused(name, logger.cause_since(mark), logger, mark)
    if num_aux_streams := int(getattr(engine, "num_aux_streams", 0)):
        raise DeviceError(
            f"{name}: the engine uses {num_aux_streams} auxiliary streams, which do not keep a"
            " job's priority, allowed 0; build the bundle again: preemptc build"
        )
    return engine


def _refused(name: str, text: str, logger: Any, mark: int) -> DeviceError:
    advice = _FREE_MEMORY if logger.lacked_memory_since(mark) else _BUILD_AGAIN
    return DeviceError(f"{name}: TensorRT refused it ({text}); {advice}")
