"""Which split point of the source graph each split point of an executed graph corresponds to."""

from collections.abc import Sequence

from preemptc.model import Graph


def source_positions(source: Graph, completed: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """For each split point of the executed graph, the source split point it corresponds to.

    A source node is complete with the executed node that has its output; one that was fused into
    others is complete as soon as the first reader of its output is.

    Args:
        source: the graph that was lowered.
        completed: for each executed node the source tensors that it may compute.
    """
    num_executed = len(completed)
    idx_of = {name: idx for idx, node in enumerate(source.nodes) for name in node.outputs}
    done = [num_executed] * source.num_nodes
    for position, names in enumerate(completed):
        for name in names:
            if name in idx_of:
                done[idx_of[name]] = min(done[idx_of[name]], position)
    for idx in reversed(range(source.num_nodes)):
        for name in source.nodes[idx].inputs:
            if name in idx_of:
                done[idx_of[name]] = min(done[idx_of[name]], done[idx])
    positions = [0] * (num_executed + 1)
    prefix = latest = 0
    for split_point in range(num_executed + 1):
        while prefix < source.num_nodes:
            latest = max(latest, done[prefix])
            if latest >= split_point:
                break
            prefix += 1
        positions[split_point] = prefix
    positions[-1] = source.num_nodes
    return tuple(positions)
