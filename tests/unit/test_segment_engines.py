"""Engines of segments beside the lowered graph: kept, refused for good, or damaged."""

import errno
import os
from pathlib import Path

import onnx
import pytest

from preempt_runtime.errors import BuildError
from preemptc.backends import silent
from preemptc.backends.tensorrt import segment_engines
from preemptc.backends.tensorrt.engine_builder import EngineBuilder, EngineOptions
from preemptc.backends.tensorrt.formats import ALL_LINEAR, LIKELIEST
from preemptc.backends.tensorrt.groups import FusedLayer
from preemptc.backends.tensorrt.lower import read_lowered, write_groups, write_typed_graph
from preemptc.backends.tensorrt.segment_engines import SegmentEngines
from preemptc.cache import BuildCache
from preemptc.load import load
from preemptc.model import Lowered
from preemptc.onnx_io.files import save_piece
from preemptc.segments import Segment, segments_from_split_points
from tests.runtime.tensorrt_world import install
from tests.unit import onnx_models
from tests.unit.fake_trt_builder import FakeBuilder


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    return FakeBuilder(install(monkeypatch))


def lowered_of(proto: onnx_models.Proto, tmp_path: Path) -> Lowered:
    """Every node a layer of its own but for Q and DQ, of which the engine names none."""
    source = onnx_models.save(proto, tmp_path / "net.onnx")
    model = load(source, {}, BuildCache(tmp_path / "cache"))
    folder = tmp_path / "lowered"
    folder.mkdir()
    typed = write_typed_graph(model, folder, "fp32", is_strongly_typed=False)
    names = [node.name for node in typed.graph.node if "Linear" not in node.op_type]
    write_groups(typed, [FusedLayer(name=n, node_names=(n,)) for n in names], folder)
    return read_lowered(model, folder, target="native", key="k", key_fields={"key": 1})


@pytest.fixture
def lowered(tmp_path: Path) -> Lowered:
    return lowered_of(onnx_models.chain(3), tmp_path)


def engines_of(lowered: Lowered) -> SegmentEngines:
    """As in a process of its own."""
    builder = EngineBuilder(EngineOptions(precision="fp32", level=3))
    return SegmentEngines(lowered, builder, silent)


def segments_of(lowered: Lowered, *split_points: int) -> tuple[Segment, ...]:
    return segments_from_split_points(lowered.graph, split_points)


def test_an_engine_is_built_once(fake: FakeBuilder, lowered: Lowered) -> None:
    engines, segments = engines_of(lowered), segments_of(lowered, 2)
    for segment in (*segments, *segments):
        assert engines.engine(segment, LIKELIEST).num_io_tensors == 2
    assert (engines.num_built, len(fake.builds)) == (2, 2)
    again = engines_of(lowered)
    for segment in segments:
        assert again.engine(segment, LIKELIEST).num_io_tensors == 2
    assert (again.num_built, len(fake.builds)) == (0, 2)


def test_a_refusal_is_remembered_with_tensorrts_text(fake: FakeBuilder, lowered: Lowered) -> None:
    fake.refused["mm1"] = "Error Code 10: no implementation for mm1"
    first, second = segments_of(lowered, 2)
    text = r"^segment-2-6-linear.onnx: TensorRT builds no engine \(.* no implementation for mm1\)$"
    for _ in range(2):
        engines = engines_of(lowered)
        assert engines.engine(first, LIKELIEST)
        for _ in range(2):
            with pytest.raises(BuildError, match=text):
                engines.engine(second, LIKELIEST)
    assert len(fake.builds) == 2


def test_what_may_pass_is_forgotten_with_the_process(fake: FakeBuilder, lowered: Lowered) -> None:
    fake.refused["mm1"] = "Error Code 1: Cuda Runtime (out of memory)"
    _, second = segments_of(lowered, 2)
    engines = engines_of(lowered)
    for _ in range(2):
        with pytest.raises(BuildError, match="out of memory"):
            engines.engine(second, LIKELIEST)
    assert len(fake.builds) == 1
    assert not list(lowered.path.parent.glob("*.refused"))
    fake.refused.clear()
    assert engines_of(lowered).engine(second, LIKELIEST)


@pytest.mark.parametrize("damaged", [b"", b"half an eng"])
def test_a_damaged_engine_is_built_again(
    damaged: bytes, fake: FakeBuilder, lowered: Lowered
) -> None:
    _, second = segments_of(lowered, 2)
    engines = engines_of(lowered)
    engines.engine(second, LIKELIEST)
    path = engines.path(second, LIKELIEST)
    sound = path.read_bytes()
    path.write_bytes(damaged)
    assert engines_of(lowered).engine(second, LIKELIEST)
    assert path.read_bytes() == sound
    assert len(fake.builds) == 2


def test_a_damaged_refusal_refuses_nothing(fake: FakeBuilder, lowered: Lowered) -> None:
    _, second = segments_of(lowered, 2)
    path = engines_of(lowered).path(second, LIKELIEST)
    for content in (b"", b"\xff\xfe"):
        path.with_suffix(".refused").write_bytes(content)
        assert engines_of(lowered).engine(second, LIKELIEST)


def test_a_quantised_network_is_cut_where_int8_crosses(fake: FakeBuilder, tmp_path: Path) -> None:
    lowered = lowered_of(onnx_models.quantised(has_bias=True), tmp_path)
    names = [node.name for node in lowered.graph.nodes]
    assert [node.outputs for node in lowered.graph.nodes] == [
        ("conv0",), ("relu0.q",), ("conv1.q",), ("sum",), ("relu1",), ("y",),
    ], names  # fmt: skip
    engines = engines_of(lowered)
    first, second, third = segments_of(lowered, 2, 3)
    assert first.outputs == ("relu0.q",)
    assert set(third.inputs) == {"relu0.q", "conv1.q"}
    assert lowered.graph.tensors["relu0.q"].dtype == "int8"
    for segment in (first, second, third):
        engines.engine(segment, LIKELIEST)
        assert fake.flags == ["INT8"]
    assert fake.builds == [
        "segment-0-2-int8-CHW32.onnx", "segment-2-3-int8-CHW32.onnx", "segment-3-6-int8-CHW32.onnx",
    ]  # fmt: skip
    assert engines.engine(third, ALL_LINEAR).get_tensor_format("conv1.q").name == "LINEAR"
    assert engines.engine(third, LIKELIEST).get_tensor_format("conv1.q").name == "CHW32"
    tried = [layout["int8"] for layout in engines.layouts(["relu0.q", "conv1.q"])]
    assert tried == ["CHW32", "LINEAR"]
    tail = segments_of(lowered, 5)[1]
    engines.engine(tail, LIKELIEST)
    assert fake.flags == [], "TensorRT 8.6 wants ranges where a network has int8 and no Q or DQ"


def test_a_full_disk_is_no_refusal_and_leaves_no_part(
    fake: FakeBuilder, lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    engines, (first, _) = engines_of(lowered), segments_of(lowered, 2)
    monkeypatch.setattr(segment_engines, "write_output", full)
    for _ in range(2):  # it is not remembered as one, either
        with pytest.raises(OSError, match="No space"):
            engines.engine(first, LIKELIEST)
    monkeypatch.undo()

    before = {path.name for path in lowered.path.parent.iterdir()}
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_piece(onnx.ModelProto(), lowered.path.parent / "segment-0-1.onnx")
    assert {path.name for path in lowered.path.parent.iterdir()} == before


@pytest.mark.parametrize("suffix", [".engine", ".refused"])
@pytest.mark.parametrize("odd", ["pipe", "endless", "loop", "long", "binary"])
def test_what_is_no_engine_and_no_note_is_built_anew(
    odd: str, suffix: str, fake: FakeBuilder, lowered: Lowered
) -> None:
    (first, _) = segments_of(lowered, 2)
    path = engines_of(lowered).path(first, LIKELIEST).with_suffix(suffix)
    if odd == "pipe":
        os.mkfifo(path)
    elif odd in ("endless", "loop"):
        path.symlink_to("/dev/zero" if odd == "endless" else path)
    else:
        path.write_bytes(b"a" * (1 << 20) if odd == "long" else b"\xff\xfe")
    assert engines_of(lowered).engine(first, LIKELIEST)
    assert engines_of(lowered).engine(first, LIKELIEST)
    assert len(fake.builds) == 1
