"""What gates cost and gain on the GPU of this machine: `python -m bench.gpu_gates STEP`.

EXPERIMENTAL: an H200 alone has run it so far. Run `pytest -x tests/gpu/test_gates.py` first; then
the steps, each in a process of its own, for a step that hangs ends its process. A step ends within
its `--limit-s`, writes its figures as they come, and goes on where it was when it is run again.
Every part is a JSON file in `--out`; `python -m bench.publish` makes the page of all of them.
"""

import argparse
import faulthandler
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.gate_bundles import add_build_options
from bench.gate_calls import calls
from bench.gate_costs import cost
from bench.gate_cpu import add_cpu_options, cpu
from bench.gate_faults import add_fault_options, faults
from bench.gate_held import add_held_options, held
from bench.gate_networks import add_network_options, networks
from bench.gate_pair import add_gate_pair_options, pair
from bench.gate_parts import PARTS, Parts, command_line
from bench.gate_points import points
from bench.gate_preemption import add_preempt_options, preempt
from bench.gate_soak import add_soak_options, soak
from bench.gate_workshop import Hang
from bench.gpu import QUICK, QUICK_LEVEL
from preempt_runtime.backends.cuda_driver import gpu_properties
from preempt_runtime.errors import PreemptError

_GRACE_S = 50  # after the limit, for what cannot be left in the middle
_HANG_S = 20.0  # after a hang, to write down what there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: what it measures, its own options, and what runs it."""

    text: str
    run: Callable[[argparse.Namespace, Parts], None]
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """How often each thing is repeated."""
    parser.add_argument("--rounds", type=int, default=200, help="repetitions (200)")


STEPS = {
    "cost": Step(
        text="what one gate costs in a chain of kernels", run=cost, add_options=add_rounds
    ),
    "points": Step(
        text="what a preemption point costs by other mechanisms",
        run=points,
        add_options=add_rounds,
    ),
    "calls": Step(text="which driver calls wait for a gate", run=calls),
    "networks": Step(
        text="overhead of gates in networks, stretches, outputs",
        run=networks,
        add_options=add_network_options,
    ),
    "pair": Step(
        text="an urgent network beside a long one, in every way of sharing the GPU",
        run=pair,
        add_options=add_gate_pair_options,
    ),
    "preempt": Step(
        text="from a raise to where the stretch that runs has parked",
        run=preempt,
        add_options=add_preempt_options,
    ),
    "held": Step(
        text="what gates that wait take away from what runs",
        run=held,
        add_options=add_held_options,
    ),
    "faults": Step(
        text="what goes wrong on purpose, found against expected",
        run=faults,
        add_options=add_fault_options,
    ),
    "soak": Step(
        text="four real-time levels and two best-effort tasks at once",
        run=soak,
        add_options=add_soak_options,
    ),
    "cpu": Step(
        text="the dispatcher's CPU time for an inference",
        run=cpu,
        add_options=add_cpu_options,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one step; 0, or 1 where there is no GPU or the step could not be run."""
    options = _options(arguments)
    Hang.ends_after_s = _HANG_S
    faulthandler.dump_traceback_later(options.limit_s + _GRACE_S, exit=True)
    parts = Parts(
        options.out,
        options.step,
        command_line(arguments),
        limit_s=options.limit_s,
        again=options.again,
    )
    try:
        print(f"on {gpu_properties().name}", flush=True)
        STEPS[options.step].run(options, parts)
    except PreemptError as err:
        print(f"gpu_gates {options.step}: {err}", file=sys.stderr)
        return 1
    finally:
        Hang.ends_after_s = None
        faulthandler.cancel_dump_traceback_later()
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_gates", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    for name, step in STEPS.items():
        one = steps.add_parser(name, help=step.text, description=step.text)
        one.add_argument("--out", type=Path, default=PARTS, help=f"folder of parts ({PARTS})")
        one.add_argument("--again", action="store_true", help="measure what is complete, too")
        one.add_argument("--limit-s", type=float, default=480, help="seconds of this step (480)")
        one.add_argument("--quick", action="store_true", help="small networks, at a low level")
        add_build_options(one)
        step.add_options(one)
    options = parser.parse_args(arguments)
    if options.quick:
        options.opt_level = QUICK_LEVEL
        options.work, options.cache = QUICK, QUICK / "cache"
        if options.out == PARTS:
            options.out = QUICK / "parts"
    return options


if __name__ == "__main__":
    sys.exit(main())
