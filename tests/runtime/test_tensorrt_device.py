"""Networks of fake engines on a fake GPU: what runs, in which order, and what stays open."""

import ctypes
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from preempt_runtime.backends.cuda import CudaContext, DeviceMemory, Stream, open_cuda
from preempt_runtime.backends.tensorrt import (
    Scratch,
    TrtBuffers,
    TrtDevice,
    TrtNetwork,
    bind,
    deserialize,
    new_context,
)
from preempt_runtime.clock import MonotonicClock, VirtualClock
from preempt_runtime.device import Array
from preempt_runtime.errors import BundleError, DeviceError, InputError
from preempt_runtime.executor import Executor
from preempt_runtime.manifest import GraphSpec, TensorSpec
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task
from preempt_runtime.testing import graph_spec
from tests.runtime.fake_cuda import ILLEGAL_ADDRESS, INVALID_VALUE, OUT_OF_MEMORY
from tests.runtime.fake_tensorrt import FakeTensorRT, blob_of
from tests.runtime.tensorrt_world import (
    BOUNDARIES,
    FIELDS,
    GRAPH,
    SEGMENTS,
    blobs,
    expected,
    install,
    tensor,
    write_bundle,
)

X = np.arange(6, dtype=np.float32).reshape(2, 3)
SCALE = np.full(1, 0.5, np.float32)
INPUTS: dict[str, Array] = {"x": X, "scale": SCALE}


@pytest.fixture(params=["8.6.1"])
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    found = install(monkeypatch, request.param)
    yield found
    assert found.driver.open == {}, "left open"


every_version = pytest.mark.parametrize("trt", ["8.6.1", "10.0.1", "10.3.0"], indirect=True)


def world(
    tmp_path: Path, trt: FakeTensorRT, **changed: Any
) -> tuple[TrtDevice, TrtNetwork, TrtBuffers]:
    """A device with the bundle loaded and one job's buffers; the log is empty."""
    fields = {**FIELDS, "tensorrt": trt.module.__version__}
    device = TrtDevice()
    network = device.load(write_bundle(tmp_path / "net.bundle", fields, **changed))
    buffers = network.new_buffers()
    trt.driver.log.clear()
    return device, network, buffers


def close(device: TrtDevice, network: TrtNetwork, *buffers: TrtBuffers) -> None:
    """As an executor does; everything twice."""
    for _ in range(2):
        for each in buffers:
            each.close()
        network.close()
        device.close()


def run(device: TrtDevice, buffers: TrtBuffers, *, is_urgent: bool = False) -> dict[str, Array]:
    """One job from its first segment to its last."""
    for idx in range(len(buffers.graphs)):
        device.launch(buffers, idx, is_urgent=is_urgent)
        device.wait()
    return buffers.read_outputs()


def numbers(outputs: Mapping[str, Array]) -> dict[str, float]:
    return {name: float(array.flat[0]) for name, array in outputs.items()}


@every_version
def test_a_job_runs_and_its_outputs_are_the_callers(tmp_path: Path, trt: FakeTensorRT) -> None:
    device, network, buffers = world(tmp_path, trt)
    assert (device.name, network.name, len(network.segments)) == ("Testium 9000", "net.bundle", 3)
    buffers.write_inputs(INPUTS)
    outputs = run(device, buffers)
    assert numbers(outputs) == expected(15, 0.5)
    assert {n: (a.dtype.name, a.shape) for n, a in outputs.items()} == {
        "early": ("float32", (2,)),
        "y": ("float32", ()),
    }
    buffers.write_inputs({"x": X + 1, "scale": SCALE})
    assert numbers(run(device, buffers, is_urgent=True)) == expected(21, 0.5)
    assert numbers(outputs) == expected(15, 0.5), "not overwritten"
    close(device, network, buffers)


def test_inputs_are_copied_before_the_first_graph_and_outputs_after_the_last(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    device, network, buffers = world(tmp_path, trt)
    buffers.write_inputs(INPUTS)
    for idx in range(3):
        device.launch(buffers, idx, is_urgent=False)
    device.wait()
    assert trt.driver.log == [
        "low: copy 24",
        "low: copy 4",
        "low: engine +1",
        "low: event",
        "low: engine +10",
        "low: event",
        "low: engine +100",
        "low: copy 8",
        "low: copy 4",
        "low: event",
    ]
    assert [graph.num_nodes for graph in buffers.graphs] == [1, 1, 1]
    close(device, network, buffers)


def test_a_segment_on_the_other_stream_waits_for_the_one_before(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    device, network, buffers = world(tmp_path, trt)
    second = network.new_buffers()
    trt.driver.log.clear()
    device.launch(buffers, 1, is_urgent=False)
    device.launch(second, 1, is_urgent=True)  # another job, but the same scratch memory
    device.launch(buffers, 1, is_urgent=False)
    device.wait()
    device.launch(buffers, 1, is_urgent=True)  # after a wait there is nothing to wait for
    device.wait()
    assert trt.driver.log == [
        "low: engine +10",
        "low: event",
        "high: wait for event",
        "high: engine +10",
        "high: event",
        "low: wait for event",
        "low: engine +10",
        "low: event",
        "high: engine +10",
        "high: event",
    ]
    close(device, network, buffers, second)


def test_segments_of_other_networks_run_in_the_order_of_their_launches_too(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    device, network, buffers = world(tmp_path, trt)
    other = device.load(write_bundle(tmp_path / "other.bundle"))
    its_buffers = other.new_buffers()
    trt.driver.log.clear()
    device.launch(buffers, 1, is_urgent=False)
    device.launch(its_buffers, 1, is_urgent=True)
    device.wait()
    assert trt.driver.log[2:4] == ["high: wait for event", "high: engine +10"]
    its_buffers.close()
    other.close()
    close(device, network, buffers)


def test_the_oldest_segment_is_waited_for_by_its_own_event(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    device, network, buffers = world(tmp_path, trt)
    num_events = trt.driver.num_calls["cuEventCreate"]
    waited: list[int] = []
    query = trt.driver.cuEventQuery

    def watch(event: int) -> tuple[int]:
        waited.append(event)
        return query(event)

    trt.driver.cuEventQuery = watch  # type: ignore[method-assign]
    device.launch(buffers, 0, is_urgent=False)
    device.launch(buffers, 1, is_urgent=True)
    device.wait(2)
    assert waited == [], "both may be in flight"
    device.wait(1)
    assert len(waited) == 1
    device.launch(buffers, 2, is_urgent=True)
    device.wait(1)
    device.wait()
    first, second, third = waited
    assert (first != second, third) == (True, first), "used again once it was waited for"
    assert trt.driver.num_calls["cuEventCreate"] == num_events + 2
    device.wait()
    assert len(waited) == 3
    close(device, network, buffers)


def test_a_wait_covers_what_a_callable_enqueued(tmp_path: Path, trt: FakeTensorRT) -> None:
    device, network, buffers = world(tmp_path, trt)
    stream = device.stream(is_urgent=True)
    assert (stream.priority, stream.handle > 0) == ("high", True)
    trt.driver.current = 4711  # the callable used a context of its own
    trt.driver.enqueue(stream.handle, "resize", lambda: None)
    device.wait()
    assert trt.driver.log == ["high: resize", "high: event"]
    device.launch(buffers, 0, is_urgent=True)
    assert trt.driver.current != 4711
    device.wait()
    close(device, network, buffers)


def test_jobs_in_flight_share_engines_and_scratch(tmp_path: Path, trt: FakeTensorRT) -> None:
    device, network, first = world(tmp_path, trt)
    second = network.new_buffers()
    assert trt.events.count("deserialize") == 3
    assert trt.events.count("context without memory") == 6
    first.write_inputs(INPUTS)
    second.write_inputs({"x": X * 2, "scale": SCALE})
    for idx in range(3):
        device.launch(first, idx, is_urgent=False)
        device.launch(second, idx, is_urgent=False)
    device.wait()
    assert numbers(first.read_outputs()) == expected(15, 0.5)
    assert numbers(second.read_outputs()) == expected(30, 0.5)
    close(device, network, first, second)


@every_version
def test_scratch_is_the_largest_engines_and_given_as_each_version_wants(
    trt: FakeTensorRT,
) -> None:
    with open_cuda():
        engines = [deserialize(blob, "a") for blob in blobs()]
        with Scratch(engines) as scratch:
            assert (scratch.num_bytes, scratch.pointer % 256) == (3072, 0)
            new_context(engines[0], scratch)
        with Scratch([]) as empty:
            assert empty.num_bytes == 256
    version = trt.module.__version__
    assert (
        trt.events[3:]
        == {
            "8.6.1": ["context without memory", "device_memory ="],
            "10.0.1": ["context USER_MANAGED", "device_memory ="],
            "10.3.0": ["context USER_MANAGED", "set_device_memory 3072"],
        }[version]
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("tensorrt", "8.5.3"), ("gpu", "Orin"), ("cuda_driver", 12020), ("compute_capability", "9.0")],
)
def test_an_engine_of_another_machine_is_not_even_read(
    tmp_path: Path, trt: FakeTensorRT, field: str, value: str | int
) -> None:
    bundle = write_bundle(tmp_path / "net.bundle", {**FIELDS, field: value})
    with pytest.raises(BundleError, match=f"{field}: bundle has {value!r}, this machine"):
        _loaded(bundle)
    assert "deserialize" not in trt.events


def test_a_damaged_file_is_found_before_any_engine_is_read(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    bundle = write_bundle(tmp_path / "net.bundle")
    for path in (bundle.manifest.artefacts[2].path, bundle.manifest.artefacts[3].path):
        content = (bundle.root / path).read_bytes()
        (bundle.root / path).write_bytes(content[:-1] + b"?")
        with pytest.raises(BundleError, match=r"sha256 .* the manifest says"):
            _loaded(bundle)
        (bundle.root / path).write_bytes(content)
    assert "deserialize" not in trt.events


def test_a_plan_that_is_not_built_is_refused(tmp_path: Path, trt: FakeTensorRT) -> None:
    bundle = write_bundle(tmp_path / "net.bundle")
    plan = dataclasses.replace(bundle.manifest.plans[0], key=None)
    manifest = dataclasses.replace(bundle.manifest, plans=(plan,))
    with pytest.raises(BundleError, match="nothing is built for it yet"):
        _loaded(dataclasses.replace(bundle, manifest=manifest))
    assert trt.events == []


@pytest.mark.usefixtures("trt")
def test_a_truncated_engine_with_a_right_hash_leaves_nothing_open(tmp_path: Path) -> None:
    contents = [*blobs()[:2], blobs()[2][:-4]]
    bundle = write_bundle(tmp_path / "net.bundle", contents=contents)
    with pytest.raises(DeviceError, match=r"^net.bundle: engines/.*/segment-002.engine: TensorRT"):
        _loaded(bundle)


def _loaded(bundle: Any) -> None:
    device = TrtDevice()
    try:
        device.load(bundle)
    finally:
        device.close()


def test_a_device_that_does_not_open_leaves_nothing_open(trt: FakeTensorRT) -> None:
    trt.driver.failures_at["cuEventCreate", 2] = OUT_OF_MEMORY
    with pytest.raises(DeviceError, match="cuEventCreate failed: CUDA_ERROR_OUT_OF_MEMORY"):
        TrtDevice()


# Binding


@pytest.fixture
def context(trt: FakeTensorRT) -> Iterator[CudaContext]:
    with open_cuda() as context:
        yield context


def bound(
    contents: list[bytes] | None = None,
    graph: GraphSpec = GRAPH,
    segments: Any = SEGMENTS,
    boundaries: tuple[TensorSpec, ...] = BOUNDARIES,
) -> dict[str, Array]:
    """The outputs of one job of zeros in buffers bound to these engines."""
    engines = [deserialize(blob, "blob") for blob in contents or blobs()]
    with (
        Stream(priority="low") as stream,
        Scratch(engines) as scratch,
        bind(engines, segments, graph, boundaries, "net", scratch, stream) as buffers,
    ):
        for idx in range(len(segments)):
            buffers.launch(idx, stream)
        return buffers.read_outputs()


@pytest.mark.usefixtures("context")
def test_buffers_begin_with_zeros() -> None:
    assert numbers(bound()) == expected(0, 0)


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(
    ("function", "number", "text"),
    [
        ("cuMemAlloc", 4, r"^net: tensor 'early': no device memory for 8 B"),
        ("cuMemHostAlloc", 2, "^net: no pinned host memory for 4 B"),
        ("cuEventCreate", 1, "^net: cuEventCreate failed"),
        ("cuMemcpyAsync", 1, "^net: cuMemcpyAsync failed"),
        ("cuStreamSynchronize", 7, "^net: cuStreamSynchronize failed"),
        ("cuGraphInstantiate", 3, "^net: cuGraphInstantiate failed"),
        ("cuGraphUpload", 1, "^net: cuGraphUpload failed"),
    ],
)
def test_whatever_fails_while_binding_nothing_is_left(
    trt: FakeTensorRT, function: str, number: int, text: str
) -> None:
    trt.driver.failures_at[function, number] = OUT_OF_MEMORY
    with pytest.raises(DeviceError, match=text):
        bound()
    assert list(trt.driver.open.values()) == ["context"]
    trt.driver.failures_at.clear()
    assert numbers(bound()) == expected(0, 0), "and then it goes on"


@pytest.mark.usefixtures("context")
def test_out_of_device_memory_is_told_and_the_process_goes_on(trt: FakeTensorRT) -> None:
    trt.driver.memory_bytes = 3080
    with pytest.raises(DeviceError, match=r"^net: tensor '.*': no device memory for .*; run fewer"):
        bound()
    trt.driver.memory_bytes = 1 << 20
    assert numbers(bound()) == expected(0, 0)


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("has_no_contexts", r"^net: TensorRT made no execution context \(Cuda Runtime \(out of m"),
        ("refuses_address", r"^net: TensorRT refused the address of tensor '.*no such tensor\)"),
        ("refuses_capture", r"^net: segment 0: TensorRT could not enqueue it \(myelinGraphExec"),
    ],
)
def test_what_tensorrt_refuses_is_told_in_its_words(
    trt: FakeTensorRT, flag: str, text: str
) -> None:
    setattr(trt, flag, True)
    with pytest.raises(DeviceError, match=text):
        bound()
    setattr(trt, flag, False)
    assert numbers(bound()) == expected(0, 0)


@pytest.mark.usefixtures("context")
def test_a_segment_that_does_not_run_is_named(trt: FakeTensorRT) -> None:
    trt.fails_execution_of = 10
    with pytest.raises(DeviceError, match=r"^net: segment 1: TensorRT could not enqueue it"):
        bound()


def one_segment(
    dtype: str = "float32",
    shape: tuple[int, ...] = (4,),
    *,
    engine_dtype: str | None = None,
    engine_shape: tuple[int, ...] | None = None,
    vector: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Arguments of `bound` for one engine from `x` to `y`, which may differ from the graph."""
    graph = graph_spec(inputs=[tensor("x", dtype, shape)], outputs=[tensor("y", dtype, shape)])
    inner = (engine_dtype or dtype, engine_shape or shape)
    blob = blob_of([tensor("x", *inner)], [tensor("y", *inner)], vector=vector)
    return {
        "contents": [blob],
        "graph": graph,
        "segments": [(("x",), ("y",))],
        "boundaries": (),
    }


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (one_segment(engine_dtype="float16"), "tensor 'x': the engine has float16, the manifest"),
        (one_segment(engine_shape=(5,)), r"the engine needs 20 B for \[5\], the manifest gives 16"),
        (one_segment(engine_shape=(-1,)), r"the engine's shape \[-1\] is dynamic"),
        (one_segment(shape=(1, 3), vector={"x": (8, 1)}), r"the engine needs 32 B for \[1, 3\]"),
        (
            {**one_segment(), "segments": [(("x",), ("z",))]},
            r"the engine has outputs \['y'\], its segment \['z'\]",
        ),
        (
            {**one_segment(), "graph": graph_spec(inputs=[tensor("other")])},
            "tensor 'x' is not described",
        ),
    ],
)
def test_an_engine_that_is_not_what_the_manifest_says_is_refused(
    arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(DeviceError, match=f"^net: .*{text}.*compile the"):
        bound(**arguments)


@pytest.mark.usefixtures("context")
def test_a_padded_boundary_has_the_room_that_its_layout_needs() -> None:
    x, padded = tensor("x", shape=(4,)), tensor("b", "float16", (1, 8))
    inner = tensor("b", "float16", (1, 3))
    layout = {"b": (8, 1)}
    outputs = bound(
        [blob_of([x], [inner], vector=layout), blob_of([inner], [tensor("y")], vector=layout)],
        graph_spec(inputs=[x], outputs=[tensor("y")]),
        [(("x",), ("b",)), (("b",), ("y",))],
        (padded,),
    )
    assert numbers(outputs) == {"y": 4.0}


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(
    ("form", "vector", "stored", "needed"),
    [
        ("HWC8", 8, (1, 2, 2, 40), "320 B"),
        ("CHW32", 32, (1, 2, 2, 2, 32), "512 B"),
        ("CHW2", 2, (1, 17, 2, 2, 2), "272 B"),
        ("HWC", 1, (1, 2, 2, 33), "264 B"),
    ],
)
def test_vectorised_boundaries_need_what_their_padding_takes(
    form: str, vector: int, stored: tuple[int, ...], needed: str
) -> None:
    x, inner = tensor("x", shape=(4,)), tensor("b", "float16", (1, 33, 2, 2))
    how: dict[str, Any] = {"vector": {"b": (vector, 1)}, "formats": {"b": form}}
    contents = [blob_of([x], [inner], **how), blob_of([inner], [tensor("y")], **how)]
    graph = graph_spec(inputs=[x], outputs=[tensor("y")])
    segments = [(("x",), ("b",)), (("b",), ("y",))]
    assert bound(contents, graph, segments, (tensor("b", "float16", stored),))
    short = (*stored[:-1], stored[-1] - 1)
    with pytest.raises(DeviceError, match=rf"'b': the engine needs {needed} for .*compile the"):
        bound(contents, graph, segments, (tensor("b", "float16", short),))


@pytest.mark.usefixtures("context")
def test_neighbours_that_disagree_on_a_format_are_refused() -> None:
    x, inner = tensor("x", shape=(4,)), tensor("b", "float16", (1, 8, 2, 2))
    contents = [
        blob_of([x], [inner], formats={"b": "HWC8"}),
        blob_of([inner], [tensor("y")], formats={"b": "CHW2"}),
    ]
    graph = graph_spec(inputs=[x], outputs=[tensor("y")])
    segments = [(("x",), ("b",)), (("b",), ("y",))]
    text = "tensor 'b': this engine has the format CHW2, its neighbour or the host HWC8; compile"
    with pytest.raises(DeviceError, match=text):
        bound(contents, graph, segments, (inner,))


@pytest.mark.usefixtures("context")
def test_what_the_host_reads_must_be_linear() -> None:
    x = tensor("x", shape=(1, 8, 2, 2))
    contents = [blob_of([x], [tensor("y")], formats={"x": "HWC"})]
    with pytest.raises(DeviceError, match=r"'x': this engine has the format HWC, .* host LINEAR"):
        bound(contents, graph_spec(inputs=[x], outputs=[tensor("y")]), [(("x",), ("y",))], ())


@pytest.mark.usefixtures("context")
def test_int64_is_held_as_int32_where_tensorrt_has_no_other() -> None:
    arguments = one_segment("int64", engine_dtype="int32")
    engines = [deserialize(arguments["contents"][0], "a")]
    with (
        Stream(priority="low") as stream,
        Scratch(engines) as scratch,
        bind(
            engines, [(("x",), ("y",))], arguments["graph"], (), "net", scratch, stream
        ) as buffers,
    ):
        buffers.write_inputs({"x": np.array([1, -2, 3, 4], np.int64)})
        buffers.launch(0, stream)
        found = buffers.read_outputs()["y"]
        assert (found.dtype.name, found.tolist()) == ("int64", [7] * 4)
        with pytest.raises(
            InputError, match=r"input 'x': values from 0 to 2147483648, .* as int32"
        ):
            buffers.write_inputs({"x": np.array([0, 0, 0, 2**31], np.int64)})


@pytest.mark.usefixtures("context")
def test_bfloat16_needs_a_package_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(DeviceError, match="numpy has no bfloat16; `pip install ml_dtypes`"):
        bound(**one_segment("bfloat16"))


# Failures while running


def test_a_launch_that_fails_is_told_and_the_next_goes_on(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    device, network, buffers = world(tmp_path, trt)
    buffers.write_inputs(INPUTS)
    trt.driver.failures["cuGraphLaunch"] = INVALID_VALUE
    with pytest.raises(DeviceError) as caught:
        device.launch(buffers, 1, is_urgent=True)
    assert str(caught.value) == (
        "net.bundle: segment 1 could not be launched: cuGraphLaunch failed:"
        " CUDA_ERROR_INVALID_VALUE (invalid argument)"
    )
    device.wait()
    trt.driver.failures.clear()
    assert numbers(run(device, buffers)) == expected(15, 0.5)
    close(device, network, buffers)


def test_work_that_fails_shows_in_wait_and_all_can_be_closed(
    tmp_path: Path, trt: FakeTensorRT
) -> None:
    device, network, buffers = world(tmp_path, trt)
    device.launch(buffers, 0, is_urgent=True)
    device.launch(buffers, 1, is_urgent=False)
    trt.driver.failures["cuEventQuery"] = ILLEGAL_ADDRESS
    with pytest.raises(DeviceError) as caught:
        device.wait()
    assert str(caught.value) == (
        "Testium 9000: launched work failed: cuEventQuery failed: CUDA_ERROR_ILLEGAL_ADDRESS"
        " (an illegal memory access was encountered); if this repeats, start the process again"
    )
    device.wait()  # nothing is left to wait for
    close(device, network, buffers)


def test_other_threads_use_the_same_context(
    tmp_path: Path, trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, network, buffers = world(tmp_path, trt)
    number = trt.driver.num_calls["cuCtxSetCurrent"]
    device.launch(buffers, 0, is_urgent=False)
    device.launch(buffers, 1, is_urgent=False)
    assert trt.driver.num_calls["cuCtxSetCurrent"] == number + 1, "once for a thread"
    monkeypatch.setattr("threading.get_ident", lambda: -1)
    device.launch(buffers, 2, is_urgent=False)
    assert trt.driver.num_calls["cuCtxSetCurrent"] == number + 2
    device.wait()
    close(device, network, buffers)


# Arrays in device memory


class Interface:
    """Something with a `__cuda_array_interface__` over memory that somebody else owns."""

    def __init__(self, memory: DeviceMemory, array: Array, **changed: Any) -> None:
        ctypes.memmove(memory.pointer, array.ctypes.data, array.nbytes)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (memory.pointer, False),
            "version": 3,
            **changed,
        }


class DLPack:
    """A host array that says by DLPack that it lies on the GPU."""

    def __init__(self, array: Array) -> None:
        self.array = array
        self.asked: list[int] = []

    def __dlpack__(self, *, stream: int) -> Any:
        self.asked.append(stream)
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


def written(buffers: TrtBuffers, inputs: Mapping[str, object]) -> None:
    buffers.write_inputs(cast("Mapping[str, Array]", inputs))


def test_device_inputs_are_copied_where_they_are(tmp_path: Path, trt: FakeTensorRT) -> None:
    device, network, buffers = world(tmp_path, trt)
    with DeviceMemory(24) as memory:
        written(buffers, {"x": Interface(memory, X + 2), "scale": SCALE})
        assert numbers(run(device, buffers)) == expected(27, 0.5)
        assert trt.driver.log[:3] == ["low: copy 24", "low: copy 4", "low: engine +1"]
        trt.driver.log.clear()
        written(buffers, {"x": Interface(memory, X + 3, stream=7), "scale": SCALE})
        assert numbers(run(device, buffers, is_urgent=True)) == expected(33, 0.5)
        assert trt.driver.log[:3] == ["7: event", "high: wait for event", "high: copy 24"]
        buffers.write_inputs(INPUTS)
        assert numbers(run(device, buffers)) == expected(15, 0.5), "host arrays again"
    close(device, network, buffers)


def test_dlpack_is_taken_and_its_owner_orders_it(tmp_path: Path, trt: FakeTensorRT) -> None:
    device, network, buffers = world(tmp_path, trt)
    packed = DLPack(X + 1)
    written(buffers, {"x": packed, "scale": SCALE})
    assert packed.asked == [1], "the legacy default stream"
    assert numbers(run(device, buffers)) == expected(21, 0.5)
    assert trt.driver.log[:2] == ["1: event", "low: wait for event"]
    close(device, network, buffers)


def test_outputs_can_be_used_on_the_device(tmp_path: Path, trt: FakeTensorRT) -> None:
    device, network, buffers = world(tmp_path, trt)
    buffers.write_inputs(INPUTS)
    run(device, buffers)
    outputs = buffers.outputs_on_device()
    interface = outputs["early"].__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["strides"]) == ((2,), "<f4", None)
    found = (ctypes.c_float * 2).from_address(interface["data"][0])
    assert list(found) == [expected(15, 0.5)["early"]] * 2
    written(buffers, {"x": X, "scale": _shaped(outputs["y"], (1,))})
    assert numbers(run(device, buffers)) == expected(15, expected(15, 0.5)["y"])
    close(device, network, buffers)


def _shaped(array: Any, shape: tuple[int, ...]) -> Any:
    return dataclasses.replace(array, shape=shape)


@pytest.mark.parametrize(
    ("array", "changed", "text"),
    [
        (X.astype(np.float16), {}, r"found float16 \[2, 3\] in device memory, the device holds fl"),
        (X.reshape(3, 2), {}, r"found float32 \[3, 2\]"),
        (X, {"strides": (4, 8)}, r"strides \[4, 8\] of shape \[2, 3\] are not those of a dense"),
        (X, {"typestr": "nonsense"}, "unknown type 'nonsense'"),
        (X, {"data": (0, False)}, "its address in device memory is 0"),
        (X, {"typestr": "<V2"}, "found bfloat16"),
    ],
)
def test_device_inputs_that_do_not_fit_are_refused(
    tmp_path: Path, trt: FakeTensorRT, array: Array, changed: dict[str, Any], text: str
) -> None:
    device, network, buffers = world(tmp_path, trt)
    with DeviceMemory(24) as memory, pytest.raises(InputError, match=f"^input 'x': .*{text}"):
        written(buffers, {"x": Interface(memory, array, **changed), "scale": SCALE})
    with pytest.raises(InputError, match="found list, expected a numpy array or one in device"):
        written(buffers, {"x": [1, 2], "scale": SCALE})
    close(device, network, buffers)


def test_dense_strides_are_dense(tmp_path: Path, trt: FakeTensorRT) -> None:
    device, network, buffers = world(tmp_path, trt)
    with DeviceMemory(24) as memory:
        written(buffers, {"x": Interface(memory, X, strides=(12, 4)), "scale": SCALE})
        assert numbers(run(device, buffers)) == expected(15, 0.5)
    close(device, network, buffers)


def test_a_dlpack_that_is_not_dense_is_refused(tmp_path: Path, trt: FakeTensorRT) -> None:
    device, network, buffers = world(tmp_path, trt)
    with pytest.raises(InputError, match=r"strides \[1, 2\] of shape \[2, 3\]"):
        written(buffers, {"x": DLPack(np.asfortranarray(X)), "scale": SCALE})
    with pytest.raises(InputError, match="found uint8"):
        written(buffers, {"x": DLPack(X.astype(np.uint8)), "scale": SCALE})
    close(device, network, buffers)


def test_the_executor_runs_it_like_any_device(tmp_path: Path, trt: FakeTensorRT) -> None:
    device = TrtDevice()
    network = device.load(write_bundle(tmp_path / "net.bundle"))
    with Executor(device, FixedPriority(), VirtualClock(), [], switch_interval_s=None) as executor:
        executor.add_task(Task(name="urgent", network=network, priority=1))
        executor.add_task(Task(name="other", network=network))
        trt.driver.log.clear()
        handles = [executor.submit(name, INPUTS) for name in ("other", "urgent")]
        executor.run()
        assert [numbers(handle.result()) for handle in handles] == [expected(15, 0.5)] * 2
    ran = [line for line in trt.driver.log if "engine" in line]
    assert ran == [f"{name}: engine +{n}" for name in ("high", "low") for n in (1, 10, 100)]
    network.close()
    with pytest.raises(InputError, match=r"^network 'net\.bundle' is closed; load it again$"):
        network.new_buffers()
    device.close()


def test_a_jobs_inputs_may_lie_on_the_device(tmp_path: Path, trt: FakeTensorRT) -> None:
    device, network, buffers = world(tmp_path, trt)
    buffers.close()
    with (
        DeviceMemory(24) as memory,
        DeviceMemory(24) as other,
        Executor(device, FixedPriority(), MonotonicClock()) as executor,
    ):
        executor.add_task(Task(name="net", network=network, priority=1))
        inputs = {"x": Interface(memory, X + 2), "scale": SCALE}
        handle = executor.submit("net", cast("Mapping[str, Array]", inputs))
        wrong = {"x": Interface(other, X[:1]), "scale": SCALE}
        refused = executor.submit("net", cast("Mapping[str, Array]", wrong))
        executor.run()
        assert numbers(handle.result(timeout=0)) == expected(27, 0.5)
        with pytest.raises(InputError, match=r"input 'x': found float32 \[1, 3\] in device memory"):
            refused.result(timeout=0)
    close(device, network)
