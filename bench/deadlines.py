"""Five networks with deadlines on this machine's processor: `make bench-deadlines`.

The demo's networks and three more become a task set at 70 % of the machine, `preemptc plan` chooses
and compiles their bounds, and three variants run in turn, block by block: with preemption points;
the same releases with uncut networks; and with the other tasks released so often that the load is
150 %. Writes docs/results/deadlines.json and .md.
"""

import argparse
import json
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compiling import measured_bound
from bench.deadline_tally import DeadlineTally
from bench.deadlines_report import (
    CUT,
    LOAD,
    OVERLOAD,
    OVERLOADED,
    UNCUT,
    BlockResult,
    page,
    result_of,
)
from bench.machine import MachineWatch
from models.make import make
from preempt_runtime.backends.ort import default_threads
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.errors import PreemptError
from preempt_runtime.loading import open_backend
from preempt_runtime.run_taskset import RunOptions, run_taskset
from preempt_runtime.taskset import TaskSetSpec, read_taskset
from preempt_runtime.units import fmt_ns
from preemptc.cache import BuildCache
from preemptc.plan import PlanOptions, TaskSetPlan, plan_and_compile

NETWORKS = ("mobilenet_v2", "resnet50", "inception_v3", "distilbert", "resnet152")
FIRST_LOAD = 0.10  # of the machine, by the most urgent network, in every variant
_ATTEMPTS = 2
_MARGIN_FRAC = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineOptions:
    """What is run: `rounds` blocks of each variant."""

    rounds: int
    block_ns: int
    overload_block_ns: int
    threads: int
    folder: Path
    cache: Path


def taskset_text(periods_ns: Sequence[int], *, threads: int, late: str = "run") -> str:
    """The task set: each network once a period, its deadline the period."""
    head = (
        f'[taskset]\nname = "deadlines"\npolicy = "rate-monotonic"\nthreads = {threads}\n'
        f"margin = {_MARGIN_FRAC}\n"
    )
    tasks = [
        f'\n[[task]]\nname = "{name}"\nmodel = "{name}.onnx"\nbundle = "{name}.bundle"\n'
        f'period = "{period_ns}ns"\ndeadline = "{period_ns}ns"\n'
        # The most urgent task is the same in every variant.
        f'late = "{late if idx else "run"}"\n'
        for idx, (name, period_ns) in enumerate(zip(NETWORKS, periods_ns, strict=True))
    ]
    return head + "".join(tasks)


def periods_ns(costs_ns: Sequence[int], load: float) -> list[int]:
    """Periods with which the first network takes `FIRST_LOAD`, the others equal parts of the rest.

    >>> periods_ns([3, 6], 0.70), periods_ns([3, 6], 1.10)
    ([30, 10], [30, 6])
    """
    others = (load - FIRST_LOAD) / (len(costs_ns) - 1)
    return [round(cost / (others if idx else FIRST_LOAD)) for idx, cost in enumerate(costs_ns)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make, plan, compile, run all blocks, and write both files."""
    options, out = _options(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    cache = BuildCache(options.cache)
    costs_ns = _costs_ns(options, cache)
    paths = _write_tasksets(options, costs_ns)
    plan, attempts = _compiled(read_taskset(paths[CUT]), options)
    for bound in plan.choice.bound.tasks:
        response = "none" if bound.response_ns is None else fmt_ns(bound.response_ns)
        _say(f"{bound.name}: {bound.longest_ns} ns longest, response bound {response}")
    watch, blocks = MachineWatch(), []
    for idx in range(options.rounds):
        variants = (CUT, UNCUT, OVERLOADED)
        for variant in (*variants[idx % 3 :], *variants[: idx % 3]):
            blocks.append(_run(variant, paths, options, seed=idx))
            _say(f"round {idx + 1} of {options.rounds}, {variant}: done")
    result = result_of(
        blocks,
        bound=plan.choice.bound,
        num_segments={name: len(plan.choice.cut_of(name)) for name in NETWORKS},
        costs_ns=dict(zip(NETWORKS, costs_ns, strict=True)),
        settings={**settings_of(options), "attempts": attempts},
        machine=watch.describe(),
    )
    (out / "deadlines.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "deadlines.md").write_text(page(result))
    return 0


def _costs_ns(options: DeadlineOptions, cache: BuildCache) -> list[int]:
    costs = []
    for name in NETWORKS:
        model = make(name, options.folder / f"{name}.onnx", 0)
        found = measured_bound(model, cache, threads=options.threads)
        costs.append(int(found["profiled_whole_p50_ns"]))
        _say(f"{name}: {fmt_ns(costs[-1])}")
    return costs


def _write_tasksets(options: DeadlineOptions, costs_ns: Sequence[int]) -> dict[str, Path]:
    normal = taskset_text(periods_ns(costs_ns, LOAD), threads=options.threads)
    texts = {
        CUT: normal,
        UNCUT: normal.replace('.bundle"', '.bundle"\nplan = "whole"'),
        OVERLOADED: taskset_text(
            periods_ns(costs_ns, OVERLOAD), threads=options.threads, late="drop"
        ),
    }
    paths = {}
    for idx, (variant, text) in enumerate(texts.items()):
        paths[variant] = options.folder / f"tasks{idx}.toml"
        paths[variant].write_text(text)
    return paths


def _compiled(taskset: TaskSetSpec, options: DeadlineOptions) -> tuple[TaskSetPlan, int]:
    """The plan after compiling, and how many times it took until the analysis held.

    A stolen 20 ms in one of a network's runs is its measured maximum, and no deadline near it can
    be promised then: everything is measured anew.

    Raises:
        PreemptError: the last attempt failed.
    """
    planning = PlanOptions(target="cpu")
    for attempt in range(1, _ATTEMPTS + 1):
        cache = BuildCache(options.folder / f"cache{attempt}")
        try:
            plan = plan_and_compile(taskset, planning, cache, lambda what, frac: None)
        except PreemptError as err:
            _say(f"attempt {attempt}: {err}")
            if attempt == _ATTEMPTS:
                raise
            continue
        if plan.choice.is_schedulable:
            break
        late = [bound for bound in plan.choice.bound.tasks if not bound.is_schedulable]
        _say(f"attempt {attempt}: {late[0].name}: {late[0].reason}")
    return plan, attempt


def _run(
    variant: str, paths: dict[str, Path], options: DeadlineOptions, *, seed: int
) -> BlockResult:
    is_overload = variant == OVERLOADED
    tally = DeadlineTally()
    taskset = read_taskset(paths[variant], seed=seed)
    before_bytes = _rss_bytes()
    report = run_taskset(
        taskset,
        RunOptions(duration_ns=options.overload_block_ns if is_overload else options.block_ns),
        find_backend=open_backend,
        clock=MonotonicClock(),
        instruments=(tally,),
    )
    if report.ended_by is not None:  # a run ends on a signal by itself; all of them are to end
        raise SystemExit(128 + report.ended_by)
    return BlockResult(
        variant=variant,
        tasks=tally.tasks,
        drifts={name: task.drift for name, task in report.tasks.items() if task.drift is not None},
        busy_frac=report.device_busy_frac,
        rss_bytes=(before_bytes, _rss_bytes()),
    )


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def settings_of(options: DeadlineOptions) -> dict[str, Any]:
    """What was run, as the result tells it: the command with the options that change figures."""
    return {
        "command": (
            f"python -m bench.deadlines --rounds {options.rounds}"
            f" --block-s {options.block_ns // 10**9}"
            f" --overload-s {options.overload_block_ns // 10**9} --threads {options.threads}"
        ),
        "rounds": options.rounds,
        "block_ns": options.block_ns,
        "overload_block_ns": options.overload_block_ns,
        "threads": options.threads,
        "load": LOAD,
        "first_load": FIRST_LOAD,
        "overload": OVERLOAD,
        "margin_frac": _MARGIN_FRAC,
    }


def _say(text: str) -> None:
    print(text, flush=True)


def _options(arguments: Sequence[str] | None) -> tuple[DeadlineOptions, Path]:
    parser = argparse.ArgumentParser(prog="python -m bench.deadlines", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--block-s", type=int, default=48, help="of the two variants at 70 %%")
    parser.add_argument("--overload-s", type=int, default=60)
    parser.add_argument("--threads", type=int, default=min(2, default_threads()))
    parser.add_argument("--folder", type=Path, default=Path("build_cache/deadlines"))
    parser.add_argument("--cache", type=Path, default=Path("build_cache"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    given = parser.parse_args(arguments)
    options = DeadlineOptions(
        rounds=given.rounds,
        block_ns=given.block_s * 10**9,
        overload_block_ns=given.overload_s * 10**9,
        threads=given.threads,
        folder=given.folder,
        cache=given.cache,
    )
    return options, given.out


if __name__ == "__main__":
    raise SystemExit(main())
