"""Stage gates: where they stand in one engine, by measured times.

EXPERIMENTAL: one kind of GPU has run such plans so far, the H200.

A gate at every position tells what each kernel takes. The searches for segments then choose gates;
what they choose is measured. A stretch that takes more than was asked makes its kernels dearer, and
the search is made again. Nothing is built: another choice of gates takes milliseconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from preempt_runtime.backends.graph_shape import GraphShape
from preempt_runtime.errors import InfeasibleError
from preempt_runtime.units import fmt_ns
from preemptc.backends import GateBench, Progress, silent
from preemptc.gate_search import describe_kernels, gate_costs, node_times
from preemptc.goal import Goal, search_goal
from preemptc.search import SplitPlan, search_bound
from preemptc.trials import MeasuredPlan, Trial
from preemptc.under_bound import MARGIN_FRAC, bound_with_room

_MIN_RUNS, _BUDGET_NS = 100, 2_000_000_000
_MAX_ROUNDS = 6
_SPEED = "by the times measured now"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFigures:
    """What a gate at every position tells of a graph.

    `node_ns` has the time of each node, in the graph's order, `gate_ns` what a gate costs that
    nobody has to wait at, a job's raise and clear shared out among them.
    """

    node_ns: tuple[int, ...]
    gate_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredGates:
    """A choice of gates that was measured: the segments of `measured` are the stretches.

    Split points are positions in `shape.order()`; the gate before the first node is not among
    them.
    """

    measured: MeasuredPlan
    figures: GateFigures
    shape: GraphShape


def plan_gates(gates: GateBench, goal: Goal, progress: Progress = silent) -> MeasuredGates:
    """The gates that keep the goal by measurement.

    Args:
        gates: where they are measured.
        goal: what to keep; its segments are the stretches.
        progress: told of every round.

    Raises:
        InfeasibleError: no gates keep the bound; names the kernels that alone exceed it and the
            smallest feasible bound.
        InputError: more stretches than there are positions.
        DeviceError: the GPU refused.
    """
    progress("gates: one at every position", 0.0)
    trials = _Trials(gates, gate_figures(gates), goal, progress)
    if goal.max_segment_ns is not None:
        found = _keep_bound(trials, goal.max_segment_ns)
    elif goal.max_overhead_frac is not None:
        found = _keep_overhead(trials, goal.max_overhead_frac)
    else:
        found = trials.measure(trials.search())
    return MeasuredGates(
        measured=replace(found, num_rounds=len(trials.tried), trials=tuple(trials.tried)),
        figures=trials.figures,
        shape=gates.shape,
    )


def gate_figures(gates: GateBench) -> GateFigures:
    """The time of each node in the order of the graph, and the cost of a gate.

    Raises:
        DeviceError: the GPU refused.
    """
    shape = gates.shape
    cuts = shape.cuts()
    found = gates.measure(cuts, min_runs=_MIN_RUNS, budget_ns=_BUDGET_NS)
    whole_ns = found.times.whole.p50_ns
    gate_ns = round((found.times.ratio_p50 - 1) * whole_ns / (len(cuts) + 1))
    return GateFigures(
        node_ns=node_times(found.mean_ns, cuts, len(shape.nodes), whole_ns),
        gate_ns=max(gate_ns, 1),  # so that a gate that is of no use is none
    )


def kernel_names(shape: GraphShape) -> tuple[str | None, ...]:
    """The names of a graph's nodes in its order, None where the driver does not tell."""
    return tuple(shape.nodes[idx].name for idx in shape.order())


class _Trials:
    """Choices of gates that were measured, and what they taught: `node_ns`, `gate_ns`."""

    def __init__(
        self, gates: GateBench, figures: GateFigures, goal: Goal, progress: Progress
    ) -> None:
        self.figures, self.goal = figures, goal
        self.describe: Callable[[int, int], str] = describe_kernels(kernel_names(gates.shape))
        self.tried: list[Trial] = []
        self._gates, self._progress = gates, progress
        self._cuts = gates.shape.cuts()
        self.forget()

    def forget(self) -> None:
        """Go back to what a gate at every position told."""
        self.node_ns, self.gate_ns = list(self.figures.node_ns), self.figures.gate_ns

    def search(self) -> SplitPlan:
        """The gates that keep the goal by what is known now."""
        costs = gate_costs(self.node_ns, self._cuts, self.gate_ns)
        return search_goal(costs, self.goal, self.describe)

    def search_bound(self, bound_ns: int) -> SplitPlan:
        """The fewest gates that keep this bound by what is known now."""
        return search_bound(
            gate_costs(self.node_ns, self._cuts, self.gate_ns),
            bound_ns,
            describe=self.describe,
            advise=lambda smallest_ns: bound_with_room(smallest_ns, _SPEED),
        )

    def measure(self, plan: SplitPlan) -> MeasuredPlan:
        """Measure a choice, which is a round; predictions are those of the first figures."""
        number = len(self.tried) + 1
        self._progress(f"gates: round {number}, {plan.num_segments} stretches", 0.5)
        found = self._gates.measure(plan.split_points, min_runs=_MIN_RUNS, budget_ns=_BUDGET_NS)
        tried = MeasuredPlan(plan=self._as_predicted(plan), measurement=found.times)
        self.tried.append(
            Trial(
                split_points=plan.split_points,
                num_new=0,
                longest_ns=self.longest_ns(tried),
                ratio_p50=found.times.ratio_p50,
            )
        )
        return tried

    def longest_ns(self, tried: MeasuredPlan) -> int:
        """The longest stretch, at the goal's quantile."""
        return tried.longest_ns(self.goal.quantile)

    def learn(self, tried: MeasuredPlan, limit_ns: int) -> None:
        """Let the kernels of every stretch over the limit cost what the stretch took."""
        measured = tried.measurement.segments
        for (start, end), latency in zip(tried.plan.segments, measured, strict=True):
            taken_ns = latency.at(self.goal.quantile)
            if taken_ns > limit_ns:
                self._raise(start, end, taken_ns - (self.gate_ns if start else 0))

    def _raise(self, start: int, end: int, taken_ns: int) -> None:
        work_ns = sum(self.node_ns[start:end])
        if work_ns == 0:
            self.node_ns[end - 1] = taken_ns
            return
        for idx in range(start, end):
            self.node_ns[idx] = -(-self.node_ns[idx] * taken_ns // work_ns)

    def _as_predicted(self, plan: SplitPlan) -> SplitPlan:
        gate_ns = self.figures.gate_ns
        return SplitPlan(
            num_nodes=plan.num_nodes,
            split_points=plan.split_points,
            predicted_ns=tuple(
                sum(self.figures.node_ns[start:end]) + (gate_ns if start else 0)
                for start, end in plan.segments
            ),
            overhead_ns=gate_ns * (plan.num_segments - 1),
        )


def _keep_bound(trials: _Trials, bound_ns: int) -> MeasuredPlan:
    """The fewest gates that were found to keep the bound, a part of it left free if it can be."""
    for margin_frac in (MARGIN_FRAC, 0.0):
        trials.forget()
        try:
            kept = _first_kept(trials, round(bound_ns * (1 - margin_frac)), bound_ns)
        except InfeasibleError:
            if margin_frac == 0.0:
                raise
            continue
        return replace(kept, margin_frac=margin_frac)
    raise AssertionError("the last margin returns or raises")


def _first_kept(trials: _Trials, limit_ns: int, bound_ns: int) -> MeasuredPlan:
    for _ in range(_MAX_ROUNDS):
        tried = trials.measure(trials.search_bound(limit_ns))
        if trials.longest_ns(tried) <= limit_ns:
            return tried
        trials.learn(tried, limit_ns)
    raise InfeasibleError(
        f"{_longest(trials, tried)} still take {fmt_ns(trials.longest_ns(tried))} at"
        f" {trials.goal.quantile} after {_MAX_ROUNDS} rounds, bound {fmt_ns(bound_ns)}: times on"
        " this GPU vary more than that; close other programs, or raise --max-segment"
    )


def _longest(trials: _Trials, tried: MeasuredPlan) -> str:
    taken_ns = [latency.at(trials.goal.quantile) for latency in tried.measurement.segments]
    return trials.describe(*tried.plan.segments[taken_ns.index(max(taken_ns))])


def _keep_overhead(trials: _Trials, max_overhead_frac: float) -> MeasuredPlan:
    """The gates of the shortest longest stretch within a measured overhead.

    What a gate costs is what is uncertain here: each round scales it by what the last gates took
    together. The graph with the gate before its first kernel alone is the cheapest there is.
    """
    for _ in range(_MAX_ROUNDS):
        tried = trials.measure(trials.search())
        overhead_frac = tried.measurement.ratio_p50 - 1
        if tried.plan.num_segments == 1 or overhead_frac <= max_overhead_frac:
            return tried
        found_ns = overhead_frac * tried.measurement.whole.p50_ns
        predicted_ns = trials.gate_ns * (tried.plan.num_segments - 1)
        trials.gate_ns = round(trials.gate_ns * max(1.05, found_ns / predicted_ns)) + 1
    whole = SplitPlan(
        num_nodes=tried.plan.num_nodes, split_points=(), predicted_ns=(0,), overhead_ns=0
    )
    return trials.measure(whole)
