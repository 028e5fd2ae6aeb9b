"""Choosing boundary formats by measurement, on a fake GPU whose engines cost what a test says."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from models.make import make
from preempt_runtime.errors import BuildError
from preemptc.backends import BackendOptions
from preemptc.backends.tensorrt import bench as bench_module
from preemptc.backends.tensorrt import engine_builder
from preemptc.backends.tensorrt.bench import TrtBench
from preemptc.backends.tensorrt.timing import Row
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.prepare import Prepared, prepare
from tests.runtime.tensorrt_world import install
from tests.unit import onnx_models
from tests.unit.fake_trt_builder import FakeBuilder

WHOLE_NS = 1000


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBuilder]:
    yield FakeBuilder(install(monkeypatch, memory_bytes=1 << 26))
    engine_builder.shared_builder.cache_clear()


def prepared_of(path: Path, tmp_path: Path, *, precision: str = "fp16") -> Prepared:
    options = CompileOptions(
        target="native",
        goal=Goal(num_segments=2),
        backend=BackendOptions(precision=precision),  # type: ignore[arg-type]
    )
    return prepare(path, options, BuildCache(tmp_path / "cache"))


def bench_of(prepared: Prepared) -> TrtBench:
    bench = prepared.backend.bench(prepared.model, prepared.lowered)
    assert isinstance(bench, TrtBench)
    return bench


def costs(monkeypatch: pytest.MonkeyPatch, bench: TrtBench, chained_ns: dict[str, int]) -> None:
    """Let a chain cost what its half-precision format says."""

    def time_in_turn(
        chain: Sequence[object], whole: object, stream: object, *, min_rows: int, budget_ns: int
    ) -> list[Row]:
        (paths,) = bench._chains
        cost_ns = chained_ns["HWC8" if any("HWC8" in path.name for path in paths) else "LINEAR"]
        parts = (cost_ns // len(chain),) * len(chain)
        return [Row(segments_ns=parts, chained_ns=cost_ns, whole_ns=WHOLE_NS)] * min_rows

    monkeypatch.setattr(bench_module, "time_in_turn", time_in_turn)


def formats_built(prepared: Prepared) -> set[str]:
    return {
        path.stem.split("-", 3)[3] for path in prepared.lowered.path.parent.glob("segment-*.engine")
    }


@pytest.mark.parametrize(
    ("chained_ns", "built", "shape"),
    [
        ({"HWC8": 1010}, {"float16-HWC8"}, (1, 32, 32, 8)),
        ({"HWC8": 1200, "LINEAR": 1300}, {"float16-HWC8", "linear"}, (1, 32, 32, 8)),
        ({"HWC8": 1300, "LINEAR": 1200}, {"float16-HWC8", "linear"}, (1, 8, 32, 32)),
    ],
    ids=["good enough", "best first", "best last"],
)
def test_the_fastest_format_stays(
    chained_ns: dict[str, int],
    built: set[str],
    shape: tuple[int, ...],
    fake: FakeBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared = prepared_of(make("tiny_cnn", tmp_path / "net.onnx"), tmp_path)
    point = next(
        idx + 1
        for idx, node in enumerate(prepared.lowered.graph.nodes)
        if prepared.lowered.graph.tensors[node.outputs[0]].shape == (1, 8, 32, 32)
    )
    with bench_of(prepared) as bench:
        costs(monkeypatch, bench, chained_ns)
        measured = bench.measure([point], min_runs=5, budget_ns=0)
        assert measured.chained.p50_ns == min(chained_ns.values())
        assert [spec.shape for spec in bench.boundary_specs([point])] == [shape]
        names = {path.name for path in bench.artefacts([point]).segments}
        assert len(names) == 2
        assert bench.num_built == 2 * len(built)
    assert formats_built(prepared) == built


def test_a_format_that_tensorrt_refuses_is_not_the_end(
    fake: FakeBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_of(make("tiny_cnn", tmp_path / "net.onnx"), tmp_path)
    fake.refused_formats = {"HWC8"}
    with bench_of(prepared) as bench:
        costs(monkeypatch, bench, {"LINEAR": 1200})
        assert "linear" in bench.build(0, 2).name
        bench.measure([2], min_runs=5, budget_ns=0)
        assert all("linear" in path.name for path in bench.artefacts([2]).segments)
        fake.refused_formats = {"LINEAR"}
        with pytest.raises(BuildError, match="refuses LINEAR"):
            bench.build(0, 3)


def test_fp16_of_a_quantised_network_is_the_builders_choice_before_tensorrt_10(
    fake: FakeBuilder, tmp_path: Path
) -> None:
    path = onnx_models.save(onnx_models.quantised(), tmp_path / "net.onnx")
    prepared = prepared_of(path, tmp_path)
    assert fake.flags == ["FP16", "INT8"]
    dtypes = {info.dtype for info in prepared.lowered.graph.tensors.values()}
    assert dtypes == {"float32", "int8"}


def test_fp16_of_a_quantised_network_is_in_the_graph_from_tensorrt_10_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeBuilder(install(monkeypatch, "10.3.0", memory_bytes=1 << 26))
    engine_builder.shared_builder.cache_clear()
    path = onnx_models.save(onnx_models.quantised(has_bias=True), tmp_path / "net.onnx")
    prepared = prepared_of(path, tmp_path)
    assert fake.flags == []
    tensors = prepared.lowered.graph.tensors
    assert tensors["relu0.q"].dtype == "int8"
    assert tensors["conv1"].dtype == "float16"
    assert tensors["x"].dtype == tensors["y"].dtype == "float32"
    engine_builder.shared_builder.cache_clear()
