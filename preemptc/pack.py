"""Stage pack: the files and the manifest of a bundle, complete before anybody sees it."""

import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preempt_runtime.errors import BuildError
from preempt_runtime.manifest import (
    MANIFEST_NAME,
    PROFILE_NAME,
    Artefact,
    CheckSpec,
    Manifest,
)
from preempt_runtime.manifest_json import json_from_manifest
from preempt_runtime.network_memory import extension_from_engines
from preemptc import __version__
from preemptc.backends import Artefacts, Bench
from preemptc.cache import sha256_of
from preemptc.compile_options import EXTENSION
from preemptc.gate_plan import MeasuredGates
from preemptc.goal import Goal
from preemptc.interface import graph_spec, tensor_info
from preemptc.model import Lowered, Model
from preemptc.onnx_io.files import MODEL_FILE, WEIGHTS_FILE, read_graph, save_piece
from preemptc.onnx_io.graphs import extract
from preemptc.onnx_io.versions import ONNX_VERSION
from preemptc.plan_specs import estimated_plan, gates_plan, measured_plan, whole_plan
from preemptc.profile import LatencyProfile, json_from_profile
from preemptc.search import SplitPlan
from preemptc.segments import Segment, segments_from_split_points
from preemptc.trials import MeasuredPlan


def pack(
    folder: Path,
    *,
    model: Model,
    lowered: Lowered,
    profile: LatencyProfile,
    measured: MeasuredPlan,
    goal: Goal,
    check: CheckSpec,
    bench: Bench,
    request: Mapping[str, Any],
) -> dict[str, Path]:
    """Write a bundle's graphs, profile and manifest into the empty directory `folder`.

    Returns:
        The large files, which stay where their stage wrote them, by their path in the bundle.
    """
    assert lowered.key is not None, "portable graphs go to pack_portable"
    engines = f"engines/{lowered.key}"
    (folder / engines).mkdir(parents=True)
    files = bench.artefacts(measured.plan.split_points)
    whole_path = f"{engines}/whole{files.whole.suffix}"
    paths = [f"{engines}/segment-{i:03d}{f.suffix}" for i, f in enumerate(files.segments)]
    copies = dict(zip(paths, files.segments, strict=True))
    if has_whole := check.is_against_whole:
        copies[whole_path] = files.whole
    for path, file in copies.items():
        shutil.copyfile(file, folder / path)
    segments = segments_from_split_points(lowered.graph, measured.plan.split_points)
    _write_graph(folder / "graph", model, _source_pieces(model, lowered, segments))
    (folder / PROFILE_NAME).write_text(json_from_profile(profile))
    elsewhere = {
        f"graph/{WEIGHTS_FILE}": model.path.with_name(WEIGHTS_FILE),
        **{f"{engines}/{file.name}": file for file in files.shared},
    }
    manifest = Manifest(
        requires=("segments",),
        graphs=(graph_spec(lowered),),
        plans=(
            measured_plan(
                lowered,
                segments,
                paths,
                measured,
                goal,
                bench.boundary_specs(measured.plan.split_points),
            ),
            *(
                [whole_plan(lowered, whole_path, profile, measured.measurement.whole)]
                if has_whole
                else []
            ),
        ),
        keys={lowered.key: dict(lowered.key_fields)},
        artefacts=_artefacts(folder, elsewhere, lowered.key),
        check=check,
        toolchain=_toolchain(lowered),
        extensions={EXTENSION: {"request": dict(request), **engine_memory(files, copies)}},
    )
    (folder / MANIFEST_NAME).write_text(json_from_manifest(manifest))
    return elsewhere


def pack_gates(
    folder: Path,
    *,
    model: Model,
    lowered: Lowered,
    profile: LatencyProfile,
    gates: MeasuredGates,
    goal: Goal,
    check: CheckSpec,
    bench: Bench,
    request: Mapping[str, Any],
) -> dict[str, Path]:
    """Write a bundle of one engine, to run whole or with gates, into the directory `folder`.

    Returns:
        The large files, which stay where their stage wrote them, by their path in the bundle.
    """
    assert lowered.key is not None, "gates are put into what was built"
    engines = f"engines/{lowered.key}"
    (folder / engines).mkdir(parents=True)
    files = bench.artefacts(())
    path = f"{engines}/whole{files.whole.suffix}"
    shutil.copyfile(files.whole, folder / path)
    _write_graph(folder / "graph", model, {})
    (folder / PROFILE_NAME).write_text(json_from_profile(profile))
    elsewhere = {f"graph/{WEIGHTS_FILE}": model.path.with_name(WEIGHTS_FILE)}
    manifest = Manifest(
        requires=("segments",),
        graphs=(graph_spec(lowered),),
        plans=(
            whole_plan(lowered, path, profile, gates.measured.measurement.whole),
            gates_plan(lowered, path, gates, goal),
        ),
        keys={lowered.key: dict(lowered.key_fields)},
        artefacts=_artefacts(folder, elsewhere, lowered.key),
        check=check,
        toolchain=_toolchain(lowered),
        extensions={
            EXTENSION: {"request": dict(request), **engine_memory(files, {path: files.whole})}
        },
    )
    (folder / MANIFEST_NAME).write_text(json_from_manifest(manifest))
    return elsewhere


def pack_portable(
    folder: Path,
    *,
    model: Model,
    lowered: Lowered,
    profile: LatencyProfile,
    plan: SplitPlan,
    goal: Goal,
    request: Mapping[str, Any],
) -> dict[str, Path]:
    """Write a bundle for a device that is not here: source graph, its pieces, an estimated plan.

    Returns:
        The large files, which stay where their stage wrote them, by their path in the bundle.

    Raises:
        BuildError: the source graph cannot be cut where the plan cuts.
    """
    points = _source_points(lowered, plan.split_points)
    pieces = segments_from_split_points(model.graph, points)
    paths = [f"graph/{_piece_name(idx)}" for idx in range(len(pieces))]
    _write_graph(folder / "graph", model, {_piece_name(i): piece for i, piece in enumerate(pieces)})
    (folder / PROFILE_NAME).write_text(json_from_profile(profile))
    elsewhere = {f"graph/{WEIGHTS_FILE}": model.path.with_name(WEIGHTS_FILE)}
    manifest = Manifest(
        requires=("segments",),
        graphs=(graph_spec(lowered),),
        plans=(estimated_plan(model, lowered, pieces, paths, plan, goal),),
        keys={},
        artefacts=_artefacts(folder, elsewhere, None),
        check=None,
        toolchain=_toolchain(lowered),
        extensions={EXTENSION: {"request": dict(request)}},
    )
    (folder / MANIFEST_NAME).write_text(json_from_manifest(manifest))
    return elsewhere


def engine_memory(files: Artefacts, sources: Mapping[str, Path]) -> dict[str, Any]:
    """What the engines take on the device, for those who plan memory without it."""
    engines = {
        path: (files.memory[file].scratch_bytes, files.memory[file].weights_bytes)
        for path, file in sources.items()
        if file in files.memory
    }
    return extension_from_engines(engines) if engines else {}


def _toolchain(lowered: Lowered) -> dict[str, str]:
    fields = lowered.key_fields
    libraries = {name: str(fields[name]) for name in ("onnxruntime", "tensorrt") if name in fields}
    versions = {"preemptc": __version__, "onnx": ONNX_VERSION}
    return {**versions, **libraries, "python": platform.python_version()}


def _source_points(lowered: Lowered, split_points: Sequence[int]) -> tuple[int, ...]:
    points = tuple(lowered.source_positions[point] for point in split_points)
    if len(set(points) - {0, lowered.source_positions[-1]}) < len(split_points):
        raise BuildError(
            f"split points {list(split_points)} fall on source positions {list(points)}: two"
            " segments share one source node; ask for fewer segments or a longer bound"
        )
    return points


def _source_pieces(
    model: Model, lowered: Lowered, segments: Sequence[Segment]
) -> dict[str, Segment]:
    """Pieces of the source graph at the plan's source positions, by their files' names.

    A piece is left out where the source has no node of its own there (the executed graph may
    have layout changes), or where a boundary tensor has no static shape.
    """
    positions = [lowered.source_positions[segment.end] for segment in segments]
    points = sorted({p for p in positions if 0 < p < model.graph.num_nodes})
    idx_of_end = {position: idx for idx, position in reversed(list(enumerate(positions)))}
    tensors = model.graph.tensors
    return {
        _piece_name(idx_of_end[piece.end]): piece
        for piece in segments_from_split_points(model.graph, points)
        if all(name in tensors for name in (*piece.inputs, *piece.outputs))
    }


def _piece_name(idx: int) -> str:
    return f"segment-{idx:03d}.onnx"


def _write_graph(folder: Path, model: Model, pieces: Mapping[str, Segment]) -> None:
    """The source graph, and pieces of it by their files' names."""
    folder.mkdir()
    shutil.copyfile(model.path, folder / MODEL_FILE)
    proto = read_graph(model.path)
    for name, piece in pieces.items():
        portable = extract(
            proto,
            proto.graph.node[piece.start : piece.end],
            [tensor_info(model.graph, tensor) for tensor in piece.inputs],
            [tensor_info(model.graph, tensor) for tensor in piece.outputs],
        )
        save_piece(portable, folder / name)


def _artefacts(
    folder: Path, elsewhere: Mapping[str, Path], key: str | None
) -> tuple[Artefact, ...]:
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return tuple(
        Artefact(
            path=name,
            num_bytes=path.stat().st_size,
            sha256=sha256_of(path),
            key=key if name.startswith("engines/") else None,
        )
        for name, path in sorted({**files, **elsewhere}.items())
    )
