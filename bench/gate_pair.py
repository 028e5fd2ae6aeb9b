"""The pairs that stand on the page of gates; `bench.gpu_pair` measures them."""

import argparse
from dataclasses import dataclass
from typing import Any

from bench.gate_parts import Parts
from bench.gpu_pair import add_run_options, compile_pair, make_quick, measure, settle

P99_GOAL, ANNOUNCED_GOAL, KEPT_GOAL = 1.12, 1.03, 0.96


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCase:
    """A long network beside the urgent one, and how often that comes."""

    long: str
    batch: int
    period_us: int

    @property
    def name(self) -> str:
        """Such as `resnet152-b32-4000us`."""
        return f"{self.long}-b{self.batch}-{self.period_us}us"


PAIRS = (
    PairCase(long="resnet152", batch=32, period_us=4000),
    PairCase(long="resnet152", batch=32, period_us=1000),
    PairCase(long="resnet50", batch=64, period_us=4000),
)


def add_gate_pair_options(parser: argparse.ArgumentParser) -> None:
    """Which pairs, and how they run."""
    names = [case.name for case in PAIRS]
    parser.add_argument("--only", nargs="+", choices=names, help="of these pairs alone")
    parser.add_argument("--build-only", action="store_true", help="compile, and measure later")
    parser.add_argument("--urgent", default="resnet50")
    add_run_options(parser)


def pair(options: argparse.Namespace, parts: Parts) -> None:
    """A part for each pair; the long network's bound on stretches belongs to its name."""
    options.gates = True
    work = options.work
    for case in PAIRS[:1] if options.quick else PAIRS:
        if options.only and case.name not in options.only:
            continue
        if (part := parts.open(f"pair-{case.name}-{options.stretch_us}us")) is None:
            continue
        options.long, options.batch, options.period_us = case.long, case.batch, case.period_us
        options.work = work / case.name  # its bundles are another pair's, too, by their names
        if options.quick:
            make_quick(options)
        settle(options)
        with part.keeping():
            bundles = compile_pair(options)
            if options.build_only:
                continue
            options.limit_s = parts.budget.left_s
            if options.limit_s <= 0:
                print(f"{case.name}: built; no time is left, run this again", flush=True)
                break

            def keep(result: dict[str, Any], is_complete: bool, part: Any = part) -> None:
                part.write(result, is_complete=is_complete)

            measure(bundles, options, keep)
