"""Stage pack: the files and the manifest of a bundle, complete before anybody sees it."""

import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from preempt_runtime.manifest import (
    MANIFEST_NAME,
    Artefact,
    CheckSpec,
    Manifest,
    PlanSpec,
    SegmentSpec,
    TensorSpec,
)
from preempt_runtime.manifest_json import json_from_manifest
from preemptc import __version__
from preemptc.backends import Bench
from preemptc.cache import sha256_of
from preemptc.interface import GRAPH_ID, graph_spec
from preemptc.model import Lowered, Model
from preemptc.onnx_io.files import MODEL_FILE, WEIGHTS_FILE, read_graph, save_piece
from preemptc.onnx_io.graphs import extract
from preemptc.onnx_io.versions import ONNX_VERSION
from preemptc.profile import LatencyProfile, json_from_profile
from preemptc.replan import Goal, MeasuredPlan
from preemptc.segments import Segment, segments_from_split_points

PROFILE_FILE = "profile.json"
PLAN_ID = "segments"
WHOLE_PLAN_ID = "whole"


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
) -> dict[str, Path]:
    """Write a bundle's graphs, profile and manifest into the empty directory `folder`.

    Returns:
        The large files, which stay where their stage wrote them, by their path in the bundle.
    """
    engines = f"engines/{lowered.key}"
    (folder / engines).mkdir(parents=True)
    files = bench.artefacts(measured.plan.split_points)
    whole_path = f"{engines}/whole{files.whole.suffix}"
    paths = [f"{engines}/segment-{i:03d}{f.suffix}" for i, f in enumerate(files.segments)]
    for path, file in zip((whole_path, *paths), (files.whole, *files.segments), strict=True):
        shutil.copyfile(file, folder / path)
    segments = segments_from_split_points(lowered.graph, measured.plan.split_points)
    _write_portable_graph(folder / "graph", model, lowered, segments)
    (folder / PROFILE_FILE).write_text(json_from_profile(profile))
    elsewhere = {
        f"graph/{WEIGHTS_FILE}": model.path.with_name(WEIGHTS_FILE),
        **{f"{engines}/{file.name}": file for file in files.shared},
    }
    manifest = Manifest(
        requires=("segments",),
        graphs=(graph_spec(lowered),),
        plans=(
            _segments_plan(
                lowered,
                segments,
                paths,
                measured,
                goal,
                bench.boundary_specs(measured.plan.split_points),
            ),
            _whole_plan(lowered, whole_path, profile, measured),
        ),
        keys={lowered.key: dict(lowered.key_fields)},
        artefacts=_artefacts(folder, elsewhere, lowered.key),
        check=check,
        toolchain={
            "preemptc": __version__,
            "onnx": ONNX_VERSION,
            **{
                name: str(lowered.key_fields[name])
                for name in ("onnxruntime", "tensorrt")
                if name in lowered.key_fields
            },
            "python": platform.python_version(),
        },
    )
    (folder / MANIFEST_NAME).write_text(json_from_manifest(manifest))
    return elsewhere


def _write_portable_graph(
    folder: Path, model: Model, lowered: Lowered, segments: Sequence[Segment]
) -> None:
    """The source graph, and its pieces at the plan's source positions.

    A piece is left out where the source has no node of its own there (the executed graph may
    have layout changes), or where a boundary tensor has no static shape.
    """
    folder.mkdir()
    shutil.copyfile(model.path, folder / MODEL_FILE)
    proto = read_graph(model.path)
    positions = [lowered.source_positions[segment.end] for segment in segments]
    points = sorted({p for p in positions if 0 < p < model.graph.num_nodes})
    file_of_end = {position: idx for idx, position in reversed(list(enumerate(positions)))}
    for piece in segments_from_split_points(model.graph, points):
        tensors = model.graph.tensors
        if all(name in tensors for name in (*piece.inputs, *piece.outputs)):
            portable = extract(
                proto,
                proto.graph.node[piece.start : piece.end],
                [tensors[name] for name in piece.inputs],
                [tensors[name] for name in piece.outputs],
            )
            save_piece(portable, folder / f"segment-{file_of_end[piece.end]:03d}.onnx")


def _segments_plan(
    lowered: Lowered,
    segments: Sequence[Segment],
    paths: Sequence[str],
    measured: MeasuredPlan,
    goal: Goal,
    boundaries: tuple[TensorSpec, ...],
) -> PlanSpec:
    return PlanSpec(
        id=PLAN_ID,
        graph=GRAPH_ID,
        target=lowered.target,
        key=lowered.key,
        mechanism="segments",
        bound_ns=goal.max_segment_ns,
        bound_quantile=goal.quantile,
        margin_frac=measured.margin_frac,
        source="measured",
        boundaries=boundaries,
        segments=tuple(
            SegmentSpec(
                path=paths[idx],
                range=(segment.start, segment.end),
                source_range=(
                    lowered.source_positions[segment.start],
                    lowered.source_positions[segment.end],
                ),
                inputs=segment.inputs,
                outputs=segment.outputs,
                live_bytes=segment.live_bytes,
                predicted_ns=measured.plan.predicted_ns[idx],
                latency=measured.measurement.segments[idx],
            )
            for idx, segment in enumerate(segments)
        ),
        chained=measured.measurement.chained,
    )


def _whole_plan(
    lowered: Lowered, path: str, profile: LatencyProfile, measured: MeasuredPlan
) -> PlanSpec:
    num_nodes = lowered.graph.num_nodes
    return PlanSpec(
        id=WHOLE_PLAN_ID,
        graph=GRAPH_ID,
        target=lowered.target,
        key=lowered.key,
        mechanism="segments",
        bound_ns=None,
        bound_quantile="p50",
        margin_frac=0.0,
        source="measured",
        boundaries=(),
        segments=(
            SegmentSpec(
                path=path,
                range=(0, num_nodes),
                source_range=(0, lowered.source_positions[num_nodes]),
                inputs=lowered.graph.inputs,
                outputs=lowered.graph.outputs,
                live_bytes=0,
                predicted_ns=profile.total_ns,
                latency=measured.measurement.whole,
            ),
        ),
        chained=measured.measurement.whole,
    )


def _artefacts(folder: Path, elsewhere: Mapping[str, Path], key: str) -> tuple[Artefact, ...]:
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
