"""Where a network may be split: every position, pruned step by step, each with its reason.

A segment that starts at split point j and ends at k takes q(j, k) = x_j + S_k - S_j, with S the
prefix sums of the node costs and x_j = `profile.boundary.at(live_bytes_j)`, x_0 = 0. S_k never
falls, x_j is never negative. The last two steps drop split points that the search cannot need:

*Zero cost.* Split points with equal S have no time between them. Let a plan use some of them:
keeping only the one with the least x (which is the one with the fewest live bytes) changes no
S, so no segment grows, and the overhead, the sum of the x, does not either. The network's start
(x = 0) and end (no boundary at all) belong to such groups too and are always the best in them.

*Dominance.* j2 is dominated by an earlier j1, the start included, when
x_1 + S_2 - S_1 <= x_2: starting at j1 is then never worse. Take any plan with j2 and put j1 in
the place of all its split points in [j1, j2]. The segment that ended in the first of those ends
no later now; the one that starts at j1 and ends at k takes x_1 + S_k - S_1 <= x_2 + S_k - S_2,
what the segment from j2 took; all others stay. The overhead falls by at least x_2 - x_1 >= 0.
So no segment grows, neither does the overhead, nor the number of segments. (A later j1 cannot
stand for j2: the segment that ends there would grow, unless S is equal, which is the step
before.) The relation is transitive, so the undominated are exactly the strict prefix minima of
x_j - S_j: linear time.

Hence the least overhead under any bound, the smallest maximum within any overhead, and the
whole front of both are the same with and without the pruned positions. The smallest maximum
with *exactly* N segments is too, as long as N - 1 split points remain: a segment that is cut at
an undominated j becomes q(i, j) <= q(i, k) and q(j, k) < q(i, k), so a plan with fewer segments
can always be cut further without growing. The overhead with exactly N segments is the least
among the remaining positions only. With measured costs, which need not add up, the pruning is
no theorem but the choice of what is worth building.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from preempt_runtime.errors import InputError
from preempt_runtime.units import fmt_ns
from preemptc.analysis import Liveness, analyze_liveness, critical_nodes
from preemptc.model import Lowered, Node
from preemptc.profile import LatencyProfile

FUSION = "fusion"
LIVE_BYTES = "live-bytes"
ZERO_COST = "zero-cost"
DOMINANCE = "dominance"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCandidate:
    """A split point of the executed graph that is worth searching.

    `source_position` is the split point of the source graph, `tensors` are handed over, in the
    order of first appearance. `is_critical`: one tensor only, and its producer lies on every
    path from an input to an output.
    """

    position: int
    source_position: int
    tensors: tuple[str, ...]
    live_bytes: int
    is_critical: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunedPosition:
    """A position that was dropped, by which step and why.

    `position` counts nodes of the source graph for the step `fusion`, of the executed graph for
    the others.
    """

    position: int
    step: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateCounts:
    """How many positions each step leaves.

    `positions` are those of the source graph, the others those of the executed graph. Lowering
    may also add nodes (layout changes), so `after_fusion` can exceed `positions`.
    """

    positions: int
    after_fusion: int
    after_live_bytes: int
    after_zero_cost: int
    after_dominance: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSet:
    """The candidates in ascending order, and what became of all other positions."""

    candidates: tuple[SplitCandidate, ...]
    counts: CandidateCounts
    pruned: tuple[PrunedPosition, ...]

    @property
    def log2_all_plans(self) -> int:
        """Binary logarithm of the number of plans before pruning: each position is in or out."""
        return self.counts.positions

    @property
    def log2_plans(self) -> int:
        """Binary logarithm of the number of plans that remain to be searched."""
        return len(self.candidates)


def find_candidates(
    lowered: Lowered,
    profile: LatencyProfile,
    *,
    num_source_nodes: int,
    max_live_bytes: int | None,
) -> CandidateSet:
    """The split points that the search needs to look at; the module says why no others.

    Args:
        lowered: The graph that the target executes.
        profile: The costs of its nodes and boundaries.
        num_source_nodes: Size of the source graph that was lowered.
        max_live_bytes: The most that a boundary may hand over; None for no limit.

    Raises:
        InputError: the profile is not one of this graph.
    """
    nodes = lowered.graph.nodes
    if len(profile.node_ns) != len(nodes):
        raise InputError(
            f"profile: {len(profile.node_ns)} node costs, the graph for {lowered.target} has"
            f" {len(nodes)} nodes; run `preemptc profile` on this model"
        )
    liveness = analyze_liveness(lowered.graph)
    points = _Points(
        nodes=nodes,
        live_bytes=liveness.live_bytes,
        num_unsized=liveness.num_unsized,
        max_live_bytes=max_live_bytes,
        elapsed_ns=tuple(accumulate(profile.node_ns, initial=0)),
        boundary_ns=(0, *(profile.boundary.at(size) for size in liveness.live_bytes[1:])),
    )
    pruned = _fused(lowered, num_source_nodes)
    positions = list(range(1, len(nodes)))
    num_left = [len(positions)]
    for step in (_over_live_bytes, _same_time, _dominated):
        dropped = step(positions, points)
        gone = {entry.position for entry in dropped}
        positions = [position for position in positions if position not in gone]
        pruned += dropped
        num_left.append(len(positions))
    after_fusion, after_live_bytes, after_zero_cost, after_dominance = num_left
    return CandidateSet(
        candidates=_candidates(lowered, liveness, positions),
        counts=CandidateCounts(
            positions=max(num_source_nodes - 1, 0),
            after_fusion=after_fusion,
            after_live_bytes=after_live_bytes,
            after_zero_cost=after_zero_cost,
            after_dominance=after_dominance,
        ),
        pruned=tuple(pruned),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Points:
    """What the steps look at, by split point k, 0 <= k <= num_nodes.

    `elapsed_ns[k]` is the time of the first k nodes, `boundary_ns[k]` what a segment that starts
    at k pays for it.
    """

    nodes: tuple[Node, ...]
    live_bytes: tuple[int, ...]
    num_unsized: tuple[int, ...]
    max_live_bytes: int | None
    elapsed_ns: tuple[int, ...]
    boundary_ns: tuple[int, ...]


def _fused(lowered: Lowered, num_source_nodes: int) -> list[PrunedPosition]:
    """Positions of the source graph that the executed graph has no split point for."""
    source_positions = lowered.source_positions
    kept = set(source_positions)
    pruned = []
    for position in range(1, num_source_nodes if lowered.graph.nodes else 0):
        if position in kept:
            continue
        idx = min(bisect_right(source_positions, position), len(source_positions) - 1) - 1
        node = lowered.graph.nodes[idx]
        start, end = source_positions[idx], source_positions[idx + 1]
        span = f"source nodes {start} to {end - 1}"
        reason = f"inside {node.op_type} {node.name!r}, which completes {span}"
        pruned.append(PrunedPosition(position=position, step=FUSION, reason=reason))
    return pruned


def _over_live_bytes(positions: list[int], points: _Points) -> list[PrunedPosition]:
    """Positions whose boundary would hand over more than is allowed, or what has no fixed size."""
    pruned = []
    limit = points.max_live_bytes
    for position in positions:
        if points.num_unsized[position]:
            reason = "the shape of a live tensor depends on the data"
        elif limit is not None and points.live_bytes[position] > limit:
            reason = f"{points.live_bytes[position]} live bytes, limit {limit}"
        else:
            continue
        pruned.append(PrunedPosition(position=position, step=LIVE_BYTES, reason=reason))
    return pruned


def _same_time(positions: list[int], points: _Points) -> list[PrunedPosition]:
    """Positions that no time separates from a cheaper one, or from the start or the end."""
    elapsed_ns = points.elapsed_ns
    best = {elapsed_ns[-1]: len(points.nodes), 0: 0}
    for position in positions:
        at_ns = elapsed_ns[position]
        if at_ns not in best or _price(points, position) < _price(points, best[at_ns]):
            best[at_ns] = position
    return [
        PrunedPosition(
            position=position,
            step=ZERO_COST,
            reason=_same_time_reason(points, position, best[elapsed_ns[position]]),
        )
        for position in positions
        if best[elapsed_ns[position]] != position
    ]


def _price(points: _Points, position: int) -> tuple[int, int, int]:
    """What orders split points of the same time; the start and the end cost nothing."""
    if position in (0, len(points.nodes)):
        return (-1, 0, position)
    return (points.boundary_ns[position], points.live_bytes[position], position)


def _same_time_reason(points: _Points, position: int, best: int) -> str:
    if best == 0:
        return "no time passes before it"
    if best == len(points.nodes):
        return "no time passes after it"
    size, best_size = points.live_bytes[position], points.live_bytes[best]
    return f"no time between it and {best}, which keeps {best_size} live bytes against {size}"


def _dominated(positions: list[int], points: _Points) -> list[PrunedPosition]:
    """Positions for which an earlier one is never worse; proof in the module's docstring."""
    pruned = []
    best, best_ns = 0, 0
    for position in positions:
        offset_ns = points.boundary_ns[position] - points.elapsed_ns[position]
        if offset_ns < best_ns:
            best, best_ns = position, offset_ns
            continue
        between = fmt_ns(points.elapsed_ns[position] - points.elapsed_ns[best])
        dearer = fmt_ns(points.boundary_ns[position] - points.boundary_ns[best])
        reason = f"only {between} of work after {best}, but its boundary costs {dearer} more"
        pruned.append(PrunedPosition(position=position, step=DOMINANCE, reason=reason))
    return pruned


def _candidates(
    lowered: Lowered, liveness: Liveness, positions: list[int]
) -> tuple[SplitCandidate, ...]:
    critical = critical_nodes(lowered.graph)
    producer = {name: idx for idx, node in enumerate(lowered.graph.nodes) for name in node.outputs}
    return tuple(
        SplitCandidate(
            position=position,
            source_position=lowered.source_positions[position],
            tensors=tensors,
            live_bytes=liveness.live_bytes[position],
            is_critical=len(tensors) == 1 and producer[tensors[0]] in critical,
        )
        for position, tensors in zip(positions, liveness.boundary_tensors(positions), strict=True)
    )
