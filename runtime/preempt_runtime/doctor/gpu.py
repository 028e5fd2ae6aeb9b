"""The GPU of TensorRT bundles: which it is, and the list of what is looked at on it."""

import importlib
import re
from collections.abc import Callable

from preempt_runtime.doctor.findings import Finding, Level, Subject, cannot_tell
from preempt_runtime.doctor.gpu_clocks import check_clocks, check_profiles, check_throttling
from preempt_runtime.doctor.gpu_memory import check_health, check_memory
from preempt_runtime.doctor.gpu_process import check_environment, check_permissions, check_queues
from preempt_runtime.doctor.gpu_sharing import check_display, check_partition, check_processes
from preempt_runtime.gpu_view import GpuProbe, GpuView
from preempt_runtime.system_view import SystemView
from preempt_runtime.units import fmt_bytes
from preempt_runtime.unknown import Unknown

GpuCheck = Callable[[Subject, GpuProbe, GpuView], list[Finding]]
_SIGNS = (
    *("dev/nvidiactl", "dev/nvhost-gpu", "dev/nvhost-ctrl-gpu", "dev/nvgpu"),
    "proc/driver/nvidia/version",
)
_NEWEST_TENSORRT = 11
_BINDINGS = "pip install 'cuda-bindings=={major}.*'"


def check_gpu(subject: Subject) -> list[Finding]:
    """What is looked at on the GPU, where there is one or a bundle needs one."""
    is_needed = bool(subject.named_plans("tensorrt"))
    is_here = any((subject.view.root / sign).exists() for sign in _SIGNS)
    if not (is_needed or (is_here and not subject.plans)):
        return []
    probe = subject.gpu or _local_gpu(subject.view)
    gpu = probe.view()
    checks = ALWAYS if isinstance(gpu.properties, Unknown) else (*ALWAYS, *WITH_GPU)
    return [finding for check in checks for finding in check(subject, probe, gpu)]


def _local_gpu(view: SystemView) -> GpuProbe:
    module = importlib.import_module("preempt_runtime.backends.gpu_probe")
    probe: GpuProbe = module.LocalGpu(view.root)
    return probe


def check_properties(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Which GPU it is."""
    found = gpu.properties
    if isinstance(found, Unknown):
        level: Level = "fail" if subject.named_plans("tensorrt") else "warn"
        return [Finding(level=level, what="GPU", found=found.reason)]
    kind = "shared with the CPU" if found.is_integrated else "of its own"
    text = (
        f"{found.name}, {found.num_sms} SMs, compute capability {found.compute_capability},"
        f" {fmt_bytes(found.total_bytes)} of memory {kind}"
    )
    return [Finding(level="ok", what="GPU", found=text)]


def check_driver(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """The driver, and bindings that are not made for a newer one."""
    if isinstance(gpu.cuda_version, Unknown):
        return [cannot_tell("GPU driver", gpu.cuda_version)]
    major, minor = gpu.cuda_version // 1000, gpu.cuda_version % 1000 // 10
    driver = "version unknown" if isinstance(gpu.driver, Unknown) else gpu.driver
    found = f"{driver}, CUDA {major}.{minor}"
    if isinstance(gpu.bindings, Unknown):
        found = f"{found}, cuda-bindings of unknown version"
        return [Finding(level="ok", what="GPU driver", found=found)]
    found = f"{found}, cuda-bindings {gpu.bindings}"
    if _major(gpu.bindings) <= major:
        return [Finding(level="ok", what="GPU driver", found=found)]
    return [
        Finding(
            level="warn",
            what="GPU driver",
            found=f"{found}, at most {major}.* is the driver's",
            advice=f"calls may be missing; {_BINDINGS.format(major=major)}",
        )
    ]


def check_tensorrt(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """TensorRT in the range that the runtime is made for."""
    if isinstance(gpu.tensorrt, Unknown):
        level: Level = "fail" if subject.named_plans("tensorrt") else "warn"
        return [Finding(level=level, what="TensorRT", found=gpu.tensorrt.reason)]
    found = f"{gpu.tensorrt}, made for 8.6 to {_NEWEST_TENSORRT}.*"
    if _major(gpu.tensorrt) <= _NEWEST_TENSORRT:
        return [Finding(level="ok", what="TensorRT", found=found)]
    advice = "newer than this runtime was tested with; install a newer preempt-runtime"
    return [Finding(level="warn", what="TensorRT", found=found, advice=advice)]


def _major(version: str) -> int:
    match = re.match(r"\d+", version)
    return int(match[0]) if match else 0


# NEW GPU CHECK: a function like these, in the place where it should be shown.
ALWAYS: tuple[GpuCheck, ...] = (
    check_properties,
    check_driver,
    check_tensorrt,
    check_permissions,
    check_environment,
)
WITH_GPU: tuple[GpuCheck, ...] = (
    check_processes,
    check_partition,
    check_display,
    check_clocks,
    check_throttling,
    check_profiles,
    check_queues,
    check_health,
    check_memory,
)
