"""Schedules segment by segment on integer time, to hold against response-time bounds.

It shares no code with the analysis or the dispatcher: a release list per task goes in, responses
come out. Segments run in the order in which they were put in flight, at most `depth` of them; jobs
of one task run one after another.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from preempt_runtime.schedulability import AnalysedTask

Equals = Literal["release", "started"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the device is shared; `equals` is who goes first among equal priorities."""

    policy: str
    depth: int = 1
    resume_cost_ns: int = 0
    equals: Equals = "release"


class _Job:
    __slots__ = ("deadline_ns", "release_ns", "segment", "task")

    def __init__(self, task: AnalysedTask, release_ns: int) -> None:
        self.task = task
        self.release_ns = release_ns
        self.segment = 0
        self.deadline_ns = release_ns + (task.implicit_deadline_ns or 0)


def observed_responses(
    tasks: Sequence[AnalysedTask], releases_ns: Mapping[str, Sequence[int]], rules: Rules
) -> dict[str, int]:
    """The longest response of each task that has released a job; best effort goes on for ever.

    Args:
        tasks: the set; the costs are taken as they are.
        releases_ns: ascending releases by task; best effort repeats once its list is done.
        rules: how the device is shared.
    """
    waiting = {task.name: deque(releases_ns[task.name]) for task in tasks}
    heads = {task.name: _Job(task, waiting[task.name].popleft()) for task in tasks}
    num_urgent = sum(len(releases_ns[task.name]) for task in tasks if not task.is_best_effort)
    in_flight: deque[tuple[int, _Job]] = deque()
    worst: dict[str, int] = {}
    now_ns = min(job.release_ns for job in heads.values())
    free_ns, last_job = now_ns, None
    while num_urgent:
        while len(in_flight) < rules.depth:
            job = _pick(heads, waiting, now_ns, rules)
            if job is None or heads[job.task.name] is not job:
                break
            cost_ns = job.task.segment_ns[job.segment]
            if job.segment and job is not last_job:
                cost_ns += rules.resume_cost_ns
            free_ns = max(free_ns, now_ns) + cost_ns
            in_flight.append((free_ns, job))
            job.segment += 1
            last_job = job
        now_ns = _next_event_ns(heads.values(), in_flight, now_ns)
        while in_flight and in_flight[0][0] <= now_ns:
            end_ns, job = in_flight.popleft()
            if job.segment < len(job.task.segment_ns) or any(j is job for _, j in in_flight):
                continue
            name = job.task.name
            if not job.task.is_best_effort:
                num_urgent -= 1
                worst[name] = max(worst.get(name, 0), end_ns - job.release_ns)
            _advance(heads, waiting[name], job, end_ns)
    return worst


def _advance(heads: dict[str, _Job], waiting: deque[int], job: _Job, end_ns: int) -> None:
    if waiting:
        heads[job.task.name] = _Job(job.task, waiting.popleft())
    elif job.task.is_best_effort:
        heads[job.task.name] = _Job(job.task, end_ns)
    else:
        del heads[job.task.name]


def _pick(
    heads: Mapping[str, _Job], waiting: Mapping[str, deque[int]], now_ns: int, rules: Rules
) -> _Job | None:
    """The most urgent job that is released, each task's first of which a segment is left."""
    ready = []
    for name, head in heads.items():
        job = head
        if head.segment == len(head.task.segment_ns):
            if not waiting[name]:
                continue
            job = _Job(head.task, waiting[name][0])
        if job.release_ns <= now_ns:
            ready.append(job)
    return min(ready, key=lambda job: _order(job, rules)) if ready else None


def _order(job: _Job, rules: Rules) -> tuple[int | bool, ...]:
    is_new = job.segment == 0
    if rules.policy == "fifo":
        return (is_new, job.release_ns)
    if rules.policy == "edf":
        return (job.task.is_best_effort, job.deadline_ns, is_new, job.release_ns)
    urgency = -(job.task.priority or 0)
    if rules.equals == "started":
        return (job.task.is_best_effort, urgency, is_new, -job.release_ns)
    return (job.task.is_best_effort, urgency, job.release_ns, is_new)


def _next_event_ns(heads: Iterable[_Job], in_flight: deque[tuple[int, _Job]], now_ns: int) -> int:
    releases = [job.release_ns for job in heads if job.release_ns > now_ns]
    return min(releases + [end_ns for end_ns, _ in list(in_flight)[:1]])
