"""The pages that the GPU benchmarks write, from figures that a GPU did not have to give."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import gpu, gpu_pair
from bench.modes import MODES

MACHINE = {"gpu": "GPU X", "compute_capability": "9.0", "tensorrt": "8.6.0", "cuda_driver": 13000}


def row(network: str = "resnet50", parts: int = 8, **changes: Any) -> dict[str, Any]:
    return {
        "case": f"{network} b{32 if network == 'resnet152' else 1} 1/{parts}",
        "network": network,
        "parts": parts,
        "precision": "fp16",
        "opt_level": 3,
        "machine": MACHINE,
        "date": "2026-11-25T04:00:00+00:00",
        "bound_ns": 50_000,
        "bound_from": "longest node",
        "whole_built_s": 75.0,
        "wall_s": 200.4,
        "second_compile_s": 0.31,
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
                "whole_p50_ns": 80_000,
                "overhead_ratio": 1.0625,
            },
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
    cells = "| resnet50 b1 1/8 | 80 us | 50 us* | 2 | 45 us | 47 us | 1.062 | 1.10 | 0.01 | 9 > 4 |"
    assert f"{cells} 5/2 | 200 | 75 | 90 | 0.31 | 2026-11-25 |" in text
    assert "GPU X, compute capability 9.0, TensorRT 8.6.0" in text


def test_a_network_that_failed_is_told_under_the_table() -> None:
    failed = row("vit_b_16", error="TensorRT refused it")
    assert "## Not reached\n\n* vit_b_16 b1 1/8: TensorRT refused it" in gpu.markdown([failed])


def test_without_a_gpu_the_benchmark_says_why_it_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if gpu_is_here():
        pytest.skip("a GPU is here")
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert "bench-gpu: skipped everything: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def gpu_is_here() -> bool:
    from preempt_runtime.errors import PreemptError
    from preempt_runtime.loading import open_backend

    try:
        return bool(open_backend("tensorrt").key_fields())
    except PreemptError:
        return False


class Run:
    def __init__(self, response_ns: tuple[int, ...], rate: float | None) -> None:
        self.response_ns, self.best_effort_per_s = response_ns, rate
        self.segment_ns = ((300_000,), (330_000,))


def test_the_pair_is_compared_with_what_each_is_alone() -> None:
    block = {
        "alone": Run((400_000,) * 3, None),
        "best_effort_alone": Run((), 380.0),
        "fifo": Run((3_000_000,) * 3, 340.0),
        "preemptive": Run((600_000,) * 3, 342.0),
        "raw_alone": Run((380_000,) * 3, None),
        "raw_priorities": Run((900_000,) * 3, 360.0),
    }
    figures = gpu_pair._figures([block], 4_000_000)
    assert set(figures["runs"]) == {*MODES, *gpu_pair.RAW_MODES}
    assert figures["best_effort_kept"]["preemptive"] == 1.0  # 342 of 380 x 0.9
    page = gpu_pair.markdown(
        {
            **figures,
            "command": "make bench-gpu-pair",
            "settings": {
                "urgent": "resnet50", "long": "resnet152", "batch": 32, "period_us": 4000,
                "blocks": 1,
            },
            "segments": 8,
            "longest_p50_ns": 330_000,
            "memory_bytes": {"before": 0, "whole": 3 << 20, "segments": 4 << 20},
            "machine": MACHINE,
            "date": "2026-11-25T04:00:00+00:00",
        }
    )  # fmt: skip
    assert "| preemptive | 600 us | 600 us | 600 us | 600 us | 1.50 | 3 | 342.0 | 1.000 |" in page
    assert "| raw_priorities | 900 us | 900 us | 900 us | 900 us | 2.37 | 3 | 360.0 |" in page
    assert "3 MiB as one engine, 4 MiB as segments" in page
