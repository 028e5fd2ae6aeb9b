"""What must hold within and between the parts of a manifest, beyond the types of its fields."""

import re
from collections.abc import Collection, Container, Iterable

from preempt_runtime.manifest import (
    GATES,
    ITEM_BYTES,
    MANIFEST_NAME,
    MAX_RANK,
    MAX_TENSOR_BYTES,
    MECHANISMS,
    QUANTILES,
    SOURCES,
    CheckSpec,
    GateSpec,
    GraphSpec,
    Latency,
    Manifest,
    PlanSpec,
    SegmentSpec,
    TensorSpec,
    hash_key,
)
from preempt_runtime.strict_json import Place, brief
from preempt_runtime.units import fmt_bytes

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_manifest(manifest: Manifest, where: str) -> None:
    """Return when a runtime may act on the manifest.

    Raises:
        BundleError: what is wrong, with its JSON path; `where` names the file in the message.
    """
    place = Place(where=where)
    _check_unique(manifest.requires, place.field("requires"))
    _check_keys(manifest, place.field("keys"))
    _check_artefacts(manifest, place.field("artefacts"))
    _check_graphs(manifest, place.field("graphs"))
    _check_unique((plan.id for plan in manifest.plans), place.field("plans"))
    known = _Known(manifest)
    for idx, plan in enumerate(manifest.plans):
        _check_plan(known, plan, place.field("plans").item(idx))
    if manifest.check is not None:
        _check_check(manifest.check, place.field("check"))


class _Known:
    """What plans refer to, looked up once for all of them: a file may hold very many."""

    def __init__(self, manifest: Manifest) -> None:
        self.keys = manifest.keys
        self.graphs = {graph.id: _Names(graph) for graph in manifest.graphs}
        self.segment_keys = {artefact.path: artefact.key for artefact in manifest.artefacts}


class _Names:
    """The names of a network's tensors."""

    def __init__(self, graph: GraphSpec) -> None:
        self.inputs = frozenset(tensor.name for tensor in graph.inputs)
        self.outputs = frozenset(tensor.name for tensor in graph.outputs)


def check_path(path: str, place: Place) -> None:
    """Return when `path` is relative, normalised POSIX that cannot leave the bundle.

    Raises:
        BundleError: it is not; `place` says where it stands.
    """
    components = path.split("/")
    if not {"", ".", ".."}.isdisjoint(components) or "\\" in path or _CONTROL.search(path):
        todo = "write it relative, with '/', without '.' and '..', and compile the bundle again"
        raise place.refuse(f"path {brief(path)} is not one inside the bundle", todo)
    if path == MANIFEST_NAME:
        raise place.refuse("the manifest lists itself")


def _check_unique(names: Iterable[str], place: Place) -> None:
    seen: set[str] = set()
    for idx, name in enumerate(names):
        if not name or name in seen:
            what = f"{brief(name)} stands here twice" if name else "an empty name"
            raise place.item(idx).refuse(what)
        seen.add(name)


def _check_at_least(value: float, minimum: int, place: Place) -> None:
    if value < minimum:
        raise place.refuse(f"found {brief(value)}, at least {minimum}")


def _check_one_of(value: str, allowed: Iterable[str], place: Place) -> None:
    if value not in allowed:
        raise place.refuse(f"found {brief(value)}, one of {', '.join(sorted(allowed))}")


def _check_keys(manifest: Manifest, place: Place) -> None:
    for key, key_fields in manifest.keys.items():
        if (expected := hash_key(key_fields)) != key:
            raise place.field(key).refuse(f"is not the hash of its fields, {expected}")


def _check_key_known(keys: Container[str], key: str | None, place: Place) -> None:
    if key is not None and key not in keys:
        raise place.refuse(f"found {brief(key)}, which keys does not define")


def _check_artefacts(manifest: Manifest, place: Place) -> None:
    _check_unique((artefact.path for artefact in manifest.artefacts), place)
    for idx, artefact in enumerate(manifest.artefacts):
        at = place.item(idx)
        check_path(artefact.path, at.field("path"))
        _check_at_least(artefact.num_bytes, 0, at.field("bytes"))
        if not _SHA256.fullmatch(artefact.sha256):
            what = f"found {brief(artefact.sha256)}, expected 64 hexadecimal digits in lower case"
            raise at.field("sha256").refuse(what)
        _check_key_known(manifest.keys, artefact.key, at.field("key"))


def _check_graphs(manifest: Manifest, place: Place) -> None:
    ids = {graph.id for graph in manifest.graphs}
    _check_unique((graph.id for graph in manifest.graphs), place)
    for idx, graph in enumerate(manifest.graphs):
        at = place.item(idx)
        if graph.exit_of is not None and (graph.exit_of == graph.id or graph.exit_of not in ids):
            raise at.field("exit_of").refuse(
                f"found {brief(graph.exit_of)}, not another graph's id"
            )
        _check_tensors(graph.inputs, at.field("inputs"))
        _check_tensors(graph.outputs, at.field("outputs"))
        if not graph.outputs:
            raise at.field("outputs").refuse("found none, at least 1")


def _check_tensors(tensors: tuple[TensorSpec, ...], place: Place) -> None:
    _check_unique((tensor.name for tensor in tensors), place)
    for idx, tensor in enumerate(tensors):
        at = place.item(idx)
        _check_one_of(tensor.dtype, ITEM_BYTES, at.field("dtype"))
        _check_shape(tensor, at.field("shape"))


def _check_shape(tensor: TensorSpec, place: Place) -> None:
    """A zero dimension does not excuse the others: libraries multiply them all."""
    if len(tensor.shape) > MAX_RANK:
        raise place.refuse(f"found {len(tensor.shape)} dimensions, at most {MAX_RANK}")
    num_bytes = ITEM_BYTES[tensor.dtype]
    for idx, dim in enumerate(tensor.shape):
        _check_at_least(dim, 0, place.item(idx))
        num_bytes *= max(dim, 1)
    if num_bytes > MAX_TENSOR_BYTES:
        limit = fmt_bytes(MAX_TENSOR_BYTES)
        raise place.refuse(f"tensor {brief(tensor.name)} of {num_bytes} bytes, at most {limit}")


def _check_plan(known: _Known, plan: PlanSpec, place: Place) -> None:
    graph = known.graphs.get(plan.graph)
    if graph is None:
        raise place.field("graph").refuse(f"found {brief(plan.graph)}, no graph has this id")
    _check_key_known(known.keys, plan.key, place.field("key"))
    _check_one_of(plan.mechanism, MECHANISMS, place.field("mechanism"))
    _check_one_of(plan.bound_quantile, QUANTILES, place.field("bound_quantile"))
    _check_one_of(plan.source, SOURCES, place.field("source"))
    if plan.bound_ns is not None:
        _check_at_least(plan.bound_ns, 1, place.field("bound_ns"))
    if not 0 <= plan.margin_frac < 1:
        raise place.field("margin_frac").refuse(f"found {plan.margin_frac}, in [0, 1)")
    _check_tensors(plan.boundaries, place.field("boundaries"))
    check_latency(plan.chained, place.field("chained"))
    if not plan.segments:
        raise place.field("segments").refuse("found none, at least 1")
    for idx, segment in enumerate(plan.segments):
        at = place.field("segments").item(idx)
        _check_segment(segment, at, is_measured=plan.source == "measured")
        if known.segment_keys.get(segment.path, "absent") != plan.key:
            what = f"{brief(segment.path)} is not an artefact of key {brief(plan.key)}"
            raise at.field("path").refuse(what)
    _check_ranges([each.range for each in plan.segments], place.field("segments"))
    if plan.mechanism == GATES:
        _check_gates(graph, plan, place)
        return
    if plan.gates is not None:
        raise place.field("gates").refuse(f"found in a plan of {plan.mechanism}, expected null")
    _check_source_ranges(plan.segments, place.field("segments"))
    _check_dataflow(graph, plan, place)


def _check_segment(segment: SegmentSpec, place: Place, *, is_measured: bool) -> None:
    check_path(segment.path, place.field("path"))
    _check_at_least(segment.live_bytes, 0, place.field("live_bytes"))
    _check_at_least(segment.predicted_ns, 0, place.field("predicted_ns"))
    _check_unique(segment.inputs, place.field("inputs"))
    _check_unique(segment.outputs, place.field("outputs"))
    check_latency(segment.latency, place.field("latency"))
    if is_measured and segment.latency is None:
        raise place.field("latency").refuse("found null in a plan whose source is measured")


def check_latency(latency: Latency | None, place: Place) -> None:
    """Return when the distribution is in order, or is none.

    Raises:
        PreemptError: it is not; `place` says where it stands.
    """
    if latency is None:
        return
    if not 0 <= latency.p50_ns <= latency.p99_ns <= latency.max_ns:
        found = f"{latency.p50_ns}, {latency.p99_ns}, {latency.max_ns} ns"
        raise place.refuse(f"found {found}, expected 0 <= p50 <= p99 <= max")
    _check_at_least(latency.num_samples, 1, place.field("num_samples"))


def _check_ranges(ranges: Iterable[tuple[int, int]], place: Place) -> None:
    """Executed nodes are covered once, in order."""
    start = 0
    for idx, found in enumerate(ranges):
        if found[0] != start or found[1] <= start:
            what = f"found {list(found)}, expected a range that starts at {start} and ends after"
            raise place.item(idx).field("range").refuse(what)
        start = found[1]


def _check_source_ranges(segments: tuple[SegmentSpec, ...], place: Place) -> None:
    """In order, too; a segment may hold no whole source node."""
    end = segments[0].source_range[0]
    _check_at_least(end, 0, place.item(0).field("source_range"))
    for idx, segment in enumerate(segments):
        found = segment.source_range
        if found[0] != end or found[1] < end:
            what = f"found {list(found)}, expected a range that starts at {end}"
            raise place.item(idx).field("source_range").refuse(what)
        end = found[1]


def _check_gates(graph: _Names, plan: PlanSpec, place: Place) -> None:
    """Stretches of one engine: one file, all its nodes, and nothing handed over."""
    if plan.gates is None:
        raise place.field("gates").refuse("found null in a plan of gates")
    _check_gate_spec(plan.gates, place.field("gates"))
    if plan.key is None:
        raise place.field("key").refuse("found null: where gates stand is known of engines alone")
    if plan.boundaries:
        raise place.field("boundaries").refuse("found some: one engine hands nothing over")
    first, last = plan.segments[0], plan.segments[-1]
    _check_source_ranges((first,), place.field("segments"))
    if (end := last.range[1]) != plan.gates.num_nodes:
        at = place.field("gates").field("num_nodes")
        raise at.refuse(f"found {plan.gates.num_nodes}, the segments end at {end}")
    for idx, segment in enumerate(plan.segments):
        at = place.field("segments").item(idx)
        if segment.path != first.path:
            raise at.field("path").refuse(f"found {brief(segment.path)}, all are of one engine")
        if segment.source_range != first.source_range:
            raise at.field("source_range").refuse("all are of one engine, so of the same nodes")
        if set(segment.inputs) != (graph.inputs if idx == 0 else set()):
            raise at.field("inputs").refuse("the first reads the graph's inputs, no other any")
        if set(segment.outputs) != (graph.outputs if segment is last else set()):
            raise at.field("outputs").refuse("the last writes the graph's outputs, no other any")


def _check_gate_spec(gates: GateSpec, place: Place) -> None:
    if _FINGERPRINT.fullmatch(gates.fingerprint) is None:
        raise place.field("fingerprint").refuse(
            f"found {brief(gates.fingerprint)}, expected 16 hexadecimal digits in lower case"
        )
    _check_at_least(gates.num_nodes, 1, place.field("num_nodes"))
    _check_at_least(gates.gate_ns, 0, place.field("gate_ns"))


def _check_dataflow(graph: _Names, plan: PlanSpec, place: Place) -> None:
    """Every tensor is produced once, before it is read, and what is handed over is declared."""
    inputs, outputs = graph.inputs, graph.outputs
    produced: set[str] = set()
    handed: set[str] = set()
    for idx, segment in enumerate(plan.segments):
        at = place.field("segments").item(idx)
        if not segment.outputs:
            raise at.field("outputs").refuse("found none, at least 1")
        for name in segment.inputs:
            if name not in inputs and name not in produced:
                what = f"{brief(name)} is no input of the graph and no earlier segment produces it"
                raise at.field("inputs").refuse(what)
        handed.update(produced.intersection(segment.inputs))
        for name in segment.outputs:
            if not name or name in inputs or name in produced:
                what = f"{brief(name)} is empty, an input of the graph, or produced already"
                raise at.field("outputs").refuse(what)
            produced.add(name)
    _check_names(outputs - produced, "output of the graph, but no segment produces it", place)
    _check_names(produced - handed - outputs, "produced, but nothing reads it", place)
    boundaries = {tensor.name for tensor in plan.boundaries}
    at = place.field("boundaries")
    _check_names(handed - outputs - boundaries, "handed over, but not declared here", at)
    _check_names(boundaries - (handed - outputs), "declared, but not handed over", at)


def _check_names(wrong: Collection[str], what: str, place: Place) -> None:
    if wrong:
        raise place.refuse(f"{brief(min(wrong))} is {what}")


def _check_check(check: CheckSpec, place: Place) -> None:
    _check_at_least(check.num_inputs, 1, place.field("num_inputs"))
    _check_at_least(check.seed, 0, place.field("seed"))
    for name in ("max_abs_diff", "tolerance_frac", "source_max_abs_diff"):
        _check_at_least(getattr(check, name), 0, place.field(name))
