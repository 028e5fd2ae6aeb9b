"""An application with two networks: camera frames are urgent, captions can wait.

    python docs/example.py URGENT.bundle LONG.bundle [--frames 50]

Only `preempt_runtime` and numpy are needed here; the bundles were made by `preemptc compile`.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from preempt_runtime.backends.ort import OrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array
from preempt_runtime.errors import JobCancelledError, PreemptError
from preempt_runtime.executor import Executor
from preempt_runtime.inputs import random_inputs
from preempt_runtime.metrics import MetricsCollector, TaskMetrics
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task
from preempt_runtime.units import fmt_ns

FRAME_INTERVAL_S = 0.01


async def caption(executor: Executor, image: Mapping[str, Array]) -> None:
    """Caption the same image again and again, whenever nothing else wants the device."""
    while True:
        await executor.submit("captioner", image)


async def watch(executor: Executor, frame: Mapping[str, Array], num_frames: int) -> int:
    """The number of frames whose result came back; a frame that a newer one replaced has none."""
    handles = []
    for _ in range(num_frames):
        handles.append(executor.submit("detector", frame))
        await asyncio.sleep(FRAME_INTERVAL_S)
    num_done = 0
    for handle in handles:
        try:
            outputs = await handle  # fresh arrays by name, ours to keep
        except JobCancelledError:
            continue
        num_done += len(outputs) > 0
    return num_done


async def main(urgent: Path, long: Path, num_frames: int) -> None:
    """Run both networks until every frame has been seen, then print what it took."""
    device, clock, metrics = OrtDevice(), MonotonicClock(), MetricsCollector()
    detector = device.load(open_bundle(urgent))
    captioner = device.load(open_bundle(long))
    start_ns = clock.now_ns()
    with Executor(device, FixedPriority(), clock, [metrics]) as executor:
        executor.add_task(Task(name="detector", network=detector, priority=10, mailbox="latest"))
        executor.add_task(Task(name="captioner", network=captioner))  # no priority: best effort
        executor.start()
        image = random_inputs(captioner.graph, seed=0, task="captioner")
        frame = random_inputs(detector.graph, seed=0, task="detector")
        captions = asyncio.create_task(caption(executor, image))
        num_done = await watch(executor, frame, num_frames)
        captions.cancel()
        executor.stop(drain=False)  # the unfinished caption ends at its next preemption point
    print(f"{num_done} of {num_frames} frames done")
    found = metrics.metrics(clock.now_ns() - start_ns)
    for name in ("captioner", "detector"):
        print(task_line(name, found.get(name)))
    for network in (detector, captioner):
        network.close()
    device.close()


def task_line(name: str, task: TaskMetrics | None) -> str:
    """What became of a task; None, or no response times: no job of it ended."""
    if task is None or task.response is None:
        return f"{name}: 0 jobs"
    p50, p99 = fmt_ns(task.response.p50_ns), fmt_ns(task.response.p99_ns)
    return f"{name}: {task.finished} jobs, response p50 {p50}, p99 {p99}"


def command(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 1, after one line, for whatever preempt_runtime refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urgent", type=Path)
    parser.add_argument("long", type=Path)
    parser.add_argument("--frames", type=int, default=50)
    options = parser.parse_args(arguments)
    try:
        asyncio.run(main(options.urgent, options.long, options.frames))
    except PreemptError as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(command())
