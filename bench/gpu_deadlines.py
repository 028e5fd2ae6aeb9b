"""Five networks with deadlines on the GPU of this machine: `make bench-gpu-deadlines`.

The networks become a task set whose jobs, each alone through the runtime, would take 70 % of the
time. `preemptc plan --compile` chooses and compiles bounds, once for one segment in flight and once
for two; then the same releases run with points and uncut, block by block. Where no bounds keep all
deadlines at that load, a smaller one is tried. The result is written after every block.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.deadline_runs import compiled, periods_ns, run_block, say, taskset_text, uncut
from bench.deadline_tally import DeadlineTally
from bench.deadlines_report import CUT, UNCUT, BlockResult, set_result
from bench.gate_parts import Budget, command_line
from bench.gpu import QUICK, QUICK_LEVEL
from bench.gpu_alone import Costs, costs_alone
from bench.gpu_deadlines_page import NAME, markdown
from bench.gpu_modes import SPIN_NS
from bench.machine import MachineWatch
from bench.result_files import write_result
from models.make import make
from preempt_runtime.errors import PreemptError
from preempt_runtime.loading import open_backend
from preempt_runtime.taskset import read_taskset
from preempt_runtime.units import fmt_ns
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.pipeline import compile_model
from preemptc.plan import TaskSetPlan
from preemptc.plan_problem import PlanOptions

NETWORKS = ("mobilenet_v2", "distilbert", "resnet50", "vit_b_16", "resnet152")
QUICK_NETWORKS = ("light/squeezenet", "mobilenet_v2")
LOADS = (0.70, 0.65, 0.60, 0.50, 0.40, 0.30, 0.20)
"""Tried in this order until the analysis finds every deadline kept."""
FIRST_SHARE = 0.28  # of the load, by the most urgent network: its period is the shortest by far
DEPTHS = (1, 2)
BLOCKING_PART = 0.7
"""How much of the longest network's time the most urgent one's deadline leaves for blocking."""
_OUT = Path("docs/results")
_MARGIN_FRAC = 0.1
_CUT_INTO = 4  # to see what a segment adds
_LOOK_EVERY_NS = 2_000_000


def stem_of(name: str) -> str:
    """A network's name as a file's and a task's.

    >>> stem_of("light/squeezenet"), stem_of("resnet152@32")
    ('light-squeezenet', 'resnet152-b32')
    """
    return name.replace("/", "-").replace("@", "-b")


def compile_whole(options: argparse.Namespace, cache: BuildCache) -> list[Path]:
    """Every network as a bundle of one engine."""
    for name in options.networks:
        architecture, _, batch = name.partition("@")
        make(architecture, options.work / f"{stem_of(name)}.onnx", batch=int(batch or 1))
    return [compile_in(1, name, options, cache) for name in options.networks]


def compile_in(
    num_segments: int, name: str, options: argparse.Namespace, cache: BuildCache
) -> Path:
    """A network, which has been made, as a bundle of so many segments."""
    stem = stem_of(name)
    bundle: Path = options.work / f"{stem}-in-{num_segments}.bundle"
    compiling = CompileOptions(
        target="native",
        goal=Goal(num_segments=num_segments),
        backend=BackendOptions(precision="fp16", level=options.opt_level),
    )
    report = compile_model(options.work / f"{stem}.onnx", bundle, compiling, cache)
    whole_ns = report["measured"]["whole_p50_ns"]
    say(f"{name} in {num_segments}: {fmt_ns(whole_ns)} whole, {report['wall_s']:.0f} s")
    return bundle


def first_deadline_ns(costs: Costs) -> int:
    """The most urgent network's deadline, too short to wait for the longest one in one piece.

    It leaves a part of what that takes, beside its own work, each with the margin and all that
    dispatching adds.
    """
    own_ns, longest_ns = (
        round(whole_ns * (1 + _MARGIN_FRAC))
        for whole_ns in (costs.whole_ns[0], max(costs.whole_ns))
    )
    dispatch_ns = costs.dispatch_ns + costs.job_dispatch_ns
    return own_ns + round(BLOCKING_PART * longest_ns) + 2 * dispatch_ns


def plan_depth(
    depth: int, costs: Costs, options: argparse.Namespace, cache: BuildCache
) -> tuple[TaskSetPlan, float, dict[str, Path]]:
    """The plan of the highest load that the analysis accepts after compiling; its task sets.

    The last load's plan counts where none is accepted.
    """
    stems = [stem_of(name) for name in options.networks]
    head = (
        f"margin = {_MARGIN_FRAC}\ndepth = {depth}\n"
        f'dispatch = "{costs.dispatch_ns}ns"\njob_dispatch = "{costs.job_dispatch_ns}ns"\n'
    )
    mark = f"-depth{depth}"
    planning = PlanOptions(target="native", precision="fp16", level=options.opt_level)
    plan, load = None, 0.0
    for load in options.loads:
        periods = periods_ns(costs.response_ns, load, load * FIRST_SHARE)
        text = taskset_text(
            stems, periods, head=head, mark=mark, first_deadline_ns=first_deadline_ns(costs)
        )
        paths = {
            CUT: options.work / f"tasks{mark}.toml",
            UNCUT: options.work / f"tasks{mark}-uncut.toml",
        }
        paths[CUT].write_text(text)
        try:
            plan, _ = compiled(read_taskset(paths[CUT]), planning, [cache])
        except PreemptError:  # said by `compiled`; a smaller load leaves longer bounds
            if load == options.loads[-1]:
                raise
            continue
        if plan.choice.is_schedulable and plan.is_compiled:
            break
        say(f"depth {depth}: not schedulable at {load:.0%}")
    assert plan is not None
    if not plan.is_compiled:
        raise PreemptError(f"depth {depth}: no bounds keep all deadlines, not even at {load:.0%}")
    paths[UNCUT].write_text(uncut(text, mark))
    return plan, load, paths


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Compile, plan, run every variant in blocks; write what there is after each, return it."""
    options.work.mkdir(parents=True, exist_ok=True)
    cache = BuildCache(options.cache)
    wholes = compile_whole(options, cache)
    cut = compile_in(_CUT_INTO, options.networks[0], options, cache)
    costs = costs_alone(wholes, cut, options.calibration_jobs)
    alone = ", ".join(
        f"{name} {fmt_ns(time_ns)}"
        for name, time_ns in zip(options.networks, costs.response_ns, strict=True)
    )
    say(f"alone, release to result: {alone}")
    say(f"dispatch: {fmt_ns(costs.dispatch_ns)} a segment, {fmt_ns(costs.job_dispatch_ns)} a job")
    plans = {depth: plan_depth(depth, costs, options, cache) for depth in options.depths}
    watch = MachineWatch()
    blocks: dict[int, list[BlockResult]] = {depth: [] for depth in plans}
    result: dict[str, Any] = {}
    longest_s = 0.0
    for seed, depth in itertools.product(range(options.rounds), plans):
        if result and not options.budget.allows(longest_s):
            say(f"{options.budget.left_s:.0f} s are left, a pair of blocks takes {longest_s:.0f} s")
            break
        begin = time.monotonic()
        plan, _, paths = plans[depth]
        variants = (CUT, UNCUT) if seed % 2 == 0 else (UNCUT, CUT)
        duration_ns = block_ns(plan, options)
        for variant in variants:
            tally = DeadlineTally(look_every_ns=_LOOK_EVERY_NS)
            taskset = read_taskset(paths[variant], seed=seed)
            block, _ = run_block(variant, taskset, duration_ns, tally, spin_ns=SPIN_NS)
            blocks[depth].append(block)
            jobs = sum(task.jobs for task in tally.tasks.values())
            missed = sum(task.missed for task in tally.tasks.values())
            say(f"round {seed + 1}, D = {depth}, {variant}: {missed} of {jobs} missed")
        done = {each: found for each, found in blocks.items() if found}
        result = _result(done, plans, costs, options, watch.describe())
        write(result, options.out)
        longest_s = max(longest_s, time.monotonic() - begin)
    return result


def block_ns(plan: TaskSetPlan, options: argparse.Namespace) -> int:
    """How long a block runs: all blocks of a variant release the jobs or take the time asked."""
    if options.seconds is not None:
        return round(float(options.seconds) * 1e9 / int(options.rounds))
    per_s = sum(1e9 / task.period_ns for task in plan.taskset.tasks if task.period_ns)
    return round(1.01e9 * int(options.jobs) / int(options.rounds) / per_s)


def _result(
    blocks: Mapping[int, Sequence[BlockResult]],
    plans: Mapping[int, tuple[TaskSetPlan, float, dict[str, Path]]],
    costs: Costs,
    options: argparse.Namespace,
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    stems = [stem_of(name) for name in options.networks]
    depths = {}
    for depth, found in blocks.items():
        plan, load, _ = plans[depth]
        depths[str(depth)] = {
            "load": load,
            **set_result(
                found,
                bound=plan.choice.bound,
                num_segments={name: len(plan.choice.cut_of(name)) for name in stems},
                costs_ns=dict(zip(stems, costs.whole_ns, strict=True)),
            ),
        }
    return {
        "command": options.command,
        "settings": {
            "networks": list(options.networks),
            "opt_level": options.opt_level,
            "jobs": options.jobs,
            "rounds": options.rounds,
            "margin_frac": _MARGIN_FRAC,
            "first_share": FIRST_SHARE,
            "blocking_part": BLOCKING_PART,
        },
        "alone_p50_ns": dict(zip(stems, costs.response_ns, strict=True)),
        "dispatch_ns": costs.dispatch_ns,
        "job_dispatch_ns": costs.job_dispatch_ns,
        "depths": depths,
        "host": {name: machine[name] for name in ("cpu_model", "cores", "steal_frac", "python")},
        "machine": dict(open_backend("tensorrt").key_fields()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write(result: Mapping[str, Any], out: Path) -> None:
    """The result as JSON and page."""
    write_result(out, NAME, result, markdown(result))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write JSON and page; 0, or 1 where there is no GPU or no plan."""
    options = _options(arguments)
    try:
        say(f"on {dict(open_backend('tensorrt').key_fields())}")
    except PreemptError as err:
        print(f"bench-gpu-deadlines: skipped everything: {err}", file=sys.stderr)
        return 1
    try:
        print(markdown(measure(options)))
    except PreemptError as err:
        print(f"bench-gpu-deadlines: {err}", file=sys.stderr)
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_deadlines", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME[@BATCH]")
    parser.add_argument("--jobs", type=int, default=50_000, help="of each variant, in all blocks")
    parser.add_argument("--seconds", type=float, help="of each variant, instead of --jobs")
    parser.add_argument("--rounds", type=int, default=2, help="blocks of each variant")
    parser.add_argument("--depths", nargs="+", type=int, default=DEPTHS, metavar="D")
    parser.add_argument("--loads", nargs="+", type=float, default=LOADS, metavar="SHARE")
    parser.add_argument("--calibration-jobs", type=int, default=1000)
    parser.add_argument("--opt-level", type=int, choices=range(6), default=1)
    parser.add_argument("--quick", action="store_true", help="two small networks, few jobs")
    parser.add_argument("--limit-s", type=float, default=3600, help="begin no blocks after that")
    parser.add_argument("--out", type=Path, default=_OUT)
    parser.add_argument("--work", type=Path, default=Path("build_cache/bench-gpu-deadlines"))
    parser.add_argument("--cache", type=Path, default=Path("build_cache/bench-gpu-deadlines/cache"))
    options = parser.parse_args(arguments)
    options.budget = Budget(options.limit_s)
    options.command = command_line(arguments, "bench.gpu_deadlines")
    if options.quick:
        options.networks, options.jobs, options.rounds = QUICK_NETWORKS, 4000, 1
        options.calibration_jobs, options.opt_level = 200, QUICK_LEVEL
        options.work, options.out, options.cache = QUICK, QUICK / "results", QUICK / "cache"
    return options


if __name__ == "__main__":
    sys.exit(main())
