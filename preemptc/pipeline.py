"""The pipeline: load, lower, profile, candidates, search, segments (or gates), check, pack.

Each stage takes values and returns one; what a stage computes stands in the cache under the hash
of everything that it depends on.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from preempt_runtime.errors import BuildError, InfeasibleError, InputError, PreemptError
from preempt_runtime.input_file import check_regular
from preempt_runtime.inputs import read_inputs
from preempt_runtime.manifest import GATES, SEGMENTS, CheckSpec
from preemptc import __version__
from preemptc.backends import Bench, GateRefusal, Progress, Tensors, silent
from preemptc.cache import BuildCache
from preemptc.candidates import CandidateSet, find_candidates
from preemptc.check import check_segments
from preemptc.compile_options import CompileOptions, request_from_options
from preemptc.compile_report import estimated_report, gates_report, measured_report
from preemptc.deliver import check_place, deliver, read_built, save_built
from preemptc.gate_check import check_gates
from preemptc.gate_plan import MeasuredGates, plan_gates
from preemptc.goal import Goal, search_goal
from preemptc.interface import graph_spec
from preemptc.machine_speed import renewal_notes
from preemptc.model import Lowered
from preemptc.onnx_io.versions import LIBRARY_VERSIONS
from preemptc.pack import pack, pack_gates, pack_portable
from preemptc.prepare import Prepared, check_mechanism, prepare
from preemptc.profile import LatencyProfile
from preemptc.profiling import cached_profile, costs_without_device, naming_estimates, profile_model
from preemptc.replan import plan_until_kept
from preemptc.search import segment_costs

REPORT_FILE = "report.json"

Made = tuple[dict[str, Path], dict[str, Any]]
"""The large files of a bundle, by their path in it, and the report."""


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
    check_mechanism(options)
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
    """The bundle's entry in the cache."""
    packed = folder / "packed"
    packed.mkdir()
    make = _plan_elsewhere if prepared.backend.is_portable else _build_here
    elsewhere, report = make(packed, prepared, options, cache, progress)
    save_built(folder, packed, elsewhere, cache.root)
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1))


def _build_here(
    packed: Path, prepared: Prepared, options: CompileOptions, cache: BuildCache,
    progress: Progress,
) -> Made:  # fmt: skip
    """Profile, then gates in the whole engine, or segments, as was asked; where the device is."""
    lowered = prepared.lowered
    recorded = read_inputs(options.inputs, graph_spec(lowered)) if options.inputs else ()
    with (
        cache.at_work_beside(lowered.path),
        prepared.backend.bench(prepared.model, lowered, progress) as bench,
    ):
        earlier = None if options.profile else cached_profile(prepared, cache)
        profile = profile_model(prepared, options, cache, progress, bench)
        notes = renewal_notes(earlier, profile)
        if options.mechanism != SEGMENTS:
            try:
                gates = _plan_gates(prepared, options, bench, recorded, progress)
            except PreemptError as err:
                if options.mechanism == GATES:
                    raise
                reason = err.reason if isinstance(err, GateRefusal) else str(err)
                notes += (f"segments, not gates: {reason}",)
            else:
                return _with_gates(packed, prepared, options, bench, profile, *gates, notes)
        return _with_segments(packed, prepared, options, bench, profile, recorded, progress, notes)


def _with_segments(
    packed: Path, prepared: Prepared, options: CompileOptions, bench: Bench,
    profile: LatencyProfile, recorded: Sequence[Tensors], progress: Progress,
    notes: Sequence[str],
) -> Made:  # fmt: skip
    """Candidates, search, build, measure, check and pack segments."""
    lowered, goal = prepared.lowered, options.goal
    candidates = candidates_of(prepared, profile, options)
    measured = plan_until_kept(
        bench, segment_costs(candidates, profile), goal, describe=describe_nodes(lowered),
        progress=progress,
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
    elsewhere = pack(
        packed,
        model=prepared.model,
        lowered=lowered,
        profile=profile,
        measured=measured,
        goal=goal,
        check=check,
        bench=bench,
        request=request_from_options(options),
    )
    report = measured_report(candidates, profile, measured, goal, check, bench)
    return elsewhere, {**report, "notes": [*notes, *report["notes"]]}


def _plan_gates(
    prepared: Prepared, options: CompileOptions, bench: Bench, recorded: Sequence[Tensors],
    progress: Progress,
) -> tuple[MeasuredGates, CheckSpec]:  # fmt: skip
    """Time the kernels of the whole engine; choose, measure and check gates between them."""
    with bench.gates() as gates:
        planned = plan_gates(gates, options.goal, progress)
        progress("check", 0.0)
        check = check_gates(
            gates,
            bench,
            graph_spec(prepared.lowered),
            planned.measured.plan.split_points,
            seed=options.seed,
            recorded=recorded,
        )
    progress("pack", 0.0)
    return planned, check


def _with_gates(
    packed: Path, prepared: Prepared, options: CompileOptions, bench: Bench,
    profile: LatencyProfile, gates: MeasuredGates, check: CheckSpec, notes: Sequence[str],
) -> Made:  # fmt: skip
    elsewhere = pack_gates(
        packed,
        model=prepared.model,
        lowered=prepared.lowered,
        profile=profile,
        gates=gates,
        goal=options.goal,
        check=check,
        bench=bench,
        request=request_from_options(options),
    )
    report = gates_report(profile, gates, options.goal, check)
    return elsewhere, {**report, "notes": [*notes, *report["notes"]]}


def _plan_elsewhere(
    packed: Path, prepared: Prepared, options: CompileOptions, cache: BuildCache,
    progress: Progress,
) -> Made:  # fmt: skip
    """All that needs no device: pieces of the source graph and a plan from estimated costs.

    Gates may keep a goal that segments cannot: the request holds it, and a build decides.
    """
    lowered, goal, notes = prepared.lowered, options.goal, []
    profile = costs_without_device(prepared, options)
    candidates = candidates_of(prepared, profile, options)
    costs, describe = segment_costs(candidates, profile), describe_nodes(lowered)
    progress("plan: from estimated costs", 0.5)
    try:
        with naming_estimates(profile):
            plan = search_goal(costs, goal, describe)
    except (InfeasibleError, InputError) as err:
        if options.mechanism != GATES:
            raise
        goal = Goal(num_segments=1)
        plan = search_goal(costs, goal, describe)
        notes.append(f"one segment until it is built, where gates decide; for segments: {err}")
    elsewhere = pack_portable(
        packed,
        model=prepared.model,
        lowered=lowered,
        profile=profile,
        plan=plan,
        goal=goal,
        request=request_from_options(options),
    )
    report = estimated_report(candidates, profile, plan, goal, options.mechanism)
    return elsewhere, {**report, "notes": [*report["notes"], *notes]}


def describe_nodes(lowered: Lowered) -> Callable[[int, int], str]:
    """What names the nodes [start, end) of the executed graph in an error."""
    names = [node.name for node in lowered.graph.nodes]

    def describe(start: int, end: int) -> str:
        if end - start == 1:
            return f"node {names[start]!r}"
        return f"nodes {names[start]!r} to {names[end - 1]!r}"

    return describe


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
        "mechanism": options.mechanism,
    }
