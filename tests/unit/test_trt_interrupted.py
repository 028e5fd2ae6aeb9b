"""`preemptc` ended in the midst of a TensorRT build, then started again; TensorRT is a fake."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit import onnx_models

ROOT = Path(__file__).parents[2]
LINE = "preemptc: interrupted; nothing half-written"


def start(folder: Path, version: str, *, steps: int) -> subprocess.Popen[str]:
    """Profiles a network: the first thing it does is to build an engine of the whole."""
    arguments = ["profile", "net.onnx", "--target", "native", "-o", "p.json"]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.fake_gpu_command", *arguments],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}",
            "FAKE_TENSORRT": version,
            "FAKE_STEPS": str(steps),
        },
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended before it said {text!r}")


def left_behind(folder: Path) -> Sequence[Path]:
    return [path for path in folder.rglob("*") if ".tmp-" in str(path)]


@pytest.mark.parametrize("version", ["8.6.1", "10.3.0"])
def test_ctrl_c_ends_a_build_at_once(version: str, tmp_path: Path) -> None:
    onnx_models.save(onnx_models.chain(), tmp_path / "net.onnx")
    with start(tmp_path, version, steps=100_000) as process:
        wait_for(process, "lower: the whole network: ")  # it is inside TensorRT, and tells so
        begin_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert time.monotonic() - begin_s < 5, "about a second on a quiet machine"
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read() == ""
        lines = process.stderr.read().splitlines()
    assert lines[-1] == LINE
    assert not any("Traceback" in line for line in lines)
    assert not left_behind(tmp_path)
    assert not (tmp_path / "p.json").exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_build_can_be_started_again(how: signal.Signals, tmp_path: Path) -> None:
    onnx_models.save(onnx_models.chain(), tmp_path / "net.onnx")
    with start(tmp_path, "8.6.1", steps=100_000) as process:
        wait_for(process, "lower: the whole network: ")
        process.send_signal(how)
        assert process.wait(timeout=30) == -how
    assert left_behind(tmp_path), "a killed process sweeps nothing"
    assert not list(tmp_path.rglob("whole.engine"))
    with start(tmp_path, "8.6.1", steps=2) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads((tmp_path / "p.json").read_text())["source"] == "measured"
    assert not left_behind(tmp_path)
