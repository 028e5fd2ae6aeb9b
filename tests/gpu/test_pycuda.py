"""pycuda's arrays go in and out: in the primary context, which is the runtime's, without the host.

pycuda compiles nothing here, so it needs no nvcc.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preempt_runtime.backends.tensorrt import TrtDevice, TrtNetwork
from preempt_runtime.bundle import open_bundle
from preempt_runtime.device import Array
from preempt_runtime.errors import InputError
from preempt_runtime.inputs import random_inputs
from tests.gpu.commands import environment
from tests.gpu.workshop import executed

pytestmark = pytest.mark.gpu

IMAGE, LOGITS = "image", "logits"


@pytest.fixture
def gpuarray() -> Iterator[Any]:
    """`pycuda.gpuarray`, with the primary context current as pycuda counts contexts."""
    driver = pytest.importorskip("pycuda.driver")
    gpuarray = pytest.importorskip("pycuda.gpuarray")
    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    yield gpuarray
    context.pop()


@pytest.fixture
def world(native: Path, gpuarray: Any) -> Iterator[tuple[TrtDevice, TrtNetwork]]:
    with (
        closing(TrtDevice()) as device,
        closing(device.load(open_bundle(native))) as network,
    ):
        yield device, network


def image_of(network: TrtNetwork, seed: int) -> Array:
    return random_inputs(network.graph, seed=seed, task="pycuda")[IMAGE]


def test_the_executor_takes_them(world: tuple[TrtDevice, TrtNetwork], gpuarray: Any) -> None:
    device, network = world
    image = image_of(network, 0)
    expected = executed(device, network, {IMAGE: image})
    given: Any = {IMAGE: gpuarray.to_gpu(image)}
    found = executed(device, network, given)
    assert np.array_equal(found[LOGITS], expected[LOGITS])
    assert len(np.unique(found[LOGITS])) > 1


def test_outputs_are_taken_where_they_are(
    world: tuple[TrtDevice, TrtNetwork], gpuarray: Any
) -> None:
    device, network = world
    with network.new_buffers() as buffers:
        for seed in range(3):
            there: Any = gpuarray.to_gpu(image_of(network, seed))
            buffers.write_inputs({IMAGE: there})
            for idx in range(len(network.segments)):
                device.launch(buffers, idx, is_urgent=True)
            device.wait()
            output = buffers.outputs_on_device()[LOGITS]
            interface = output.__cuda_array_interface__
            array = gpuarray.GPUArray(
                interface["shape"], np.dtype(interface["typestr"]), gpudata=interface["data"][0]
            )
            assert np.array_equal(array.get(), buffers.read_outputs()[LOGITS])
            kept = array.copy()
            assert int(kept.gpudata) != interface["data"][0]
            assert np.array_equal(kept.get(), array.get())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda image: image.astype(np.float16), "found float16"),
        (lambda image: image[:, :2].copy(), r"found float32 \[1, 2, 32, 32\]"),
        (np.asfortranarray, "are not those of a dense row-major array"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    world: tuple[TrtDevice, TrtNetwork], gpuarray: Any, change: Any, text: str
) -> None:
    device, network = world
    given: Any = {IMAGE: gpuarray.to_gpu(change(image_of(network, 0)))}
    with pytest.raises(InputError, match=f"^input 'image': .*{text}"):
        executed(device, network, given)


# As docs/gpu.md has it: pycuda's own way to the primary context, and a clean end.
PROGRAM = """
import sys
import pycuda.autoprimaryctx
import pycuda.gpuarray as gpuarray
from preempt_runtime.backends.tensorrt import TrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.executor import Executor
from preempt_runtime.inputs import random_inputs
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task

device = TrtDevice()
network = device.load(open_bundle(sys.argv[1]))
(name, image), = random_inputs(network.graph, seed=0, task="pycuda").items()
with Executor(device, FixedPriority(), MonotonicClock()) as executor:
    executor.add_task(Task(name="net", network=network, priority=1))
    handles = [executor.submit("net", {name: given}) for given in (gpuarray.to_gpu(image), image)]
    executor.run()
    first, second = (handle.result()["logits"] for handle in handles)
network.close()
device.close()
assert (first == second).all()
there = gpuarray.to_gpu(first)
assert (there.get() == first).all(), "pycuda goes on after the device was closed"
print("equal")
"""


def test_a_program_with_autoprimaryctx_ends_cleanly(native: Path) -> None:
    pytest.importorskip("pycuda.driver")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(native)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "equal\n", "")
