"""What the deadline benchmarks of CPU and GPU share: task sets, compiling, blocks of runs."""

import resource
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.deadline_tally import DeadlineTally
from bench.deadlines_report import BlockResult
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.errors import PreemptError
from preempt_runtime.loading import open_backend
from preempt_runtime.run_options import RunOptions
from preempt_runtime.run_taskset import RunReport, run_taskset
from preempt_runtime.taskset import TaskSetSpec
from preemptc.cache import BuildCache
from preemptc.plan import TaskSetPlan, plan_and_compile
from preemptc.plan_problem import PlanOptions


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def periods_ns(costs_ns: Sequence[int], load: float, first_load: float) -> list[int]:
    """Periods with which the first network takes `first_load`, the others equal parts of the rest.

    >>> periods_ns([3, 6], 0.70, 0.10), periods_ns([3, 6], 1.10, 0.10)
    ([30, 10], [30, 6])
    """
    others = (load - first_load) / (len(costs_ns) - 1)
    return [round(cost / (others if idx else first_load)) for idx, cost in enumerate(costs_ns)]


def taskset_text(
    names: Sequence[str],
    periods: Sequence[int],
    *,
    head: str,
    late: str = "run",
    mark: str = "",
    first_deadline_ns: int | None = None,
) -> str:
    """The task set: each network once a period, its deadline the period.

    Args:
        names: of networks; `NAME.onnx` is the model, `NAME` and `mark` make its bundle's name.
        periods: of each, in ns.
        head: further lines of the set as a whole.
        late: of all tasks but the most urgent one, which is the same in every variant.
        mark: tells bundles of one network apart.
        first_deadline_ns: of the first network, where that is not its period.
    """
    deadlines = [first_deadline_ns or periods[0], *periods[1:]]
    tasks = [
        f'\n[[task]]\nname = "{name}"\nmodel = "{name}.onnx"\nbundle = "{name}{mark}.bundle"\n'
        f'period = "{period_ns}ns"\ndeadline = "{deadline_ns}ns"\n'
        f'late = "{late if idx else "run"}"\n'
        for idx, (name, period_ns, deadline_ns) in enumerate(
            zip(names, periods, deadlines, strict=True)
        )
    ]
    return f'[taskset]\nname = "deadlines"\npolicy = "rate-monotonic"\n{head}{"".join(tasks)}'


def uncut(text: str, mark: str = "") -> str:
    """The same task set with every network in one piece."""
    return text.replace(f'{mark}.bundle"', f'{mark}.bundle"\nplan = "whole"')


def compiled(
    taskset: TaskSetSpec, planning: PlanOptions, caches: Iterable[BuildCache]
) -> tuple[TaskSetPlan, int]:
    """The plan after compiling, and how many attempts it took until the analysis held.

    A stolen 20 ms in one of a network's runs is its measured maximum, and no deadline near it can
    be promised then: with the next cache everything is measured anew.

    Raises:
        PreemptError: the last attempt failed.
    """
    plan, error, attempt = None, None, 0
    for attempt, cache in enumerate(caches, 1):
        try:
            plan = plan_and_compile(taskset, planning, cache, lambda what, frac: None)
        except PreemptError as err:
            say(f"attempt {attempt}: {err}")
            plan, error = None, err
            continue
        if plan.choice.is_schedulable:
            break
        late = [bound for bound in plan.choice.bound.tasks if not bound.is_schedulable]
        say(f"attempt {attempt}: {late[0].name}: {late[0].reason}")
    if plan is None:
        assert error is not None
        raise error
    return plan, attempt


def run_block(
    variant: str, taskset: TaskSetSpec, duration_ns: int, tally: DeadlineTally, *, spin_ns: int = 0
) -> tuple[BlockResult, RunReport]:
    """One variant, run once on this machine, polling for `spin_ns` before a release.

    Raises:
        SystemExit: a signal ended the run; all of them are to end.
    """
    before_bytes = _rss_bytes()
    report = run_taskset(
        taskset,
        RunOptions(duration_ns=duration_ns),
        find_backend=open_backend,
        clock=MonotonicClock(spin_ns=spin_ns),
        instruments=(tally,),
    )
    if report.ended_by is not None:
        raise SystemExit(128 + report.ended_by)
    drifts = {name: task.drift for name, task in report.tasks.items() if task.drift is not None}
    block = BlockResult(
        variant=variant,
        tasks=tally.tasks,
        drifts=drifts,
        busy_frac=report.device_busy_frac,
        rss_bytes=(before_bytes, _rss_bytes()),
    )
    return block, report


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
