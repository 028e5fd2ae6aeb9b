"""A task set as a whole: whether one device can run all of its tasks as it asks."""

from collections.abc import Mapping

from preempt_runtime.bundle import Bundle
from preempt_runtime.doctor.findings import Finding
from preempt_runtime.errors import BundleError
from preempt_runtime.manifest import GATES
from preempt_runtime.plan_choice import device_difference, is_for_cpu, machine_of, plan_with_costs
from preempt_runtime.taskset import TaskSetSpec


def check_together(taskset: TaskSetSpec, bundles: Mapping[str, Bundle]) -> tuple[Finding, ...]:
    """What a run would refuse of its tasks together; nothing if it would not.

    Args:
        taskset: what is to run.
        bundles: of its tasks, by their names.
    """
    plans = {}
    for task in taskset.tasks:
        try:
            plans[task.name] = plan_with_costs(
                bundles[task.name], task.plan, taskset.threads, taskset.plan_mechanisms
            )
        except BundleError:  # the bundle's own finding says so
            continue
    what, findings = f"task set {taskset.path.name}", []
    manifests = {name: bundles[name].manifest for name in plans}
    on_cpu = [name for name, plan in plans.items() if is_for_cpu(manifests[name], plan)]
    if taskset.mechanism == GATES and on_cpu:
        findings.append(
            Finding(
                level="fail",
                what=what,
                found=f'mechanism = "gates", the bundle of task {on_cpu[0]!r} is for a CPU, which'
                " has no gates",
                advice="leave mechanism out, or compile for a GPU with --target",
            )
        )
    difference = device_difference(
        {name: (plan.target, machine_of(manifests[name], plan)) for name, plan in plans.items()}
    )
    if difference is not None:
        findings.append(Finding(level="fail", what=f"{what}: devices", found=difference))
    return tuple(findings)
