"""What on this machine would make measured bounds false, found before a run rather than after."""

import time
from collections.abc import Callable, Sequence

from preempt_runtime.doctor import bundles, gpu, host, ort
from preempt_runtime.doctor.findings import AskedPlan, Check, Finding, Subject
from preempt_runtime.gpu_view import GpuProbe
from preempt_runtime.loading import FindBackend, open_backend
from preempt_runtime.system_view import SystemView

# NEW CHECK: a function from the subject to its findings, in the place where it should be shown.
CHECKS: tuple[Check, ...] = (
    host.check_motion,
    host.check_cores,
    host.check_load,
    host.check_governor,
    host.check_smt,
    host.check_permissions,
    host.check_interpreter,
    ort.check_wheels,
    gpu.check_gpu,
    bundles.check_plans,
    bundles.check_memory,
)


def doctor(
    plans: Sequence[AskedPlan],
    *,
    view: SystemView,
    find_backend: FindBackend = open_backend,
    threads: int | None = None,
    gpu: GpuProbe | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[Finding, ...]:
    """Everything that was looked at, in a fixed order; takes a second for what is in motion.

    Args:
        plans: what would be loaded together.
        view: the machine.
        find_backend: the backend of a name.
        threads: what the task set asks for.
        gpu: asks about the GPU; by default the one of this machine, where there is one or a
            bundle needs one.
        pause: lets the window pass.
    """
    subject = Subject(
        plans=plans,
        view=view,
        find_backend=find_backend,
        threads=threads,
        gpu=gpu,
        pause=pause,
    )
    return tuple(finding for check in CHECKS for finding in check(subject))
