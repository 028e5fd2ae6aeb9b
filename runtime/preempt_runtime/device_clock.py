"""DeviceClock: times that a GPU wrote down, on the host's clock."""

from dataclasses import dataclass

_WINDOW_NS = 1_000_000_000


@dataclass(slots=True)
class _Bounds:
    """What the difference host - device is at least and at most, since `since_ns`."""

    since_ns: int
    least_ns: int | None = None
    most_ns: int | None = None


class DeviceClock:
    """Maps times of a device's clock to the host's, by what must have come first.

    A job was launched before the device began with it, and the host saw its end after it had
    ended: each job says what the difference of the two clocks is at least and at most. The tightest
    of the last one to two seconds hold, so that a drift of the clocks is followed. The offset
    moves only as far as they demand: two records differ by what the device's clock says. No job
    begins before its launch or ends after it was seen to, as far as the clocks keep their pace.
    """

    def __init__(self) -> None:
        self.offset_ns = 0  # what to add to the device's time
        self._is_known = False
        self._now = self._before = _Bounds(since_ns=0)

    def observe(self, *, launch_ns: int, begin_ns: int, end_ns: int, seen_ns: int) -> None:
        """One job: `launch_ns` and `seen_ns` by the host's clock, the others by the device's."""
        if seen_ns - self._now.since_ns >= _WINDOW_NS:
            self._before, self._now = self._now, _Bounds(since_ns=seen_ns)
        bounds = self._now
        least_ns, most_ns = launch_ns - begin_ns, seen_ns - end_ns
        if bounds.least_ns is None or least_ns > bounds.least_ns:
            bounds.least_ns = least_ns
        if bounds.most_ns is None or most_ns < bounds.most_ns:
            bounds.most_ns = most_ns
        least_ns, most_ns = self._range()
        if not self._is_known or least_ns > most_ns:  # the clocks drifted apart meanwhile
            self.offset_ns, self._is_known = (least_ns + most_ns) // 2, True
        else:
            self.offset_ns = min(max(self.offset_ns, least_ns), most_ns)

    @property
    def uncertainty_ns(self) -> int:
        """How far off the offset may be; 0 where the clocks' drift has crossed the bounds."""
        least_ns, most_ns = self._range()
        return max(most_ns - least_ns, 0) // 2

    def _range(self) -> tuple[int, int]:
        found = [each for each in (self._before, self._now) if each.least_ns is not None]
        assert found, "no job was observed"
        least_ns = max(each.least_ns for each in found if each.least_ns is not None)
        most_ns = min(each.most_ns for each in found if each.most_ns is not None)
        return least_ns, most_ns
