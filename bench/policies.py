"""How long each policy takes to decide: `make bench-policies`.

Writes docs/results/cpu-policies.json and .md.
"""

import argparse
import json
import platform
import random
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.intervals import quantiles_of
from bench.machine import MachineWatch
from bench.publish import where
from bench.result_files import write_result
from preempt_runtime.job import Job
from preempt_runtime.policies import POLICIES, Policy, key_of
from preempt_runtime.task import Task
from preempt_runtime.testing import FakeNetwork
from preempt_runtime.units import fmt_ns

_SIZES = (1, 8, 64)
_QUANTILES = ("p50_ns", "p99_ns")
_NUM_SAMPLES = 5001
_US = 1000
_START_NS = 10**15  # as large as a monotonic clock's after 11 days


def ready_jobs(policy: Policy, num_jobs: int) -> list[Job]:
    """Jobs of as many tasks, the same ones every time; one in five is best effort."""
    rng = random.Random(1)
    jobs = []
    for idx in range(num_jobs):
        task = Task(
            name=f"t{idx}",
            network=FakeNetwork(segment_ns=tuple(rng.randrange(50, 2000) * _US for _ in range(4))),
            priority=rng.choice([None, 1, 3, 9, 9]),
            relative_deadline_ns=rng.randrange(1000, 100_000) * _US,
            period_ns=rng.randrange(1000, 100_000) * _US,
        )
        release_ns = _START_NS - rng.randrange(30_000) * _US
        job = Job(id=idx, task=task, inputs={}, release_ns=release_ns)
        job.turn = rng.randrange(64)
        job.key = key_of(policy, job)
        jobs.append(job)
    return jobs


def decision_ns(policy: Policy, ready: Sequence[Job], num_samples: int) -> list[int]:
    """Times of so many picks, sorted."""
    samples = []
    for _ in range(num_samples):
        before_ns = time.perf_counter_ns()
        policy.pick(ready, _START_NS)
        samples.append(time.perf_counter_ns() - before_ns)
    return sorted(samples)


def measure() -> dict[str, dict[str, Any]]:
    """Quantiles by policy and number of ready jobs."""
    found: dict[str, dict[str, Any]] = {}
    for name, policy in POLICIES.items():
        found[name] = {}
        for size in _SIZES:
            times = decision_ns(policy, ready_jobs(policy, size), _NUM_SAMPLES)
            figures = quantiles_of(times)
            found[name][str(size)] = {"p50_ns": figures.p50_ns, "p99_ns": figures.p99_ns}
    return found


def page(result: Mapping[str, Any]) -> str:
    """The result as a document."""
    heads = [f"{size} ready" for size in _SIZES]
    lines = []
    for python, found in result["pythons"].items():
        lines += ["", f"| Python {python} | " + " | ".join(f"{head}, p50 | p99" for head in heads)]
        lines[-1] += " |"
        lines.append("|---|" + "---:|" * (2 * len(heads)))
        for name, sizes in found.items():
            cells = [fmt_ns(sizes[str(size)][key]) for size in _SIZES for key in _QUANTILES]
            lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return (
        "# Deciding\n\nWhat `pick` takes with so many ready jobs, each of its own task. "
        f"`{result['command']}`; " + where(result["machine"]) + ".\n" + "\n".join(lines) + "\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure with this Python and those that are named, and write both files."""
    parser = argparse.ArgumentParser(prog="python -m bench.policies", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--also", action="append", default=[], metavar="PYTHON")
    parser.add_argument("--figures", action="store_true", help="only print this Python's")
    options = parser.parse_args(arguments)
    if options.figures:
        print(json.dumps({platform.python_version(): measure()}))
        return 0
    watch = MachineWatch()
    pythons = {platform.python_version(): measure()}
    for python in options.also:
        command = [python, "-m", "bench.policies", "--figures"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        pythons.update(json.loads(done.stdout))
    also = "".join(f" --also {Path(python).name}" for python in options.also)
    result = {
        "command": f"python -m bench.policies{also}",
        "pythons": pythons,
        "machine": watch.describe(),
    }
    write_result(options.out, "cpu-policies", result, page(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
