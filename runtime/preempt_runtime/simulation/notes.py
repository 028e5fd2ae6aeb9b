"""What a run of the same task set would do otherwise than its simulation."""

from collections.abc import Mapping

from preempt_runtime.manifest import GATES
from preempt_runtime.simulation.costs import TaskCosts
from preempt_runtime.taskset import TaskSetSpec


def notes_on_run(taskset: TaskSetSpec, costs: Mapping[str, TaskCosts]) -> tuple[str, ...]:
    """What people must know before they take a simulation for a run; empty if nothing is odd."""
    on_cpu = [name for name, found in costs.items() if found.is_for_cpu]
    if taskset.mechanism != GATES or not on_cpu:
        return ()
    return (
        f'mechanism = "gates": the bundle of task {on_cpu[0]!r} is for a CPU, which has no gates;'
        " this is what its segments do, and a run is refused",
    )
