"""Five networks with deadlines on this machine's processor: `make bench-deadlines`.

The demo's networks and three more become a task set at 70 % of the machine, `preemptc plan` chooses
and compiles their bounds, and three variants run in turn, block by block: with preemption points;
the same releases with uncut networks; and with the other tasks released so often that the load is
150 %. Writes docs/results/deadlines.json and .md.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.compiling import measured_bound
from bench.deadline_runs import compiled, periods_ns, run_block, say, taskset_text, uncut
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
from bench.result_files import write_result
from models.make import make
from preempt_runtime.backends.ort import default_threads
from preempt_runtime.taskset import read_taskset
from preempt_runtime.units import fmt_ns
from preemptc.cache import BuildCache
from preemptc.plan_problem import PlanOptions

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Make, plan, compile, run all blocks, and write both files."""
    options, out = _options(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    cache = BuildCache(options.cache)
    costs_ns = _costs_ns(options, cache)
    paths = _write_tasksets(options, costs_ns)
    caches = (BuildCache(options.folder / f"cache{idx + 1}") for idx in range(_ATTEMPTS))
    planning = PlanOptions(target="cpu")
    plan, attempts = compiled(read_taskset(paths[CUT]), planning, caches)
    for bound in plan.choice.bound.tasks:
        response = "none" if bound.response_ns is None else fmt_ns(bound.response_ns)
        say(f"{bound.name}: {bound.longest_ns} ns longest, response bound {response}")
    watch, blocks = MachineWatch(), []
    for idx in range(options.rounds):
        variants = (CUT, UNCUT, OVERLOADED)
        for variant in (*variants[idx % 3 :], *variants[: idx % 3]):
            blocks.append(_run(variant, paths, options, seed=idx))
            say(f"round {idx + 1} of {options.rounds}, {variant}: done")
    result = result_of(
        blocks,
        bound=plan.choice.bound,
        num_segments={name: len(plan.choice.cut_of(name)) for name in NETWORKS},
        costs_ns=dict(zip(NETWORKS, costs_ns, strict=True)),
        settings={**settings_of(options), "attempts": attempts},
        machine=watch.describe(),
    )
    write_result(out, "deadlines", result, page(result))
    return 0


def _costs_ns(options: DeadlineOptions, cache: BuildCache) -> list[int]:
    costs = []
    for name in NETWORKS:
        model = make(name, options.folder / f"{name}.onnx", 0)
        found = measured_bound(model, cache, threads=options.threads)
        costs.append(int(found["profiled_whole_p50_ns"]))
        say(f"{name}: {fmt_ns(costs[-1])}")
    return costs


def tasksets(costs_ns: Sequence[int], threads: int) -> dict[str, str]:
    """The text of each variant's task set."""
    head = f"threads = {threads}\nmargin = {_MARGIN_FRAC}\n"
    periods = periods_ns(costs_ns, LOAD, FIRST_LOAD)
    normal = taskset_text(NETWORKS, periods, head=head)
    loaded = periods_ns(costs_ns, OVERLOAD, FIRST_LOAD)
    return {
        CUT: normal,
        UNCUT: uncut(normal),
        OVERLOADED: taskset_text(NETWORKS, loaded, head=head, late="drop"),
    }


def _write_tasksets(options: DeadlineOptions, costs_ns: Sequence[int]) -> dict[str, Path]:
    paths = {}
    for idx, (variant, text) in enumerate(tasksets(costs_ns, options.threads).items()):
        paths[variant] = options.folder / f"tasks{idx}.toml"
        paths[variant].write_text(text)
    return paths


def _run(
    variant: str, paths: dict[str, Path], options: DeadlineOptions, *, seed: int
) -> BlockResult:
    is_overload = variant == OVERLOADED
    taskset = read_taskset(paths[variant], seed=seed)
    duration_ns = options.overload_block_ns if is_overload else options.block_ns
    return run_block(variant, taskset, duration_ns, DeadlineTally())[0]


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
