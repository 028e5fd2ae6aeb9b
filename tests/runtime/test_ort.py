"""ONNX Runtime's backend: what it refuses, in one line, and that its memory goes."""

import dataclasses
import weakref
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from preempt_runtime.backends.ort import OrtDevice, OrtNetwork, aligned_empty, bind, local_fields
from preempt_runtime.clock import VirtualClock
from preempt_runtime.errors import BundleError, DeviceError, InputError
from preempt_runtime.executor import Executor
from preempt_runtime.manifest import TensorSpec
from preempt_runtime.task import Task
from preempt_runtime.testing import graph_spec
from tests.runtime.fake_bundles import bundle_of, manifest_of


class RefusingSession:
    """A session that has none of the tensors asked for."""

    def io_binding(self) -> Any:
        raise RuntimeError("Failed to find\n  input name: x")


@pytest.mark.parametrize("threads", [None, "two", "2", 0, -1, 1025, 2**40])
def test_threads_that_cannot_be_are_refused(threads: str | int | None) -> None:
    manifest = manifest_of(fields=local_fields())
    key = manifest.plans[0].key
    assert key is not None
    fields = dict(local_fields())
    if threads is not None:
        fields["threads"] = threads
    bundle = bundle_of("a", dataclasses.replace(manifest, keys={key: fields}))
    with pytest.raises(BundleError) as caught:
        OrtDevice().load(bundle)
    assert str(caught.value) == (
        f"/bundles/a: key {key}: threads is {threads!r}, allowed 1 to 1024; compile it again"
    )


def test_a_dtype_that_numpy_lacks_is_refused() -> None:
    spec = TensorSpec(name="x", dtype="posit16", shape=(1,))
    with pytest.raises(DeviceError, match="tensor 'x': numpy has no posit16, so it cannot run"):
        aligned_empty(spec)


@pytest.mark.parametrize("size", [2**58, 2**61, 2**70])
def test_a_tensor_that_no_memory_holds_is_refused(size: int) -> None:
    graph = graph_spec(outputs=[TensorSpec(name="y", dtype="float32", shape=(size,))])
    with pytest.raises(DeviceError, match=r"^tensor 'y': no memory for its .*; run fewer or small"):
        bind([], [], graph, (), "net")


def test_a_session_that_refuses_its_tensors_is_told_in_one_line() -> None:
    with pytest.raises(DeviceError) as caught:
        bind([RefusingSession()], [(("x",), ("y",))], graph_spec(), (), "net")
    assert str(caught.value) == (
        "net: ONNX Runtime refused its tensors (Failed to find input name: x);"
        " compile the bundle again"
    )


def test_closed_buffers_hold_no_memory() -> None:
    buffers = bind([], [], graph_spec(), (), "net")
    buffers.write_inputs({"x": np.ones(1, np.float32)})
    kept = [weakref.ref(array) for array in buffers.arrays.values()]
    assert all(array() is not None for array in kept)
    buffers.close()
    buffers.close()
    assert [array() for array in kept] == [None, None]


def test_a_closed_network_is_called_so() -> None:
    plan = manifest_of().plans[0]
    network = OrtNetwork(name="net", graph=graph_spec(), plan=plan, sessions=())
    executor = Executor(OrtDevice(), "fifo", VirtualClock())
    with pytest.raises(InputError) as caught:
        executor.add_task(Task(name="t", network=network))
    assert str(caught.value) == "task 't': network 'net' is closed; load it again"
