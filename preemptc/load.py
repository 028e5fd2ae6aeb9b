"""Stage load: a model file becomes a checked, static, folded `Model` in the cache."""

from collections.abc import Mapping
from pathlib import Path

from preemptc import __version__
from preemptc.cache import BuildCache
from preemptc.model import Model
from preemptc.onnx_io.files import (
    MODEL_FILE,
    OnnxFile,
    check_file,
    external_files,
    read,
    read_graph,
    write,
)
from preemptc.onnx_io.graphs import graph_from_proto
from preemptc.onnx_io.simplify import simplify
from preemptc.onnx_io.versions import LIBRARY_VERSIONS, folding_version

_DIGEST_FILE = "digest.txt"
_REVISION = 3  # of what this stage writes: another one where the same file comes out differently

Shapes = Mapping[str, tuple[int, ...]]


def load(path: Path, shapes: Shapes, cache: BuildCache) -> Model:
    """The model at `path`; weights stay in one external file in the cache.

    Args:
        shapes: static shapes for inputs with dynamic dimensions.

    Raises:
        ModelError: not a valid ONNX model of static shape; the message says where and why.
        BuildError: the cache cannot be written.
    """
    source = read(path)
    fields = {
        "files": [cache.file_digest(file) for file in (path, *external_files(source))],
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "revision": _REVISION,
        "versions": [__version__, *LIBRARY_VERSIONS.values(), folding_version()],
    }
    folder = cache.entry("load", fields, lambda folder: _make(source, path, shapes, folder))
    written = read_graph(folder / MODEL_FILE)
    return Model(
        name=path.stem,
        path=folder / MODEL_FILE,
        digest=(folder / _DIGEST_FILE).read_text(),
        graph=graph_from_proto(written),
    )


def _make(source: OnnxFile, path: Path, shapes: Shapes, folder: Path) -> None:
    check_file(path, path.name)
    digest = write(simplify(source, shapes, path.name), folder)
    (folder / _DIGEST_FILE).write_text(digest)
