"""Whether the GPU's memory is sound, and holds all bundles at once."""

from preempt_runtime.doctor.bundles import file_and_tensor_bytes, used_files
from preempt_runtime.doctor.findings import AskedPlan, Finding, Level, Subject, cannot_tell
from preempt_runtime.errors import BundleError, DeviceError
from preempt_runtime.gpu_view import GpuProbe, GpuView
from preempt_runtime.loading import plan_to_load
from preempt_runtime.manifest import PlanSpec
from preempt_runtime.units import fmt_bytes
from preempt_runtime.unknown import Unknown

_TIGHT_FRAC = 0.8  # what CUDA and TensorRT take for themselves is not in the sum


def check_health(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """ECC, and defective rows that a reset would replace."""
    what, health = "GPU memory errors", gpu.health
    if gpu.is_integrated and isinstance(health.ecc, Unknown):
        return []  # the CPU's memory
    if isinstance(health.ecc, Unknown) and isinstance(health.is_remap_pending, Unknown):
        return [cannot_tell(what, health.ecc)]
    texts, advice = [], []
    if isinstance(health.ecc, bool):
        texts.append(f"ECC {'on' if health.ecc else 'off'}")
        if isinstance(health.pending_ecc, bool) and health.pending_ecc != health.ecc:
            texts.append(f"{'on' if health.pending_ecc else 'off'} after the next reboot")
            advice.append("times change with ECC: reboot and measure again")
    if health.is_remap_pending is True:
        texts.append("a defective row waits to be replaced")
        advice.append("reset the GPU when nothing uses it: sudo nvidia-smi --gpu-reset")
    if health.has_remap_failed is True:
        texts.append("a defective row could not be replaced")
        advice.append("have the GPU exchanged")
    return [
        Finding(
            level="warn" if advice else "ok",
            what=what,
            found=", ".join(texts) or "no row waits to be replaced",
            advice="; ".join(advice),
        )
    ]


def check_memory(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Engines, scratch and the tensors of all jobs in flight against what is free."""
    what, plans = "GPU memory", _fitting_plans(subject)
    if isinstance(gpu.free_bytes, Unknown):
        return [cannot_tell(what, gpu.free_bytes)]
    free = f"{fmt_bytes(gpu.free_bytes)} free"
    if not plans:
        return [Finding(level="ok", what=what, found=free)]
    need_bytes = file_and_tensor_bytes(plans)
    parts = "engines and buffers, without scratch memory"
    if need_bytes <= gpu.free_bytes:
        scratch = [probe.scratch_bytes(asked.bundle, plan) for asked, plan in _distinct(plans)]
        known = [found for found in scratch if isinstance(found, int)]
        if len(known) == len(scratch):
            parts = "engines, scratch and buffers"
        need_bytes += sum(known)
    level: Level = "ok"
    advice = ""
    if need_bytes > gpu.free_bytes:
        level, advice = "fail", "run fewer or smaller networks, or free what others hold"
    elif need_bytes > _TIGHT_FRAC * gpu.free_bytes:
        level, advice = "warn", "CUDA needs some for itself; try it, or run fewer networks"
    found = f"{fmt_bytes(need_bytes)} of {parts} (estimated), {free}"
    return [Finding(level=level, what=what, found=found, advice=advice)]


def _fitting_plans(subject: Subject) -> list[tuple[AskedPlan, PlanSpec]]:
    """The GPU plans that a run would load; what is foreign or damaged has a line of its own."""
    found = []
    for asked, _ in subject.named_plans("tensorrt"):
        try:
            backend = subject.find_backend("tensorrt")
            plan = plan_to_load(
                asked.bundle, asked.plan_id, backend, subject.threads, asked.mechanisms
            )
            for path in used_files(asked.bundle, plan):
                asked.bundle.verified_path(path)
        except (BundleError, DeviceError):
            continue
        found.append((asked, plan))
    return found


def _distinct(plans: list[tuple[AskedPlan, PlanSpec]]) -> list[tuple[AskedPlan, PlanSpec]]:
    """Each plan of each bundle once: tasks that name the same one share its network."""
    return list({(asked.bundle.root, plan.id): (asked, plan) for asked, plan in plans}.values())
