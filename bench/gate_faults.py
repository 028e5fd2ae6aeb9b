"""What goes wrong on purpose beside gates: what happened, found against expected.

Every trial ends by itself: gates have limits, children have a time, and a trial that does not end
is found in its part as the one that ended this process.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import gate_fault_processes, gate_fault_trials
from bench.gate_bundles import gated_bundle
from bench.gate_fault_trials import Found
from bench.gate_networks import CASES, QUICK_CASES
from bench.gate_parts import Parts
from preempt_runtime.backends.gate_board import Mode

_MODES: tuple[Mode, ...] = ("exclusive", "overlap")
HUNG = "it did not end"
TRIAL_S = 60
"""What a trial with processes takes on a slow machine; none is begun where less is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial: what is done, what should come of it, and what does it."""

    name: str
    what: str
    expected: str
    run: Callable[[Path, float], Found]


def _here(run: Callable[[], Found]) -> Callable[[Path, float], Found]:
    """A trial that needs no bundle."""
    return lambda path, seconds: run()


TRIALS: Sequence[Trial] = (
    *(
        Trial(
            name=f"dead-client-{mode}",
            what=f"a key is raised whose job is never launched, {mode}",
            expected="the gate that waits takes the key away at its limit of 50 ms, one record",
            run=_here(partial(gate_fault_trials.dead_client, mode)),
        )
        for mode in _MODES
    ),
    Trial(
        name="lost-owner",
        what="a stretch takes 120 ms where its limit is 50 ms, and an urgent job waits",
        expected="the ownership is taken at the limit, both outputs right",
        run=_here(gate_fault_trials.lost_owner),
    ),
    Trial(
        name="branches",
        what="a graph with two parallel branches, a gate at each position",
        expected="branches are joined at gates, outputs right",
        run=_here(gate_fault_trials.branches),
    ),
    Trial(
        name="fingerprint",
        what="a bundle whose graph has another fingerprint",
        expected="the plan is refused, both fingerprints named",
        run=lambda path, _: gate_fault_trials.other_fingerprint(path),
    ),
    Trial(
        name="allocations",
        what="a thread allocates and frees device memory all the time beside two tasks",
        expected="no hang, no job lost, every output right",
        run=gate_fault_trials.allocations,
    ),
    Trial(
        name="second-process",
        what="a process starts while another has the GPU",
        expected="it is refused, the owner named",
        run=gate_fault_processes.second_process,
    ),
    Trial(
        name="killed-process",
        what="a process is killed with jobs in flight, and another one starts",
        expected="the second one runs, every output right",
        run=gate_fault_processes.killed_process,
    ),
    Trial(
        name="one-queue",
        what="CUDA_DEVICE_MAX_CONNECTIONS=1, four jobs in flight",
        expected="the run is refused before it begins: streams share a hardware queue",
        run=gate_fault_processes.one_queue,
    ),
)


def add_fault_options(parser: argparse.ArgumentParser) -> None:
    """Which trials, and how long they run."""
    parser.add_argument("--seconds", type=float, default=10, help="of a run (10)")
    names = [trial.name for trial in TRIALS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="TRIAL", help=", ".join(names))


def faults(options: argparse.Namespace, parts: Parts) -> None:
    """A part for each trial."""
    path: Path | None = None
    for trial in TRIALS:
        if options.only and trial.name not in options.only:
            continue
        if (part := parts.open(f"fault-{trial.name}")) is None:
            continue
        if not parts.budget.allows(TRIAL_S):
            print(f"{trial.name}: {parts.budget.left_s:.0f} s are left; run this again", flush=True)
            break
        if path is None:
            path, _ = gated_bundle(QUICK_CASES[0] if options.quick else CASES[0], options)
        row: dict[str, Any] = {"what": trial.what, "expected": trial.expected}
        part.write({**row, "found": HUNG, "is_expected": False}, is_complete=False)
        begin = time.monotonic()
        try:
            found = trial.run(path, options.seconds)
        except Exception as err:  # a trial's own failure is what is to be told
            found = Found(text=f"{type(err).__name__}: {err}", is_expected=False)
        row |= {
            "found": found.text,
            "is_expected": found.is_expected,
            "took_s": round(time.monotonic() - begin, 2),
        }
        part.write(row, is_complete=True)
        verdict = "as expected" if found.is_expected else "NOT AS EXPECTED"
        print(f"{trial.name}: {verdict}: {found.text}", flush=True)
