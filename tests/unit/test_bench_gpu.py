"""The pages that the GPU benchmarks write, from figures that a GPU did not have to give."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from bench import gpu, gpu_deadlines, gpu_page, gpu_pair, gpu_portable
from bench.gpu_build_time import counted_builds
from bench.gpu_modes import WAYS, WayRun
from bench.pair_figures import figures
from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import BuildError
from preemptc.backends import silent
from preemptc.backends.tensorrt.build_watch import BuildWatch
from preemptc.backends.tensorrt.engine_builder import EngineBuilder
from preemptc.cache import BuildCache

MACHINE = {"gpu": "GPU X", "compute_capability": "9.0", "tensorrt": "8.6.0", "cuda_driver": 13000}


def latency(p50_ns: int) -> dict[str, int]:
    return {"p50_ns": p50_ns, "p99_ns": p50_ns + 1000, "max_ns": p50_ns + 2000, "num_samples": 9}


def row(network: str = "resnet50", parts: int = 8, **changes: Any) -> dict[str, Any]:
    return {
        "case": f"{network} b{32 if network == 'resnet152' else 1} 1/{parts}",
        "network": network,
        "parts": parts,
        "precision": "fp16",
        "opt_level": 3,
        "asked": gpu.asked_of(network, parts),
        "machine": MACHINE,
        "date": "2026-11-25T04:00:00+00:00",
        "bound_ns": 50_000,
        "bound_from": "longest node",
        "whole_built_s": 75.0,
        "whole_from_cache": False,
        "wall_s": 200.4,
        "tensorrt_s": 150.3,
        "second_compile_s": 0.31,
        "second_built_nothing": True,
        "report": {
            "segments": 2,
            "built": 5,
            "kept": 2,
            "library_s": 90.2,
            "candidates": {"positions": 9, "after_fusion": 4},
            "check": {"max_abs_diff": 0.01},
            "measured": {
                "segment_p50_ns": [40_000, 45_000],
                "segment_p99_ns": [41_000, 47_000],
                "segment_max_ns": [42_000, 48_000],
                "whole_p50_ns": 80_000,
                "overhead_ratio": 1.0625,
            },
        },
        "tolerance": {"chained_frac": 0.02, "source_frac": 0.05, "reason": "halves round"},
        "again": {
            "pairs": 100,
            "ratio": {"median": 1.06, "low": 1.05, "high": 1.07},
            "whole": latency(80_500),
            "chained": latency(85_500),
            "segments": [latency(40_100), latency(45_100)],
        },
        "outputs": {
            "y": {
                "largest": 4.0,
                "chained_to_whole": 0.02,
                "whole_to_source": 0.04,
                "chained_to_source": 0.05,
            }
        },
        "memory_bytes": {
            plan: {"device": 3 << 20, "scratch": 1 << 20, "tensors": 4096, "engine_files": 2 << 20}
            for plan in ("whole", "segments")
        },
        **changes,
    }


def test_a_row_stands_in_the_table_once_and_in_the_order_of_the_cases(tmp_path: Path) -> None:
    gpu.merge(row("resnet152"), tmp_path)
    gpu.merge(row(bound_ns=1), tmp_path)
    rows = gpu.merge(row(), tmp_path)
    assert [entry["case"] for entry in rows] == ["resnet50 b1 1/8", "resnet152 b32 1/8"]
    assert json.loads((tmp_path / "gpu-networks.json").read_text())["rows"] == rows
    text = (tmp_path / "gpu-networks.md").read_text()
    cells = "| resnet50 b1 1/8 | 80 us | 50 us* | 2 | 45 us | 1.062 | 1.10 | yes | 9 > 4 |"
    memory = "3 MiB > 3 MiB"
    assert f"{cells} 5/2 | 200 | 150 s, 75% | 0.31 | {memory} | 2026-11-25 |" in text
    assert "GPU X, compute capability 9.0, TensorRT 8.6.0" in text
    assert "chained/whole 1.060 [1.050, 1.070] of 100 pairs" in text
    assert "| 1 | 45 us | 47 us | 48 us | 45.1 us | 46.1 us | 47.1 us |" in text
    assert "source's outputs within 5%, ONNX Runtime in fp32 on the CPU, because halves" in text
    assert "| y | 4 | 0.02 (0.50%) | 0.04 (1.00%) | 0.05 (1.25%) |" in text
    assert "| segments | 3 MiB | 1 MiB | 4 KiB | 2 MiB |" in text
    assert "every segment's median is under it, both times" in text


def test_plans_that_were_tried_are_told() -> None:
    found = row()
    trial = {"segments": 3, "longest_ns": 40_000, "overhead_ratio": 1.1, "kept": False}
    found["report"]["tried"] = [trial, {**trial, "segments": 2, "kept": True}]
    found["report"]["notes"] = ["the machine was slow"]
    text = gpu_page.markdown([found], "make it")
    assert (
        "whole: 3 segments, longest 40 us, 1.100; 2 segments, longest 40 us, 1.100 (kept)" in text
    )
    assert "\n* the machine was slow\n" in text


def test_a_network_whose_whole_engine_is_wrong_is_compared_with_its_source() -> None:
    found = row(memory_bytes={"segments": row()["memory_bytes"]["segments"]})
    found["again"] = {**found["again"], "ratio": None, "whole": None}
    found["outputs"] = {"y": {"largest": 4.0, "chained_to_source": 0.05}}
    text = gpu_page.markdown([found], "make it")
    assert "| - > 3 MiB |" in text
    assert "| y | 4 | - | - | 0.05 (1.25%) |" in text
    assert "whole -, chained 85.5 us, of 100 runs." in text
    assert "| segments | 3 MiB |" in text
    assert "| whole | 3 MiB |" not in text


def test_a_bound_or_a_goal_that_is_not_kept_stands_out() -> None:
    text = gpu_page.markdown([row(bound_ns=45_050), row("resnet152")], "make it")
    assert "**over it: the median of segment 1**" in text  # kept at compile time, not again
    assert "| 1.062 | 1.05 | **no** |" in text


@pytest.mark.parametrize(("network", "parts"), [("resnet50", 4), ("segformer_b0", 8)])
def test_goals_are_for_some_networks_at_an_eighth(network: str, parts: int) -> None:
    assert gpu.asked_of(network, parts) is None
    assert not gpu._is_missed(
        gpu.Case(network=network, batch=1, parts=parts), {"measured": {"overhead_ratio": 9.0}}
    )


def test_a_network_that_failed_is_told_under_the_table() -> None:
    failed = row("vit_b_16", error="TensorRT refused it")
    text = gpu_page.markdown([failed], "make it")
    assert "## Not measured\n\n* vit_b_16 b1 1/8: TensorRT refused it" in text
    assert gpu_page.summary(failed) == "vit_b_16 b1 1/8: TensorRT refused it"


def test_the_time_inside_tensorrt_is_that_of_every_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(self: EngineBuilder, path: Path, formats: Any, watch: Any) -> bytes:
        time.sleep(0.002)
        if formats:
            raise BuildError("refused")
        return b"engine"

    monkeypatch.setattr(EngineBuilder, "build", build)
    builder = EngineBuilder.__new__(EngineBuilder)
    watch = BuildWatch("engines", 0.0, silent)
    with counted_builds() as found:
        assert builder.build(Path("a"), {}, watch) == b"engine"
        with pytest.raises(BuildError):
            builder.build(Path("b"), {"x": "HWC8"}, watch)
    builder.build(Path("c"), {}, watch)
    assert getattr(EngineBuilder, "build") is build  # noqa: B009 - the types differ
    assert found.num_builds == 2
    assert 0.004 <= found.seconds < 1


def test_a_quick_try_stays_out_of_the_published_results() -> None:
    for options in (
        gpu._options(["--quick"]),
        gpu_pair._options(["--quick"]),
        gpu_deadlines._options(["--quick"]),
        gpu_portable._options(["both", "--quick"]),
    ):
        assert options.out == gpu.QUICK / "results"
        assert options.opt_level == gpu.QUICK_LEVEL


@pytest.mark.parametrize(("name", "run"), [
    ("bench-gpu", gpu.main), ("bench-gpu-pair", gpu_pair.main),
    ("bench-gpu-deadlines", gpu_deadlines.main),
])  # fmt: skip
def test_without_a_gpu_a_benchmark_says_why_it_does_nothing(
    name: str, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if gpu_is_here():
        pytest.skip("a GPU is here")
    assert run(["--out", str(tmp_path), "--work", str(tmp_path / "work")]) == 1
    assert f"{name}: skipped everything: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def gpu_is_here() -> bool:
    from preempt_runtime.errors import PreemptError
    from preempt_runtime.loading import open_backend

    try:
        return bool(open_backend("tensorrt").key_fields())
    except PreemptError:
        return False


def test_the_pair_is_compared_with_what_each_is_alone() -> None:
    block = {way.name: WayRun(longest_p99_ns=330_000) for way in WAYS} | {
        "alone": WayRun(response_ns=(400_000,) * 3),
        "long_alone": WayRun(long_per_s=380.0),
        "segments_alone_1": WayRun(long_per_s=361.0),
        "segments_1": WayRun(response_ns=(600_000,) * 3, long_per_s=342.0),
        "raw_alone": WayRun(response_ns=(380_000,) * 3),
        "raw_long_alone": WayRun(long_per_s=400.0),
        "raw_priorities": WayRun(response_ns=(900_000,) * 3, long_per_s=360.0),
    }
    slow = {**block, "segments_1": WayRun(response_ns=(900_000,), long_per_s=342.0)}
    found = figures([block, slow], 4_000_000, WAYS)
    ways, longest = found["ways"], found["longest_segment_p99_ns"]
    assert longest["segments_2"] == 330_000
    ours, raw = ways["segments_1"], ways["raw_priorities"]
    assert (ours["urgent"]["num_samples"], ours["urgent"]["max_ns"]) == (4, 900_000)  # of both
    assert (ours["p50_to_alone"], ours["p99_to_alone"]) == (1.5, 2.25)
    assert (ours["rate_to_alone"], ours["kept"]) == (0.9, 1.0)  # 342 of 380 x 0.9
    assert ways["segments_alone_1"]["rate_to_alone"] == 0.95
    assert "kept" not in ways["segments_alone_1"]
    assert (raw["p99_to_alone"], raw["rate_to_alone"]) == (2.368, 0.9)


def test_a_portable_bundle_is_the_same_each_time_and_says_what_it_is(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path / "cache")
    paths = [tmp_path / place / "net.bundle" for place in ("here", "there")]
    bounds = {
        gpu_portable.compile_portable("light/squeezenet", "orin", path, cache, parts=4, level=1)
        for path in paths
    }
    first, second = (open_bundle(path) for path in paths)
    assert first.manifest_sha256 == second.manifest_sha256
    plan = gpu_portable._plan_of(first)
    assert (plan["source"], plan["has_engines"], plan["target"]) == ("estimated", False, "orin")
    assert {plan["bound_ns"]} == bounds
    assert all(each["p50_ns"] is None for each in plan["segments"])
    assert max(each["predicted_ns"] for each in plan["segments"]) <= plan["bound_ns"]


def test_the_page_of_portable_bundles_shows_both_plans(tmp_path: Path) -> None:
    def plan(source: str, p50_ns: int | None, num: int, **more: Any) -> dict[str, Any]:
        each = {"source_range": [0, 5], "predicted_ns": 60_000, "p50_ns": p50_ns}
        return {
            "source": source,
            "bound_ns": 62_000,
            "toolchain": {"onnx": "1"},
            "segments": [each] * num,
            **more,
        }

    after = {"overhead_ratio": 1.03, "wall_s": 12.0, "whole_p50_ns": 90_000}
    result = {
        "before": plan("estimated", None, 3),
        "after": plan("measured", 50_000, 2, **after),
        "outputs": {"y": {"largest": 2.0, "chained_to_source": 0.02}},
        "machine": MACHINE,
        "date": "2026-11-25T04:00:00+00:00",
    }
    gpu_portable.write("a, compiled for orin", result, tmp_path)
    assert list(gpu_portable.write("b", result, tmp_path)) == ["a, compiled for orin", "b"]
    text = (tmp_path / "gpu-portable.md").read_text()
    cells = "| b | 62 us | estimated > measured | 3 > 2 | 60 us > 50 us | 180 us > 90 us | 1.030 |"
    assert f"{cells} 12 s | 2026-11-25 |" in text
    assert "| measured, p50 | 0-4: 50 us; 0-4: 50 us |" in text
    assert "0.02 apart, 1.00% of the largest value" in text
