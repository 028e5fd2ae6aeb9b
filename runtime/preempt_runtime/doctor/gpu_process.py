"""What this process brings along: variables, tools that intervene, queues, rights to the device."""

import os

from preempt_runtime.doctor.findings import Finding, Subject, cannot_tell
from preempt_runtime.gpu_view import GpuProbe, GpuView
from preempt_runtime.system_view import SystemView, whole_number
from preempt_runtime.unknown import Unknown

_NUM_STREAMS = 2  # the runtime's own: real time and best effort
_QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS"
_TOOLS = (
    *("CUDA_INJECTION32_PATH", "CUDA_INJECTION64_PATH", "NVTX_INJECTION64_PATH"),
    *("NSYS_PROFILING_SESSION_ID", "QUADD_INJECTION_PROXY", "CUDBG_APICLIENT_PID"),
)
_PRELOADED_TOOLS = ("nsys", "libToolsInjection", "sanitizer", "ncu", "libcudadebugger")
_MODES = {"LAZY", "EAGER"}
_DEVICE_FILES = (
    *("dev/nvidiactl", "dev/nvidia0", "dev/nvidia-uvm"),
    *("dev/nvmap", "dev/nvhost-ctrl-gpu", "dev/nvhost-gpu"),
)


def check_environment(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Variables of CUDA's, and debuggers or profilers that stand between it and the GPU."""
    environment = subject.view.environment
    blocking = environment.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0")
    loading = environment.get("CUDA_MODULE_LOADING", "")
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    texts = [
        f"CUDA_LAUNCH_BLOCKING={environment['CUDA_LAUNCH_BLOCKING']}" if blocking else "",
        f"CUDA_MODULE_LOADING={loading}" if loading else "modules load by CUDA's default",
        "" if visible is None else f"CUDA_VISIBLE_DEVICES={visible}",
    ]
    advice = "each launch waits for its end: unset CUDA_LAUNCH_BLOCKING" if blocking else ""
    if loading and loading.upper() not in _MODES:
        advice = advice or "CUDA_MODULE_LOADING is LAZY or EAGER"
    variables = Finding(
        level="warn" if advice else "ok",
        what="CUDA variables",
        found=", ".join(filter(None, texts)),
        advice=advice,
    )
    tools = _tools(subject.view)
    return [
        variables,
        Finding(
            level="warn" if tools else "ok",
            what="debuggers and profilers",
            found=", ".join(tools) or "none",
            advice="launches take longer and may be serialised; measure without" if tools else "",
        ),
    ]


def _tools(view: SystemView) -> list[str]:
    found = [f"{name}={view.environment[name]}" for name in _TOOLS if view.environment.get(name)]
    preloaded = view.environment.get("LD_PRELOAD", "")
    if any(tool in preloaded for tool in _PRELOADED_TOOLS):
        found.append(f"LD_PRELOAD={preloaded}")
    for line in (view.text("proc/self/status") or "").splitlines():
        name, _, pid = line.partition(":")
        if name == "TracerPid" and pid.strip() not in ("", "0"):
            found.append(f"traced by pid {pid.strip()}")
    return found


def check_queues(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Two stream priorities, a queue for each stream, and preemption inside kernels."""
    return [_check_priorities(gpu), _check_connections(subject.view), _check_preemption(gpu)]


def _check_priorities(gpu: GpuView) -> Finding:
    what = "stream priorities"
    if isinstance(gpu.stream_priorities, Unknown):
        return cannot_tell(what, gpu.stream_priorities)
    lowest, highest = gpu.stream_priorities
    num_levels = lowest - highest + 1
    is_enough = num_levels >= _NUM_STREAMS
    return Finding(
        level="ok" if is_enough else "warn",
        what=what,
        found=f"{num_levels} levels, {_NUM_STREAMS} needed",
        advice=""
        if is_enough
        else "real-time work does not come before best effort inside the GPU;"
        " only preemption points order them",
    )


def _check_connections(view: SystemView) -> Finding:
    text = view.environment.get(_QUEUES)
    if text is None:
        return Finding(
            level="ok",
            what="hardware queues",
            found=f"{_QUEUES} is not set, the runtime sets 32; {_NUM_STREAMS} streams",
        )
    is_enough = (whole_number(text) or 0) >= _NUM_STREAMS
    return Finding(
        level="ok" if is_enough else "warn",
        what="hardware queues",
        found=f"{_QUEUES}={text}, at least {_NUM_STREAMS} streams",
        advice=""
        if is_enough
        else f"streams that share a queue wait for each other; unset {_QUEUES}",
    )


def _check_preemption(gpu: GpuView) -> Finding:
    what = "compute preemption"
    if isinstance(gpu.can_preempt_compute, Unknown):
        return cannot_tell(what, gpu.can_preempt_compute)
    found = "supported" if gpu.can_preempt_compute else "not supported"
    advice = "" if gpu.can_preempt_compute else "a debugger or a screen waits for whole kernels"
    return Finding(level="ok", what=what, found=found, advice=advice)


def check_permissions(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Whether this user may open the device's files."""
    what, root = "GPU files", subject.view.root
    present = [name for name in _DEVICE_FILES if (root / name).exists()]
    closed = [f"/{name}" for name in present if not os.access(root / name, os.R_OK | os.W_OK)]
    if closed:
        return [
            Finding(
                level="fail",
                what=what,
                found=f"may not be opened: {', '.join(closed)}",
                advice="sudo usermod -aG video,render $USER, then log in again",
            )
        ]
    if not present:
        return [
            Finding(
                level="warn",
                what=what,
                found=f"none of {', '.join('/' + name for name in _DEVICE_FILES)}",
                advice="install the driver; start a container with access to the GPU",
            )
        ]
    return [Finding(level="ok", what=what, found=f"{len(present)} may be opened")]
