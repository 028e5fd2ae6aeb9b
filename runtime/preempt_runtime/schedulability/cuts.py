"""Fronts: the ways to cut one network that are worth a thought, coarse to fine."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from preempt_runtime.errors import InputError

MAX_CUTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """Segment costs of each cut; the longest segment falls from one cut to the next."""

    cuts: tuple[tuple[int, ...], ...]
    longest_ns: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        longest_ns = tuple(max(cut) for cut in self.cuts)
        if not longest_ns or list(longest_ns) != sorted(set(longest_ns), reverse=True):
            raise InputError(
                f"front: longest segments {longest_ns[:6]}, expected at least one, descending"
            )
        object.__setattr__(self, "longest_ns", longest_ns)

    def under(self, longest_ns: int) -> tuple[int, ...] | None:
        """The coarsest cut whose longest segment keeps the bound; None: none does."""
        pairs = zip(self.cuts, self.longest_ns, strict=True)
        return next((cut for cut, found_ns in pairs if found_ns <= longest_ns), None)


def fixed_front(segment_ns: tuple[int, ...]) -> Front:
    """A network that is cut already."""
    return Front(cuts=(segment_ns,))


def even_front(total_ns: int, point_cost_ns: int = 0) -> Front:
    """A network that can be cut anywhere, evenly, each point adding its cost.

    >>> even_front(8, 2).cuts[:3]
    ((8,), (5, 5), (4, 4, 4))
    """
    return front_from_cuts(
        even_cut(total_ns, point_cost_ns, num_segments)
        for num_segments in range(1, min(MAX_CUTS, total_ns) + 1)
    )


def even_cut(total_ns: int, point_cost_ns: int, num_segments: int) -> tuple[int, ...]:
    """So many segments, as equal as whole nanoseconds allow, the longer ones first."""
    least_ns, rest = divmod(total_ns + (num_segments - 1) * point_cost_ns, num_segments)
    return (least_ns + 1,) * rest + (least_ns,) * (num_segments - rest)


def front_from_cuts(cuts: Iterable[tuple[int, ...]]) -> Front:
    """The cuts, ascending in cost, without those that have no shorter longest segment for it."""
    kept: list[tuple[int, ...]] = []
    for cut in cuts:
        if not kept or max(cut) < max(kept[-1]):
            kept.append(cut)
    return Front(cuts=tuple(kept))
