"""Stage profile: costs that were given, measured on the target, or estimated without it."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from preempt_runtime.errors import InfeasibleError, InputError
from preempt_runtime.manifest import PROFILE_NAME
from preemptc import __version__
from preemptc.backends import Bench, Progress, silent
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.machine_speed import is_other_speed
from preemptc.model import Lowered
from preemptc.prepare import Prepared
from preemptc.profile import MEASURED_AT, LatencyProfile, json_from_profile, read_profile
from preemptc.profile_device import other_device, other_options


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
        return _given_profile(options.profile, lowered)

    def make(folder: Path) -> None:
        with cache.at_work_beside(lowered.path):
            profile = prepared.backend.profile(lowered, progress)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        profile = replace(profile, machine={MEASURED_AT: now, **profile.machine})
        (folder / PROFILE_NAME).write_text(json_from_profile(profile))

    fields = _profile_fields(lowered)
    found = cache.entry("profile", fields, make, lambda entry: _cached_profile(entry) is not None)
    profile = read_profile(found / PROFILE_NAME)
    if bench is not None and _is_stale(profile, whole_ns := bench.whole_ns()):
        progress("profile: the machine has another speed now, again", 0.0)

        def is_sound(entry: Path) -> bool:
            cached = _cached_profile(entry)
            return cached is not None and not _is_stale(cached, whole_ns)

        profile = read_profile(cache.entry("profile", fields, make, is_sound) / PROFILE_NAME)
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
        return read_profile(entry / PROFILE_NAME)
    except InputError:
        return None


def _is_stale(profile: LatencyProfile, whole_ns: int) -> bool:
    return is_other_speed(whole_ns / max(1, profile.total_ns))


def costs_without_device(prepared: Prepared, options: CompileOptions) -> LatencyProfile:
    """The given profile, if one is given, else an estimate; nothing runs."""
    if options.profile is None:
        return prepared.backend.estimate(prepared.lowered)
    return _given_profile(options.profile, prepared.lowered)


def _given_profile(path: Path, lowered: Lowered) -> LatencyProfile:
    """The profile in a file, if it is one of this graph on the device that the target is.

    Raises:
        InputError: it is not.
    """
    profile = read_profile(path)
    names = tuple(node.name for node in lowered.graph.nodes)
    is_same_network = profile.graph_digest == lowered.graph_digest
    is_same_graph = is_same_network and profile.node_names == names
    command = f"`preemptc profile MODEL --target {lowered.target} -o FILE`"
    is_for_target = is_same_graph or (is_same_network and profile.target == lowered.target)
    if is_for_target and (difference := other_device(profile, lowered)) is not None:
        raise InputError(
            f"{path}: a profile of another device than target {lowered.target!r}: {difference};"
            f" write one with {command} on that device, or leave the profile out"
        )
    if is_for_target and (difference := other_options(profile, lowered)) is not None:
        raise InputError(
            f"{path}: a profile of a network that was built otherwise: {difference}; give the"
            f" options that it was measured with, or write another with {command} and these"
        )
    if is_same_graph:
        return profile
    if profile.target != lowered.target:
        raise InputError(
            f"{path}: a profile for target {profile.target!r}, which executes another graph than"
            f" {lowered.target!r}; write one with {command} on that device, or leave the profile"
            " out"
        )
    raise InputError(
        f"{path}: a profile of another network, other shapes or another ONNX Runtime"
        f" ({len(profile.node_names)} nodes against {len(names)}); write one with {command}"
    )


@contextlib.contextmanager
def naming_estimates(profile: LatencyProfile) -> Iterator[None]:
    """Have an error that tells times say so, where these are estimated."""
    try:
        yield
    except InfeasibleError as err:
        if profile.source == "measured":
            raise
        raise InfeasibleError(f"by estimated costs, {err}") from err
