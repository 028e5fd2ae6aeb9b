"""Six tasks at once for minutes: four real-time levels at random, two best-effort tasks always.

Nothing may hang or get lost, every output is compared with what it must be, and inversions are
counted.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.gate_bundles import gated_bundle
from bench.gate_inversions import StretchLog
from bench.gate_networks import CASES, QUICK_CASES, NetworkCase
from bench.gate_parts import PartFile, Parts
from bench.intervals import quantiles_of
from bench.paired import is_bitwise_equal
from preempt_runtime.arrivals import ClosedLoop, Poisson, release_offsets
from preempt_runtime.backends.cuda import Stream
from preempt_runtime.backends.gate_board import Mode
from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.backends.trt_gated import GatedNetwork, GatedTrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array, JobBuffers
from preempt_runtime.executor import Executor
from preempt_runtime.gate_keys import GateRank, key_of
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import GATES_PLAN_ID, WHOLE_PLAN_ID
from preempt_runtime.records import JobRecord, SegmentRecord
from preempt_runtime.task import Task

_LEVELS = ("resnet50", "distilbert", "vit_b_16", "resnet50")
_BEST_EFFORT = ("resnet152", "vit_b_16")
_REPORT_S = 10.0
_LOADING_S = 20  # of a step's time for what comes before and after the run

Tensors = dict[str, Array]


@dataclass(slots=True)
class SoakTask:
    """A task with inputs whose outputs are known, and what became of its jobs."""

    name: str
    path: Path
    priority: int | None
    inputs: Sequence[Tensors]
    expected: Sequence[Mapping[str, Array]]
    num_released: int = 0
    num_ended: int = 0
    num_wrong: int = 0
    response_ns: list[int] = field(default_factory=list)

    def make_inputs(self, _: int) -> Tensors:
        """Those of the job that is released now; several sources count apart."""
        self.num_released += 1
        return self.inputs[(self.num_released - 1) % len(self.inputs)]

    def check(self, outputs: Tensors, stream: object) -> None:
        """Compare a job's outputs; jobs of one task end in the order of their releases."""
        expected = self.expected[self.num_ended % len(self.expected)]
        self.num_ended += 1
        self.num_wrong += not is_bitwise_equal(dict(outputs), dict(expected))


class WatchedDevice(GatedTrtDevice):
    """A device with gates that keeps what they wrote down, with the keys of the jobs."""

    def __init__(self, *, mode: Mode) -> None:
        super().__init__(mode=mode)
        self.log = StretchLog()
        self._keys: dict[int, int] = {}

    def start(self, buffers: JobBuffers, rank: GateRank, *, is_urgent: bool) -> None:
        """As it is there."""
        self._keys[id(buffers)] = key_of(*rank, buffers.slot)  # type: ignore[attr-defined]
        super().start(buffers, rank, is_urgent=is_urgent)

    def times(self, buffers: JobBuffers) -> StretchTimes:
        """As it is there; the log keeps them."""
        found: StretchTimes = super().times(buffers)
        self.log.add(self._keys[id(buffers)], found)
        return found


class Responses:
    """An instrument that keeps response times alone: a soak has too many segments."""

    def __init__(self, tasks: Sequence[SoakTask]) -> None:
        self._tasks = {task.name: task for task in tasks}

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Nothing."""

    def segment_ended(self, record: SegmentRecord) -> None:
        """Nothing."""

    def job_ended(self, record: JobRecord) -> None:
        """Keep it."""
        if record.response_ns is not None:
            self._tasks[record.task].response_ns.append(record.response_ns)


def add_soak_options(parser: argparse.ArgumentParser) -> None:
    """How long, and with how much to do."""
    parser.add_argument("--number", type=int, default=1, help="which soak this is; seeds it (1)")
    parser.add_argument("--seconds", type=float, default=240, help="of the run (240)")
    parser.add_argument("--load", type=float, default=0.5, help="of the GPU by real time (0.5)")
    parser.add_argument("--max-rate", type=float, default=1000, help="jobs/s of a task (1000)")
    parser.add_argument("--inputs", type=int, default=4, help="known inputs of each network (4)")
    parser.add_argument("--mode", choices=("exclusive", "overlap"), default="exclusive")


def soak(options: argparse.Namespace, parts: Parts) -> None:
    """One soak."""
    if (part := parts.open(f"soak-{options.mode}-{options.number}")) is None:
        return
    with part.keeping():
        _soak(options, parts, part)


def _soak(options: argparse.Namespace, parts: Parts, part: PartFile) -> None:
    tasks = make_tasks(options)
    head = {name: getattr(options, name) for name in ("seconds", "load", "mode", "number")}
    seconds = min(options.seconds, parts.budget.left_s - _LOADING_S)
    if seconds < options.seconds:
        print(
            f"{max(seconds, 0):.0f} s are left of {options.seconds:g}: run this again", flush=True
        )
    if seconds <= 0:
        return
    with ExitStack() as stack:
        device = stack.enter_context(closing(WatchedDevice(mode=options.mode)))
        networks = [
            stack.enter_context(closing(device.load(open_bundle(task.path), GATES_PLAN_ID)))
            for task in tasks
        ]
        executor = stack.enter_context(
            Executor(device, "fixed-priority", MonotonicClock(), [Responses(tasks)])
        )
        for task, network in zip(tasks, networks, strict=True):
            _add(executor, task, network, options)
        begin = time.monotonic()
        executor.run(round(seconds * 1e9), until=_progress(part, head, executor, tasks, begin))
        result = {
            **head,
            "ran_s": round(time.monotonic() - begin, 1),
            "tasks": _task_figures(executor, tasks),
            "gate_faults": list(executor.gate_faults()),
            "inversions": asdict(device.log.inversions()),
        }
        part.write(result, is_complete=False)
        executor.check_integrity()
    part.write(result, is_complete=seconds == options.seconds)
    print(f"inversions: {result['inversions']}", flush=True)


def make_tasks(options: argparse.Namespace) -> list[SoakTask]:
    """Four levels and two best-effort tasks, their bundles made and their outputs known."""
    cases = {case.network: case for case in CASES}
    if options.quick:
        cases = dict.fromkeys(cases, QUICK_CASES[0])
    known: dict[str, tuple[Path, Any]] = {}
    tasks = []
    for idx, network in enumerate((*_LEVELS, *_BEST_EFFORT)):
        case: NetworkCase = cases[network]
        if case.name not in known:
            path, _ = gated_bundle(case, options)
            known[case.name] = path, known_outputs(path, options.inputs)
        path, (inputs, expected) = known[case.name]
        is_urgent = idx < len(_LEVELS)
        name = f"{'level' if is_urgent else 'best-effort'}-{idx}-{network}"
        priority = len(_LEVELS) - idx if is_urgent else None
        tasks.append(
            SoakTask(name=name, path=path, priority=priority, inputs=inputs, expected=expected)
        )
    return tasks


def known_outputs(path: Path, num_inputs: int) -> tuple[list[Tensors], list[Tensors]]:
    """Random inputs, and the outputs of the whole engine without gates."""
    bundle = open_bundle(path)
    inputs = [
        random_inputs(bundle.manifest.graphs[0], seed=seed, task="soak")
        for seed in range(num_inputs)
    ]
    outputs = []
    with (
        closing(TrtDevice(zero_copy=False)) as device,
        closing(device.load(bundle, WHOLE_PLAN_ID)) as network,
        network.new_buffers() as buffers,
        Stream(priority="low") as stream,
    ):
        for each in inputs:
            buffers.write_inputs(each)
            buffers.run(stream)
            outputs.append(buffers.read_outputs())
    return inputs, outputs


def _add(
    executor: Executor, task: SoakTask, network: GatedNetwork, options: argparse.Namespace
) -> None:
    """The task with its jobs to come; at random by its share of the load, or one after another."""
    executor.add_task(
        Task(name=task.name, network=network, priority=task.priority, buffers=2, post=task.check)
    )
    executor.warm_up(task.name, task.inputs[0])
    task.num_ended = task.num_wrong = 0
    if task.priority is None:
        for _ in range(2):
            executor.add_source(task.name, ClosedLoop(), task.make_inputs)
        return
    assert network.plan.chained is not None
    whole_s = network.plan.chained.p50_ns / 1e9
    rate = min(options.load / len(_LEVELS) / whole_s, options.max_rate)
    offsets = release_offsets(Poisson(rate_per_s=rate), seed=options.number, task=task.name)
    executor.add_source(task.name, offsets, task.make_inputs)


def _progress(
    part: PartFile,
    head: Mapping[str, Any],
    executor: Executor,
    tasks: Sequence[SoakTask],
    begin: float,
) -> Any:
    """What the run calls at every turn: now and then it writes and prints how far it is."""
    told = [begin]

    def report() -> bool:
        now = time.monotonic()
        if now - told[0] >= _REPORT_S:
            told[0] = now
            figures = _task_figures(executor, tasks)
            part.write(
                {**head, "ran_s": round(now - begin, 1), "tasks": figures}, is_complete=False
            )
            ended, wrong = (
                sum(each[key] for each in figures.values()) for key in ("ended", "wrong")
            )
            print(f"{now - begin:.0f} s: {ended} jobs, {wrong} wrong", flush=True)
        return False

    return report


def _task_figures(executor: Executor, tasks: Sequence[SoakTask]) -> dict[str, Any]:
    found = {}
    for task in tasks:
        responses = quantiles_of(task.response_ns) if task.response_ns else None
        found[task.name] = {
            "priority": task.priority,
            "counts": executor.counts(task.name),
            "ended": task.num_ended,
            "wrong": task.num_wrong,
            "response_ns": None if responses is None else asdict(responses),
        }
    return found
