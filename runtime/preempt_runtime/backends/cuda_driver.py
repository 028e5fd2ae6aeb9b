"""The edge to the CUDA driver: every call is checked, and the driver's text becomes ours."""

import ctypes
import os
from dataclasses import dataclass
from typing import Any

from preempt_runtime.errors import DeviceError

try:
    from cuda.bindings import driver
except ImportError:  # the module can be imported, and its absence reported, without the library
    driver = None

_INSTALL = (
    "cuda-bindings is missing or broken; install the one of your driver's CUDA version:"
    " `pip install 'cuda-bindings>=12.9.1,<13'` for CUDA 12 (JetPack 6),"
    " `pip install 'cuda-bindings>=13'` for CUDA 13"
)
_CHECK_GPU = (
    "see whether `nvidia-smi` shows a GPU; install NVIDIA's driver or, in a container,"
    " start it with access to the GPU"
)


def call(function: str, *args: object) -> Any:
    """What a driver function returns beside its code: nothing, one value or a tuple.

    Raises:
        DeviceError: the driver refused, lacks the function, or is not there.
    """
    code, *values = raw_call(function, *args)
    if int(code) != 0:
        raise DeviceError(f"{function} failed: {error_text(code)}")
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def raw_call(function: str, *args: object) -> Any:
    """Code and values, unchecked, for codes that are an answer.

    Raises:
        DeviceError: the driver lacks the function, or is not there.
    """
    if driver is None:
        raise DeviceError(_INSTALL)
    try:
        return getattr(driver, function)(*args)
    except (AttributeError, RuntimeError) as err:  # the bindings look a function up when called
        text = " ".join(str(err).split()) or type(err).__name__
        raise DeviceError(f"{function}: the CUDA driver cannot be called ({text})") from err


def error_text(code: object) -> str:
    """The driver's name and description of a code."""
    texts = []
    for function in ("cuGetErrorName", "cuGetErrorString"):
        result, text = raw_call(function, code)
        texts.append(text.decode(errors="replace") if int(result) == 0 else str(code))
    return f"{texts[0]} ({texts[1]})"


def capture_mode(name: str) -> Any:
    """The driver's constant for how strictly other threads are kept from a capture."""
    return getattr(driver.CUstreamCaptureMode, f"CU_STREAM_CAPTURE_MODE_{name}")


def constant(enumeration: str, name: str) -> Any:
    """A member of one of the bindings' enumerations, by both names."""
    return getattr(getattr(driver, enumeration), name)


def new_struct(name: str) -> Any:
    """An empty structure of the bindings, to be filled and handed to a function."""
    return getattr(driver, name)()


def library() -> Any:
    """The driver's library, for the few calls that the bindings get wrong.

    Raises:
        DeviceError: it is not there.
    """
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as err:
        raise DeviceError(f"no CUDA driver: {err}; {_advice()}") from err


def has_binding(function: str) -> bool:
    """Whether the bindings know the function; the driver may lack it all the same."""
    return hasattr(driver, function)


def initialise() -> None:
    """Start the driver in this process; without effect the second time.

    Streams share hardware queues, 8 by default, and one that waits holds up those behind it.

    Raises:
        DeviceError: no bindings, no driver or no GPU, and what to do.
    """
    if driver is None:
        raise DeviceError(_INSTALL)
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    try:
        call("cuInit", 0)
    except DeviceError as err:
        raise DeviceError(f"no usable NVIDIA GPU: {err}; {_advice()}") from err


def _advice() -> str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is None:
        return _CHECK_GPU
    return f"CUDA_VISIBLE_DEVICES is {hidden!r}, which may hide it: unset it; or {_CHECK_GPU}"


def driver_version() -> int:
    """The newest CUDA version that the driver knows: 13000 is 13.0.

    Raises:
        DeviceError: no bindings or no driver.
    """
    initialise()
    return int(call("cuDriverGetVersion"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProperties:
    """What a GPU is; asking makes no context, so it takes no device memory."""

    name: str
    num_sms: int
    compute_capability: str
    total_bytes: int
    is_integrated: bool


def gpu_properties() -> GpuProperties:
    """Properties of device 0.

    Raises:
        DeviceError: no bindings, no driver or no GPU.
    """
    initialise()
    device = call("cuDeviceGet", 0)
    name = call("cuDeviceGetName", 256, device)
    major = attribute("COMPUTE_CAPABILITY_MAJOR", device)
    minor = attribute("COMPUTE_CAPABILITY_MINOR", device)
    return GpuProperties(
        name=name.split(b"\0")[0].decode(errors="replace").strip(),
        num_sms=attribute("MULTIPROCESSOR_COUNT", device),
        compute_capability=f"{major}.{minor}",
        total_bytes=int(call("cuDeviceTotalMem", device)),
        is_integrated=bool(attribute("INTEGRATED", device)),
    )


def attribute(name: str, device: object) -> int:
    """A number that the driver keeps of a device, by its name in `CUdevice_attribute`.

    Raises:
        DeviceError: the driver refused, or is not there.
    """
    kind = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
    return int(call("cuDeviceGetAttribute", kind, device))


def pci_bus_id() -> str:
    """The address of device 0, by which other libraries know it: `0000:18:00.0`.

    Raises:
        DeviceError: no bindings, no driver or no GPU.
    """
    initialise()
    found = call("cuDeviceGetPCIBusId", 32, call("cuDeviceGet", 0))
    return str(found.split(b"\0")[0].decode(errors="replace"))
