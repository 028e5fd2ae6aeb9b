"""Random task sets with small integer times, and releases that try to hurt them."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from preempt_runtime.schedulability import AnalysedTask


@dataclass(frozen=True, slots=True, kw_only=True)
class SetShape:
    """What random sets look like; `has_equals` lets priorities coincide."""

    most_tasks: int = 5
    most_segments: int = 5
    shortest_period_ns: int = 20
    longest_period_ns: int = 400
    least_share: float = 0.3
    most_share: float = 0.95
    has_jitter: bool = True
    has_best_effort: bool = True
    has_equals: bool = True


def random_tasks(rng: random.Random, shape: SetShape) -> tuple[AnalysedTask, ...]:
    """A task set; deadlines lie between half and twice the period."""
    num_tasks = rng.randint(2, shape.most_tasks)
    shares = uunifast(rng, num_tasks, rng.uniform(shape.least_share, shape.most_share))
    priorities = [rng.randint(1, num_tasks) for _ in range(num_tasks)]
    if not shape.has_equals:
        priorities = rng.sample(range(1, num_tasks + 1), num_tasks)
    tasks = []
    for idx, (share, priority) in enumerate(zip(shares, priorities, strict=True)):
        ratio = shape.longest_period_ns / shape.shortest_period_ns
        period_ns = round(shape.shortest_period_ns * ratio ** rng.random())
        cost_ns = max(1, int(share * period_ns))
        has_jitter = shape.has_jitter and rng.random() < 0.4
        tasks.append(
            AnalysedTask(
                name=f"t{idx}",
                segment_ns=random_cut(rng, cost_ns, shape.most_segments),
                period_ns=period_ns,
                jitter_ns=rng.randint(0, 2 * period_ns) if has_jitter else 0,
                deadline_ns=max(1, round(period_ns * rng.uniform(0.5, 2))),
                priority=priority,
            )
        )
    if shape.has_best_effort and rng.random() < 0.5:
        cost_ns = rng.randint(1, shape.shortest_period_ns)
        cut = random_cut(rng, cost_ns, shape.most_segments)
        tasks.append(AnalysedTask(name="idle", segment_ns=cut, is_best_effort=True))
    return tuple(tasks)


def uunifast(rng: random.Random, num_tasks: int, share: float) -> list[float]:
    """Shares with that sum, uniform among all such.

    Source: Bini and Buttazzo, Real-Time Systems 30 (2005).
    """
    shares, left = [], share
    for idx in range(num_tasks - 1, 0, -1):
        rest = left * rng.random() ** (1 / idx)
        shares.append(left - rest)
        left = rest
    return [*shares, left]


def random_cut(rng: random.Random, cost_ns: int, most_segments: int) -> tuple[int, ...]:
    """The cost in at most so many random pieces."""
    num_segments = rng.randint(1, min(most_segments, cost_ns))
    edges = [0, *sorted(rng.sample(range(1, cost_ns), num_segments - 1)), cost_ns]
    return tuple(end - start for start, end in pairwise(edges))


def release_patterns(
    rng: random.Random, tasks: Sequence[AnalysedTask], *, end_ns: int
) -> Iterator[dict[str, list[int]]]:
    """Releases until `end_ns`: for each task the worst that is known, then random ones.

    For a target, less urgent tasks start their longest segment one ns before all others come at
    once, these as densely as their jitter allows, and the target itself a little later: at once
    (the worst under fixed priorities) or at one of its later offsets (EDF).
    """
    start_ns = 1 + max(sum(task.segment_ns) for task in tasks)
    for target in tasks:
        if not target.is_best_effort:
            later_ns = rng.choice((0, 0, rng.randint(0, 2 * _period_ns(target))))
            yield {task.name: _hurting(target, task, start_ns, later_ns, end_ns) for task in tasks}
    for _ in range(2):
        yield {task.name: _random_releases(rng, task, start_ns, end_ns) for task in tasks}


def _hurting(
    target: AnalysedTask, task: AnalysedTask, start_ns: int, later_ns: int, end_ns: int
) -> list[int]:
    if task.name == target.name:
        return _dense(task, start_ns + later_ns, start_ns + end_ns)
    deadline_ns, own_ns = task.implicit_deadline_ns or 0, target.implicit_deadline_ns or 0
    is_lower = task.is_best_effort or (task.priority or 0) < (target.priority or 0)
    if not is_lower and deadline_ns <= own_ns:
        return _dense(task, start_ns, start_ns + end_ns)
    if not is_lower:  # ahead under one policy, behind under the other
        return _dense(task, start_ns - later_ns % 2, start_ns + end_ns)
    longest = max(range(len(task.segment_ns)), key=lambda idx: task.segment_ns[idx])
    before_ns = list(accumulate(task.segment_ns, initial=0))[longest]
    return _dense(task, start_ns - 1 - before_ns, start_ns + end_ns)


def _dense(task: AnalysedTask, first_ns: int, end_ns: int) -> list[int]:
    """The first job as late as jitter allows, all later ones not late at all."""
    if task.is_best_effort:
        return [first_ns]
    nominal_ns = range(first_ns - task.jitter_ns, end_ns, _period_ns(task))
    return [max(first_ns, time_ns) for time_ns in nominal_ns]


def _random_releases(
    rng: random.Random, task: AnalysedTask, start_ns: int, end_ns: int
) -> list[int]:
    first_ns = rng.randint(0, start_ns)
    if task.is_best_effort:
        return [first_ns]
    releases, last_ns = [], 0
    for nominal_ns in range(first_ns, start_ns + end_ns, _period_ns(task)):
        last_ns = max(last_ns, nominal_ns + rng.randint(0, task.jitter_ns))
        releases.append(last_ns)
    return releases


def _period_ns(task: AnalysedTask) -> int:
    assert task.period_ns is not None
    return task.period_ns
