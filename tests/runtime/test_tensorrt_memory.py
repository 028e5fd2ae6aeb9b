"""Where the tensors of TensorRT networks lie: mapped, lent out, counted, and when there is none."""

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preempt_runtime.backends.cuda import DeviceMemory
from preempt_runtime.backends.device_arrays import DeviceArray, checked_device_array
from preempt_runtime.backends.tensorrt import TrtDevice, TrtNetwork
from preempt_runtime.backends.trt_memory import measure_memory
from preempt_runtime.buffer_pool import DeviceOutputs, Lease
from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import Array
from preempt_runtime.errors import DeviceError
from preempt_runtime.executor import Executor
from preempt_runtime.network_memory import extension_from_engines, memory_from_manifest
from preempt_runtime.policies import FixedPriority
from preempt_runtime.records import JobState
from preempt_runtime.task import Task
from tests.runtime.fake_cuda import INVALID_VALUE, OUT_OF_MEMORY
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.tensorrt_world import FIELDS, blobs, expected, install, write_bundle

X = np.arange(6, dtype=np.float32).reshape(2, 3)
SCALE = np.full(1, 0.5, np.float32)
INPUTS: dict[str, Array] = {"x": X, "scale": SCALE}
INTERFACE_BYTES = 24 + 4 + 8 + 4
BOUNDARY_BYTES = 8 + 2


@pytest.fixture(params=["8.6.1"])
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    found = install(monkeypatch, request.param)
    yield found
    gc.collect()
    assert found.driver.open == {}, "left open"


class Opened:
    """A device, a network on it and an executor with one task; closed in this order at the end."""

    def __init__(
        self,
        tmp_path: Path,
        trt: FakeTensorRT,
        *,
        zero_copy: bool | None = None,
        depth: int = 1,
        **options: Any,
    ) -> None:
        fields = {**FIELDS, "tensorrt": trt.module.__version__}
        self.device = TrtDevice(zero_copy=zero_copy)
        self.network: TrtNetwork = self.device.load(write_bundle(tmp_path / "net.bundle", fields))
        self.executor = Executor(
            self.device, FixedPriority(), VirtualClock(), switch_interval_s=None, depth=depth
        )
        self.executor.add_task(Task(name="net", network=self.network, **options))
        self.log = trt.driver.log
        self.log.clear()

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close()
        self.network.close()
        self.device.close()

    def results(self, *inputs: dict[str, Array]) -> list[Any]:
        handles = [self.executor.submit("net", each) for each in inputs]
        self.executor.run()
        return [handle.result(timeout=0) for handle in handles]


def numbers(outputs: Any) -> dict[str, float]:
    return {name: float(array.flat[0]) for name, array in outputs.items()}


def seen_on_device(array: Any) -> float:
    """The first value, by the address that other libraries are given."""
    pointer, _ = array.__cuda_array_interface__["data"]
    return float(ctypes.c_float.from_address(pointer).value)


# Mapped inputs and outputs


def test_mapped_inputs_and_outputs_are_the_same_and_nothing_is_copied(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    with Opened(tmp_path, trt, zero_copy=True) as opened:
        (found,) = opened.results(INPUTS)
        assert numbers(found) == expected(15, 0.5)
        assert [line for line in opened.log if "copy" in line] == []
        (again,) = opened.results({"x": X + 1, "scale": SCALE})
        assert (numbers(again), numbers(found)) == (expected(21, 0.5), expected(15, 0.5))


@pytest.mark.parametrize("is_integrated", [False, True])
def test_a_gpu_that_shares_the_memory_maps_by_itself(
    tmp_path: Path, trt: FakeTensorRT, is_integrated: bool
) -> None:
    trt.driver.attributes[18] = int(is_integrated)
    with Opened(tmp_path, trt) as opened:
        opened.results(INPUTS)
        assert ("low: copy 24" in opened.log) is not is_integrated
        assert opened.device.is_zero_copy is is_integrated
        known = opened.network.memory()
        assert known.device_bytes_per_job == BOUNDARY_BYTES + (
            0 if is_integrated else INTERFACE_BYTES
        )
        assert known.host_bytes_per_job == INTERFACE_BYTES
    with Opened(tmp_path / "other", trt, zero_copy=not is_integrated) as opened:
        opened.results(INPUTS)
        assert ("low: copy 24" in opened.log) is is_integrated, "it can be asked for"


def test_device_inputs_are_copied_into_mapped_ones(tmp_path: Path, trt: FakeTensorRT) -> None:
    with Opened(tmp_path, trt, zero_copy=True) as opened, DeviceMemory(24) as memory:
        values = X + 2
        ctypes.memmove(memory.pointer, values.ctypes.data, values.nbytes)
        given: Any = DeviceArray(
            pointer=memory.pointer, dtype="float32", shape=(2, 3), stream=7, owner=memory
        )
        (found,) = opened.results({"x": given, "scale": SCALE})
        assert numbers(found) == expected(27, 0.5)
        assert opened.log[:4] == [
            "7: event",
            "low: wait for event",
            "low: copy 24",
            "low: engine +1",
        ]
        (again,) = opened.results(INPUTS)
        assert numbers(again) == expected(15, 0.5), "host arrays again"


def test_memory_that_cannot_be_mapped_leaves_nothing(tmp_path: Path, trt: FakeTensorRT) -> None:
    trt.driver.failures_at["cuMemHostGetDevicePointer", 2] = INVALID_VALUE
    device = TrtDevice(zero_copy=True)
    network = device.load(write_bundle(tmp_path / "net.bundle"))
    with pytest.raises(DeviceError, match=r"^net.bundle: tensor 'scale': cuMemHostGetDevice"):
        network.new_buffers()
    network.new_buffers().close()
    network.close()
    device.close()


# Jobs in flight


@pytest.mark.parametrize("zero_copy", [False, True])
def test_the_next_job_stands_behind_the_one_before_on_either_stream(
    tmp_path: Path, trt: FakeTensorRT, zero_copy: bool
) -> None:
    """They share one block of scratch memory: a change of streams waits on the device."""
    with Opened(tmp_path, trt, zero_copy=zero_copy, depth=4, buffers=2, priority=1) as opened:
        opened.executor.add_task(Task(name="other", network=opened.network, buffers=2))
        opened.log.clear()
        handles = [
            opened.executor.submit(name, {"x": X * number, "scale": SCALE})
            for number, name in enumerate(("net", "net", "other", "other", "net"), 1)
        ]
        opened.executor.run()
        for number, handle in enumerate(handles, 1):
            assert numbers(handle.result(timeout=0)) == expected(15 * number, 0.5)
        before = None
        waits = 0
        for line in opened.log:
            name, _, what = line.partition(": ")
            if before is not None and name != before:
                assert what == "wait for event", f"{line} may overlap with {before}"
                waits += 1
            before = name
        assert waits >= 1


@pytest.mark.parametrize("trt", ["8.6.1", "10.3.0"], indirect=True)
def test_buffers_are_made_beside_jobs_that_run(tmp_path: Path, trt: FakeTensorRT) -> None:
    """Their warm-up keeps out of the scratch memory, and the streams, of jobs in other buffers."""
    with Opened(tmp_path, trt) as opened:
        used: list[int] = []
        enqueue = trt.driver.enqueue

        def watch(stream: int, label: str, work: Any) -> None:
            used.append(stream)
            enqueue(stream, label, work)

        trt.driver.enqueue = watch  # type: ignore[method-assign]
        trt.scratch_of_runs.clear()
        opened.results(INPUTS)
        (shared,) = set(trt.scratch_of_runs)
        of_jobs = set(used)
        trt.scratch_of_runs.clear()
        used.clear()
        opened.executor.add_task(Task(name="late", network=opened.network))
        (own,) = set(trt.scratch_of_runs)
        assert own != shared
        assert of_jobs.isdisjoint(used)
        trt.scratch_of_runs.clear()
        handle = opened.executor.submit("late", INPUTS)
        opened.executor.run()
        assert numbers(handle.result(timeout=0)) == expected(15, 0.5)
        assert set(trt.scratch_of_runs) == {shared}


def test_what_a_job_in_flight_takes_is_what_is_counted(tmp_path: Path, trt: FakeTensorRT) -> None:
    def kinds() -> dict[str, int]:
        found = list(trt.driver.open.values())
        return {kind: found.count(kind) for kind in set(found)}

    with Opened(tmp_path, trt, buffers=3) as opened:
        known = opened.network.memory()
        assert (known.contexts_per_job, known.scratch_bytes, known.weights_bytes) == (3, 3072, None)
        assert known.engine_bytes == sum(map(len, blobs()))
        assert trt.events.count("context without memory") == 3 * known.contexts_per_job
        assert kinds()["graph exec"] == 3 * known.contexts_per_job
        assert trt.driver.used_bytes() == 3072 + 3 * known.device_bytes_per_job
        assert known.device_bytes_per_job == INTERFACE_BYTES + BOUNDARY_BYTES
        told = memory_from_manifest(
            *(lambda manifest: (manifest, manifest.plans[0]))(
                write_bundle(tmp_path / "again.bundle").manifest
            )
        )
        assert told is not None
        assert told.device_bytes_per_job == known.device_bytes_per_job
        assert told.host_bytes_per_job == known.host_bytes_per_job
        assert told.device_bytes(1) is None, "this bundle does not say what scratch memory it needs"


# What a bundle tells


def test_a_bundle_tells_what_its_engines_take(tmp_path: Path) -> None:
    plain = write_bundle(tmp_path / "plain.bundle").manifest
    paths = [segment.path for segment in plain.plans[0].segments]
    engines = extension_from_engines({path: (1000 * (i + 1), 7) for i, path in enumerate(paths)})
    manifest = write_bundle(
        tmp_path / "told.bundle", extensions={"preemptc": {"request": {}, **engines}}
    ).manifest
    told = memory_from_manifest(manifest, manifest.plans[0])
    assert told is not None
    assert (told.scratch_bytes, told.weights_bytes) == (3072, 21)
    per_job = INTERFACE_BYTES + BOUNDARY_BYTES
    assert told.device_bytes(4) == 21 + 3072 + 4 * per_job


@pytest.mark.parametrize(
    "extension",
    [None, [], {"engines": 3}, {"engines": {"x": {}}}, {"engines": {"scratch_bytes": -1}}],
)
def test_an_extension_may_hold_anything(tmp_path: Path, extension: Any) -> None:
    manifest = write_bundle(tmp_path / "net.bundle", extensions={"preemptc": extension}).manifest
    told = memory_from_manifest(manifest, manifest.plans[0])
    assert told is not None
    assert (told.scratch_bytes, told.weights_bytes, told.device_bytes(1)) == (None, None, None)


@pytest.mark.parametrize("scratch", [-1, True, "many", 1.5])
def test_a_size_that_is_none_is_unknown(tmp_path: Path, scratch: Any) -> None:
    paths = [s.path for s in write_bundle(tmp_path / "a").manifest.plans[0].segments]
    engines = {path: {"scratch_bytes": scratch} for path in paths}
    manifest = write_bundle(tmp_path / "b", extensions={"preemptc": {"engines": engines}}).manifest
    told = memory_from_manifest(manifest, manifest.plans[0])
    assert told is not None
    assert told.scratch_bytes is None


@pytest.mark.parametrize("trt", ["8.6.1", "10.3.0", "10.16.1"], indirect=True)
@pytest.mark.parametrize("zero_copy", [False, True])
def test_memory_is_measured_step_by_step(
    tmp_path: Path, trt: FakeTensorRT, zero_copy: bool
) -> None:
    fields = {**FIELDS, "tensorrt": trt.module.__version__}
    device = TrtDevice(zero_copy=zero_copy)
    bundle = write_bundle(tmp_path / "net.bundle", fields)
    found = measure_memory(device, bundle, num_jobs=2)
    per_job = BOUNDARY_BYTES + (0 if zero_copy else INTERFACE_BYTES)
    assert (found.load_bytes, found.job_bytes) == (3072, (per_job, per_job))
    assert found.total_bytes == 3072 + 2 * per_job
    assert found.known.device_bytes_per_job == per_job
    assert found.known.weights_bytes == (3 * 40 if trt.version >= (10, 16) else None)
    device.close()


# Outputs on the device


@pytest.mark.parametrize("zero_copy", [False, True])
def test_outputs_stay_on_the_device_until_they_are_released(
    tmp_path: Path, trt: FakeTensorRT, zero_copy: bool
) -> None:
    with Opened(tmp_path, trt, zero_copy=zero_copy, outputs="device", buffers=2) as opened:
        first, second = opened.results(INPUTS, {"x": X * 2, "scale": SCALE})
        assert isinstance(first, DeviceOutputs)
        if not zero_copy:
            copies = [line for line in opened.log if "copy" in line]
            assert copies == ["low: copy 24", "low: copy 4"] * 2, "inputs, and no outputs"
        assert seen_on_device(first["y"]) == expected(15, 0.5)["y"]
        assert seen_on_device(second["early"]) == expected(30, 0.5)["early"]
        kept = first["y"]
        first.release()
        with pytest.raises(DeviceError, match="these outputs were released"):
            _ = kept.__cuda_array_interface__
        with pytest.raises(DeviceError, match="these outputs were released"):
            kept.__dlpack__()
        (third,) = opened.results({"x": X * 3, "scale": SCALE})
        assert seen_on_device(second["y"]) == expected(30, 0.5)["y"], "held, so not overwritten"
        assert seen_on_device(third["y"]) == expected(45, 0.5)["y"]
        second.release()
        third.release()


def test_outputs_of_one_job_are_inputs_of_the_next(tmp_path: Path, trt: FakeTensorRT) -> None:
    with Opened(tmp_path, trt, outputs="device", buffers=2) as opened:
        (first,) = opened.results(INPUTS)
        scale: Any = DeviceArray(
            pointer=first["y"].pointer, dtype="float32", shape=(1,), owner=first["y"].owner
        )
        (second,) = opened.results({"x": X, "scale": scale})
        assert seen_on_device(second["y"]) == expected(15, expected(15, 0.5)["y"])["y"]
        first.release()
        second.release()


def test_post_has_the_outputs_on_the_device(tmp_path: Path, trt: FakeTensorRT) -> None:
    def post(outputs: Any, stream: Any) -> float:
        assert stream.handle > 0
        return seen_on_device(outputs["y"])

    with Opened(tmp_path, trt, outputs="device", post=post) as opened:
        assert opened.results(INPUTS, INPUTS) == [expected(15, 0.5)["y"]] * 2
        assert opened.executor.num_held_outputs("net") == 0


# DLPack


class OnHost:
    """A capsule that says that it lies where numpy can read it."""

    def __init__(self, array: DeviceArray) -> None:
        self.capsule = array.__dlpack__()
        get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
        get_pointer.restype, get_pointer.argtypes = (
            ctypes.c_void_p,
            (ctypes.py_object, ctypes.c_char_p),
        )
        address = get_pointer(self.capsule, b"dltensor")
        self.device = (ctypes.c_int32 * 2).from_address(address + 8)
        self.found = tuple(self.device)
        self.device[0] = 1

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


@pytest.mark.parametrize("shape", [(2, 3), (), (0, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "uint8"])
def test_others_take_an_array_by_dlpack_and_keep_it(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape) + 1).astype(dtype)
    released: list[bool] = []
    lease = Lease(lambda: released.append(True))
    array = DeviceArray(pointer=values.ctypes.data, dtype=dtype, shape=shape, owner=lease)
    del lease
    assert array.__dlpack_device__() == (2, 0)
    packed = OnHost(array)
    assert packed.found == (2, 0)
    taken = np.from_dlpack(packed)
    del packed, array
    gc.collect()
    assert (taken.dtype, taken.shape, released) == (values.dtype, shape, [])
    assert np.array_equal(taken, values)
    del taken
    gc.collect()
    assert released == [True]


def test_bfloat16_goes_by_dlpack() -> None:
    raw = np.array([1, 2], np.uint16)
    array = DeviceArray(pointer=raw.ctypes.data, dtype="bfloat16", shape=(2,), owner=raw)

    class Foreign:
        def __dlpack__(self, *, stream: int) -> Any:
            return array.__dlpack__(stream=stream)

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    found = checked_device_array("x", Foreign(), dtype="bfloat16", shape=(2,))
    assert found.pointer == raw.ctypes.data


def test_dlpack_gives_no_copy_and_waits_for_whoever_writes(trt: FakeTensorRT) -> None:
    raw = np.zeros(2, np.float32)
    array = DeviceArray(pointer=raw.ctypes.data, dtype="float32", shape=(2,), stream=7, owner=raw)
    for wrong in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match="as it is, on CUDA device 0"):
            array.__dlpack__(**wrong)
    array.__dlpack__(stream=1, max_version=(1, 0), dl_device=(2, 0), copy=False)
    assert trt.driver.num_calls["cuStreamSynchronize"] == 1


# Failures


def test_too_many_buffers_are_told_and_the_executor_goes_on(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    with Opened(tmp_path, trt) as opened:
        for_two = 2 * (INTERFACE_BYTES + BOUNDARY_BYTES) + 3072  # and scratch for their warm-up
        trt.driver.memory_bytes = trt.driver.used_bytes() + for_two
        with pytest.raises(DeviceError) as caught:
            opened.executor.add_task(Task(name="many", network=opened.network, buffers=5))
        assert str(caught.value).startswith(
            "task 'many': buffers for job 3 of 5 in flight: net.bundle: tensor 'x': no device"
            " memory for 24 B (cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY (out of memory)); run"
        )
        assert [task.name for task in opened.executor.tasks()] == ["net"]
        opened.executor.add_task(Task(name="many", network=opened.network, buffers=2))
        assert numbers(opened.results(INPUTS)[0]) == expected(15, 0.5)


def test_no_memory_for_scratch_is_told_with_the_networks_name(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    trt.driver.memory_bytes = 1000
    device = TrtDevice()
    with pytest.raises(DeviceError, match=r"^net.bundle: scratch memory .*: no device memory"):
        device.load(write_bundle(tmp_path / "net.bundle"))
    device.close()


@pytest.mark.parametrize(
    "function", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphGetNodes"]
)
def test_a_capture_that_fails_is_told_and_the_next_works(
    tmp_path: Path, trt: FakeTensorRT, function: str
) -> None:
    device = TrtDevice()
    network = device.load(write_bundle(tmp_path / "net.bundle"))
    trt.driver.spoils_capture = function == "cuStreamEndCapture"
    if trt.driver.spoils_capture:
        code = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    else:
        trt.driver.failures_at[function, 2] = OUT_OF_MEMORY
        code = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(DeviceError, match=f"^net.bundle: {function} failed: {code}"):
        network.new_buffers()
    trt.driver.spoils_capture = False
    network.new_buffers().close()
    network.close()
    device.close()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(
    "function", ["cuGraphLaunch", "cuMemcpyAsync", "cuEventRecord", "cuEventCreate"]
)
def test_a_launch_that_fails_ends_its_job_and_no_other(
    tmp_path: Path, trt: FakeTensorRT, function: str, depth: int
) -> None:
    with Opened(tmp_path, trt, buffers=2, depth=depth) as opened:
        number = trt.driver.num_calls.get(function, 0) + 1
        trt.driver.failures_at[function, number] = INVALID_VALUE
        handles = [opened.executor.submit("net", INPUTS) for _ in range(4)]
        opened.executor.run()
        opened.executor.check_integrity()
        states = [handle.state for handle in handles]
        assert states == [JobState.FAILED, *[JobState.FINISHED] * 3]
        with pytest.raises(DeviceError, match=f"{function} failed: CUDA_ERROR_INVALID_VALUE"):
            handles[0].result(timeout=0)
        for handle in handles[1:]:
            assert numbers(handle.result(timeout=0)) == expected(15, 0.5)
