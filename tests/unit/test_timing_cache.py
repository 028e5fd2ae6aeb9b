"""What TensorRT has timed goes from one process to the next, and no file can do harm."""

import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from preempt_runtime.errors import BuildError
from preemptc.backends import silent
from preemptc.backends.tensorrt import timing_cache
from preemptc.backends.tensorrt.build_watch import BuildWatch
from preemptc.backends.tensorrt.engine_builder import EngineBuilder, EngineOptions
from preemptc.backends.tensorrt.timing_cache import TimingFile
from tests.runtime.tensorrt_world import install
from tests.unit import onnx_models
from tests.unit.fake_trt_builder import FakeBuilder

OPTIONS = EngineOptions(precision="fp32", level=3)
FIELDS: dict[str, str | int] = {"tensorrt": "8.6.1", "gpu": "Testium 9000", "level": 3}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    return FakeBuilder(install(monkeypatch))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return onnx_models.save(onnx_models.chain(3), tmp_path / "net.onnx")


def file_of(root: Path, **changes: str | int) -> TimingFile:
    return TimingFile(root, {**FIELDS, **changes})


def build(root: Path, net: Path) -> bytes:
    """One build in a process of its own, as far as the timing cache can tell."""
    watch = BuildWatch("the network", 0.0, silent)
    return EngineBuilder(OPTIONS, file_of(root)).build(net, {}, watch)


def test_the_next_process_times_nothing_again(fake: FakeBuilder, net: Path, tmp_path: Path) -> None:
    blob = build(tmp_path, net)
    assert fake.num_timed == 6
    assert build(tmp_path, net) == blob
    assert fake.num_timed == 6
    assert [path.name for path in (tmp_path / "timing").rglob("*") if path.is_file()] == [
        "timing.cache"
    ]


@pytest.mark.parametrize("changed", [{"tensorrt": "8.6.2"}, {"gpu": "Other"}, {"level": 1}])
def test_other_surroundings_have_a_file_of_their_own(
    changed: dict[str, str | int], tmp_path: Path
) -> None:
    assert file_of(tmp_path, **changed).path != file_of(tmp_path).path


def _cut(content: bytes) -> bytes:
    return content[:-3]


def _flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _of_another_gpu(content: bytes) -> bytes:
    return content.replace(b"Testium 9000", b"Testium 9001")


def _of_another_version(content: bytes) -> bytes:
    return content.replace(b'"timing_cache": 1', b'"timing_cache": 2')


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_cut, "damaged"),
        (_flip, "damaged"),
        (lambda content: content[:40], "half of one"),
        (lambda content: b"", "half of one"),
        (lambda content: b"\x00\xff" * 5000, "half of one"),
        (lambda content: b"[1]\n" + content, "half of one"),
        (_of_another_gpu, "made for another gpu"),
        (_of_another_version, "of version 2, this program writes 1"),
    ],
)
def test_a_useless_file_is_ignored_with_one_line_and_replaced(
    damage: Callable[[bytes], bytes],
    text: str,
    fake: FakeBuilder,
    net: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    build(tmp_path, net)
    path = file_of(tmp_path).path
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    build(tmp_path, net)
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert text in record.getMessage()
    assert str(path) in record.getMessage()
    assert fake.num_timed == 12
    assert path.read_bytes() == sound
    build(tmp_path, net)
    assert fake.num_timed == 12


@pytest.mark.parametrize("odd", ["pipe", "endless", "loop"])
def test_what_is_no_file_is_replaced_unread(
    odd: str, fake: FakeBuilder, net: Path, tmp_path: Path
) -> None:
    path = file_of(tmp_path).path
    path.parent.mkdir(parents=True)
    if odd == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if odd == "endless" else path)
    build(tmp_path, net)
    build(tmp_path, net)
    assert fake.num_timed == 6


def test_names_in_a_file_cannot_write_to_the_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = TimingFile(tmp_path, {**FIELDS, "\x1b[31m\n": 1})
    file.write(b"")
    other = file_of(tmp_path)
    other.path.parent.mkdir(parents=True)
    other.path.write_bytes(file.path.read_bytes())
    assert other.read() == b""
    assert r"made for another \x1b[31m\n;" in caplog.text


def test_bytes_that_tensorrt_cannot_read_are_ignored(
    fake: FakeBuilder, net: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = file_of(tmp_path)
    with file.locked():
        file.write(b"no timing cache of TensorRT's")
    build(tmp_path, net)
    assert "TensorRT cannot read it" in caplog.text
    assert json.loads(file.read()) == {"timed": ["mm0", "mm1", "mm2", "relu0", "relu1", "relu2"]}


def test_a_cache_that_tensorrt_calls_foreign_is_ignored(
    fake: FakeBuilder, net: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(tmp_path, net)
    fake.is_foreign = True
    assert build(tmp_path, net)
    assert "of another device or version" in caplog.text
    assert fake.num_timed == 12


def test_where_reloaded_times_break_builds_each_process_begins_afresh(
    fake: FakeBuilder, net: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(tmp_path, net)
    fake.refuses_reloaded_times = True
    assert build(tmp_path, net)
    assert len(fake.builds) == 3, "once with the reloaded times, once without"
    assert "Myelin error from unknown graph" in caplog.text
    assert file_of(tmp_path).refusal == "Myelin error from unknown graph"
    caplog.clear()
    assert build(tmp_path, net)
    assert len(fake.builds) == 4, "not tried again"
    assert not [each for each in caplog.records if each.levelno == logging.WARNING]
    assert file_of(tmp_path).refusal is not None


def test_a_network_that_is_refused_anyway_costs_no_reloaded_times(
    fake: FakeBuilder, net: Path, tmp_path: Path
) -> None:
    build(tmp_path, net)
    fake.refused["mm1"] = "Error Code 10: no implementation for mm1"
    builder = EngineBuilder(OPTIONS, file_of(tmp_path))
    with pytest.raises(BuildError, match=r"^net.onnx: TensorRT builds no engine \(.*for mm1\)$"):
        builder.build(net, {}, BuildWatch("", 0.0, silent))
    assert len(fake.builds) == 3
    fake.refused.clear()
    assert builder.build(net, {}, BuildWatch("", 0.0, silent))
    assert fake.num_timed == 6
    assert file_of(tmp_path).refusal is None


def test_times_of_two_processes_are_joined(fake: FakeBuilder, net: Path, tmp_path: Path) -> None:
    other = onnx_models.save(onnx_models.chain(5), tmp_path / "other.onnx")
    builders = [EngineBuilder(OPTIONS, file_of(tmp_path)) for _ in range(2)]
    for builder, path in zip(builders, (other, net), strict=True):
        builder.build(path, {}, BuildWatch("", 0.0, silent))
    assert len(json.loads(file_of(tmp_path).read())["timed"]) == 10


def test_a_file_does_not_grow_without_end(
    fake: FakeBuilder, net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, net)
    path = file_of(tmp_path).path
    monkeypatch.setattr(timing_cache, "MAX_BYTES", 80)
    other = onnx_models.save(onnx_models.chain(9), tmp_path / "other.onnx")
    build(tmp_path, other)
    assert not path.exists(), "begun anew"
    build(tmp_path, onnx_models.save(onnx_models.chain(1), tmp_path / "small.onnx"))
    assert json.loads(file_of(tmp_path).read()) == {"timed": ["mm0", "relu0"]}


def test_a_place_that_cannot_be_written_costs_no_engine(
    fake: FakeBuilder, net: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "locks").write_text("a file in the way")
    assert build(tmp_path, net)
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "what TensorRT timed is not kept" in record.getMessage()


def test_what_a_killed_process_left_is_swept(fake: FakeBuilder, net: Path, tmp_path: Path) -> None:
    path = file_of(tmp_path).path
    path.parent.mkdir(parents=True)
    (path.parent / ".tmp-0123").write_bytes(b"half")
    build(tmp_path, net)
    assert [each.name for each in path.parent.iterdir()] == ["timing.cache"]


def _write_often(root: str, letter: str) -> None:
    file = file_of(Path(root))
    for idx in range(100):
        with file.locked():
            file.write(letter.encode() * (1000 + 100 * idx))


def test_writers_at_once_leave_a_whole_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(str(tmp_path), c)) for c in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        content = file_of(tmp_path).read()
        assert len(set(content)) <= 1, "of one writer"
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert not caplog.records
    assert len(file_of(tmp_path).read()) == 10_900
    header, _, payload = file_of(tmp_path).path.read_bytes().partition(b"\n")
    assert json.loads(header)["sha256"] == hashlib.sha256(payload).hexdigest()
