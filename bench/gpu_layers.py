"""Where a chain of engines loses time against the whole engine, layer by layer.

TensorRT's profiler times each layer; the engine inspector says which ONNX nodes are in it. Layers
of both that share nodes are compared as one group: a fusion that a cut undid is a group with more
layers in the chain. Layers without nodes are mostly reformats, which stand between two formats.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.gpu_bundle import Loaded
from preempt_runtime.units import fmt_ns
from preemptc.backends.tensorrt.inspector import inspected, layers_from_json
from preemptc.backends.tensorrt.profiler import samples_by_context
from preemptc.onnx_io.files import read_graph

_SHOWN = 10
_MAX_NAME = 90
_REFORMAT = "reformat"  # in the names that TensorRT gives to what only changes a layout or a dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """A layer of an engine, its median time by the profiler and the ONNX nodes in it.

    `segment` is None in the whole engine.
    """

    name: str
    segment: int | None
    time_ns: int
    nodes: tuple[str, ...]

    @property
    def is_reformat(self) -> bool:
        """Whether it only changes a tensor's layout or dtype."""
        return _REFORMAT in self.name.lower()


def layer_times(it: Loaded, lowered: Path) -> list[LayerTime]:
    """Every layer of the whole engine and of the segments' engines.

    Args:
        it: the loaded bundle, with a whole; its contexts have a profiler afterwards.
        lowered: the ONNX file whose nodes the engines are named after.
    """
    names = [node.name for node in read_graph(lowered).graph.node]
    assert it.whole is not None
    found = _times(it.whole.contexts, [None], names, it)
    return [*found, *_times(it.chain.contexts, range(len(it.chain.contexts)), names, it)]


def _times(
    contexts: Sequence[Any], segments: Iterable[int | None], names: Sequence[str], it: Loaded
) -> list[LayerTime]:
    found = []
    samples = samples_by_context(contexts, it.stream)
    for context, segment, times in zip(contexts, segments, samples, strict=True):
        nodes = {
            layer.name: layer.node_names
            for layer in layers_from_json(inspected(context.engine), names)
        }
        found += [
            LayerTime(
                name=name,
                segment=segment,
                time_ns=round(median(values)),
                nodes=nodes.get(name, ()),
            )
            for name, values in times.items()
        ]
    return found


def layer_report(
    layers: Sequence[LayerTime], whole_ns: int, segment_ns: Sequence[int]
) -> dict[str, Any]:
    """The layers as JSON: sums of each engine, groups by what the chain takes longer, every layer.

    `outside_ns` is what an engine's graph takes beyond its layers' sum: launch gaps, less what the
    profiler adds.

    Args:
        layers: of the whole and of every segment.
        whole_ns: the whole engine's median as one graph.
        segment_ns: the segments' medians as graphs.
    """
    engines = {"whole": (None, whole_ns)} | {
        f"segment {idx}": (idx, time_ns) for idx, time_ns in enumerate(segment_ns)
    }
    return {
        "engines": {name: _engine(layers, *engine) for name, engine in engines.items()},
        "groups": _groups(layers),
        "layers": [
            {"segment": layer.segment, "name": layer.name[:_MAX_NAME], "ns": layer.time_ns}
            for layer in layers
        ],
    }


def _engine(layers: Sequence[LayerTime], segment: int | None, graph_ns: int) -> dict[str, int]:
    mine = [layer for layer in layers if layer.segment == segment]
    reformats = [layer for layer in mine if layer.is_reformat]
    layers_ns = sum(layer.time_ns for layer in mine)
    return {
        "layers": len(mine),
        "layers_ns": layers_ns,
        "graph_ns": graph_ns,
        "outside_ns": graph_ns - layers_ns,
        "reformats": len(reformats),
        "reformats_ns": sum(layer.time_ns for layer in reformats),
    }


def _groups(layers: Sequence[LayerTime]) -> list[dict[str, Any]]:
    """Groups of layers that share nodes, the one that costs the chain most first."""
    found = []
    for group in _joined(layers):
        whole = [layer for layer in group if layer.segment is None]
        chain = [layer for layer in group if layer.segment is not None]
        whole_ns, chain_ns = (sum(each.time_ns for each in part) for part in (whole, chain))
        found.append(
            {
                "name": (whole or chain)[0].name[:_MAX_NAME],
                "segments": sorted({each.segment for each in chain if each.segment is not None}),
                "whole_layers": len(whole),
                "whole_ns": whole_ns,
                "chain_layers": len(chain),
                "chain_ns": chain_ns,
                "more_ns": chain_ns - whole_ns,
            }
        )
    return sorted(found, key=lambda group: -int(group["more_ns"]))


def _joined(layers: Sequence[LayerTime]) -> list[list[LayerTime]]:
    """Layers that share a node, directly or through others; one without nodes stays alone."""
    groups: list[list[LayerTime]] = []
    place: dict[str, int] = {}
    for layer in layers:
        met = sorted({place[node] for node in layer.nodes if node in place})
        home = met[0] if met else len(groups)
        if not met:
            groups.append([])
        groups[home].append(layer)
        for other in met[1:]:
            groups[home] += groups[other]
            groups[other] = []
        for each in groups[home]:
            place.update(dict.fromkeys(each.nodes, home))
    return [group for group in groups if group]


def layer_lines(report: Mapping[str, Any]) -> list[str]:
    """The report as Markdown: sums of every engine, and the groups of the largest differences."""
    engines = report["engines"]
    lines = [
        "| engine | layers | their sum | graph | outside layers | reformats | their sum |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(_engine_line(name, engine) for name, engine in engines.items()),
        _engine_line(
            "all segments", _summed([engines[name] for name in engines if name != "whole"])
        ),
        "",
        "| layers that cost the chain most | in segments | layers whole > chain | whole | chain |"
        " more |",
        "|---|---|---|---:|---:|---:|",
    ]
    for group in report["groups"][:_SHOWN]:
        segments = ", ".join(map(str, group["segments"])) or "-"
        lines.append(
            f"| `{group['name'].replace('|', ' ')}` | {segments} |"
            f" {group['whole_layers']} > {group['chain_layers']} | {fmt_ns(group['whole_ns'])} |"
            f" {fmt_ns(group['chain_ns'])} | {fmt_ns(group['more_ns'])} |"
        )
    return lines


def _summed(engines: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {key: sum(engine[key] for engine in engines) for key in engines[0]}


def _engine_line(name: str, engine: Mapping[str, int]) -> str:
    return (
        f"| {name} | {engine['layers']} | {fmt_ns(engine['layers_ns'])} |"
        f" {fmt_ns(engine['graph_ns'])} | {fmt_ns(engine['outside_ns'])} | {engine['reformats']} |"
        f" {fmt_ns(engine['reformats_ns'])} |"
    )
