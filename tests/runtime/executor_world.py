"""An executor on a virtual clock with all its fakes."""

from typing import Any

from preempt_runtime.clock import VirtualClock
from preempt_runtime.executor import Executor
from preempt_runtime.policies import FixedPriority, Policy
from preempt_runtime.task import Task
from preempt_runtime.testing import (
    FakeDevice,
    FakeNetwork,
    Recording,
    lines_from_recording,
)


def task(name: str, *segment_ns: int, priority: int | None = None, **options: Any) -> Task:
    network = FakeNetwork(name=name, segment_ns=segment_ns)
    return Task(name=name, network=network, priority=priority, **options)


class World:
    """An executor with all its fakes."""

    def __init__(
        self,
        *tasks: Task,
        policy: Policy | None = None,
        failures: tuple[tuple[str, int], ...] = (),
        depth: int = 1,
    ) -> None:
        self.clock = VirtualClock()
        self.recording = Recording()
        self.device = FakeDevice(self.clock, failures, max_depth=depth)
        self.executor = Executor(
            self.device, policy or FixedPriority(), self.clock, [self.recording], depth=depth
        )
        for each in tasks:
            self.executor.add_task(each)

    def lines(self) -> list[str]:
        self.executor.check_integrity()
        return lines_from_recording(self.recording)
