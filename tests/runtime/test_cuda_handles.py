"""CUDA's handles on a fake driver: what it refuses is told, and nothing stays open."""

import logging
import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from preempt_runtime.backends import cuda, cuda_driver
from preempt_runtime.errors import DeviceError
from tests.runtime.fake_cuda import (
    ILLEGAL_ADDRESS,
    INVALID_VALUE,
    NO_DEVICE,
    OUT_OF_MEMORY,
    FakeDriver,
)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    fake = FakeDriver()
    monkeypatch.setattr(cuda_driver, "driver", fake)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    yield fake
    assert fake.open == {}, "left open"


@pytest.fixture
def context(driver: FakeDriver) -> Iterator[cuda.CudaContext]:
    with cuda.open_cuda() as context:
        yield context


def test_the_context_says_what_the_gpu_is(context: cuda.CudaContext) -> None:
    assert (context.name, context.num_sms, context.compute_capability) == (
        "Testium 9000",
        14,
        "8.7",
    )
    assert not context.is_integrated
    assert context.total_bytes == context.free_bytes() == 1 << 20
    assert cuda.driver_version() == 12060


def test_asking_what_the_gpu_is_makes_no_context(driver: FakeDriver) -> None:
    assert cuda.gpu_properties().num_sms == 14
    assert "cuDevicePrimaryCtxRetain" not in driver.num_calls


def test_a_gpu_that_gives_no_context_is_told(driver: FakeDriver) -> None:
    driver.failures["cuDevicePrimaryCtxRetain"] = OUT_OF_MEMORY
    with pytest.raises(DeviceError) as caught:
        cuda.open_cuda()
    assert str(caught.value) == (
        "Testium 9000: no CUDA context: cuDevicePrimaryCtxRetain failed: CUDA_ERROR_OUT_OF_MEMORY"
        " (out of memory); see with `nvidia-smi` which processes hold its memory, and whether it"
        " may be shared"
    )


def test_hardware_queues_are_asked_for_unless_the_user_did(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "4")
    cuda.open_cuda().close()
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "4"
    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS")
    cuda.open_cuda().close()
    assert os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] == "32"


def test_without_bindings_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "driver", None)
    for ask in (cuda.open_cuda, cuda.driver_version, cuda.gpu_properties):
        with pytest.raises(
            DeviceError, match=r"cuda-bindings is missing .*>=12\.9\.1,<13'` for CUDA 12"
        ):
            ask()


def test_without_a_gpu_it_says_what_to_do(driver: FakeDriver) -> None:
    driver.failures["cuInit"] = NO_DEVICE
    with pytest.raises(DeviceError) as caught:
        cuda.open_cuda()
    assert str(caught.value) == (
        "no usable NVIDIA GPU: cuInit failed: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is"
        " detected); see whether `nvidia-smi` shows a GPU; install NVIDIA's driver or, in a"
        " container, start it with access to the GPU"
    )


def test_without_a_driver_it_says_what_the_bindings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver:
        def cuInit(self, flags: int) -> None:
            raise RuntimeError('"cuda" is an NVIDIA driver library\nand cannot be found')

    monkeypatch.setattr(cuda_driver, "driver", NoDriver())
    with pytest.raises(DeviceError, match=r"^no usable NVIDIA GPU: cuInit: .* library and cannot"):
        cuda.open_cuda()


def test_a_context_that_cannot_be_made_current_is_given_back(driver: FakeDriver) -> None:
    driver.failures["cuCtxSetCurrent"] = ILLEGAL_ADDRESS
    with pytest.raises(DeviceError, match="cuCtxSetCurrent failed: CUDA_ERROR_ILLEGAL_ADDRESS"):
        cuda.open_cuda()
    assert driver.open == {}


def test_what_was_current_before_is_current_again(driver: FakeDriver) -> None:
    driver.current = 77
    with cuda.open_cuda() as context:
        assert driver.current != 77
        context.close()
        assert driver.current == 77


def test_another_thread_can_close_what_this_one_made(
    driver: FakeDriver, context: cuda.CudaContext
) -> None:
    memory = cuda.DeviceMemory(8)
    home, driver.current = driver.current, 0  # such as in a new thread
    memory.close()
    assert driver.current == home


@pytest.mark.usefixtures("context")
def test_streams_have_the_extreme_priorities(driver: FakeDriver) -> None:
    with cuda.Stream(priority="high") as high, cuda.Stream(priority="low") as low:
        with cuda.DeviceMemory(8) as memory:
            for stream in (high, low):
                cuda.copy_async(memory.pointer, memory.pointer, 8, stream)
                assert stream.__cuda_stream__() == (0, stream.handle)
        high.synchronize()
    assert driver.log == ["high: copy 8", "low: copy 8"]


@pytest.mark.usefixtures("context")
def test_a_short_wait_is_polled_and_a_long_one_left_to_the_driver(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cuda.Stream(priority="high") as stream, cuda.Event(timing=True) as event:
        event.record(stream)
        driver.queries_until_done = 3
        assert not event.is_done()
        event.wait()
        assert driver.queries_until_done < 0
        assert "synchronize event" not in driver.log
        driver.queries_until_done = 10**9
        monkeypatch.setattr(cuda, "_SPIN_NS", 0)
        event.wait()
        assert driver.log[-1] == "synchronize event"
        assert event.elapsed_ns(event) == 1_500_000


@pytest.mark.usefixtures("context")
def test_failed_work_shows_at_the_event(driver: FakeDriver) -> None:
    with cuda.Event(timing=False) as event:
        driver.failures["cuEventQuery"] = ILLEGAL_ADDRESS
        for ask in (event.is_done, event.wait):
            with pytest.raises(DeviceError, match="cuEventQuery failed: CUDA_ERROR_ILLEGAL_ADDR"):
                ask()


@pytest.mark.usefixtures("context")
def test_memory_is_filled_and_copied_through_pinned_memory() -> None:
    with (
        cuda.Stream(priority="low") as stream,
        cuda.DeviceMemory(16) as memory,
        cuda.PinnedMemory(16) as pinned,
    ):
        memory.fill(7)
        cuda.copy_async(pinned.pointer, memory.pointer, 16, stream)
        stream.synchronize()
        assert pinned.array.tolist() == [7] * 16
        assert pinned.array.dtype == np.uint8


@pytest.mark.usefixtures("context")
def test_nothing_is_memory_too(driver: FakeDriver) -> None:
    with (
        cuda.Stream(priority="low") as stream,
        cuda.DeviceMemory(0) as memory,
        cuda.PinnedMemory(0) as pinned,
    ):
        memory.fill(1)
        cuda.copy_async(memory.pointer, pinned.pointer, 0, stream)
        assert pinned.array.shape == (0,)
    assert driver.log == []


@pytest.mark.usefixtures("context")
def test_too_much_memory_is_refused_and_the_rest_goes_on() -> None:
    with pytest.raises(DeviceError) as caught:
        cuda.DeviceMemory(2 << 20)
    assert str(caught.value) == (
        "no device memory for 2 MiB (cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY (out of memory));"
        " run fewer or smaller networks, or free what other processes hold"
    )
    cuda.DeviceMemory(1 << 19).close()


@pytest.mark.usefixtures("context")
def test_pinned_memory_can_be_refused(driver: FakeDriver) -> None:
    driver.failures["cuMemHostAlloc"] = OUT_OF_MEMORY
    with pytest.raises(DeviceError, match=r"^no pinned host memory for 8 B"):
        cuda.PinnedMemory(8)


@pytest.mark.usefixtures("context")
def test_a_graph_is_captured_and_runs_when_launched(driver: FakeDriver) -> None:
    with (
        cuda.Stream(priority="low") as stream,
        cuda.Stream(priority="high") as other,
        cuda.DeviceMemory(4) as left,
        cuda.DeviceMemory(4) as right,
    ):

        def copy_twice() -> None:
            cuda.copy_async(right.pointer, left.pointer, 4, stream)
            cuda.copy_async(right.pointer, left.pointer, 3, stream)

        with cuda.capture(stream, copy_twice) as graph:
            assert "graph" not in driver.open.values()
            assert graph.num_nodes == 2
            graph.upload(stream)
            assert driver.log == []
            graph.launch(other)
            assert driver.log == ["high: copy 4", "high: copy 3"]


def _refuse() -> None:
    raise DeviceError("TensorRT could not enqueue it")


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("spoils_capture", [False, True])
def test_a_failed_capture_leaves_the_stream_usable(
    driver: FakeDriver, spoils_capture: bool
) -> None:
    with cuda.Stream(priority="low") as stream:
        driver.spoils_capture = spoils_capture
        with pytest.raises(DeviceError, match=r"^TensorRT could not enqueue it$"):
            cuda.capture(stream, _refuse)
        driver.spoils_capture = False
        cuda.capture(stream, lambda: None).close()
        stream.synchronize()


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(
    ("function", "code", "text"),
    [
        ("cuStreamBeginCapture", INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"),
        ("cuGraphGetNodes", INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"),
        ("cuGraphInstantiate", OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"),
    ],
)
def test_each_step_of_a_capture_may_fail(
    driver: FakeDriver, function: str, code: int, text: str
) -> None:
    with cuda.Stream(priority="low") as stream:
        driver.failures[function] = code
        with pytest.raises(DeviceError, match=f"^{function} failed: {text}"):
            cuda.capture(stream, lambda: None)


@pytest.mark.usefixtures("context")
def test_what_cannot_be_captured_is_told_by_the_driver(driver: FakeDriver) -> None:
    with cuda.Stream(priority="low") as stream:
        driver.spoils_capture = True
        with pytest.raises(DeviceError, match="cuStreamEndCapture failed: CUDA_ERROR_STREAM_CAPT"):
            cuda.capture(stream, lambda: None)


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(
    ("make", "function"),
    [
        (lambda: cuda.Stream(priority="low"), "cuStreamDestroy"),
        (lambda: cuda.Event(timing=False), "cuEventDestroy"),
        (lambda: cuda.DeviceMemory(4), "cuMemFree"),
        (lambda: cuda.PinnedMemory(4), "cuMemFreeHost"),
    ],
)
def test_closing_never_raises_and_happens_once(
    driver: FakeDriver,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], cuda.Stream],
    function: str,
) -> None:
    handle = make()
    driver.failures_at[function, 1] = ILLEGAL_ADDRESS
    with caplog.at_level(logging.WARNING):
        handle.close()
        handle.close()
    (record,) = caplog.records
    assert f"{function} failed: CUDA_ERROR_ILLEGAL_ADDRESS" in record.message
    assert driver.num_calls[function] == 1
    getattr(driver, function)(handle._raw)  # the fake still has it


def test_a_function_that_the_driver_lacks_is_named(driver: FakeDriver) -> None:
    with pytest.raises(DeviceError, match=r"^cuNotYet: the CUDA driver cannot be called"):
        cuda_driver.call("cuNotYet")
