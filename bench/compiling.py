"""Compiles a network under a bound that is a share of its own time."""

from pathlib import Path
from typing import Any

from preempt_runtime.errors import InfeasibleError
from preempt_runtime.units import fmt_ns
from preemptc.backends import BackendOptions, Progress, silent
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.machine_speed import is_other_speed
from preemptc.pipeline import compile_model
from preemptc.prepare import prepare
from preemptc.profile import LatencyProfile
from preemptc.profiling import profile_model

NODE_FACTOR = 1.2
_RAISES, _RAISE_FACTOR = 8, 1.25  # to six times the bound: neighbours were seen to take that
_REDERIVATIONS = 2


def options_for(goal: Goal, threads: int | None) -> CompileOptions:
    """Options of a compile for the CPU."""
    return CompileOptions(target="cpu", goal=goal, backend=BackendOptions(threads=threads))


def measured_bound(
    model: Path,
    cache: BuildCache,
    *,
    threads: int | None,
    parts: int = 10,
    progress: Progress = silent,
) -> dict[str, Any]:
    """`bound_of` the profile that is measured now, or stands in the cache and still holds.

    A cached profile from a moment when the machine had another speed is measured again.
    """
    options = options_for(Goal(num_segments=1), threads)
    prepared = prepare(model, options, cache, progress)
    with (
        cache.at_work_beside(prepared.lowered.path),
        prepared.backend.bench(prepared.model, prepared.lowered, progress) as bench,
    ):
        profile = profile_model(prepared, options, cache, progress, bench)
    return bound_of(profile, parts=parts)


def bound_of(profile: LatencyProfile, *, parts: int = 10) -> dict[str, Any]:
    """One of `parts` of the whole network's median, or 1.2 times its longest node if larger."""
    assert profile.whole is not None
    longest_ns = max(profile.node_ns)
    from_whole_ns = round(profile.whole.p50_ns / parts)
    from_node_ns = round(NODE_FACTOR * longest_ns)
    return {
        "bound_ns": max(1, from_whole_ns, from_node_ns),
        "bound_from": "whole network" if from_whole_ns >= from_node_ns else "longest node",
        "longest_node_ns": longest_ns,
        "profiled_whole_p50_ns": profile.whole.p50_ns,
    }


def compile_at_speed(
    model: Path,
    output: Path,
    cache: BuildCache,
    *,
    threads: int | None,
    parts: int = 10,
    progress: Progress = silent,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The bound and the report of a compile under it, both of one speed of the machine.

    Where the compile found the whole network to take another time than the profile that the bound
    came from, the bound is derived again from what holds now, twice at most; `rederived` of the
    bound counts how often.
    """
    bound = measured_bound(model, cache, threads=threads, parts=parts, progress=progress)
    for rederived in range(_REDERIVATIONS + 1):
        bound_ns = bound["bound_ns"]
        report = compile_under(model, output, bound_ns, cache, threads=threads, progress=progress)
        whole_ns = report["measured"]["whole_p50_ns"]
        bound = {**bound, "rederived": rederived, "compiled_whole_p50_ns": whole_ns}
        is_other = is_other_speed(bound["profiled_whole_p50_ns"] / max(1, whole_ns))
        if not is_other or rederived == _REDERIVATIONS:
            break
        progress("the machine has another speed now, deriving the bound again", 0.0)
        again = measured_bound(model, cache, threads=threads, parts=parts, progress=progress)
        if again["bound_ns"] == bound["bound_ns"]:  # the profile holds: the compile was disturbed
            break
        bound = again
    return bound, report


def bound_text(bound: dict[str, Any], report: dict[str, Any], *, parts: int) -> str:
    """How the bound of a compile was chosen, and what its longest segment took of it."""
    source = f"1/{parts} of the whole network's {fmt_ns(bound['profiled_whole_p50_ns'])}"
    if bound["bound_from"] == "longest node":
        source = f"{NODE_FACTOR:g} times the longest node's {fmt_ns(bound['longest_node_ns'])}"
    if report["refused"]:
        source += f", raised from {fmt_ns(bound['bound_ns'])}: no plan kept that"
    if bound["rederived"]:
        source += f", derived {bound['rederived'] + 1} times as the machine's speed changed"
    longest_ns = max(report["measured"]["segment_p50_ns"])
    text = (
        f"{fmt_ns(report['bound_ns'])} ({source}), the longest {fmt_ns(longest_ns)} at the median"
    )
    speed = bound["profiled_whole_p50_ns"] / max(1, bound["compiled_whole_p50_ns"])
    if is_other_speed(speed):
        text += f", measured at {speed:.3g} of the speed that the bound is for"
    return text


def compile_under(
    model: Path,
    output: Path,
    bound_ns: int,
    cache: BuildCache,
    *,
    threads: int | None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """The report of a compile under the bound, raised where measured segments leave no plan.

    A raised bound stands in the report, with the errors that led to it under `refused`.

    Raises:
        InfeasibleError: not even the highest of the raised bounds can be kept.
    """
    refused: list[str] = []
    while True:
        raised_ns = round(bound_ns * _RAISE_FACTOR ** len(refused))
        if refused:
            progress(f"no plan kept that bound, trying {fmt_ns(raised_ns)}", 0.0)
        options = options_for(Goal(max_segment_ns=raised_ns), threads)
        try:
            report = compile_model(model, output, options, cache, progress)
            return {**report, "refused": refused}
        except InfeasibleError as err:
            refused.append(str(err))
            if len(refused) > _RAISES:
                raise
