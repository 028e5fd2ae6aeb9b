"""What a run of the same task set would do otherwise than its simulation."""

from collections.abc import Mapping

from preempt_runtime.manifest import GATES
from preempt_runtime.plan_choice import device_difference
from preempt_runtime.process import OptionReport
from preempt_runtime.simulation.costs import TaskCosts
from preempt_runtime.taskset import TaskSetSpec


def depth_in_force(taskset: TaskSetSpec, costs: Mapping[str, TaskCosts]) -> int:
    """How many segments a run would have in flight; costs in the file leave it to the file."""
    return 1 if any(found.is_for_cpu for found in costs.values()) else taskset.depth


def depth_options(taskset: TaskSetSpec, costs: Mapping[str, TaskCosts]) -> tuple[OptionReport, ...]:
    """That fewer segments are in flight than the task set asks for, as a run's report has it."""
    depth = depth_in_force(taskset, costs)
    if depth == taskset.depth:
        return ()
    name = next(name for name, found in costs.items() if found.is_for_cpu)
    reason = f"the CPU that task {name!r} is for allows {depth}"
    return (OptionReport(name="depth", requested=str(taskset.depth), applied=False, reason=reason),)


def notes_on_run(taskset: TaskSetSpec, costs: Mapping[str, TaskCosts]) -> tuple[str, ...]:
    """What people must know before they take a simulation for a run; empty if nothing is odd."""
    notes = []
    on_cpu = [name for name, found in costs.items() if found.is_for_cpu]
    if taskset.mechanism == GATES and on_cpu:
        notes.append(
            f'mechanism = "gates": the bundle of task {on_cpu[0]!r} is for a CPU, which has no'
            " gates; this is what its segments do, and a run is refused"
        )
    difference = device_difference(
        {
            name: (found.target, found.machine)
            for name, found in costs.items()
            if found.target is not None
        }
    )
    return (*notes, *([difference] if difference else []))
