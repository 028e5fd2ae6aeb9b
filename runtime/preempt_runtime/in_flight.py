"""Launch: one step of a job that the device was given and has not been heard to complete."""

from preempt_runtime.job import Job
from preempt_runtime.mailbox import TaskQueue


class Launch:
    """A step in flight; `overtaken` are more urgent jobs of equal rank that came too late for it.

    The device runs what it gets in the order of the launches, so a step starts when it was
    launched or when the one before it has ended.
    """

    __slots__ = ("job", "launch_ns", "overtaken", "queue", "step")

    def __init__(self, job: Job, queue: TaskQueue, step: int | str, launch_ns: int) -> None:
        self.job = job
        self.queue = queue
        self.step = step
        self.launch_ns = launch_ns
        self.overtaken: tuple[Job, ...] = ()
