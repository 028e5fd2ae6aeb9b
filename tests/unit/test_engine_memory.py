"""What a bundle says of its engines' memory, from the compiler to `inspect`."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from models.make import make
from preempt_runtime.network_memory import memory_from_manifest
from preempt_runtime.units import fmt_bytes
from preemptc.backends import Artefacts, EngineMemory
from preemptc.cli import main
from preemptc.pack import engine_memory
from tests.runtime.tensorrt_world import blobs, write_bundle

INTERFACE_BYTES = 24 + 4 + 8 + 4
BOUNDARY_BYTES = 8 + 2


def bundle_at(root: Path, *, is_told: bool) -> Path:
    """A bundle of three engines, with what the compiler tells of their memory."""
    files = tuple(root.parent / f"{idx}.engine" for idx in range(3))
    memory = {
        file: EngineMemory(scratch_bytes=1000 * (idx + 1), weights_bytes=7)
        for idx, file in enumerate(files)
    }
    told = Artefacts(whole=files[0], segments=files, shared=(), memory=memory if is_told else {})
    plain = write_bundle(root.parent / "plain").manifest.plans[0]
    sources = {segment.path: file for segment, file in zip(plain.segments, files, strict=True)}
    write_bundle(root, extensions={"preemptc": {"request": {}, **engine_memory(told, sources)}})
    return root


def inspected(root: Path, *more: str) -> Any:
    result = CliRunner().invoke(main, ["inspect", str(root), "--json", *more])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["plans"][0]["memory"]


@pytest.mark.parametrize("jobs", [1, 4])
def test_inspect_counts_what_jobs_in_flight_take(tmp_path: Path, jobs: int) -> None:
    root = bundle_at(tmp_path / "net.bundle", is_told=True)
    per_job = INTERFACE_BYTES + BOUNDARY_BYTES
    assert inspected(root, "--jobs", str(jobs)) == {
        "jobs": jobs,
        "engine_bytes": sum(map(len, blobs())),
        "weights_bytes": 21,
        "scratch_bytes": 3072,
        "per_job": {
            "contexts": 3,
            "graphs": 3,
            "device_bytes": per_job,
            "host_bytes": INTERFACE_BYTES,
        },
        "contexts": 3 * jobs,
        "graphs": 3 * jobs,
        "device_bytes": 21 + 3072 + jobs * per_job,
        "host_bytes": jobs * INTERFACE_BYTES,
    }
    text = CliRunner().invoke(main, ["inspect", str(root), "--jobs", str(jobs)]).stdout
    for part in (f"{3 * jobs} contexts, {3 * jobs} graphs", "scratch 3 KiB", "(21 B weights)"):
        assert part in " ".join(text.split())


def test_an_older_bundle_does_not_tell_and_inspect_says_so(tmp_path: Path) -> None:
    root = bundle_at(tmp_path / "net.bundle", is_told=False)
    found = inspected(root)
    assert (found["scratch_bytes"], found["weights_bytes"], found["device_bytes"]) == (None,) * 3
    text = CliRunner().invoke(main, ["inspect", str(root)]).stdout
    assert "scratch unknown" in " ".join(text.split())


def test_nothing_is_kept_of_what_is_no_engine(tmp_path: Path) -> None:
    piece = tmp_path / "segment.onnx"
    files = Artefacts(whole=piece, segments=(piece,), shared=())
    assert engine_memory(files, {"engines/k/segment-000.onnx": piece}) == {}


def test_a_plan_that_is_not_built_has_no_memory(tmp_path: Path) -> None:
    manifest = write_bundle(tmp_path / "net.bundle").manifest
    plan = dataclasses.replace(manifest.plans[0], key=None)
    assert memory_from_manifest(manifest, plan) is None


@pytest.mark.parametrize("jobs", [1, 3])
def test_inspect_counts_the_planned_tensors_of_what_is_not_built(tmp_path: Path, jobs: int) -> None:
    make("tiny_cnn", tmp_path / "net.onnx")
    arguments = ["compile", str(tmp_path / "net.onnx"), "--target", "orin", "--segments", "3"]
    root, environment = tmp_path / "net.bundle", {"PREEMPTC_CACHE": str(tmp_path / "cache")}
    made = CliRunner().invoke(main, [*arguments, "-o", str(root)], env=environment)
    assert made.exit_code == 0, made.output
    manifest = json.loads((root / "manifest.json").read_text())
    (graph,), (plan,) = manifest["graphs"], manifest["plans"]
    host_bytes = sum(map(num_bytes, (*graph["inputs"], *graph["outputs"])))
    device_bytes = host_bytes + sum(map(num_bytes, plan["boundaries"]))
    assert device_bytes > host_bytes > 0
    assert inspected(root, "--jobs", str(jobs)) == {
        "jobs": jobs,
        **dict.fromkeys(("engine_bytes", "weights_bytes", "scratch_bytes")),
        "per_job": {
            **dict.fromkeys(("contexts", "graphs")),
            "device_bytes": device_bytes,
            "host_bytes": host_bytes,
        },
        **dict.fromkeys(("contexts", "graphs", "device_bytes")),
        "host_bytes": jobs * host_bytes,
    }
    text = CliRunner().invoke(main, ["inspect", str(root), "--jobs", str(jobs)]).stdout
    label = "a job in flight" if jobs == 1 else f"{jobs} jobs in flight"
    tensors = f"tensors {fmt_bytes(jobs * device_bytes)}, pinned {fmt_bytes(jobs * host_bytes)}"
    assert f"{label} as planned: {tensors}" in " ".join(text.split())
    assert "contexts, graphs, scratch known after `preemptc build`" in " ".join(text.split())


def num_bytes(tensor: Any) -> int:
    shape: list[int] = tensor["shape"]
    return math.prod(shape) * int(np.dtype(tensor["dtype"]).itemsize)
