"""Costs from a file are those of the target's device, or they are refused in one line."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from preempt_runtime.errors import InputError
from preemptc.backends import BackendOptions
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.goal import Goal
from preemptc.model import Graph, Lowered
from preemptc.prepare import prepare
from preemptc.profile import BoundaryCost, LatencyProfile, json_from_profile
from preemptc.profile_device import other_device, other_options
from preemptc.profiling import costs_without_device
from tests.unit import onnx_models

Machine = Mapping[str, str | int | float]
CPU: dict[str, str | int] = {
    "backend": "ort", "onnxruntime": "1.31.1", "arch": "x86_64", "cpu_model": "Testium 1",
    "isa": "avx2 fma", "threads": 2,
}  # fmt: skip
H200: dict[str, str | int] = {
    "backend": "tensorrt", "tensorrt": "10.16.0", "cuda_driver": 13000, "gpu": "NVIDIA H200",
    "num_sms": 132, "compute_capability": "9.0",
}  # fmt: skip
ORIN = {**H200, "gpu": "Orin", "num_sms": 16, "compute_capability": "8.7"}


def lowered(target: str, fields: Mapping[str, str | int], *, is_here: bool = True) -> Lowered:
    return Lowered(
        target=target,
        path=Path("model.onnx"),
        graph_digest="0" * 64,
        graph=Graph(nodes=(), inputs=(), outputs=(), tensors={}, weight_bytes={}),
        source_positions=(0,),
        key="0" * 16 if is_here else None,
        key_fields=fields,
    )


def profile_on(
    machine: Machine, source: Literal["measured", "estimated"] = "measured"
) -> LatencyProfile:
    return LatencyProfile(
        graph_digest="0" * 64,
        target="any",
        source=source,
        node_names=(),
        node_ns=(),
        node_latency=(),
        whole=None,
        boundary=BoundaryCost(fixed_ns=1, ns_per_byte=0.0),
        machine=machine,
    )


CPU_HERE = lowered("cpu", CPU)
H200_HERE = lowered("native", H200)
ORIN_HERE = lowered("orin", ORIN)
ORIN_ELSEWHERE = lowered("orin", {"backend": "tensorrt", "target": "orin"}, is_here=False)
ANY_ELSEWHERE = lowered("native", {"backend": "tensorrt", "target": "native"}, is_here=False)


@pytest.mark.parametrize(
    ("machine", "target"),
    [
        ({**CPU, "cores": 8, "measured_at": "2026-11-26T10:00:00+00:00"}, CPU_HERE),
        ({**CPU, "onnxruntime": "1.20.0"}, CPU_HERE),  # another version of the same graph
        ({}, CPU_HERE),
        ({**H200, "tensorrt": "10.3.0", "gpu_sm_clock_mhz": 1980.0}, H200_HERE),
        (ORIN, ORIN_HERE),
        (ORIN, ORIN_ELSEWHERE),
        ({**ORIN, "gpu": "nvgpu"}, ORIN_ELSEWHERE),  # a Jetson's driver may tell no name
        ({}, ORIN_ELSEWHERE),
        (H200, ANY_ELSEWHERE),
    ],
)
def test_a_profile_of_the_targets_device_is_taken(machine: Machine, target: Lowered) -> None:
    assert other_device(profile_on(machine), target) is None


@pytest.mark.parametrize(
    ("machine", "target", "difference"),
    [
        (
            {**CPU, "cpu_model": "Oldium 2"},
            CPU_HERE,
            "found cpu_model 'Oldium 2', expected 'Testium 1'",
        ),
        ({**CPU, "threads": 1}, CPU_HERE, "found --threads 1, expected 2"),
        (CPU, H200_HERE, "found backend 'ort', expected 'tensorrt'"),
        (CPU, ANY_ELSEWHERE, "found backend 'ort', expected 'tensorrt'"),
        (
            {**H200, "gpu": "NVIDIA H100 80GB HBM3"},
            H200_HERE,
            "found gpu 'NVIDIA H100 80GB HBM3', expected 'NVIDIA H200'",
        ),
        (H200, ORIN_HERE, "found gpu 'NVIDIA H200', expected 'Orin'"),
        (H200, ORIN_ELSEWHERE, "found NVIDIA H200 (compute capability 9.0, 132 SMs), expected"),
        (
            {**ORIN, "num_sms": 14},
            ORIN_ELSEWHERE,
            "found Orin (compute capability 8.7, 14 SMs), expected",
        ),
        (CPU, ORIN_ELSEWHERE, "found the CPU 'Testium 1', expected"),
    ],
)
def test_a_profile_of_another_device_is_told(
    machine: Machine, target: Lowered, difference: str
) -> None:
    assert difference in str(other_device(profile_on(machine), target))


def test_an_estimate_names_its_gpu_by_its_data_sheet() -> None:
    estimate: Machine = {"gpu": "NVIDIA H200 SXM", "compute_capability": "9.0", "num_sms": 132}
    assert other_device(profile_on(estimate, "estimated"), H200_HERE) is None
    assert other_device(profile_on(estimate, "measured"), H200_HERE) is not None
    assert other_device(profile_on(estimate, "estimated"), ORIN_HERE) is not None


def test_costs_of_another_gpu_with_the_same_graph_are_refused(tmp_path: Path) -> None:
    model = onnx_models.save(onnx_models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    asked = CompileOptions(
        target="orin", goal=Goal(num_segments=2), backend=BackendOptions(engines="skip")
    )
    prepared = prepare(model, asked, cache)
    path = tmp_path / "net.profile"
    asked = replace(asked, profile=path)
    estimate = costs_without_device(prepared, replace(asked, profile=None))
    for found in (estimate, replace(estimate, source="measured", machine=ORIN, target="native")):
        path.write_text(json_from_profile(found))
        assert costs_without_device(prepared, asked) == found
    path.write_text(json_from_profile(replace(estimate, source="measured", machine=H200)))
    with pytest.raises(InputError) as caught:
        costs_without_device(prepared, asked)
    line = str(caught.value)
    assert line.startswith(f"{path}: a profile of another device than target 'orin': found NVIDIA")
    assert line.endswith("on that device, or leave the profile out")


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        ({"options": "precision=fp16 level=3"}, None),
        ({"precision": "fp16"}, None),
        ({}, None),
        ({"options": "precision=fp32 level=3"}, "found --precision 'fp32', asked for 'fp16'"),
        ({"precision": "fp32"}, "found --precision 'fp32', asked for 'fp16'"),
        (
            {"options": "precision=fp32 level=1"},
            "found --precision 'fp32', asked for 'fp16', found --opt-level '1', asked for '3'",
        ),
    ],
)
def test_a_profile_of_an_engine_that_was_built_otherwise_is_told(
    found: Machine, difference: str | None
) -> None:
    target = lowered("orin", {**ORIN, "options": "precision=fp16 level=3"})
    assert other_options(profile_on({**ORIN, **found}), target) == difference


def test_costs_in_another_precision_are_refused(tmp_path: Path) -> None:
    model = onnx_models.save(onnx_models.chain(), tmp_path / "net.onnx")
    cache = BuildCache(tmp_path / "cache")
    path = tmp_path / "net.profile"
    for precision in ("fp32", "fp16"):
        backend = BackendOptions(engines="skip", precision=precision)
        asked = CompileOptions(target="orin", goal=Goal(num_segments=2), backend=backend)
        prepared = prepare(model, asked, cache)
        if precision == "fp32":
            path.write_text(json_from_profile(costs_without_device(prepared, asked)))
    with pytest.raises(InputError, match=r"built otherwise: found --precision 'fp32', asked for"):
        costs_without_device(prepared, replace(asked, profile=path))
