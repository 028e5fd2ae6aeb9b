"""Warming a task up: all of its steps in each of its buffers, on the device but in no books."""

from collections.abc import Callable, Mapping

from preempt_runtime.buffer_pool import DeviceOutputs
from preempt_runtime.device import Array, JobBuffers
from preempt_runtime.errors import PreemptError
from preempt_runtime.job import Job
from preempt_runtime.job_steps import JobSteps
from preempt_runtime.mailbox import TaskQueue

RunNetwork = Callable[[Job, JobBuffers], None]
"""Runs a job's network in its buffers, whose inputs are there, and waits for its end."""


def warm_up(
    queue: TaskQueue,
    inputs: Mapping[str, Array],
    steps: JobSteps,
    run_network: RunNetwork,
    quiesce: Callable[[], None],
    *,
    now_ns: int,
) -> None:
    """Run one job in each of the buffers that are free; nothing else may be in flight.

    `quiesce` is called where a step raises, as the device may still use the job's buffers.

    Raises:
        PreemptError: a job of the task has started.
        Exception: what a step raised.
    """
    if queue.jobs and queue.jobs[0].is_started:
        raise PreemptError(
            f"task {queue.task.name!r}: job {queue.jobs[0].id} is in its buffers; let it end first"
        )
    for _ in range(len(queue.pool.free)):  # take gives each of them its turn
        job = Job(id=-1, task=queue.task, inputs=inputs, release_ns=now_ns)
        try:
            _run_alone(job, queue, steps, run_network)
        except BaseException:
            quiesce()
            raise
        finally:
            if job.buffers is not None:
                queue.pool.put(job.buffers)


def _run_alone(job: Job, queue: TaskQueue, steps: JobSteps, run_network: RunNetwork) -> None:
    if queue.task.pre is not None:
        steps.call(job, queue, "pre")
    while not steps.copy_inputs(job, queue):
        pass
    assert job.buffers is not None
    run_network(job, job.buffers)
    steps.read_outputs(job, queue)
    if queue.task.post is not None:
        steps.call(job, queue, "post")
    if isinstance(job.value, DeviceOutputs):
        job.value.release()
