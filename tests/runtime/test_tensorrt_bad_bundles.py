"""Bundles with something false in them on a fake TensorRT: what `preempt-rt run` says."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from preempt_runtime import cli
from preempt_runtime.bundle import open_bundle
from tests.gpu import bad_bundles
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.tensorrt_world import install, write_bundle


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    found = install(monkeypatch)
    yield found
    assert found.driver.open == {}, "left open"


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "net.bundle").root


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    def run(bundle: Path) -> str:
        taskset = bad_bundles.taskset_of(bundle, tmp_path)
        assert cli.main(["run", str(taskset), "--duration", "1ms"]) == 1
        stdout, stderr = capsys.readouterr()
        (line,) = stderr.splitlines()
        assert stdout == ""
        return line

    return run


ENGINES: Mapping[str, Callable[[bytes], bytes]] = {
    "truncated": lambda engine: engine[: len(engine) // 2],
    "empty": lambda engine: b"",
    "random": lambda engine: bytes(range(256)) * 4,
}


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("what", ENGINES)
def test_an_engine_that_only_its_hash_vouches_for(
    sound: Path, tmp_path: Path, refused: Callable[[Path], str], what: str
) -> None:
    path = bad_bundles.with_engine(sound, tmp_path / "bad.bundle", ENGINES[what])
    segment = open_bundle(path).manifest.plans[0].segments[0].path
    line = refused(path)
    assert line.startswith(
        f"preempt-rt: error: bad.bundle: {segment}: TensorRT refused it (1: [std"
    )
    assert line.endswith("; build the bundle again on this machine: preemptc build")


def test_a_bundle_of_another_machine_names_each_field_and_is_not_read(
    trt: FakeTensorRT, sound: Path, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    path = bad_bundles.with_key_fields(sound, tmp_path / "bad.bundle", gpu="Other", num_sms=2)
    line = refused(path)
    assert (
        "gpu: bundle has 'Other', this machine 'Testium 9000'; num_sms: bundle has 2, this" in line
    )
    assert "tensorrt:" not in line
    assert trt.events == []


def test_a_forged_key_is_not_read(
    trt: FakeTensorRT, sound: Path, tmp_path: Path, refused: Callable[[Path], str]
) -> None:
    path = bad_bundles.with_forged_key(sound, tmp_path / "bad.bundle", gpu="Other")
    assert "is not the hash of its fields" in refused(path)
    assert trt.events == []


def test_a_device_without_memory(
    trt: FakeTensorRT, sound: Path, refused: Callable[[Path], str]
) -> None:
    trt.driver.memory_bytes = 0
    line = refused(sound)
    assert "no device memory for" in line
    assert line.endswith("; run fewer or smaller networks, or free what other processes hold")
