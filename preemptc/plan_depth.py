"""How many segments of a task set a run has in flight: what is asked, or the device allows."""

from collections.abc import Mapping

from preempt_runtime.taskset import TaskSetSpec
from preemptc.plan_costs import NetworkCuts
from preemptc.targets import TARGETS


def depth_in_force(taskset: TaskSetSpec, costs: Mapping[str, NetworkCuts]) -> int:
    """How many segments a run will have in flight: no more than the networks' device allows."""
    return min((taskset.depth, *(most for _, most in _depth_limits(costs))))


def depth_reason(taskset: TaskSetSpec, costs: Mapping[str, NetworkCuts]) -> str | None:
    """Why fewer segments are in flight than the task set asks for; None: as many are."""
    depth = depth_in_force(taskset, costs)
    if depth == taskset.depth:
        return None
    name = next(name for name, most in _depth_limits(costs) if most == depth)
    return f"depth {taskset.depth} was asked for, device {name!r} allows {depth}"


def _depth_limits(costs: Mapping[str, NetworkCuts]) -> list[tuple[str, int]]:
    """The targets that execute networks, each with the depth it allows."""
    names = sorted({found.target for found in costs.values() if found.target is not None})
    return [(name, TARGETS[name].max_depth) for name in names if name in TARGETS]
