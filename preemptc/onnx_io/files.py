"""Model files: read them, check their external data, write graph and weights apart."""

import errno
import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto, helper, numpy_helper

from preempt_runtime.errors import ModelError
from preempt_runtime.units import fmt_bytes

MODEL_FILE = "model.onnx"
WEIGHTS_FILE = "weights.data"
_NUM_BYTES = re.compile(r"[0-9]{1,19}")
_PACKED_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
INLINE_MAX_BYTES = 1024  # shapes, axes, scales: shape inference reads these from the graph itself
_FULL_BYTES = 1 << 16  # what a failed write may leave unused
_MAX_INT64 = (1 << 63) - 1
_ALIGNMENT = 4096  # ONNX Runtime maps external data by page


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """A graph in memory whose external weights stand in files below `folder`."""

    proto: onnx.ModelProto
    folder: Path


def read(path: Path) -> OnnxFile:
    """The model at `path`, its external weights left where they are.

    Raises:
        ModelError: missing, not ONNX, truncated, or external data missing or short.
    """
    if not _is_file(path):
        other = "is a directory" if os.path.isdir(path) else "is a pipe or a device"
        what = other if os.path.exists(path) else "no such file"
        raise ModelError(f"{path}: {what}; give the path of an ONNX model")
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except Exception as err:  # protobuf's DecodeError has no stable public name
        raise ModelError(
            f"{path}: not an ONNX model, or truncated ({err}); export it again"
        ) from err
    if not proto.ir_version or (not proto.graph.node and not proto.graph.output):
        raise ModelError(f"{path}: not an ONNX model, or an empty one; export it again")
    for tensor in all_initializers(proto.graph):
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(tensor, path)
    return OnnxFile(proto=proto, folder=path.parent)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long, or a folder may not be read
        return False


def _check_external(tensor: onnx.TensorProto, path: Path) -> None:
    if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
        raise ModelError(
            f"{path}: weight {tensor.name!r} has the unknown data type {tensor.data_type};"
            " export the model again, or update preemptc"
        )
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(
            f"{path}: weight {tensor.name!r} holds strings, which ONNX never keeps in another file;"
            " export the model again"
        )
    if any(dim < 0 for dim in tensor.dims) or tensor_bytes(tensor) > _MAX_INT64:
        raise ModelError(
            f"{path}: weight {tensor.name!r} has the impossible shape {list(tensor.dims)[:64]};"
            " export the model again"
        )
    try:
        location, offset, length = external_range(tensor)
    except ModelError as err:
        raise ModelError(f"{path}: {err}") from err
    data = path.parent / location.replace("\0", "")
    # os.path: pathlib raises at a loop of links.
    inside = Path(os.path.realpath(data)).is_relative_to(os.path.realpath(path.parent))
    if not location or "\0" in location or os.path.isabs(location) or not inside:
        raise ModelError(
            f"{path}: weight {tensor.name!r} stands in {location[:80]!r}, outside the model's"
            " folder; save the model again with its data beside it"
        )
    if length < (needed := _stored_bytes(tensor)):
        raise ModelError(
            f"{path}: weight {tensor.name!r} has {fmt_bytes(length)} of external data, its shape"
            f" needs {fmt_bytes(needed)}; export the model again"
        )
    if not _is_file(data):
        raise ModelError(
            f"{path}: weight {tensor.name!r} stands in {location[:80]!r}, which is missing or no"
            " regular file; copy the data file beside the model"
        )
    if (found := data.stat().st_size) < offset + length:
        raise ModelError(
            f"{data}: {fmt_bytes(found)}, but weight {tensor.name!r} of {path.name} ends at"
            f" {fmt_bytes(offset + length)}; copy the data file completely"
        )


def read_graph(path: Path) -> onnx.ModelProto:
    """A model that this program wrote itself, without its external weights."""
    return onnx.load(str(path), load_external_data=False)


def external_files(source: OnnxFile) -> tuple[Path, ...]:
    """The data files that the model's weights stand in, sorted."""
    locations = {
        external_range(tensor)[0]
        for tensor in all_initializers(source.proto.graph)
        if tensor.data_location == TensorProto.EXTERNAL
    }
    return tuple(source.folder / location for location in sorted(locations))


def external_range(tensor: onnx.TensorProto) -> tuple[str, int, int]:
    """Location relative to the model, offset and length in bytes of an external weight.

    Raises:
        ModelError: offset or length is no number of bytes.
    """
    fields = {entry.key: entry.value for entry in tensor.external_data}
    for name in ("offset", "length"):
        if (text := fields.get(name, "0")) and not _NUM_BYTES.fullmatch(text):
            raise ModelError(
                f"weight {tensor.name!r}: external data has the {name} {text[:40]!r}, expected"
                " bytes from 0 on; export the model again"
            )
    length = int(fields.get("length") or _stored_bytes(tensor))
    return fields.get("location", ""), int(fields.get("offset") or 0), length


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    """Size in a file, where types below a byte are packed."""
    bits = _PACKED_BITS.get(TensorProto.DataType.Name(tensor.data_type), 8)
    return -(-tensor_bytes(tensor) * bits // 8)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Size of a dense tensor; types that numpy lacks count as one byte an element."""
    num_items: int = math.prod(tensor.dims)
    try:
        item_bytes: int = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        item_bytes = 1
    return num_items * item_bytes


def all_graphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    """The graph and every subgraph of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_graphs(attribute.g)
            for subgraph in attribute.graphs:
                yield from all_graphs(subgraph)


def all_initializers(graph: onnx.GraphProto) -> Iterable[onnx.TensorProto]:
    """The initialisers of the graph and of every subgraph."""
    for each in all_graphs(graph):
        yield from each.initializer


def one_line(err: BaseException) -> str:
    """The text of another library's error, on one line of bounded length."""
    text = " ".join(str(err).split())
    return text[:300] or type(err).__name__


def check_disk(folder: Path) -> None:
    """Return if there is space left: libraries that write do not say that it was that.

    Raises:
        OSError: the disk of `folder` is full.
    """
    if shutil.disk_usage(folder).free < _FULL_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def write(source: OnnxFile, folder: Path) -> str:
    """Write `model.onnx` and `weights.data` into `folder`; return the sha256 over both.

    Large weights are copied range by range, so the model may be larger than memory or 2 GB.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    digest = hashlib.sha256()
    with (folder / WEIGHTS_FILE).open("wb") as out:
        for tensor in all_initializers(proto.graph):
            _move_weight(tensor, source.folder, out, digest)
    content = proto.SerializeToString(deterministic=True)
    digest.update(content)
    (folder / MODEL_FILE).write_bytes(content)
    return digest.hexdigest()


def _move_weight(
    tensor: onnx.TensorProto, folder: Path, out: BinaryIO, digest: "hashlib._Hash"
) -> None:
    if tensor.data_location == TensorProto.EXTERNAL:
        location, offset, length = external_range(tensor)
        start = _pad(out)
        with (folder / location).open("rb") as stream:
            stream.seek(offset)
            remaining = length
            while remaining:
                chunk = stream.read(min(remaining, 1 << 24))
                if not chunk:
                    raise ModelError(f"{folder / location}: ended {remaining} bytes early")
                out.write(chunk)
                digest.update(chunk)
                remaining -= len(chunk)
    else:
        if tensor_bytes(tensor) <= INLINE_MAX_BYTES or tensor.data_type == TensorProto.STRING:
            return
        raw = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
        start, length = _pad(out), len(raw)
        out.write(raw)
        digest.update(raw)
    _refer(tensor, WEIGHTS_FILE, start, length)


def _pad(out: BinaryIO) -> int:
    position = out.tell()
    start = -(-position // _ALIGNMENT) * _ALIGNMENT
    out.write(b"\0" * (start - position))
    return start


def _refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    for field in (
        "raw_data",
        "float_data",
        "int32_data",
        "int64_data",
        "double_data",
        "uint64_data",
    ):
        tensor.ClearField(field)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def name_uniquely(proto: onnx.ModelProto) -> None:
    """Give every node a name of its own: profiles and plans refer to nodes by it.

    Nodes of subgraphs, too: a profiler reports them by name beside the others.
    """
    seen: set[str] = set()
    for graph in all_graphs(proto.graph):
        for idx, node in enumerate(graph.node):
            stem, num_tried = node.name or node.op_type, 0
            while not node.name or node.name in seen:
                node.name = f"{stem}_{idx}" + (f"_{num_tried}" if num_tried else "")
                num_tried += 1
            seen.add(node.name)


def check_file(path: Path, name: str) -> None:
    """Run ONNX's checker on a written model.

    Raises:
        ModelError: with the checker's own text.
    """
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as err:
        raise ModelError(
            f"{name}: ONNX's checker refuses it ({one_line(err)}); export it again"
        ) from err
    except UnicodeDecodeError as err:  # its message quotes a name that is no text
        raise ModelError(
            f"{name}: a name in it is no UTF-8 text, it may be damaged; export it again"
        ) from err


def save_piece(proto: onnx.ModelProto, path: Path) -> None:
    """Write a graph that refers to a weights file which already stands beside `path`.

    Renamed into place: another process may be writing the same piece.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(proto.SerializeToString(deterministic=True))
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
