"""What a loaded network takes of the GPU's memory: as TensorRT tells it, and as it is measured."""

import gc
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise

from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.bundle import Bundle
from preempt_runtime.network_memory import NetworkMemory


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredMemory:
    """By how much the GPU's free memory shrank, step by step, as the driver counts it.

    It counts the whole GPU in blocks of its own, so other processes must leave it alone meanwhile.
    The first job's share holds also what is loaded with a first execution: kernels, and the
    first time in a process parts of TensorRT itself. `known` is what can be told without measuring.
    """

    load_bytes: int
    job_bytes: tuple[int, ...]
    known: NetworkMemory

    @property
    def total_bytes(self) -> int:
        """The network with all the jobs that were measured."""
        return self.load_bytes + sum(self.job_bytes)


def measure_memory(
    device: TrtDevice, bundle: Bundle, plan_id: str | None = None, *, num_jobs: int = 1
) -> MeasuredMemory:
    """What a plan takes: engines and scratch memory, then the buffers of each job in flight.

    Measure twice in a new process and take the second where the first use of TensorRT must not
    count. Everything is closed again.

    Raises:
        BundleError: no plan fits, or a file is damaged.
        DeviceError: there is no memory, or TensorRT or the driver refused.
    """
    gc.collect()  # what others have left
    free = [device.free_bytes()]
    with ExitStack() as stack:
        network = stack.enter_context(closing(device.load(bundle, plan_id)))
        free.append(device.free_bytes())
        for _ in range(num_jobs):
            stack.enter_context(network.new_buffers())
            free.append(device.free_bytes())
        known = network.memory()
    taken = [before - after for before, after in pairwise(free)]
    return MeasuredMemory(load_bytes=taken[0], job_bytes=tuple(taken[1:]), known=known)
