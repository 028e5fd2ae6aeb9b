"""The pipeline on one screen: load, lower, profile, candidates, search, segments, check, pack.

Each stage takes values and returns one; what a stage computes stands in the cache under the hash
of everything that it depends on.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from preempt_runtime.errors import BuildError, InputError
from preempt_runtime.input_file import check_regular, read_regular
from preempt_runtime.inputs import read_inputs
from preempt_runtime.manifest import CheckSpec
from preemptc import __version__
from preemptc.backends import (
    Backend,
    BackendOptions,
    Bench,
    Progress,
    backend_for_target,
    silent,
)
from preemptc.cache import BuildCache
from preemptc.candidates import CandidateSet, find_candidates
from preemptc.check import check_notes, check_segments
from preemptc.deliver import check_place, deliver, read_built, save_built
from preemptc.goal import Goal, search_goal
from preemptc.interface import graph_spec
from preemptc.load import load
from preemptc.machine_speed import SPEED_FACTOR, machine_speed, renewal_notes, speed_notes
from preemptc.model import Lowered, Model
from preemptc.onnx_io.versions import LIBRARY_VERSIONS
from preemptc.pack import PROFILE_FILE, pack, pack_portable
from preemptc.profile import (
    MAX_PROFILE_BYTES,
    MEASURED_AT,
    LatencyProfile,
    json_from_profile,
    profile_from_json,
)
from preemptc.replan import plan_until_kept
from preemptc.search import SplitPlan, segment_costs
from preemptc.trials import MeasuredPlan

REPORT_FILE = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """What a compile depends on, beside the model."""

    target: str
    goal: Goal
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    backend: BackendOptions = field(default_factory=BackendOptions)
    max_live_bytes: int | None = None
    profile: Path | None = None
    inputs: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model with the graph that the target executes."""

    model: Model
    lowered: Lowered
    backend: Backend


def compile_model(
    path: Path, output: Path, options: CompileOptions, cache: BuildCache,
    progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Compile the model at `path` into a bundle at `output`; return the report.

    Raises:
        PreemptError: the stage's own error; nothing half-made stays behind.
    """
    start_ns = time.monotonic_ns()
    for given, what in ((options.profile, "the profile"), (options.inputs, "the inputs")):
        if given is not None:
            check_regular(given, what)
    check_place(output, cache)
    prepared = prepare(path, options, cache, progress)
    fields = _bundle_fields(prepared, options, cache)

    def make(folder: Path) -> None:
        _make(folder, prepared, options, cache, progress)

    def is_sound(entry: Path) -> bool:
        return read_built(entry, cache) is not None and (entry / REPORT_FILE).is_file()

    entry = cache.entry("bundle", fields, make, is_sound)
    built = read_built(entry, cache)
    if built is None:
        raise BuildError(f"{entry}: deleted while it was read; compile again")
    progress("deliver", 1.0)
    deliver(built, output, cache)
    report: dict[str, Any] = json.loads((entry / REPORT_FILE).read_text())
    wall_s = round((time.monotonic_ns() - start_ns) / 1e9, 3)
    return {"bundle": str(output), **report, "cache_hits": cache.hits, "wall_s": wall_s}


def prepare(
    path: Path, options: CompileOptions, cache: BuildCache, progress: Progress = silent
) -> Prepared:
    """Load the model and lower it for the target."""
    backend = backend_for_target(options.target, replace(options.backend, cache=cache.root))
    progress("load", 0.0)
    model = load(path, options.shapes, cache)
    progress("lower", 0.0)
    fields = {**backend.key_fields(model), "preemptc": __version__}
    folder = cache.entry("lower", fields, lambda folder: backend.lower(model, folder, progress))
    return Prepared(model=model, lowered=backend.read_lowered(model, folder), backend=backend)


def profile_model(
    prepared: Prepared,
    options: CompileOptions,
    cache: BuildCache,
    progress: Progress = silent,
    bench: Bench | None = None,
) -> LatencyProfile:
    """The given profile, if one is given, else the measured one.

    With a bench, a measured profile is measured once more if the whole network now takes another
    time: it was taken beside other work, or at another clock.
    """
    lowered = prepared.lowered
    if options.profile is not None:
        profile = read_profile(options.profile)
        _check_profile(profile, lowered, options.profile)
        return profile

    def make(folder: Path) -> None:
        profile = prepared.backend.profile(lowered, progress)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        profile = replace(profile, machine={MEASURED_AT: now, **profile.machine})
        (folder / PROFILE_FILE).write_text(json_from_profile(profile))

    fields = _profile_fields(lowered)
    found = cache.entry("profile", fields, make, lambda entry: _cached_profile(entry) is not None)
    profile = read_profile(found / PROFILE_FILE)
    if bench is not None and _is_stale(profile, whole_ns := bench.whole_ns()):
        progress("profile: the machine has another speed now, again", 0.0)

        def is_sound(entry: Path) -> bool:
            cached = _cached_profile(entry)
            return cached is not None and not _is_stale(cached, whole_ns)

        profile = read_profile(cache.entry("profile", fields, make, is_sound) / PROFILE_FILE)
    return profile


def cached_profile(prepared: Prepared, cache: BuildCache) -> LatencyProfile | None:
    """The measured profile that stands in the cache, whatever the machine's speed is now."""
    fields = _profile_fields(prepared.lowered)
    entry = cache.find("profile", fields, lambda entry: _cached_profile(entry) is not None)
    return None if entry is None else _cached_profile(entry)


def _profile_fields(lowered: Lowered) -> dict[str, Any]:
    return {**lowered.key_fields, "preemptc": __version__}


def _cached_profile(entry: Path) -> LatencyProfile | None:
    try:
        return read_profile(entry / PROFILE_FILE)
    except InputError:
        return None


def _is_stale(profile: LatencyProfile, whole_ns: int) -> bool:
    return not 1 / SPEED_FACTOR < whole_ns / max(1, profile.total_ns) < SPEED_FACTOR


def read_profile(path: Path) -> LatencyProfile:
    """The profile in a file.

    Raises:
        InputError: missing, or no profile of this version.
    """
    text = read_regular(path, "the profile", max_bytes=MAX_PROFILE_BYTES)
    return profile_from_json(text, str(path))


def _check_profile(profile: LatencyProfile, lowered: Lowered, where: Path) -> None:
    names = tuple(node.name for node in lowered.graph.nodes)
    if profile.graph_digest != lowered.graph_digest or profile.node_names != names:
        raise InputError(
            f"{where}: a profile of another network, other shapes or another ONNX Runtime"
            f" ({len(profile.node_names)} nodes against {len(names)});"
            " write one with `preemptc profile MODEL -o FILE`"
        )


def candidates_of(
    prepared: Prepared, profile: LatencyProfile, options: CompileOptions
) -> CandidateSet:
    """Where this network may be split."""
    return find_candidates(
        prepared.lowered,
        profile,
        num_source_nodes=prepared.model.graph.num_nodes,
        max_live_bytes=options.max_live_bytes,
    )


def _make(
    folder: Path, prepared: Prepared, options: CompileOptions, cache: BuildCache,
    progress: Progress,
) -> None:  # fmt: skip
    if prepared.backend.is_portable:
        _make_portable(folder, prepared, options, cache, progress)
        return
    lowered, goal = prepared.lowered, options.goal
    recorded = read_inputs(options.inputs, graph_spec(lowered)) if options.inputs else ()
    with prepared.backend.bench(prepared.model, lowered, progress) as bench:
        earlier = None if options.profile else cached_profile(prepared, cache)
        profile = profile_model(prepared, options, cache, progress, bench)
        candidates = candidates_of(prepared, profile, options)
        costs = segment_costs(candidates, profile)
        measured = plan_until_kept(
            bench, costs, goal, describe=_describe(lowered), progress=progress,
            speed="at the speed of --profile" if options.profile else "at the speed measured now",
        )  # fmt: skip
        progress("check", 0.0)
        check = check_segments(
            bench,
            graph_spec(lowered),
            measured.plan.split_points,
            seed=options.seed,
            recorded=recorded,
        )
        progress("pack", 0.0)
        packed = folder / "packed"
        packed.mkdir()
        elsewhere = pack(
            packed,
            model=prepared.model,
            lowered=lowered,
            profile=profile,
            measured=measured,
            goal=goal,
            check=check,
            bench=bench,
            request=request_of(options),
        )
        report = _report(candidates, profile, measured, goal, check, bench)
        report["notes"] = [*renewal_notes(earlier, profile), *report["notes"]]
    save_built(folder, packed, elsewhere, cache.root)
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1))


def _make_portable(
    folder: Path, prepared: Prepared, options: CompileOptions, cache: BuildCache,
    progress: Progress,
) -> None:  # fmt: skip
    """All that needs no device: pieces of the source graph and a plan from estimated costs."""
    lowered, goal = prepared.lowered, options.goal
    profile = costs_without_device(prepared, options)
    candidates = candidates_of(prepared, profile, options)
    progress("plan: from estimated costs", 0.5)
    plan = search_goal(segment_costs(candidates, profile), goal, _describe(lowered))
    packed = folder / "packed"
    packed.mkdir()
    elsewhere = pack_portable(
        packed,
        model=prepared.model,
        lowered=lowered,
        profile=profile,
        plan=plan,
        goal=goal,
        request=request_of(options),
    )
    save_built(folder, packed, elsewhere, cache.root)
    report = {
        **_plan_report(candidates, plan, goal),
        "source": "estimated",
        "profile_source": profile.source,
        "built": 0,
        "library_s": 0.0,
        "kept": 0,
        "rounds": 0,
        "tried": [],
        "measured": None,
        "check": None,
    }
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1))


def costs_without_device(prepared: Prepared, options: CompileOptions) -> LatencyProfile:
    """The given profile, if one is given, else an estimate; nothing runs."""
    if options.profile is None:
        return prepared.backend.estimate(prepared.lowered)
    profile = read_profile(options.profile)
    _check_profile(profile, prepared.lowered, options.profile)
    return profile


def request_of(options: CompileOptions) -> dict[str, Any]:
    """What was asked for, as a bundle keeps it so that a device can plan again."""
    return {
        "target": options.target,
        "goal": asdict(options.goal),
        "precision": options.backend.precision,
        "level": options.backend.level,
        "max_live_bytes": options.max_live_bytes,
        "seed": options.seed,
    }


def _describe(lowered: Lowered) -> Callable[[int, int], str]:
    names = [node.name for node in lowered.graph.nodes]

    def describe(start: int, end: int) -> str:
        if end - start == 1:
            return f"node {names[start]!r}"
        return f"nodes {names[start]!r} to {names[end - 1]!r}"

    return describe


def _report(
    candidates: CandidateSet, profile: LatencyProfile, measured: MeasuredPlan, goal: Goal,
    check: CheckSpec, bench: Bench,
) -> dict[str, Any]:  # fmt: skip
    measurement = measured.measurement
    speed = machine_speed(profile, measurement.whole.p50_ns)
    return {
        **_plan_report(candidates, measured.plan, goal),
        "source": "measured",
        "built": bench.num_built,
        "library_s": round(bench.library_ns / 1e9, 3),
        "kept": measured.plan.num_segments,
        "rounds": measured.num_rounds,
        "tried": [
            {
                "segments": len(trial.split_points) + 1,
                "newly_built": trial.num_new,
                "longest_ns": trial.longest_ns,
                "overhead_ratio": round(trial.ratio_p50, 4),
                "kept": trial.split_points == measured.plan.split_points,
            }
            for trial in measured.trials
        ],
        "measured": {
            "segment_p50_ns": [latency.p50_ns for latency in measurement.segments],
            "segment_p99_ns": [latency.p99_ns for latency in measurement.segments],
            "segment_max_ns": [latency.max_ns for latency in measurement.segments],
            "chained_p50_ns": measurement.chained.p50_ns,
            "whole_p50_ns": measurement.whole.p50_ns,
            "overhead_ratio": round(measurement.ratio_p50, 4),
            "machine_speed": speed,
        },
        "notes": [*speed_notes(speed, measurement.ratio_p50), *check_notes(check)],
        "check": {
            "reference": check.reference,
            "is_against_whole": check.is_against_whole,
            "max_abs_diff": check.max_abs_diff,
            "bitwise": check.bitwise,
            "source_max_abs_diff": check.source_max_abs_diff,
        },
    }


def _plan_report(candidates: CandidateSet, plan: SplitPlan, goal: Goal) -> dict[str, Any]:
    return {
        "segments": plan.num_segments,
        "candidates": asdict(candidates.counts),
        "bound_ns": goal.max_segment_ns,
        "bound_quantile": goal.quantile,
        "predicted_max_ns": plan.max_predicted_ns,
    }


def _bundle_fields(
    prepared: Prepared, options: CompileOptions, cache: BuildCache
) -> dict[str, Any]:
    return {
        **prepared.lowered.key_fields,
        "target": options.target,
        "preemptc": __version__,
        **LIBRARY_VERSIONS,
        "goal": asdict(options.goal),
        "max_live_bytes": options.max_live_bytes,
        "profile": cache.file_digest(options.profile) if options.profile else None,
        "inputs": cache.file_digest(options.inputs) if options.inputs else None,
        "seed": options.seed,
    }
