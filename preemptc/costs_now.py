"""What a network costs at the speed that the machine has now, where the cache holds its profile."""

from dataclasses import dataclass

from preemptc.backends import Progress
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.machine_speed import renewal_notes
from preemptc.prepare import Prepared
from preemptc.profile import LatencyProfile
from preemptc.profiling import cached_profile, profile_model


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsNow:
    """A profile; `is_cached` if it was measured before, `notes` what to know of its speed."""

    profile: LatencyProfile
    is_cached: bool = False
    notes: tuple[str, ...] = ()


def costs_now(
    prepared: Prepared, options: CompileOptions, cache: BuildCache, progress: Progress
) -> CostsNow:
    """The given profile, the one in the cache, or one that is measured now.

    The one in the cache is measured again if the whole network takes another time now.
    """
    earlier = None if options.profile else cached_profile(prepared, cache)
    if earlier is None:
        return CostsNow(profile=profile_model(prepared, options, cache, progress))
    with (
        cache.at_work_beside(prepared.lowered.path),
        prepared.backend.bench(prepared.model, prepared.lowered, progress) as bench,
    ):
        profile = profile_model(prepared, options, cache, progress, bench)
    return CostsNow(
        profile=profile, is_cached=profile == earlier, notes=renewal_notes(earlier, profile)
    )
