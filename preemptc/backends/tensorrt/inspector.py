"""What the engine inspector says of a built engine's layers, in either of its JSON schemas."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from preempt_runtime.backends.tensorrt import library
from preemptc.backends.tensorrt.groups import FusedLayer

_METADATA = re.compile(r"\[ONNX Layer: (.*?)\]")
_TOKENS = re.compile(r"[^\s+(){}\[\],|]+")


def inspected(engine: Any) -> str:
    """What TensorRT says of a deserialised engine's layers, in JSON."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(library().LayerInformationFormat.JSON))


def layers_from_json(text: str, node_names: Iterable[str]) -> tuple[FusedLayer, ...]:
    """The engine's layers in the order in which they run.

    TensorRT names a fused layer after its nodes; versions that keep metadata name them there.
    A layer that holds a whole stretch of the network under two names (`ForeignNode[first...last]`
    or a Myelin graph) is opaque: its nodes are not told.

    Args:
        text: as `inspected` gives it, of an engine built with detailed verbosity.
        node_names: of the network's ONNX nodes, unique and without white space.
    """
    known = frozenset(node_names)
    entries: list[Any] = json.loads(text, strict=False)["Layers"]
    return tuple(_layer(entry, known) for entry in entries)


def _layer(entry: Mapping[str, Any] | str, known: frozenset[str]) -> FusedLayer:
    if isinstance(entry, str):  # the short form: names only
        entry = {"Name": entry}
    name = str(entry["Name"])
    told = _METADATA.findall(str(entry.get("Metadata", "")))
    names = [each for each in told if each in known]
    is_myelin = "ForeignNode" in name or entry.get("LayerType") == "Myelin"
    if not names and not is_myelin:
        names = [token for token in _TOKENS.findall(name) if token in known]
    is_opaque = is_myelin and not names
    return FusedLayer(name=name, node_names=tuple(dict.fromkeys(names)), is_opaque=is_opaque)
