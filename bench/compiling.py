"""Compiles a network under a bound that is a share of its own time."""

from pathlib import Path
from typing import Any

from preempt_runtime.errors import InfeasibleError
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache
from preemptc.pipeline import CompileOptions, compile_model, prepare, profile_model
from preemptc.profile import LatencyProfile
from preemptc.replan import Goal

NODE_FACTOR = 1.2
_RAISES, _RAISE_FACTOR = 4, 1.25


def options_for(goal: Goal, threads: int | None) -> CompileOptions:
    """Options of a compile for the CPU."""
    return CompileOptions(target="cpu", goal=goal, backend=BackendOptions(threads=threads))


def measured_bound(
    model: Path, cache: BuildCache, *, threads: int | None, parts: int = 10
) -> dict[str, Any]:
    """`bound_of` the profile that is measured now, or stands in the cache."""
    options = options_for(Goal(num_segments=1), threads)
    return bound_of(profile_model(prepare(model, options, cache), options, cache), parts=parts)


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


def compile_under(
    model: Path, output: Path, bound_ns: int, cache: BuildCache, *, threads: int | None
) -> dict[str, Any]:
    """The report of a compile under the bound, raised where measured segments leave no plan.

    A raised bound stands in the report, with the errors that led to it under `refused`.

    Raises:
        InfeasibleError: not even the highest of the raised bounds can be kept.
    """
    refused: list[str] = []
    while True:
        goal = Goal(max_segment_ns=round(bound_ns * _RAISE_FACTOR ** len(refused)))
        try:
            report = compile_model(model, output, options_for(goal, threads), cache)
            return {**report, "refused": refused}
        except InfeasibleError as err:
            refused.append(str(err))
            if len(refused) > _RAISES:
                raise
