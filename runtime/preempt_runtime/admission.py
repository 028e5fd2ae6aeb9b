"""Admission: whether a task may join those that run, so that every deadline is still kept."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from preempt_runtime.errors import AdmissionError, InputError
from preempt_runtime.schedulability import AnalysedTask, Assumptions, CostSource, SetBound, analyse
from preempt_runtime.schedulability.loads import cost_from_seen_ns
from preempt_runtime.task import ADMIT, Admit, Task
from preempt_runtime.units import fmt_count, fmt_ns

_log = logging.getLogger(__name__)
Done = Literal["admitted", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """The longest time that each of a network's segments, and all of a job's, were seen to take.

    Without the cost of resuming, which the analysis counts where jobs are preempted; with all else
    that a segment meets on the device.
    """

    segment_ns: tuple[int, ...] = ()
    job_ns: int = 0


_NOTHING = Observed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The analysis that a task must pass: the policy that dispatches, and what is assumed.

    `mode`: `refuse` raises where a deadline may be missed, `warn` logs it, `off` says nothing.
    """

    policy: str
    mode: Admit
    assumptions: Assumptions = field(default_factory=Assumptions)

    def __post_init__(self) -> None:
        if self.mode not in ADMIT:  # a word that is misspelt must not admit everything
            raise InputError(f"admission: mode {self.mode!r}, expected one of {', '.join(ADMIT)}")

    def admit(
        self, admitted: Sequence[Task], *new: Task, done: Done = "admitted"
    ) -> SetBound | None:
        """The bounds of all tasks with the new ones among them; None if nothing was asked.

        Args:
            admitted: those that are not in question.
            new: judged together.
            done: what becomes of the new ones, for the message.

        Raises:
            AdmissionError: in mode `refuse`, if a task may miss its deadline, or has no bound.
        """
        if self.mode == "off":
            return None
        try:
            bound = self.bound((*admitted, *new))
        except InputError as err:
            self._object(new, done, str(err), err)
            return None
        if not bound.is_schedulable:
            self._object(new, done, complaint(bound))
        return bound

    def bound(
        self, tasks: Sequence[Task], observed: Mapping[str, Observed] | None = None
    ) -> SetBound:
        """The bounds of tasks; what was observed counts where it is longer than what was measured.

        Raises:
            InputError: a task does not say what the analysis needs.
        """
        observed = observed or {}
        found = [
            analysed_task(task, observed.get(task.name, _NOTHING), self.assumptions)
            for task in tasks
        ]
        return analyse(found, self.policy, self.assumptions)

    @staticmethod
    def judges_alike(task: Task, other: Task) -> bool:
        """Whether a task in the other's place changes nothing that the analysis looks at."""
        same = replace(
            task,
            mailbox=other.mailbox,
            max_pending=other.max_pending,
            late=other.late,
            check_inputs=other.check_inputs,
        )
        return same == other

    def _object(
        self, new: Sequence[Task], done: Done, why: str, cause: Exception | None = None
    ) -> None:
        margin = f"with a margin of {self.assumptions.margin_frac:.0%}"
        if self.mode == "refuse":
            who = f"task {new[0].name!r} is" if len(new) == 1 else f"these {len(new)} tasks are"
            raise AdmissionError(
                f"{who} not {done}, {margin}: {why}; see `preemptc plan` for what would make"
                f" {'it' if len(new) == 1 else 'them'} fit, or admit = 'warn'"
            ) from cause
        who = f"task {new[0].name} is" if len(new) == 1 else f"{len(new)} tasks are"
        _log.warning("%s %s without a guarantee, %s: %s", who, done, margin, why)


def complaint(bound: SetBound) -> str:
    """Which tasks of a set may miss their deadlines, the worst of them and how many more."""
    failing = [task for task in bound.tasks if not task.is_schedulable]
    worst = max(failing, key=lambda task: -(task.slack_ns or 0))
    more = f", and {fmt_count(len(failing) - 1, 'more task')}" if len(failing) > 1 else ""
    deadline = "" if worst.deadline_ns is None else f" (deadline {fmt_ns(worst.deadline_ns)})"
    return f"task {worst.name!r}{deadline}: {worst.reason}{more}"


def analysed_task(
    task: Task, observed: Observed = _NOTHING, assumptions: Assumptions | None = None
) -> AnalysedTask:
    """The task as the analysis takes it: the longest time of each of its steps.

    What was observed contains overlapping and dispatching, which the analysis adds: so much is
    taken off it, but never is a time below the measured maximum. The analysis then counts, margin
    aside, no less than what was seen.

    Raises:
        InputError: the time of `pre` or `post` is not known.
    """
    segment_ns, total_ns = _longest(task, observed, assumptions or Assumptions())
    is_measured = all(seg.latency is not None for seg in task.network.segments)
    around_ns = (task.pre_ns or 0) + (task.post_ns or 0)
    source: CostSource = "measured" if is_measured else "estimated"
    return AnalysedTask(
        name=task.name,
        segment_ns=(
            *_call_ns(task, "pre", task.pre is not None, task.pre_ns),
            *segment_ns,
            *_call_ns(task, "post", task.post is not None, task.post_ns),
        ),
        period_ns=task.period_ns,
        jitter_ns=task.jitter_ns,
        deadline_ns=task.relative_deadline_ns,
        priority=task.priority,
        is_best_effort=task.is_best_effort,
        source=source,
        total_ns=None if total_ns is None else total_ns + around_ns,
    )


def _longest(task: Task, observed: Observed, assumed: Assumptions) -> tuple[list[int], int | None]:
    """What each of the network's segments takes at most, and all together, where that is known."""
    segments = task.network.segments
    known = [
        max(1, seg.predicted_ns if seg.latency is None else seg.latency.max_ns) for seg in segments
    ]
    segment_ns = list(known)
    for idx, seen_ns in enumerate(observed.segment_ns):
        has_once = idx in (0, len(segments) - 1)
        seen_ns = cost_from_seen_ns(seen_ns, assumed, has_once=has_once)
        segment_ns[idx] = max(known[idx], seen_ns)
    if task.total_ns is None or segment_ns != known:
        return segment_ns, None  # segments that are longer void the total: their sum counts
    job_ns = cost_from_seen_ns(observed.job_ns, assumed, num_segments=len(segments), has_once=True)
    return segment_ns, max(task.total_ns, job_ns)


def _call_ns(task: Task, what: str, is_there: bool, time_ns: int | None) -> tuple[int, ...]:
    if not is_there:
        return ()
    if time_ns is None:
        raise InputError(
            f"task {task.name!r}: how long {what} takes is not known; give {what}_ns, the longest"
            " that it was seen to take"
        )
    return (time_ns,)
