"""What the executor needs of a device that decides by itself, at gates, who goes on.

Such a device gets whole jobs, each with a key that says how urgent it is, and many at a time. The
kernels between two gates are a *stretch*: a segment that no host has to launch.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from preempt_runtime.device import JobBuffers
from preempt_runtime.errors import DeviceError
from preempt_runtime.gate_keys import GateRank


@dataclass(frozen=True, slots=True, kw_only=True)
class StretchTimes:
    """When a job that has ended came to each gate, passed it, and ended, on one clock.

    A job that did not have to wait at a gate passed it when it came.
    """

    arrived_ns: tuple[int, ...]
    passed_ns: tuple[int, ...]
    end_ns: int

    @property
    def stretches(self) -> tuple[tuple[int, int], ...]:
        """Begin and end of each stretch, the way to the next gate included."""
        ends = (*self.arrived_ns[1:], self.end_ns)
        return tuple(zip(self.passed_ns, ends, strict=True))

    @property
    def stretch_ns(self) -> tuple[int, ...]:
        """How long each stretch took."""
        return tuple(end - begin for begin, end in self.stretches)

    @property
    def waited_ns(self) -> tuple[int, ...]:
        """How long the job stood at each gate."""
        pairs = zip(self.arrived_ns, self.passed_ns, strict=True)
        return tuple(passed - arrived for arrived, passed in pairs)

    @property
    def num_preemptions(self) -> int:
        """At how many gates but the first it had to wait."""
        return sum(waited > 0 for waited in self.waited_ns[1:])

    def shifted(self, by_ns: int) -> "StretchTimes":
        """The same on another clock."""
        return StretchTimes(
            arrived_ns=tuple(each + by_ns for each in self.arrived_ns),
            passed_ns=tuple(each + by_ns for each in self.passed_ns),
            end_ns=self.end_ns + by_ns,
        )


@runtime_checkable
class GatedDevice(Protocol):
    """A device that runs jobs with gates in them; its networks' segments are stretches.

    `buffers` are those of its networks. One thread at a time drives it, but buffers may be made
    and closed on any other.
    """

    @property
    def name(self) -> str:
        """Such as the GPU's name, for reports."""
        ...

    @property
    def max_depth(self) -> int:
        """Always 1: of the stretches only one runs, however many jobs were launched."""
        ...

    def prepare(self) -> None:
        """Return if jobs may be started, now that all buffers were used once; between runs.

        Raises:
            GatesError: jobs that wait would hold up others; the message says what to do.
        """
        ...

    def start(self, buffers: JobBuffers, rank: GateRank, *, is_urgent: bool) -> None:
        """Let less urgent jobs wait from now on, and launch all of the job in `buffers`.

        Raises:
            DeviceError: the driver refused; others wait for this job no longer.
        """
        ...

    def is_done(self, buffers: JobBuffers) -> bool:
        """Whether the job in `buffers` has ended and its outputs can be read.

        Raises:
            DeviceError: it failed.
        """
        ...

    def times(self, buffers: JobBuffers) -> StretchTimes:
        """When the job that has ended was where, by the device's clock."""
        ...

    def cancel(self, buffers: JobBuffers) -> None:
        """Have the job that was started go on as the least urgent of all.

        Raises:
            DeviceError: the driver refused.
        """
        ...

    def announce(self, buffers: JobBuffers, rank: GateRank) -> None:
        """Let less urgent jobs wait for one that is to be started soon; expires by itself.

        Raises:
            DeviceError: the driver refused.
        """
        ...

    def give_ups(self) -> tuple[str, ...]:
        """What gates did since the last call that voids bounds, for people."""
        ...

    def stream(self, *, is_urgent: bool) -> Any:
        """The stream that pre and post callables enqueue on; no gate holds it."""
        ...

    def wait(self) -> None:
        """Return when what callables have put on the streams of `stream` has completed.

        Raises:
            DeviceError: something failed.
        """
        ...

    def wait_for_all(self) -> None:
        """Return when all jobs have ended, those too of which `start` did not return.

        Raises:
            DeviceError: something failed.
        """
        ...

    def abandon(self, stuck: str) -> DeviceError:
        """Take it that the device hangs: from now on nothing may wait for it, not even `close`.

        Args:
            stuck: what does not end, and for how long.

        Returns:
            The error to raise, which says what to do; so does every later call that needs the GPU.
        """
        ...

    def close(self) -> None:
        """Release the device; its networks must be closed before."""
        ...
