"""An urgent and a best-effort task with gates, in a process of its own: a victim of trials.

`python -m bench.gate_child BUNDLE --seconds 5`. It says `running` once a job of each has ended, and
in the end what became of them; a refusal is one line and exit code 1.
"""

import argparse
import faulthandler
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from bench.gate_soak import SoakTask, known_outputs
from preempt_runtime.arrivals import ClosedLoop
from preempt_runtime.backends.trt_gated import GatedTrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.errors import PreemptError
from preempt_runtime.executor import Executor
from preempt_runtime.manifest import GATES_PLAN_ID
from preempt_runtime.task import Task

_GRACE_S = 60
_THINK_NS = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRun:
    """What became of the jobs of a run, and how often gates gave up."""

    num_ended: int
    num_wrong: int
    num_lost: int
    gate_faults: tuple[str, ...]

    @property
    def text(self) -> str:
        """In one line."""
        return (
            f"{self.num_ended} jobs ended, {self.num_wrong} wrong, {self.num_lost} lost,"
            f" {len(self.gate_faults)} gates gave up"
        )

    @property
    def is_right(self) -> bool:
        """No job was lost or wrong."""
        return self.num_ended > 0 and self.num_wrong == self.num_lost == 0


def run_tasks(
    path: Path, seconds: float, *, buffers: int = 2, is_running: Callable[[], None] = lambda: None
) -> PairRun:
    """Both tasks of one bundle for so long; `is_running` is called once jobs of both have ended.

    Raises:
        PreemptError: the device cannot be had, or a job could not be launched.
    """
    inputs, expected = known_outputs(path, 3)
    tasks = [
        SoakTask(name=name, path=path, priority=priority, inputs=inputs, expected=expected)
        for name, priority in (("urgent", 1), ("long", None))
    ]
    with ExitStack() as stack:
        device = stack.enter_context(closing(GatedTrtDevice()))
        networks = [
            stack.enter_context(closing(device.load(open_bundle(path), GATES_PLAN_ID)))
            for _ in tasks
        ]
        executor = stack.enter_context(Executor(device, "fixed-priority", MonotonicClock()))
        for task, network in zip(tasks, networks, strict=True):
            executor.add_task(
                Task(
                    name=task.name,
                    network=network,
                    priority=task.priority,
                    buffers=buffers,
                    post=task.check,
                )
            )
            executor.warm_up(task.name, inputs[0])
            task.num_ended = task.num_wrong = 0
            loop = ClosedLoop(think_ns=0 if task.priority is None else _THINK_NS)
            for _ in range(buffers):
                executor.add_source(task.name, loop, task.make_inputs)
        told: list[bool] = []

        def tell() -> bool:
            if not told and all(task.num_ended for task in tasks):
                told.append(True)
                is_running()
            return False

        executor.run(round(seconds * 1e9), until=tell)
        counts = [executor.counts(task.name) for task in tasks]
        return PairRun(
            num_ended=sum(task.num_ended for task in tasks),
            num_wrong=sum(task.num_wrong for task in tasks),
            num_lost=sum(each["released"] - each["finished"] for each in counts),
            gate_faults=executor.gate_faults(),
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and say how it went; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate_child", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--buffers", type=int, default=2)
    options = parser.parse_args(arguments)
    faulthandler.dump_traceback_later(options.seconds + _GRACE_S, exit=True)
    try:
        begin = time.monotonic()
        found = run_tasks(
            options.bundle,
            options.seconds,
            buffers=options.buffers,
            is_running=lambda: print("running", flush=True),
        )
    except PreemptError as err:
        print(f"refused: {err}", flush=True)
        return 1
    print(f"{found.text} in {time.monotonic() - begin:.1f} s", flush=True)
    return 0 if found.is_right else 2


if __name__ == "__main__":
    sys.exit(main())
