"""The engines of one lowered graph's segments: each built once, kept beside the graph."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from preempt_runtime.backends.tensorrt import deserialize
from preempt_runtime.errors import BuildError, DeviceError
from preempt_runtime.output_file import write_output
from preemptc.backends import Progress
from preemptc.backends.tensorrt.build_watch import BuildWatch
from preemptc.backends.tensorrt.engine_builder import EngineBuilder, PassingBuildError
from preemptc.backends.tensorrt.formats import Layout, boundary_formats, format_tag, layouts
from preemptc.backends.tensorrt.lower import read_groups
from preemptc.model import Lowered, TensorInfo
from preemptc.onnx_io.files import one_line, read_graph, save_piece
from preemptc.onnx_io.graphs import extract
from preemptc.onnx_io.quantized import is_quantized
from preemptc.segments import Segment

_MAX_REFUSAL_BYTES = 1 << 16


class SegmentEngines:
    """Engines by segment and by the formats of its boundaries, in memory and in the folder.

    A segment that TensorRT refuses leaves a `.refused` file with TensorRT's text where its engine
    would stand, so that the next process does not try again. Refusals for want of memory or of a
    GPU are remembered in this process only.
    """

    def __init__(self, lowered: Lowered, builder: EngineBuilder, progress: Progress) -> None:
        self._lowered, self._builder, self._progress = lowered, builder, progress
        self._folder = lowered.path.parent
        self._proto = read_graph(lowered.path)
        self._edges = read_groups(self._folder).edges
        self._engines: dict[Path, Any] = {}
        self._failed: dict[Path, str] = {}
        self.num_built = 0

    def layouts(self, names: Iterable[str]) -> tuple[Layout, ...]:
        """What to try for boundary tensors of these names, the likeliest winner first."""
        tensors = self._lowered.graph.tensors
        return layouts(
            [tensors[name] for name in names],
            is_grouped=_has_grouped_convolutions(self._proto),
            is_quantized=is_quantized(self._proto),
        )

    def path(self, segment: Segment, layout: Layout) -> Path:
        """Where the segment's engine stands, or would stand."""
        inner = self._inner(segment)
        tag = format_tag(inner, boundary_formats(inner, layout))
        return self._folder / f"segment-{segment.start}-{segment.end}-{tag}.engine"

    def engine(self, segment: Segment, layout: Layout) -> Any:
        """The engine, built if it is not there.

        Raises:
            BuildError: TensorRT refused this segment, now or in an earlier process.
            OSError: the cache cannot be written, which is no refusal: no other plan would help.
        """
        path = self.path(segment, layout)
        if path in self._failed:
            raise BuildError(self._failed[path])
        if path not in self._engines:
            try:
                self._engines[path] = self._found(path) or self._built(segment, layout, path)
            except (BuildError, DeviceError) as err:
                self._failed[path] = str(err)
                raise BuildError(str(err)) from err
        return self._engines[path]

    def close(self) -> None:
        """Release the engines."""
        self._engines.clear()

    def _found(self, path: Path) -> Any:
        """The engine in the folder; None if there is none, or it is damaged.

        Raises:
            BuildError: what is there is a refusal.
        """
        if text := _refusal(path):
            raise BuildError(text)
        if not path.is_file():
            return None
        try:
            return deserialize(path.read_bytes(), path.name)
        except (DeviceError, OSError):
            return None

    def _built(self, segment: Segment, layout: Layout, path: Path) -> Any:
        inner = self._inner(segment)
        try:
            blob = self._build(segment, boundary_formats(inner, layout), path)
        except PassingBuildError:
            raise
        except BuildError as err:
            _store(_refusal_path(path), one_line(err).encode())
            raise
        _store(path, blob)
        self.num_built += 1
        return deserialize(blob, path.name)

    def _build(self, segment: Segment, formats: Mapping[str, str], path: Path) -> bytes:
        tensors, num_nodes = self._lowered.graph.tensors, self._lowered.graph.num_nodes
        nodes = self._proto.graph.node[self._edges[segment.start] : self._edges[segment.end]]
        piece = extract(
            self._proto,
            nodes,
            [tensors[name] for name in segment.inputs],
            [tensors[name] for name in segment.outputs],
        )
        piece_path = path.with_suffix(".onnx")
        save_piece(piece, piece_path)
        what = f"build: nodes {segment.start} to {segment.end} of {num_nodes}"
        watch = BuildWatch(what, segment.start / num_nodes, self._progress)
        return self._builder.build(piece_path, formats, watch, is_quantized=is_quantized(piece))

    def _inner(self, segment: Segment) -> list[TensorInfo]:
        """The boundary tensors of the segment; the network's inputs and outputs stay linear."""
        graph = self._lowered.graph
        outer = {*graph.inputs, *graph.outputs}
        names = dict.fromkeys((*segment.inputs, *segment.outputs))
        return [graph.tensors[name] for name in names if name not in outer]


def _has_grouped_convolutions(proto: Any) -> bool:
    return any(
        attribute.name == "group" and attribute.i > 1
        for node in proto.graph.node
        if node.op_type in ("Conv", "ConvTranspose")
        for attribute in node.attribute
    )


def _store(path: Path, content: bytes) -> None:
    if not path.is_file():  # a pipe or a device in the way is no file of ours
        with suppress(OSError):
            path.unlink()
    write_output(path, content)


def _refusal(path: Path) -> str:
    """What is noted of an engine that TensorRT refused; nothing if the note is none of ours."""
    note = _refusal_path(path)
    with suppress(OSError, ValueError):
        if note.is_file() and note.stat().st_size <= _MAX_REFUSAL_BYTES:
            return " ".join(note.read_text(encoding="utf-8").split())
    return ""


def _refusal_path(path: Path) -> Path:
    return path.with_suffix(".refused")
