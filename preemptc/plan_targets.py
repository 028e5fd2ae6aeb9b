"""Whether the devices that execute a task set's networks can run it as it asks."""

from collections.abc import Mapping

from preempt_runtime.errors import InputError
from preempt_runtime.manifest import GATES
from preempt_runtime.plan_choice import device_difference
from preempt_runtime.taskset import TaskSetSpec
from preemptc.backends import GATES_BACKEND
from preemptc.plan_costs import NetworkCuts
from preemptc.targets import TARGETS


def check_gates(taskset: TaskSetSpec, targets: Mapping[str, str | None]) -> None:
    """Return if gates can stand in every network, where the task set is to run by them.

    Args:
        taskset: what is to run.
        targets: what executes each task's network, by the task's name; None where none does.

    Raises:
        InputError: a network's device has none.
    """
    if taskset.mechanism != GATES:
        return
    for name, target_name in targets.items():
        target = TARGETS.get(target_name or "")
        if target is not None and target.backend != GATES_BACKEND:
            raise InputError(
                f'{taskset.path}: mechanism = "gates": gates need TensorRT, task {name!r} is for'
                f" target {target.name!r} ({target.description}); leave mechanism out, or compile"
                " for a GPU with --target"
            )


def device_notes(costs: Mapping[str, NetworkCuts]) -> tuple[str, ...]:
    """That two tasks' networks are for different devices, where they are."""
    difference = device_difference(
        {
            name: (found.target, found.machine)
            for name, found in costs.items()
            if found.target is not None
        }
    )
    return () if difference is None else (difference,)


def targets_of(costs: Mapping[str, NetworkCuts]) -> dict[str, str | None]:
    """What executes each task's network, by the task's name."""
    return {name: found.target for name, found in costs.items()}
