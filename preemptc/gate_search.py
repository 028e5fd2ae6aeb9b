"""What placing gates costs: stretches between kernel nodes, in the terms of segments' searches.

EXPERIMENTAL: one kind of GPU has run such plans so far, the H200.

A gate costs the same wherever it stands and hands nothing over. So of positions between which no
time passes one is as good as another, and no other position can be left out.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

from preempt_runtime.errors import InputError
from preemptc.segment_costs import SegmentCosts


def gate_costs(node_ns: Sequence[int], cuts: Sequence[int], gate_ns: int) -> SegmentCosts:
    """What every stretch between two possible gates costs, the gate before it included.

    Args:
        node_ns: The time of each node of the captured graph, in its order.
        cuts: The positions before which a gate may stand, ascending, without the start.
        gate_ns: What a gate costs that nobody has to wait at.

    Raises:
        InputError: no nodes, a negative time, or cuts that are no positions of these nodes.

    >>> gate_costs([5, 0, 7, 3], [1, 2, 3], 1).positions
    (0, 1, 3, 4)
    """
    if not node_ns:
        raise InputError("gates: a captured graph without nodes has no positions for them")
    if any(start >= end for start, end in pairwise((0, *cuts, len(node_ns)))):
        raise InputError(
            f"gates: positions {tuple(cuts)}: expected ascending ones from 1 to {len(node_ns) - 1}"
        )
    elapsed_ns = tuple(accumulate(node_ns, initial=0))
    positions = [0]
    for cut in cuts:
        if elapsed_ns[positions[-1]] < elapsed_ns[cut] < elapsed_ns[-1]:
            positions.append(cut)
    positions.append(len(node_ns))
    return SegmentCosts(
        positions=tuple(positions),
        work_ns=tuple(elapsed_ns[end] - elapsed_ns[start] for start, end in pairwise(positions)),
        boundary_ns=(0, *[gate_ns] * (len(positions) - 2)),
    )


def describe_kernels(names: Sequence[str | None]) -> Callable[[int, int], str]:
    """What names the nodes [start, end) of a captured graph in an error.

    >>> describe_kernels(["memset", "gemm"])(0, 2), describe_kernels([])(3, 4)
    ('kernel nodes 0 to 1 (gemm)', 'kernel node 3')
    """

    def describe(start: int, end: int) -> str:
        known = [name for name in names[start:end] if name]
        what = f"kernel node {start}" if end == start + 1 else f"kernel nodes {start} to {end - 1}"
        return f"{what} ({known[-1]})" if known else what

    return describe


def node_times(
    stretch_ns: Sequence[int], cuts: Sequence[int], num_nodes: int, whole_ns: int
) -> tuple[int, ...]:
    """The time of each node, from one run with a gate at every position and one without gates.

    A stretch between two gates takes its nodes and the way to the next gate. That way is taken to
    be equally long everywhere, and such that the nodes together take what the graph takes alone.
    Nodes that cannot be parted stand for their last one.

    Args:
        stretch_ns: The measured stretches, one more than cuts.
        cuts: All positions before which a gate may stand.
        num_nodes: How many nodes the graph has.
        whole_ns: The time of the graph without gates.

    Raises:
        InputError: another number of stretches.

    >>> node_times([110, 60, 85], [1, 3], num_nodes=4, whole_ns=180)
    (85, 0, 35, 60)
    """
    if len(stretch_ns) != len(cuts) + 1:
        raise InputError(f"gates: {len(stretch_ns)} stretches for {len(cuts)} gates")
    way_ns = _way_ns(sorted(stretch_ns), whole_ns)
    times: list[int] = []
    for taken_ns, (start, end) in zip(stretch_ns, pairwise((0, *cuts, num_nodes)), strict=True):
        times += [0] * (end - start - 1) + [max(taken_ns - way_ns, 0)]
    return tuple(times)


def _way_ns(ascending_ns: Sequence[int], whole_ns: int) -> int:
    """What to take off each, none below 0, so that the rest adds up to the whole."""
    for idx, shortest_ns in enumerate(ascending_ns):
        rest = ascending_ns[idx:]
        way_ns = (sum(rest) - whole_ns) // len(rest)
        if way_ns <= shortest_ns:
            return max(way_ns, 0)
    return 0
