"""The order of a graph's nodes: topological, constants and casts right before their readers."""

from collections.abc import Iterable

import onnx

from preemptc.onnx_io.files import all_graphs
from preemptc.onnx_io.graphs import captured_names
from preemptc.onnx_io.names import defined_names


def move_constants_to_readers(graph: onnx.GraphProto) -> None:
    """Put each node that depends on no input right before its first reader, in place.

    A DequantizeLinear of a weight may run at any time before the layer that reads it, and a
    topological sort puts all of them first, ONNX Runtime's quantiser too. In that order every
    prefix of the network up to its last weight is complete only where all layers before are, and
    each cut hands all later weights over, dequantised. All other nodes keep their order, and so do
    those that one reader waits for. What no node reads goes last.
    """
    varying = {value.name for value in graph.input} - {each.name for each in graph.initializer}
    constant: dict[str, int] = {}  # the outputs of the nodes to move, with the node's index
    reads: list[tuple[str, ...]] = []
    for idx, node in enumerate(graph.node):
        reads.append((*node.input, *captured_names(node)))
        if varying.isdisjoint(reads[-1]):
            constant.update(dict.fromkeys(filter(None, node.output), idx))
        else:
            varying.update(node.output)
    needed: list[set[int]] = []  # of each node, the nodes to move that it waits for
    for names in reads:
        direct = {constant[name] for name in names if name in constant}
        needed.append(direct.union(*(needed[idx] for idx in direct)))
    movable = set(constant.values())
    order: dict[int, None] = {}
    for idx in range(len(reads)):
        if idx not in movable:
            order.update(dict.fromkeys((*sorted(needed[idx]), idx)))
    order.update(dict.fromkeys(sorted(movable)))
    _put_in_order(graph, order)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put each node behind those that it waits for, in place, in the graphs inside this one too.

    The order changes no more than it must: a node that stands too late, such as a cast that was
    appended, moves to right before the first node that waits for it.
    """
    for each in reversed(list(all_graphs(graph))):  # inner ones before their nodes are copied
        _sort(each)


def _sort(graph: onnx.GraphProto) -> None:
    producer = {name: idx for idx, node in enumerate(graph.node) for name in node.output if name}
    order: dict[int, None] = {}
    for start in range(len(graph.node)):
        waiting = [start]  # each node of the stack is waited for by the one below
        while waiting:
            node = graph.node[waiting[-1]]
            names = (*node.input, *captured_names(node))
            before = [producer[name] for name in names if name in producer]
            missing = [idx for idx in before if idx not in order and idx not in waiting]
            if missing:
                waiting.append(missing[0])
            else:
                order[waiting.pop()] = None
    _put_in_order(graph, order)


def move_inward(graph: onnx.GraphProto, start: int) -> None:
    """Move nodes that read what a graph inside this one defines into that graph, in place.

    Args:
        graph: no two of its graphs define the same name.
        start: the first of the nodes that may move.
    """
    _, *inner = all_graphs(graph)
    home = {name: each for each in inner for name in defined_names(each)}
    staying = list(range(len(graph.node)))
    while True:
        moving = [i for i in staying[start:] if not home.keys().isdisjoint(graph.node[i].input)]
        if not moving:
            break
        for idx in moving:
            node = graph.node[idx]
            found = next(home[name] for name in node.input if name in home)
            found.node.append(node)
            home.update(dict.fromkeys(node.output, found))
        staying = [idx for idx in staying if idx not in moving]
    _put_in_order(graph, staying)


def _put_in_order(graph: onnx.GraphProto, order: Iterable[int]) -> None:
    copies = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    del graph.node[:]
    graph.node.extend(copies)
