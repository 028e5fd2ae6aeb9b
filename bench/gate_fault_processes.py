"""Faults beside gates that take a process of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.gate_fault_trials import Found

CHILD = [sys.executable, "-m", "bench.gate_child"]
_START_S = 90.0
_AFTER_S = 3.0


def second_process(path: Path, seconds: float) -> Found:
    """A process that starts while another one has the GPU."""
    first = _started(path, seconds + _START_S)
    try:
        if not _is_running(first):
            return Found(text="the first process did not come to run", is_expected=False)
        code, text = _ended(path, _AFTER_S)
    finally:
        _kill(first)
    is_named = f"process {first.pid}" in text
    return Found(text=text, is_expected=code == 1 and text.startswith("refused") and is_named)


def killed_process(path: Path, seconds: float) -> Found:
    """A process that is killed with jobs in flight, and one that starts right after."""
    first = _started(path, seconds + _START_S)
    try:
        is_running = _is_running(first)
        time.sleep(min(seconds, 1))
    finally:
        _kill(first)
    if not is_running:
        return Found(text="the first process did not come to run", is_expected=False)
    code, text = _ended(path, _AFTER_S)
    return Found(text=f"killed; then: {text}", is_expected=code == 0)


def one_queue(path: Path, seconds: float) -> Found:
    """More streams than hardware queues."""
    code, text = _ended(path, _AFTER_S, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"})
    return Found(text=text, is_expected=code == 1 and "share a hardware queue" in text)


def _started(path: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CHILD, str(path), "--seconds", str(seconds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _is_running(child: subprocess.Popen[str]) -> bool:
    """Whether it said so, or has ended; the child ends by itself."""
    assert child.stdout is not None
    return child.stdout.readline().strip() == "running"


def _kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def _ended(
    path: Path, seconds: float, environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and last line of a child that has run for so long."""
    how: dict[str, Any] = {"env": {**os.environ, **(environment or {})}}
    try:
        done = subprocess.run(
            [*CHILD, str(path), "--seconds", str(seconds)],
            capture_output=True,
            text=True,
            timeout=seconds + _START_S,
            check=False,
            **how,
        )
    except subprocess.TimeoutExpired:
        return 124, f"it did not end in {seconds + _START_S:g} s"
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["nothing"]
    return done.returncode, lines[-1]
