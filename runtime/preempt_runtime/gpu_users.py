"""Who else uses the GPU: by NVML's list, or by who has a file of the device open."""

import re

from preempt_runtime.gpu_view import GpuProcess
from preempt_runtime.system_view import DeviceUsers, SystemView
from preempt_runtime.units import fmt_bytes, printable
from preempt_runtime.unknown import Unknown

_GPU_FILES = re.compile(r"/dev/(nvidia\d+|nvgpu/igpu\d+/.+|nvhost-((as|ctrl|dbg|prof|tsg)-)?gpu)")
_DAEMONS = frozenset({"nvidia-persiste"})  # keeps the driver loaded, runs nothing; 15 characters


def other_processes(
    view: SystemView, processes: tuple[GpuProcess, ...] | Unknown
) -> tuple[str, ...] | Unknown:
    """What NVML lists but this process, as text."""
    if isinstance(processes, Unknown):
        return processes
    texts = []
    for process in processes:
        if process.pid not in view.pids:
            name = printable(view.text(f"proc/{process.pid}/comm") or "not seen from here")
            size = "" if process.num_bytes is None else f", {fmt_bytes(process.num_bytes)}"
            texts.append(f"{name} (pid {process.pid}, {process.kind}{size})")
    return tuple(texts)


def other_users(view: SystemView) -> DeviceUsers:
    """Processes that have a file of the GPU open, as far as this user may look."""
    found = view.users_of(_GPU_FILES)
    users = sorted(found.names.items())
    names = {pid: printable(name) for pid, name in users if name not in _DAEMONS}
    return DeviceUsers(names=names, num_hidden=found.num_hidden)
