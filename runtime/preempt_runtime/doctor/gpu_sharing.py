"""Who else uses the GPU: other contexts, MPS, the screen, and how it is partitioned."""

from preempt_runtime.doctor.findings import Finding, Level, Subject, cannot_tell
from preempt_runtime.gpu_users import other_processes, other_users
from preempt_runtime.gpu_view import GpuProbe, GpuView
from preempt_runtime.system_view import SystemView
from preempt_runtime.units import fmt_bytes
from preempt_runtime.unknown import Unknown

_PROCESSES = "GPU processes"
_STOP = "kernels of another process run whenever the GPU likes; stop it while tasks run"
_LEAST_CONTEXT_BYTES = 64 << 20  # a context takes more, what the driver keeps of itself less
_MPS_NAME = "nvidia-cuda-mps"  # of the daemon and its server
_COMPUTE_MODES = {
    0: "default, any process may open a context",
    1: "exclusive to one thread",
    2: "prohibited",
    3: "exclusive to one process",
}
_PROHIBITED = 2


def check_processes(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Processes that have a context, and those that share one through MPS."""
    return [_check_contexts(subject.view, gpu), _check_mps(subject.view, gpu)]


def _check_contexts(view: SystemView, gpu: GpuView) -> Finding:
    others = other_processes(view, gpu.processes)
    if isinstance(others, Unknown):
        return _check_open_files(view, others)
    if others:
        return Finding(level="warn", what=_PROCESSES, found="; ".join(others), advice=_STOP)
    if isinstance(gpu.unseen_bytes, int) and gpu.unseen_bytes > _LEAST_CONTEXT_BYTES:
        return Finding(
            level="warn",
            what=_PROCESSES,
            found=f"none seen, but {fmt_bytes(gpu.unseen_bytes)} of its memory are in use",
            advice="look outside of this container: `nvidia-smi` on the host",
        )
    return Finding(level="ok", what=_PROCESSES, found="no other")


def _check_open_files(view: SystemView, why: Unknown) -> Finding:
    """What `/proc` tells where NVML does not: who has a file of the GPU open."""
    users = other_users(view)
    if users.names:
        found = "; ".join(f"{name} (pid {pid})" for pid, name in users.names.items())
        return Finding(
            level="warn", what=_PROCESSES, found=f"have its files open: {found}", advice=_STOP
        )
    if users.num_hidden:
        unknown = Unknown(
            f"{why.reason}; /proc shows none, but {users.num_hidden} processes are closed to this"
            " user"
        )
        return cannot_tell(_PROCESSES, unknown, "run the doctor as root")
    return Finding(level="ok", what=_PROCESSES, found=f"no other has its files open ({why.reason})")


def _check_mps(view: SystemView, gpu: GpuView) -> Finding:
    clients = gpu.mps_processes if isinstance(gpu.mps_processes, tuple) else ()
    servers = [
        process.pid
        for process in view.process_times().values()
        if process.name.startswith(_MPS_NAME)
    ]
    if not (clients or servers):
        return Finding(level="ok", what="MPS", found="does not run")
    pids = ", ".join(str(pid) for pid in (*servers, *(client.pid for client in clients)))
    return Finding(
        level="warn",
        what="MPS",
        found=f"runs, pid {pids}",
        advice="kernels of its clients run beside each other;"
        " `echo quit | nvidia-cuda-mps-control` ends it",
    )


def check_partition(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Compute mode and MIG."""
    mode = gpu.compute_mode
    if isinstance(mode, Unknown):
        compute = cannot_tell("compute mode", mode)
    else:
        level: Level = "fail" if mode == _PROHIBITED else "ok"
        compute = Finding(
            level=level,
            what="compute mode",
            found=_COMPUTE_MODES.get(mode, str(mode)),
            advice="sudo nvidia-smi -c DEFAULT" if level == "fail" else "",
        )
    if isinstance(gpu.is_mig, Unknown):  # of a GPU without it, or without NVML
        return [compute]
    mig = "on, this is an instance or what is left of it" if gpu.is_mig else "off"
    return [compute, Finding(level="ok", what="MIG", found=mig)]


def check_display(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Whether the GPU draws a screen, and whether the driver ends long kernels for it."""
    connectors = _lit_connectors(subject.view) if gpu.is_integrated else []
    is_active = gpu.is_display_active is True or bool(connectors)
    has_timeout = gpu.has_kernel_timeout is True
    if not (is_active or has_timeout):
        if isinstance(gpu.is_display_active, Unknown) and not gpu.is_integrated:
            return [cannot_tell("display", gpu.is_display_active)]
        return [Finding(level="ok", what="display", found="none on this GPU")]
    found = f"attached{': ' if connectors else ''}{', '.join(connectors)}" if is_active else "none"
    if has_timeout:
        found = f"{found}; the driver ends kernels that run too long"
    return [
        Finding(
            level="warn",
            what="display",
            found=found,
            advice="drawing takes the GPU between segments; `sudo systemctl isolate"
            " multi-user.target` stops it",
        )
    ]


def _lit_connectors(view: SystemView) -> list[str]:
    """Screens that are connected and switched on."""
    folder = view.root / "sys/class/drm"
    names = sorted(path.name for path in folder.glob("card*-*")) if folder.is_dir() else []
    return [
        name
        for name in names
        if view.text(f"sys/class/drm/{name}/status") == "connected"
        and view.text(f"sys/class/drm/{name}/enabled") == "enabled"
    ]
