"""Whether a bundle was measured at the speed that its profile was: a busy machine shows here."""

from preemptc.profile import LatencyProfile

SPEED_FACTOR = 1.2
"""Speeds further apart than this are two speeds: a profile is stale, a compile was disturbed."""

_MIN_OVERHEAD_FRAC = -0.05
_AGAIN = "measure again when it is idle, with --remeasure: the cache keeps this result"


def machine_speed(profile: LatencyProfile, whole_ns: int) -> float | None:
    """The profile's whole network over the whole network's median later; None if estimated.

    Below 1, the machine was slower later.
    """
    if profile.whole is None:
        return None
    return round(profile.whole.p50_ns / max(1, whole_ns), 4)


def is_other_speed(speed: float) -> bool:
    """Whether two measurements of the same network are of two speeds of the machine.

    >>> is_other_speed(0.84), is_other_speed(0.83), is_other_speed(1.19), is_other_speed(1.21)
    (False, True, False, True)
    """
    return not 1 / SPEED_FACTOR < speed < SPEED_FACTOR


def renewal_notes(earlier: LatencyProfile | None, profile: LatencyProfile) -> tuple[str, ...]:
    """Says so where the profile took the place of an earlier one of a much faster machine."""
    speed = machine_speed(earlier, profile.total_ns) if earlier else None
    if speed is None or speed > 1 or not is_other_speed(speed):
        return ()
    return (
        f"the profile was measured again: the machine ran at {speed:.3g} of the speed of the one in"
        f" the cache, and the plan is for that speed; {_AGAIN}",
    )


def speed_notes(speed: float | None, overhead_ratio: float | None) -> tuple[str, ...]:
    """What people must know before they trust measured times; empty if nothing was odd.

    Args:
        speed: as `machine_speed` gives it; None where it is unknown.
        overhead_ratio: chained over whole; None where it is unknown.
    """
    notes = []
    if speed is not None and is_other_speed(speed):
        notes.append(f"the machine ran at {speed:.3g} of the profile's speed; {_AGAIN}")
    if overhead_ratio is not None and overhead_ratio - 1 < _MIN_OVERHEAD_FRAC:
        notes.append(
            f"the chain took {overhead_ratio:.3f} of the whole network's time: a network hardly"
            f" gets that much faster by being cut, so something else ran meanwhile; {_AGAIN}"
        )
    return tuple(notes)
