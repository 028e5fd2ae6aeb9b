"""On a GPU: jobs in flight, mapped inputs and outputs, outputs that stay, memory and its end."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preempt_runtime.backends.cuda import DeviceMemory, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.device_arrays import DeviceArray
from preempt_runtime.backends.tensorrt import TrtDevice, TrtNetwork, local_fields
from preempt_runtime.backends.trt_memory import measure_memory
from preempt_runtime.bundle import Bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array
from preempt_runtime.errors import DeviceError
from preempt_runtime.executor import Executor
from preempt_runtime.manifest import TensorSpec
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task
from tests.gpu.test_trt_runtime import check, engines_of, random_x, write_bundle
from tests.gpu.tiny_engines import SHAPE

pytestmark = pytest.mark.gpu
_MIB = 1 << 20
_LARGE = TensorSpec(name="b", dtype="float32", shape=(64 * _MIB // 4,))
"""A boundary with more room than the engines need: the driver counts memory in blocks of 2 MiB."""


@pytest.fixture(autouse=True)
def _gpu() -> None:
    try:
        local_fields()
    except DeviceError as err:
        pytest.skip(str(err))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "tiny.bundle", engines_of(is_hwc8=False))


@pytest.fixture(params=[False, True], ids=["copied", "mapped"])
def loaded(
    request: pytest.FixtureRequest, bundle: Bundle
) -> Iterator[tuple[TrtDevice, TrtNetwork]]:
    device = TrtDevice(zero_copy=request.param)
    network = device.load(bundle)
    yield device, network
    network.close()
    device.close()


def executor_on(device: TrtDevice, *tasks: Task, depth: int = 1) -> Executor:
    executor = Executor(device, FixedPriority(), MonotonicClock(), depth=depth)
    for task in tasks:
        executor.add_task(task)
    return executor


def results(executor: Executor, name: str, xs: list[Any]) -> list[Any]:
    handles = [executor.submit(name, {"x": x}) for x in xs]
    executor.run()
    return [handle.result(timeout=0) for handle in handles]


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("buffers", [1, 3])
def test_jobs_in_flight_of_two_tasks_do_not_disturb_each_other(
    loaded: tuple[TrtDevice, TrtNetwork], depth: int, buffers: int
) -> None:
    device, network = loaded
    tasks = [
        Task(name="urgent", network=network, priority=1, buffers=buffers),
        Task(name="other", network=network, buffers=buffers),
    ]
    with executor_on(device, *tasks, depth=depth) as executor:
        for name in ("urgent", "other"):
            executor.warm_up(name, {"x": random_x(0)})
        xs = [random_x(seed) for seed in range(60)]
        names = ["urgent" if seed % 3 else "other" for seed in range(60)]
        handles = [executor.submit(name, {"x": x}) for name, x in zip(names, xs, strict=True)]
        executor.run()
        for handle, x in zip(handles, xs, strict=True):
            check(handle.result(timeout=0), x)
        executor.check_integrity()


def test_mapped_and_copied_give_the_same_bits(bundle: Bundle) -> None:
    found = []
    for zero_copy in (False, True):
        device = TrtDevice(zero_copy=zero_copy)
        network = device.load(bundle)
        with executor_on(device, Task(name="net", network=network)) as executor:
            found.append(results(executor, "net", [random_x(seed) for seed in range(10)]))
        network.close()
        device.close()
    for copied, mapped in zip(*found, strict=True):
        assert copied.keys() == mapped.keys()
        for name, array in copied.items():
            assert np.array_equal(array, mapped[name])


def on_device(x: Array, stack: ExitStack) -> DeviceArray:
    """A copy of the array in device memory."""
    memory = stack.enter_context(DeviceMemory(x.nbytes))
    with PinnedMemory(x.nbytes) as pinned, Stream(priority="low") as stream:
        pinned.array[:] = x.reshape(-1).view(np.uint8)
        copy_async(memory.pointer, pinned.pointer, x.nbytes, stream)
        stream.synchronize()
    return DeviceArray(pointer=memory.pointer, dtype="float32", shape=x.shape, owner=memory)


def on_host(array: Any) -> Array:
    """What an array in device memory holds, by its address."""
    interface = array.__cuda_array_interface__
    shape = interface["shape"]
    num_bytes = 4 * int(np.prod(shape))
    with PinnedMemory(num_bytes) as pinned, Stream(priority="low") as stream:
        copy_async(pinned.pointer, interface["data"][0], num_bytes, stream)
        stream.synchronize()
        copy: Array = pinned.array.view(np.float32).reshape(shape).copy()
    return copy


def test_host_and_device_inputs_take_turns(loaded: tuple[TrtDevice, TrtNetwork]) -> None:
    device, network = loaded
    with (
        executor_on(device, Task(name="net", network=network, buffers=2), depth=2) as executor,
        ExitStack() as stack,
    ):
        xs = [random_x(seed) for seed in range(20)]
        given = [x if seed % 2 else on_device(x, stack) for seed, x in enumerate(xs)]
        for outputs, x in zip(results(executor, "net", given), xs, strict=True):
            check(outputs, x)


# Outputs on the device


def test_outputs_stay_while_they_are_held(loaded: tuple[TrtDevice, TrtNetwork]) -> None:
    device, network = loaded
    task = Task(name="net", network=network, outputs="device", buffers=2)
    with executor_on(device, task, depth=2) as executor:
        (held,) = results(executor, "net", [random_x(1)])
        for seed in range(2, 12):
            (outputs,) = results(executor, "net", [random_x(seed)])
            check({name: on_host(array) for name, array in outputs.items()}, random_x(seed))
            outputs.release()
        check({name: on_host(array) for name, array in held.items()}, random_x(1))
        assert executor.num_held_outputs("net") == 1
        held.release()
        with pytest.raises(DeviceError, match="released"):
            _ = held["y"].__cuda_array_interface__


def test_outputs_of_one_job_are_inputs_of_the_next(loaded: tuple[TrtDevice, TrtNetwork]) -> None:
    device, network = loaded
    task = Task(name="net", network=network, outputs="device", buffers=2)
    with executor_on(device, task) as executor:
        (first,) = results(executor, "net", [random_x(1)])
        y = on_host(first["y"])
        (second,) = results(executor, "net", [first["y"]])
        check({name: on_host(array) for name, array in second.items()}, y)
        first.release()
        second.release()


@pytest.mark.parametrize("library_name", ["torch", "cupy"])
@pytest.mark.parametrize("protocol", ["interface", "dlpack"])
def test_other_libraries_use_outputs_where_they_are(
    bundle: Bundle, library_name: str, protocol: str
) -> None:
    other: Any = pytest.importorskip(library_name)
    device = TrtDevice(zero_copy=False)
    network = device.load(bundle)
    task = Task(name="net", network=network, outputs="device")
    with executor_on(device, task) as executor:
        (outputs,) = results(executor, "net", [random_x(3)])
        pointer = outputs["y"].pointer
        if protocol == "dlpack":
            y = other.from_dlpack(outputs["y"])
        elif library_name == "torch":
            y = other.as_tensor(outputs["y"], device="cuda")
        else:
            y = other.asarray(outputs["y"])
        assert (y.data_ptr() if library_name == "torch" else y.data.ptr) == pointer
        host = y.cpu().numpy() if library_name == "torch" else other.asnumpy(y)
        check({"early": on_host(outputs["early"]), "y": host}, random_x(3))
        del outputs
        gc.collect()
        assert executor.num_held_outputs("net") == 1, "the tensor keeps them"
        del y
        gc.collect()
        assert executor.num_held_outputs("net") == 0
    network.close()
    device.close()


# Memory


@pytest.mark.parametrize("zero_copy", [False, True], ids=["copied", "mapped"])
def test_measured_memory_agrees_with_what_is_known(tmp_path: Path, zero_copy: bool) -> None:
    contents = engines_of(is_hwc8=False)
    bundle = write_bundle(tmp_path / "tiny.bundle", contents, boundaries=(_LARGE,))
    device = TrtDevice(zero_copy=zero_copy)
    measure_memory(device, bundle)  # the first use of TensorRT must not count
    before = device.free_bytes()
    found = measure_memory(device, bundle, num_jobs=3)
    print(found)
    known = found.known
    assert known.boundary_bytes == 64 * _MIB
    assert known.scratch_bytes is not None
    assert known.engine_bytes == sum(map(len, contents))
    assert found.load_bytes >= 0
    for job_bytes in found.job_bytes:
        assert abs(job_bytes - known.device_bytes_per_job) <= 32 * _MIB
    gc.collect()
    assert device.free_bytes() >= before - 8 * _MIB, "all of it was given back"
    device.close()


def fill(device: TrtDevice, stack: ExitStack, *, leave: int) -> None:
    """Take plain device memory until less than `leave` bytes are free."""
    size = 8 << 30
    while device.free_bytes() > leave:
        try:
            stack.enter_context(DeviceMemory(min(size, device.free_bytes() - leave // 2)))
        except DeviceError:
            size //= 2
            assert size > _MIB, "the memory cannot be filled"


def test_without_device_memory_a_task_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    contents = engines_of(is_hwc8=False)
    device = TrtDevice(zero_copy=False)
    small = device.load(write_bundle(tmp_path / "small.bundle", contents))
    huge = TensorSpec(name="b", dtype="float32", shape=(512 * _MIB // 4,))
    large = device.load(write_bundle(tmp_path / "large.bundle", contents, boundaries=(huge,)))
    with executor_on(device, Task(name="small", network=small)) as executor:
        with ExitStack() as stack:
            fill(device, stack, leave=768 * _MIB)
            with pytest.raises(DeviceError) as caught:
                executor.add_task(Task(name="large", network=large, buffers=4))
            assert "task 'large': buffers for job" in str(caught.value)
            assert "CUDA_ERROR_OUT_OF_MEMORY" in str(caught.value)
            assert [task.name for task in executor.tasks()] == ["small"]
            for seed in range(5):
                check(results(executor, "small", [random_x(seed)])[0], random_x(seed))
        executor.add_task(Task(name="large", network=large, buffers=2))
        for name in ("large", "small"):
            check(results(executor, name, [random_x(9)])[0], random_x(9))
    large.close()
    small.close()
    device.close()


def test_without_device_memory_nothing_is_loaded_and_the_process_goes_on(tmp_path: Path) -> None:
    contents = engines_of(is_hwc8=False)
    bundle = write_bundle(tmp_path / "tiny.bundle", contents, boundaries=(_LARGE,))
    device = TrtDevice(zero_copy=False)
    with ExitStack() as stack:
        fill(device, stack, leave=16 * _MIB)

        def load_and_bind() -> None:
            network = device.load(bundle)
            try:
                network.new_buffers()
            finally:
                network.close()

        with pytest.raises(DeviceError, match=r"^tiny.bundle: "):
            load_and_bind()
    network = device.load(bundle)
    with executor_on(device, Task(name="net", network=network)) as executor:
        check(results(executor, "net", [random_x(2)])[0], random_x(2))
    network.close()
    device.close()


def test_a_tensor_of_the_wrong_shape_ends_its_job_alone(
    loaded: tuple[TrtDevice, TrtNetwork],
) -> None:
    device, network = loaded
    task = Task(name="net", network=network, buffers=2)
    with executor_on(device, task, depth=2) as executor, ExitStack() as stack:
        wrong = on_device(np.zeros((1, *SHAPE[1:-1], 1), np.float32), stack)
        handles = [executor.submit("net", {"x": x}) for x in (random_x(1), wrong, random_x(2))]  # type: ignore[dict-item]
        executor.run()
        check(handles[0].result(timeout=0), random_x(1))
        check(handles[2].result(timeout=0), random_x(2))
        assert "InputError" in str(handles[1].record.error)
