"""The TensorRT backend on a GPU: outputs against numpy, two priorities, and what is refused."""

import dataclasses
import gc
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from preempt_runtime.backends.cuda import (
    CudaContext,
    DeviceMemory,
    Event,
    PinnedMemory,
    Stream,
    capture,
    copy_async,
    open_cuda,
)
from preempt_runtime.backends.cuda_driver import call
from preempt_runtime.backends.tensorrt import (
    Scratch,
    TrtBuffers,
    TrtDevice,
    TrtNetwork,
    bind,
    deserialize,
    library,
    local_fields,
)
from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array
from preempt_runtime.errors import BundleError, DeviceError
from preempt_runtime.executor import Executor
from preempt_runtime.manifest import (
    MANIFEST_NAME,
    Artefact,
    Manifest,
    PlanSpec,
    TensorSpec,
    hash_key,
)
from preempt_runtime.manifest_json import json_from_manifest
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task
from preempt_runtime.testing import segment_specs
from tests.gpu.tiny_engines import (
    GRAPH,
    HWC8,
    LINEAR,
    SEGMENTS,
    SHAPE,
    build_engines,
    reference,
)

pytestmark = pytest.mark.gpu
_TOLERANCE = {False: 1e-4, True: 5e-2}  # by whether the boundary is in half precision


@pytest.fixture
def context() -> Iterator[CudaContext]:
    with open_cuda() as context:
        yield context


@pytest.fixture
def stream(context: CudaContext) -> Iterator[Stream]:
    with Stream(priority="low") as stream:
        yield stream


engines_of = cache(build_engines)


def random_x(seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def written(buffers: TrtBuffers, x: object) -> None:
    buffers.write_inputs(cast("Mapping[str, Array]", {"x": x}))


def check(outputs: Mapping[str, Array], x: Array, *, is_half: bool = False) -> None:
    expected = reference(x)
    assert outputs.keys() == expected.keys()
    for name, array in outputs.items():
        assert array.dtype == np.float32
        assert len(np.unique(array)) > 1
        np.testing.assert_allclose(array, expected[name], atol=_TOLERANCE[is_half], rtol=0)


def write_bundle(
    root: Path,
    contents: Sequence[bytes],
    *,
    boundaries: tuple[TensorSpec, ...] = LINEAR,
    fields: Mapping[str, str | int] | None = None,
) -> Bundle:
    """A bundle of the two engines."""
    fields = fields or local_fields()
    key = hash_key(fields)
    files = {f"engines/{key}/segment-{i:03d}.engine": blob for i, blob in enumerate(contents)}
    plan = PlanSpec(
        id="cut",
        graph=GRAPH.id,
        target="native",
        key=key,
        mechanism="segments",
        bound_ns=None,
        bound_quantile="p50",
        margin_frac=0.0,
        source="estimated",
        boundaries=boundaries,
        segments=tuple(
            dataclasses.replace(spec, path=path, inputs=inputs, outputs=outputs)
            for spec, path, (inputs, outputs) in zip(
                segment_specs([1000, 1000]), files, SEGMENTS, strict=True
            )
        ),
        chained=None,
    )
    manifest = Manifest(
        requires=("segments",),
        graphs=(GRAPH,),
        plans=(plan,),
        keys={key: fields},
        artefacts=tuple(
            Artefact(
                path=path,
                num_bytes=len(blob),
                sha256=hashlib.sha256(blob).hexdigest(),
                key=key,
            )
            for path, blob in files.items()
        ),
        check=None,
        toolchain={},
    )
    for path, blob in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(blob)
    (root / MANIFEST_NAME).write_text(json_from_manifest(manifest), encoding="utf-8")
    return open_bundle(root)


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[tuple[TrtDevice, TrtNetwork]]:
    device = TrtDevice()
    network = device.load(write_bundle(tmp_path / "tiny.bundle", engines_of(is_hwc8=False)))
    yield device, network
    network.close()
    device.close()


def run(device: TrtDevice, buffers: TrtBuffers, *, is_urgent: bool) -> dict[str, Array]:
    for idx in range(len(buffers.graphs)):
        device.launch(buffers, idx, is_urgent=is_urgent)
        device.wait()
    return buffers.read_outputs()


# The driver


def test_the_key_names_this_gpu(context: CudaContext) -> None:
    fields = local_fields()
    assert fields["gpu"] == context.name
    assert fields["num_sms"] == context.num_sms > 0
    assert fields["compute_capability"] == context.compute_capability
    assert 0 < context.free_bytes() <= context.total_bytes
    assert isinstance(fields["cuda_driver"], int)
    assert fields["cuda_driver"] >= 12000


@pytest.mark.usefixtures("context")
def test_streams_have_two_priorities() -> None:
    with Stream(priority="high") as high, Stream(priority="low") as low:
        values = [call("cuStreamGetPriority", stream.handle) for stream in (high, low)]
    assert values[0] < values[1], "a smaller number is more urgent"


def test_memory_goes_there_and_back(stream: Stream) -> None:
    values = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)
    with DeviceMemory(1000) as device, PinnedMemory(1000) as there, PinnedMemory(1000) as back:
        there.array[:] = values
        copy_async(device.pointer, there.pointer, 1000, stream)
        copy_async(back.pointer, device.pointer, 1000, stream)
        stream.synchronize()
        assert np.array_equal(back.array, values)
        device.fill(7)
        copy_async(back.pointer, device.pointer, 1000, stream)
        stream.synchronize()
        assert (back.array == 7).all()


def test_long_and_short_work_is_waited_for(stream: Stream) -> None:
    num_bytes = 256 << 20
    with (
        DeviceMemory(num_bytes) as left,
        DeviceMemory(num_bytes) as right,
        Event(timing=True) as begin,
        Event(timing=True) as end,
    ):
        for repeats in (1, 100):
            begin.record(stream)
            for _ in range(repeats):
                copy_async(right.pointer, left.pointer, num_bytes, stream)
            end.record(stream)
            end.wait()
            assert end.is_done()
            assert end.elapsed_ns(begin) > repeats * 10_000


def test_a_failed_capture_leaves_the_stream_usable(stream: Stream) -> None:
    with pytest.raises(DeviceError, match="cuStreamSynchronize failed: CUDA_ERROR_STREAM_CAPTURE"):
        capture(stream, stream.synchronize)
    with (
        DeviceMemory(4) as left,
        DeviceMemory(4) as right,
        capture(stream, lambda: copy_async(right.pointer, left.pointer, 4, stream)) as graph,
    ):
        assert graph.num_nodes == 1
        graph.launch(stream)
        stream.synchronize()


def test_a_stream_waits_for_an_event_of_another(stream: Stream) -> None:
    with (
        Stream(priority="high") as other,
        DeviceMemory(64 << 20) as memory,
        DeviceMemory(64 << 20) as copied,
        Event(timing=True) as first,
        Event(timing=True) as second,
    ):
        for _ in range(20):
            copy_async(copied.pointer, memory.pointer, 64 << 20, stream)
        first.record(stream)
        other.wait_for(first)
        second.record(other)
        second.wait()
        assert first.is_done()
        assert second.elapsed_ns(first) >= 0


# Engines


@pytest.mark.parametrize("is_half", [False, True])
def test_bound_engines_give_what_numpy_gives(stream: Stream, is_half: bool) -> None:
    if is_half and not hasattr(library().BuilderFlag, "FP16"):
        pytest.skip("this version of TensorRT takes the precision from the network alone")
    engines = [deserialize(blob, "tiny") for blob in engines_of(is_hwc8=is_half)]
    boundaries = HWC8 if is_half else LINEAR
    with (
        Scratch(engines) as scratch,
        bind(engines, SEGMENTS, GRAPH, boundaries, "tiny", scratch, stream) as buffers,
    ):
        for seed in range(3):
            x = random_x(seed)
            written(buffers, x)
            for idx in range(2):
                buffers.launch(idx, stream)
            stream.synchronize()
            check(buffers.read_outputs(), x, is_half=is_half)


def test_both_priorities_give_the_same_bits(loaded: tuple[TrtDevice, TrtNetwork]) -> None:
    device, network = loaded
    buffers = network.new_buffers()
    x = random_x(1)
    outputs = []
    for is_urgent in (False, True, False):
        written(buffers, x)
        outputs.append(run(device, buffers, is_urgent=is_urgent))
    check(outputs[0], x)
    for other in outputs[1:]:
        for name, array in outputs[0].items():
            assert np.array_equal(array, other[name])
    buffers.close()


def test_jobs_in_flight_on_both_streams_do_not_disturb_each_other(
    loaded: tuple[TrtDevice, TrtNetwork],
) -> None:
    device, network = loaded
    both = [network.new_buffers(), network.new_buffers()]
    for round_idx in range(20):
        xs = [random_x(2 * round_idx), random_x(2 * round_idx + 1)]
        for buffers, x in zip(both, xs, strict=True):
            written(buffers, x)
        for idx in range(2):
            for urgency, buffers in enumerate(both):
                device.launch(buffers, idx, is_urgent=bool(urgency))
        device.wait()
        for buffers, x in zip(both, xs, strict=True):
            check(buffers.read_outputs(), x)
    for buffers in both:
        buffers.close()


def test_a_job_may_change_streams_between_segments(loaded: tuple[TrtDevice, TrtNetwork]) -> None:
    device, network = loaded
    buffers = network.new_buffers()
    for seed in range(20):
        x = random_x(seed)
        written(buffers, x)
        device.launch(buffers, 0, is_urgent=seed % 2 == 0)
        device.launch(buffers, 1, is_urgent=seed % 2 == 1)
        device.wait()
        check(buffers.read_outputs(), x)
    buffers.close()


class Interface:
    """Something with a `__cuda_array_interface__` over device memory."""

    def __init__(self, memory: DeviceMemory, stream: Stream | None = None) -> None:
        self.__cuda_array_interface__ = {
            "shape": SHAPE,
            "typestr": "<f4",
            "data": (memory.pointer, False),
            "strides": None,
            "stream": None if stream is None else stream.handle,
            "version": 3,
        }


def test_device_inputs_and_outputs_need_no_host(loaded: tuple[TrtDevice, TrtNetwork]) -> None:
    device, network = loaded
    buffers = network.new_buffers()
    x = random_x(5)
    with (
        Stream(priority="low") as producer,
        DeviceMemory(x.nbytes) as memory,
        PinnedMemory(x.nbytes) as pinned,
    ):
        pinned.array[:] = x.reshape(-1).view(np.uint8)
        copy_async(memory.pointer, pinned.pointer, x.nbytes, producer)
        written(buffers, Interface(memory, producer))
        outputs = run(device, buffers, is_urgent=True)
        check(outputs, x)
        y = buffers.outputs_on_device()["y"]
        copy_async(memory.pointer, y.__cuda_array_interface__["data"][0], x.nbytes, producer)
        producer.synchronize()
        written(buffers, Interface(memory))
        check(run(device, buffers, is_urgent=False), outputs["y"])
        written(buffers, x)
        check(run(device, buffers, is_urgent=False), x)
    buffers.close()


@pytest.mark.parametrize("library_name", ["torch", "cupy"])
def test_arrays_of_other_libraries_go_in(
    loaded: tuple[TrtDevice, TrtNetwork], library_name: str
) -> None:
    other = pytest.importorskip(library_name)
    device, network = loaded
    buffers = network.new_buffers()
    x = random_x(6)
    written(buffers, other.asarray(x).cuda() if library_name == "torch" else other.asarray(x))
    check(run(device, buffers, is_urgent=True), x)
    buffers.close()


def test_another_thread_can_run_and_close(loaded: tuple[TrtDevice, TrtNetwork]) -> None:
    device, network = loaded
    x, found = random_x(8), []

    def work() -> None:
        buffers = network.new_buffers()
        written(buffers, x)
        found.append(run(device, buffers, is_urgent=True))
        buffers.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    check(found[0], x)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_executor_runs_two_tasks(loaded: tuple[TrtDevice, TrtNetwork], depth: int) -> None:
    device, network = loaded
    with Executor(device, FixedPriority(), MonotonicClock(), depth=depth) as executor:
        executor.add_task(Task(name="urgent", network=network, priority=1))
        executor.add_task(Task(name="other", network=network))
        xs = [random_x(seed) for seed in range(20)]
        names = ["urgent" if seed % 3 == 0 else "other" for seed in range(20)]
        handles = [executor.submit(name, {"x": x}) for name, x in zip(names, xs, strict=True)]
        executor.run()
        for handle, x in zip(handles, xs, strict=True):
            check(handle.result(), x)


def test_callables_get_the_stream(loaded: tuple[TrtDevice, TrtNetwork]) -> None:
    device, network = loaded
    x = random_x(9)
    seen: list[tuple[str, int]] = []

    def pre(inputs: Any, stream: Any) -> Any:
        with DeviceMemory(1 << 20) as left, DeviceMemory(1 << 20) as right:
            copy_async(left.pointer, right.pointer, 1 << 20, stream)
            stream.synchronize()
        seen.append((stream.priority, stream.handle))
        return inputs

    with Executor(device, FixedPriority(), MonotonicClock()) as executor:
        executor.add_task(Task(name="urgent", network=network, priority=1, pre=pre))
        handle = executor.submit("urgent", {"x": x})
        executor.run()
        check(handle.result(), x)
    assert seen == [("high", device.stream(is_urgent=True).handle)]
    device.wait()


# What is refused, and that the process goes on


def goes_on() -> None:
    with open_cuda(), Stream(priority="low") as stream:
        engines = [deserialize(blob, "tiny") for blob in engines_of(is_hwc8=False)]
        with (
            Scratch(engines) as scratch,
            bind(engines, SEGMENTS, GRAPH, LINEAR, "tiny", scratch, stream) as buffers,
        ):
            x = random_x(4)
            written(buffers, x)
            for idx in range(2):
                buffers.launch(idx, stream)
            stream.synchronize()
            check(buffers.read_outputs(), x)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_engine_is_refused(tmp_path: Path, keep: float) -> None:
    first, second = engines_of(is_hwc8=False)
    num_bytes = int(keep if keep >= 1 else keep * len(second))
    bundle = write_bundle(tmp_path / "tiny.bundle", [first, second[:num_bytes]])
    device = TrtDevice()
    with pytest.raises(DeviceError, match=r"tiny.bundle: engines/.*001.engine: TensorRT refused"):
        device.load(bundle)
    device.close()
    goes_on()


def test_a_damaged_engine_is_refused_before_tensorrt_sees_it(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny.bundle", engines_of(is_hwc8=False))
    path = bundle.root / bundle.manifest.plans[0].segments[0].path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    device = TrtDevice()
    with pytest.raises(BundleError, match="the manifest says"):
        device.load(bundle)
    device.close()


@pytest.mark.parametrize(
    ("field", "value"), [("tensorrt", "8.5.0"), ("gpu", "Orin"), ("num_sms", 1)]
)
def test_an_engine_of_another_machine_is_refused(
    tmp_path: Path, field: str, value: str | int
) -> None:
    bundle = write_bundle(
        tmp_path / "tiny.bundle",
        engines_of(is_hwc8=False),
        fields={**local_fields(), field: value},
    )
    device = TrtDevice()
    with pytest.raises(BundleError, match=f"{field}: bundle has {value!r}, this machine"):
        device.load(bundle)
    device.close()


def test_too_much_device_memory_is_refused(context: CudaContext) -> None:
    with pytest.raises(DeviceError, match=r"CUDA_ERROR_OUT_OF_MEMORY .*; run fewer or smaller"):
        DeviceMemory(2 * context.total_bytes)
    goes_on()


def test_buffers_that_do_not_fit_leave_nothing_behind(context: CudaContext, stream: Stream) -> None:
    engines = [deserialize(blob, "tiny") for blob in engines_of(is_hwc8=False)]
    huge = TensorSpec(name="b", dtype="float32", shape=(context.total_bytes // 4 + 1,))
    with Scratch(engines) as scratch:
        before = context.free_bytes()
        with pytest.raises(DeviceError, match=r"^tiny: tensor 'b': no device memory for"):
            bind(engines, SEGMENTS, GRAPH, (huge,), "tiny", scratch, stream)
        assert context.free_bytes() >= before - (4 << 20)
    goes_on()


def test_closing_gives_the_memory_back(context: CudaContext) -> None:
    goes_on()
    gc.collect()
    before = context.free_bytes()
    for _ in range(5):
        goes_on()
    gc.collect()
    assert context.free_bytes() >= before - (32 << 20)


def test_a_device_can_be_opened_again(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny.bundle", engines_of(is_hwc8=False))
    for seed in range(3):
        device = TrtDevice()
        network = device.load(bundle)
        buffers = network.new_buffers()
        x = random_x(seed)
        written(buffers, x)
        check(run(device, buffers, is_urgent=bool(seed % 2)), x)
        for _ in range(2):
            buffers.close()
            network.close()
            device.close()
