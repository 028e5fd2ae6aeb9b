"""What TensorRT and the GPU are here, and engines from bytes: on fakes."""

import logging
import sys
import types

import pytest

from preempt_runtime.backends import cuda_driver
from preempt_runtime.backends.tensorrt import (
    EngineLogger,
    deserialize,
    library,
    library_version,
    local_fields,
)
from preempt_runtime.errors import DeviceError
from preempt_runtime.loading import open_backend
from tests.runtime.fake_cuda import NO_DEVICE
from tests.runtime.fake_tensorrt import FakeTensorRT, Severity, blob_of
from tests.runtime.tensorrt_world import FIELDS, install, tensor

BLOB = blob_of([tensor("x")], [tensor("y")])


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return install(monkeypatch)


def test_the_key_says_what_this_machine_is(trt: FakeTensorRT) -> None:
    assert library() is trt.module
    assert library_version() == "8.6.1"
    assert local_fields() == FIELDS
    assert local_fields() is local_fields()
    assert open_backend("tensorrt").key_fields() == FIELDS
    assert trt.driver.open == {}


@pytest.mark.usefixtures("trt")
def test_without_tensorrt_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for ask in (library, library_version, local_fields):
        with pytest.raises(DeviceError, match=r"apt install python3-libnvinfer.*-site-packages"):
            ask()
        with pytest.raises(DeviceError, match="elsewhere `pip install tensorrt`"):
            ask()


@pytest.mark.usefixtures("trt")
def test_a_tensorrt_whose_libraries_are_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "tensorrt":
                raise OSError("libnvinfer.so.8: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(DeviceError, match=r"cannot be imported \(libnvinfer.so.8: cannot open"):
        library()


@pytest.mark.parametrize("version", ["8.5.2.2", "7.0.0", "8.5.10"])
def test_a_tensorrt_that_is_too_old_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    install(monkeypatch, version)
    with pytest.raises(DeviceError, match=f"TensorRT is {version}, at least 8.6 is needed; inst"):
        local_fields()


@pytest.mark.parametrize("version", ["8.6.0", "8.6.1", "10.0.0b6", "10.16.1.11", "11.4.0.106"])
def test_newer_ones_are_taken(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install(monkeypatch, version)
    assert local_fields()["tensorrt"] == version


@pytest.mark.usefixtures("trt")
def test_what_an_uninstall_left_is_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    with pytest.raises(DeviceError, match="TensorRT is broken, it has no version or no Runtime"):
        library()


def test_without_a_gpu_or_bindings_there_is_no_key(
    trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt.driver.failures["cuInit"] = NO_DEVICE
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(DeviceError, match=r"no usable NVIDIA GPU: .*; see whether `nvidia-smi`"):
        local_fields()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(
        DeviceError, match="; CUDA_VISIBLE_DEVICES is '-1', which may hide it: unset"
    ):
        local_fields()
    monkeypatch.setattr(cuda_driver, "driver", None)
    with pytest.raises(DeviceError, match="pip install 'cuda-bindings"):
        local_fields()


def test_an_engine_is_read(trt: FakeTensorRT) -> None:
    assert deserialize(BLOB, "a").num_io_tensors == 2
    deserialize(BLOB, "b")
    assert len(trt.loggers) == 1, "one runtime and one logger in a process"


@pytest.mark.usefixtures("trt")
def test_a_truncated_engine_is_refused_with_tensorrts_own_text() -> None:
    with pytest.raises(DeviceError) as caught:
        deserialize(BLOB[:-5], "net: engines/k/segment-000.engine")
    assert str(caught.value) == (
        "net: engines/k/segment-000.engine: TensorRT refused it (1: [stdArchiveReader.cpp::6]"
        " Error Code 1: bad); build the bundle again on this machine: preemptc build"
    )


def test_an_engine_without_memory_for_it_is_not_to_be_built_again(trt: FakeTensorRT) -> None:
    trt.has_no_memory = True
    with pytest.raises(DeviceError) as caught:
        deserialize(BLOB, "a")
    assert str(caught.value) == (
        "a: TensorRT refused it (1: [defaultAllocator.cpp] Cuda Runtime (out of memory);"
        " 2: [engine.cpp] Error Code 2: no further information);"
        " run fewer or smaller networks, or free what other processes hold"
    )
    trt.has_no_memory = False
    deserialize(BLOB, "a")
    with pytest.raises(DeviceError, match="build the bundle again"):
        deserialize(BLOB[:-5], "a")


@pytest.mark.usefixtures("trt")
def test_an_exception_of_the_bindings_is_told() -> None:
    with pytest.raises(DeviceError, match=r"^a: TensorRT refused it \(pybind11 says no; it gave"):
        deserialize(b'{"raise": 1}', "a")


@pytest.mark.usefixtures("trt")
def test_an_engine_with_auxiliary_streams_is_refused() -> None:
    blob = blob_of([tensor("x")], [tensor("y")], num_aux_streams=2)
    with pytest.raises(DeviceError, match=r"a: the engine uses 2 auxiliary streams.*allowed 0"):
        deserialize(blob, "a")


@pytest.mark.usefixtures("trt")
def test_the_logger_keeps_what_matters(caplog: pytest.LogCaptureFixture) -> None:
    logger = EngineLogger()
    assert logger is EngineLogger()
    assert logger.last_error == "it gave no reason"
    with caplog.at_level(logging.DEBUG):
        logger.log(Severity.ERROR, "first\n error")
        mark = logger.num_messages
        logger.log(Severity.VERBOSE, "chatter")
        logger.log(Severity.WARNING, "careful")
        logger.log(Severity.INFO, "so be it")
    assert logger.last_error == "first error"
    assert logger.error_since(mark) == logger.cause_since(mark) == "it gave no reason"
    assert logger.cause_since(0) == "first error"
    assert logger.messages_since(mark) == ("careful", "so be it")
    for text in ("why", "because", "of what"):
        logger.log(Severity.ERROR, text)
    assert logger.error_since(mark) == "of what"
    assert logger.cause_since(mark) == "why; of what"
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.INFO, logging.DEBUG, logging.INFO, logging.DEBUG]
