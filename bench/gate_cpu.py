"""The dispatcher's CPU time for an inference: its thread's, with gates and with segments."""

import argparse
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.gate_parts import PartFile, Parts, error_text
from bench.gpu_pair import compile_pair
from preempt_runtime.arrivals import ClosedLoop
from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.backends.trt_gated import GatedTrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.executor import Executor
from preempt_runtime.gated_device import GatedDevice
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import GATES_PLAN_ID, SEGMENTS_PLAN_ID, WHOLE_PLAN_ID
from preempt_runtime.records import JobRecord, JobState, SegmentRecord
from preempt_runtime.task import Task

_WARM_UP_JOBS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuCase:
    """What runs: a plan of the long network's, jobs in flight, as real time or best effort."""

    plan: str
    depth: int
    buffers: int
    is_urgent: bool

    @property
    def text(self) -> str:
        """For the table."""
        what = {WHOLE_PLAN_ID: "whole", GATES_PLAN_ID: "gates, exclusive"}.get(self.plan, self.plan)
        depth = "" if self.plan == GATES_PLAN_ID else f", D = {self.depth}"
        return f"{what}{depth}, {'real time' if self.is_urgent else 'best effort'}"


CASES = tuple(
    CpuCase(plan=plan, depth=depth, buffers=buffers, is_urgent=is_urgent)
    for is_urgent in (False, True)
    for plan, depth, buffers in (
        (WHOLE_PLAN_ID, 1, 1),
        (SEGMENTS_PLAN_ID, 1, 1),
        (SEGMENTS_PLAN_ID, 2, 2),
        (GATES_PLAN_ID, 1, 1),
        (GATES_PLAN_ID, 1, 2),
    )
)


class Ended:
    """An instrument that counts jobs that finished."""

    number = 0

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Nothing."""

    def segment_ended(self, record: SegmentRecord) -> None:
        """Nothing."""

    def job_ended(self, record: JobRecord) -> None:
        """Count it."""
        self.number += record.state is JobState.FINISHED


def add_cpu_options(parser: argparse.ArgumentParser) -> None:
    """Of which network, and how many jobs."""
    parser.add_argument("--jobs", type=int, default=500, help="of each row (500)")
    parser.add_argument("--urgent", default="resnet50")
    parser.add_argument("--long", default="resnet152", help="whose jobs run")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--parts", type=int, default=8, help="segments' bound: 1/N of it (8)")
    parser.add_argument("--stretch-us", type=int, default=50)
    parser.add_argument("--urgent-stretch-us", type=int, default=50)


def cpu(options: argparse.Namespace, parts: Parts) -> None:
    """One part, a row for each case."""
    if (part := parts.open(f"cpu-{options.long}-b{options.batch}")) is None:
        return
    with part.keeping():
        _cpu(options, part)


def _cpu(options: argparse.Namespace, part: PartFile) -> None:
    options.gates = True
    bundles = compile_pair(options)
    rows: list[dict[str, Any]] = []
    for case in CASES:
        bundle = bundles["long_gates" if case.plan == GATES_PLAN_ID else "long"]
        row: dict[str, Any] = {"case": case.text, "buffers": case.buffers}
        try:
            row |= cpu_of(case, bundle, options)
        except Exception as err:  # the other cases can be measured all the same
            row["error"] = error_text(err)
        rows.append(row)
        head = {"network": options.long, "batch": options.batch, "jobs": options.jobs}
        part.write({**head, "rows": rows}, is_complete=len(rows) == len(CASES))
        print(rows[-1], flush=True)


def cpu_of(case: CpuCase, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """CPU and wall time of a job in a closed loop, in ns, by the clock of this thread."""
    bundle = open_bundle(path)
    inputs = random_inputs(bundle.manifest.graphs[0], seed=0, task="cpu")
    ended = Ended()
    with ExitStack() as stack:
        device: Any = GatedTrtDevice() if case.plan == GATES_PLAN_ID else TrtDevice()
        stack.enter_context(closing(device))
        network = stack.enter_context(closing(device.load(bundle, case.plan)))
        executor = stack.enter_context(
            Executor(device, "fixed-priority", MonotonicClock(), [ended], depth=case.depth)
        )
        priority = 1 if case.is_urgent else None
        executor.add_task(
            Task(name="net", network=network, priority=priority, buffers=case.buffers)
        )
        if isinstance(device, GatedDevice):
            executor.warm_up("net", inputs)
        _run(executor, ended, _WARM_UP_JOBS, case, inputs)
        first, cpu_ns, wall_ns = ended.number, time.thread_time_ns(), time.monotonic_ns()
        _run(executor, ended, options.jobs, case, inputs)
        cpu_ns, wall_ns = time.thread_time_ns() - cpu_ns, time.monotonic_ns() - wall_ns
        num_jobs = ended.number - first
        segments = len(network.segments)
    return {
        "segments": segments,
        "jobs": num_jobs,
        "cpu_ns": round(cpu_ns / num_jobs),
        "wall_ns": round(wall_ns / num_jobs),
    }


def _run(executor: Executor, ended: Ended, number: int, case: CpuCase, inputs: Any) -> None:
    until = ended.number + number
    for _ in range(case.buffers):
        executor.add_source("net", ClosedLoop(), lambda _: inputs)
    executor.run(until=lambda: ended.number >= until)
