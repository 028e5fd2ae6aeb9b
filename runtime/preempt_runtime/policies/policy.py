"""What a policy is, and what it may ask of a task."""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Literal, Protocol, TypeVar, runtime_checkable

from preempt_runtime.errors import InputError
from preempt_runtime.gate_keys import GateRank
from preempt_runtime.job import Key, ReadyJob

_J = TypeVar("_J", bound=ReadyJob)
Need = Literal["priority", "positive priority", "period", "deadline"]
_WRITE: dict[Need, str] = {
    "priority": "priority = N (larger runs first)",
    "positive priority": "priority = N, at least 1",
    "period": "its period",
    "deadline": "its deadline or its period",
}
BEST_EFFORT: Key = (1, 0)  # below every real-time urgency, which begins with 0
by_key = attrgetter("key")


class RankedTask(Protocol):
    """What a policy may know of a task: of `Task`, or of a task set's own description."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def priority(self) -> int | None:
        """Larger runs first; None is best effort, or a task whose file gives none."""
        ...

    @property
    def is_best_effort(self) -> bool:
        """It runs only when no real-time task has a job."""
        ...

    @property
    def period_ns(self) -> int | None:
        """The least time between two releases, if it is known."""
        ...

    @property
    def implicit_deadline_ns(self) -> int | None:
        """The relative deadline, or else the period."""
        ...


class Policy(Protocol):
    """Decides at every preemption point; touches neither jobs nor device.

    `urgency` orders the jobs; the dispatcher makes it total (`key_of`) and keeps the result as
    `ReadyJob.key`, so that `pick` need not compute it again for every ready job.
    """

    @property
    def name(self) -> str:
        """What the command line and reports call it."""
        ...

    @property
    def needs(self) -> tuple[Need, ...]:
        """What every real-time task must have."""
        ...

    @property
    def has_moving_urgency(self) -> bool:
        """A job's urgency changes with what it has run; then it is asked for after each segment."""
        ...

    def rank(self, task: RankedTask) -> Key:
        """Larger is more urgent: what `JobRecord.blocking_ns` means by a task of lower rank."""
        ...

    def urgency(self, job: ReadyJob) -> Key:
        """Ascending is more urgent; jobs of equal urgency take turns. Always of one length."""
        ...

    def pick(self, ready: Sequence[_J], now_ns: int) -> _J:
        """One of `ready`, which holds at least one job; its order means nothing."""
        ...


@runtime_checkable
class GatePolicy(Policy, Protocol):
    """A policy whose order of two jobs is known when they are released: gates can keep it."""

    def gate_rank(self, job: ReadyJob, order: int) -> GateRank:
        """Its place among the jobs on the device; `order` grows with every job that starts."""
        ...


def key_of(policy: Policy, job: ReadyJob) -> Key:
    """The job's place in the policy's total order, ascending.

    Jobs of equal urgency: the started one goes on, then comes the task whose last job started
    least recently, then the earlier release, then the smaller id.
    """
    return (*policy.urgency(job), not job.is_started, job.turn, job.release_ns, job.id)


def rank_of_kind(task: RankedTask) -> Key:
    """Real-time above best effort, for policies that rank no task above another for good."""
    return (0, 0) if task.is_best_effort else (1, 0)


def check_needs(policy: Policy, tasks: Iterable[RankedTask], *, where: str = "") -> None:
    """Return if every task has what the policy needs; `where` begins the message.

    Raises:
        InputError: the first real-time task that lacks something.
    """
    for task in tasks:
        has: dict[Need, bool] = {
            "priority": task.priority is not None,
            "positive priority": task.priority is not None and task.priority >= 1,
            "period": task.period_ns is not None,
            "deadline": task.implicit_deadline_ns is not None,
        }
        for need in policy.needs:
            if not (task.is_best_effort or has[need]):
                raise InputError(
                    f"{where}policy {policy.name!r} needs a {need} of every real-time task, and"
                    f" task {task.name!r} has none; write {_WRITE[need]}, make it best effort, or"
                    " take another policy"
                )
