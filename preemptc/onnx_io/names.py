"""Names of values: which are taken, new ones, and one meaning each in all graphs of a network."""

from collections.abc import Iterable, Mapping
from itertools import count

import onnx

from preemptc.onnx_io.files import all_graphs


def taken_names(proto: onnx.ModelProto) -> set[str]:
    """Names that no new tensor may have, in the graph or in those inside it."""
    return {
        name
        for graph in all_graphs(proto.graph)
        for name in (
            *defined_names(graph),
            *(each.name for each in graph.output),
            *(name for node in graph.node for name in node.input),
        )
    }


def new_name(wanted: str, taken: set[str]) -> str:
    """The name, or the first like it that is not taken; it is taken from now on."""
    names = (f"{wanted}_{number}" for number in count())
    found = wanted if wanted not in taken else next(name for name in names if name not in taken)
    taken.add(found)
    return found


def defined_names(graph: onnx.GraphProto) -> tuple[str, ...]:
    """What the graph itself gives a value: its inputs, its weights, its nodes' outputs."""
    return tuple(
        dict.fromkeys(
            name
            for name in (
                *(each.name for each in (*graph.input, *graph.initializer)),
                *(name for node in graph.node for name in node.output),
            )
            if name
        )
    )


def name_inner_values(proto: onnx.ModelProto) -> None:
    """Rename values of inner graphs until no two graphs define the same name, in place.

    Both branches of an If may call a value `y`; what rewrites a network by names needs one
    meaning for each.
    """
    _name_inner(proto.graph, {}, set(defined_names(proto.graph)), taken_names(proto))


def _name_inner(
    graph: onnx.GraphProto, renamed: Mapping[str, str], seen: set[str], taken: set[str]
) -> None:
    for inner in _inner_graphs(graph):
        own = dict(renamed)
        for name in defined_names(inner):
            own[name] = new_name(name, taken) if name in seen else name
            seen.add(own[name])
        for value in (*inner.input, *inner.initializer, *inner.output, *inner.value_info):
            value.name = own.get(value.name, value.name)
        for node in inner.node:
            for names in (node.input, node.output):
                names[:] = [own.get(name, name) for name in names]
        _name_inner(inner, own, seen, taken)


def _inner_graphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    """The graphs of the graph's own nodes."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.g
            yield from attribute.graphs
