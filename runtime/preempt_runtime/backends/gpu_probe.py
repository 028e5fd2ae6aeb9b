"""Finds out about the GPU by asking CUDA, NVML and TensorRT: each may be missing, none must be."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from preempt_runtime.backends.cuda import DeviceMemory, Stream, copy_async, open_cuda
from preempt_runtime.backends.cuda_driver import (
    attribute,
    call,
    driver_version,
    gpu_properties,
    pci_bus_id,
)
from preempt_runtime.backends.gpu_clocks import clocks_now
from preempt_runtime.backends.nvml import Nvml, open_nvml, whole_number
from preempt_runtime.backends.trt_context import scratch_bytes
from preempt_runtime.backends.trt_library import deserialize, library_version
from preempt_runtime.bundle import Bundle
from preempt_runtime.errors import BundleError, DeviceError
from preempt_runtime.gpu_view import GpuClocks, GpuProcess, GpuView, MemoryHealth
from preempt_runtime.manifest import PlanSpec
from preempt_runtime.system_view import text_below
from preempt_runtime.unknown import Unknown

_BUSY_S = 0.5  # a Jetson's governor looks every 100 ms or so, and climbs in steps
_COPY_BYTES = 32 << 20
_COPIES_AHEAD = 8
_T = TypeVar("_T")


class LocalGpu:
    """Device 0 of this machine, and the files of its driver below `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def view(self) -> GpuView:
        """Everything that can be told; NVML is asked first, before this process is one of those.

        Keeps the GPU busy for half a second, to see its clocks under load.
        """
        address = _try(pci_bus_id)
        with open_nvml(address) as nvml:
            processes, mps = processes_now(nvml)
            unseen = _unseen_bytes(nvml, processes, mps)
            idle = clocks_now(nvml, self._root)
            priorities, free_bytes, busy = _in_context(lambda: clocks_now(nvml, self._root))
            return GpuView(
                properties=_try(gpu_properties),
                pci_bus_id=address,
                driver=self._driver(nvml),
                cuda_version=_try(driver_version),
                bindings=_version_of("cuda-bindings"),
                tensorrt=_try(library_version),
                compute_mode=_attribute("COMPUTE_MODE"),
                can_preempt_compute=_truth(_attribute("COMPUTE_PREEMPTION_SUPPORTED")),
                has_kernel_timeout=_truth(_attribute("KERNEL_EXEC_TIMEOUT")),
                is_display_active=_truth(_ask(nvml, "DisplayActive")),
                is_mig=_truth(_ask(nvml, "MigMode", 0)),
                health=_health(nvml),
                processes=processes,
                mps_processes=mps,
                unseen_bytes=unseen,
                stream_priorities=priorities,
                free_bytes=free_bytes,
                idle=idle,
                busy=busy,
            )

    def scratch_bytes(self, bundle: Bundle, plan: PlanSpec) -> int | Unknown:
        """The largest scratch memory of the plan's engines, one of which is loaded at a time."""
        try:
            with open_cuda():
                return max(
                    scratch_bytes(deserialize(bundle.read_bytes(segment.path), segment.path))
                    for segment in plan.segments
                )
        except (BundleError, DeviceError) as err:
            return Unknown(str(err))

    def _driver(self, nvml: Nvml | Unknown) -> str | Unknown:
        found = nvml if isinstance(nvml, Unknown) else nvml.driver()
        if not isinstance(found, Unknown):
            return found
        for path in ("proc/driver/nvidia/version", "etc/nv_tegra_release"):
            if text := text_below(self._root, path):
                return " ".join(text.splitlines()[0].split())
        return found


def processes_now(
    nvml: Nvml | Unknown,
) -> tuple[tuple[GpuProcess, ...] | Unknown, tuple[GpuProcess, ...] | Unknown]:
    """Processes with a context of their own, and those that share one through MPS."""
    compute = _processes(nvml, "Compute", "compute")
    graphics = _processes(nvml, "Graphics", "graphics")
    mps = _processes(nvml, "MPSCompute", "MPS")
    if isinstance(compute, Unknown):
        return compute, mps
    if isinstance(graphics, Unknown):
        return compute, mps
    known = {process.pid for process in compute}
    return compute + tuple(found for found in graphics if found.pid not in known), mps


def _processes(nvml: Nvml | Unknown, kind: str, text: str) -> tuple[GpuProcess, ...] | Unknown:
    if isinstance(nvml, Unknown):
        return nvml
    names = [f"{kind}RunningProcesses{suffix}" for suffix in ("", "_v2")]
    found = nvml.ask(*names)
    if isinstance(found, Unknown):
        return found
    processes = []
    for process in found if isinstance(found, list | tuple) else (found,):
        pid = whole_number(getattr(process, "pid", None), f"{names[0]}, pid")
        if isinstance(pid, Unknown):
            return pid
        used = whole_number(getattr(process, "usedGpuMemory", None), "usedGpuMemory")
        num_bytes = None if isinstance(used, Unknown) else used
        processes.append(GpuProcess(pid=pid, kind=text, num_bytes=num_bytes))
    return tuple(processes)


def _unseen_bytes(
    nvml: Nvml | Unknown,
    processes: tuple[GpuProcess, ...] | Unknown,
    mps: tuple[GpuProcess, ...] | Unknown,
) -> int | Unknown:
    """Memory in use where no process is seen: a container does not show those outside."""
    if isinstance(nvml, Unknown):
        return nvml
    if isinstance(processes, Unknown):
        return processes
    if processes or (mps and not isinstance(mps, Unknown)):
        return 0
    return nvml.used_bytes()


def _in_context(
    clocks: Callable[[], GpuClocks],
) -> tuple[tuple[int, int] | Unknown, int | Unknown, GpuClocks | Unknown]:
    """The range of stream priorities, free memory, and the clocks while the GPU is busy."""
    try:
        with open_cuda() as context:
            lowest, highest = call("cuCtxGetStreamPriorityRange")
            free_bytes = context.free_bytes()
            try:
                busy: GpuClocks | Unknown = _clocks_under_load(clocks)
            except DeviceError as err:
                busy = Unknown(str(err))
            return (int(lowest), int(highest)), free_bytes, busy
    except DeviceError as err:
        unknown = Unknown(str(err))
        return unknown, unknown, unknown


def _clocks_under_load(clocks: Callable[[], GpuClocks]) -> GpuClocks:
    with ExitStack() as stack:
        memory = [stack.enter_context(DeviceMemory(_COPY_BYTES)) for _ in range(2)]
        stream = stack.enter_context(Stream(priority="low"))

        def work() -> None:
            for _ in range(_COPIES_AHEAD):
                copy_async(memory[0].pointer, memory[1].pointer, _COPY_BYTES, stream)

        num_rounds = 0
        until_s = time.monotonic() + _BUSY_S
        while time.monotonic() < until_s:
            work()
            stream.synchronize()
            num_rounds += 1
        for _ in range(1 + num_rounds // 20):  # enough to last while the clocks are read
            work()
        found = clocks()
        stream.synchronize()
        return found


def _health(nvml: Nvml | Unknown) -> MemoryHealth:
    pending = _ask(nvml, "RemappedRows", 2)
    if isinstance(pending, Unknown):  # before Ampere pages are retired, not rows remapped
        pending = _ask(nvml, "RetiredPagesPendingStatus")
    return MemoryHealth(
        ecc=_truth(_ask(nvml, "EccMode", 0)),
        pending_ecc=_truth(_ask(nvml, "EccMode", 1)),
        is_remap_pending=_truth(pending),
        has_remap_failed=_truth(_ask(nvml, "RemappedRows", 3)),
    )


def _ask(nvml: Nvml | Unknown, function: str, item: int | None = None) -> Any:
    found: Any = nvml if isinstance(nvml, Unknown) else nvml.ask(function)
    if item is None or isinstance(found, Unknown):
        return found
    try:
        return found[item]
    except (TypeError, LookupError):
        return Unknown(f"nvmlDeviceGet{function}: {type(found).__name__} without a value {item}")


def _truth(value: Any) -> bool | Unknown:
    return value if isinstance(value, Unknown) else bool(value)


def _attribute(name: str) -> int | Unknown:
    return _try(lambda: attribute(name, call("cuDeviceGet", 0)))


def _try(ask: Callable[[], _T]) -> _T | Unknown:
    try:
        return ask()
    except DeviceError as err:
        return Unknown(str(err))


def _version_of(wheel: str) -> str | Unknown:
    try:
        return metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return Unknown(f"{wheel} is not installed")
