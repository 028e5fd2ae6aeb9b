"""What a task set says of one task, as values."""

from dataclasses import dataclass
from pathlib import Path

from preempt_runtime.arrivals import Arrival
from preempt_runtime.schedulability.cuts import even_cut
from preempt_runtime.task import LatePolicy, Mailbox

MAX_SEGMENTS = 100_000
NamedShape = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSpec:
    """What a job costs, as numbers in the file: segments, or a total that may be cut anywhere.

    `point_cost_ns` is what each cut adds; with `segment_ns` given it is contained in them.
    """

    total_ns: int
    segment_ns: tuple[int, ...] | None = None
    point_cost_ns: int = 0

    def segments_ns(self, max_segment_ns: int | None) -> tuple[int, ...]:
        """The segments: as given, or as few equal ones as keep the bound.

        >>> CostSpec(total_ns=10, point_cost_ns=1).segments_ns(4)
        (4, 4, 4)
        """
        if self.segment_ns is not None:
            return self.segment_ns
        num_segments = self.num_segments(max_segment_ns)
        return even_cut(self.total_ns, self.point_cost_ns, num_segments)

    def num_segments(self, max_segment_ns: int | None) -> int:
        """How many segments there are, as given or under a bound."""
        if self.segment_ns is not None:
            return len(self.segment_ns)
        if max_segment_ns is None or max_segment_ns >= self.total_ns:
            return 1
        if max_segment_ns <= self.point_cost_ns:
            return 2
        useful_ns = max_segment_ns - self.point_cost_ns
        return max(2, -(-(self.total_ns - self.point_cost_ns) // useful_ns))

    @property
    def floor_ns(self) -> float:
        """What a bound on segments must exceed: the cost of a point, and sensible pieces."""
        return self.point_cost_ns + self.total_ns / MAX_SEGMENTS

    def can_keep(self, max_segment_ns: int) -> bool:
        """Whether it can be cut under a bound."""
        return max_segment_ns >= self.total_ns or max_segment_ns > self.floor_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """One task as the file describes it, with its defaults filled in.

    `bundle` is None where the file gives costs instead; `model` is what the bundle is compiled
    from, with static `shapes` of inputs that have none, `max_segment_ns` the bound that it is to
    keep. `priority` is None for best effort, and where the policy needs none. `period_ns` is the
    least time between releases, None where they know none. `plan` is None where the bundle's own
    order decides, `inputs` where they are random; `max_pending` is None for a queue without a
    bound, `buffers` how many of its jobs may be in flight. `arrival_file` is what recorded releases
    were read from, `announce_ns` how long before a release that is known less urgent jobs are held
    back at gates.
    """

    name: str
    bundle: Path | None
    plan: str | None
    priority: int | None
    is_best_effort: bool
    deadline_ns: int | None
    mailbox: Mailbox
    max_pending: int | None
    inputs: Path | None
    seed: int
    check_inputs: bool
    arrival: Arrival
    arrival_file: Path | None = None
    model: Path | None = None
    profile: Path | None = None
    shapes: tuple[NamedShape, ...] = ()
    cost: CostSpec | None = None
    max_segment_ns: int | None = None
    period_ns: int | None = None
    jitter_ns: int = 0
    late: LatePolicy = "run"
    buffers: int = 1
    announce_ns: int = 0

    @property
    def implicit_deadline_ns(self) -> int | None:
        """The relative deadline, or else the period: a job is to end before the next comes."""
        return self.period_ns if self.deadline_ns is None else self.deadline_ns

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read beside the bundle."""
        named = (self.inputs, self.arrival_file, self.model, self.profile)
        return tuple(file for file in named if file is not None)
