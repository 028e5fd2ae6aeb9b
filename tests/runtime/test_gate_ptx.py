"""The committed PTX: what drivers accept, what the runtime calls, and that it is gate.cu's."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging import nvrtc
from tests.runtime.gate_world import KERNELS, PTX

PATHS = [source.with_suffix(".ptx") for source in nvrtc.SOURCES]
SOURCES = dict(zip(PATHS, nvrtc.SOURCES, strict=True))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_its_first_two_directives_suit_the_oldest_driver_and_gpu(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    directives = re.findall(r"^\.(?:version|target) .*$", text, re.MULTILINE)
    assert [each.split()[0] for each in directives] == [".version", ".target"]
    major, minor = re.findall(r"\d+", directives[0])
    assert (int(major), int(minor)) <= (8, 2)  # CUDA 12.2, JetPack 6.0
    assert directives[1] == ".target sm_75"


def test_its_entry_points_are_those_that_the_runtime_calls() -> None:
    assert {name: len(kernel.params) for name, kernel in KERNELS.items()} == {
        "preempt_gate_overlap": 3,
        "preempt_gate_exclusive": 3,
        "preempt_clear": 3,
        "preempt_raise": 4,
    }
    assert ".shared" not in PTX.read_text(encoding="utf-8")
    assert ".local" not in PTX.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_it_is_what_the_compiler_makes_of_the_source(path: Path) -> None:
    if reason := nvrtc.missing():
        pytest.skip(reason)
    assert nvrtc.compiled_elsewhere(SOURCES[path]) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_87", "sm_90", "sm_100"])
def test_a_gate_takes_at_most_32_registers(architecture: str, tmp_path: Path) -> None:
    if (ptxas := shutil.which("ptxas")) is None:
        pytest.skip("no ptxas: it comes with the CUDA toolkit")
    command = [ptxas, "-v", "-maxrregcount=32", f"-arch={architecture}", str(PTX)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "gate.cubin")], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and "not defined for option" in done.stderr:
        pytest.skip(f"this ptxas does not know {architecture}")
    assert done.returncode == 0, done.stderr
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", done.stderr)]
    assert len(registers) == 4
    assert max(registers) <= 32
    assert not re.findall(r"[1-9]\d* bytes spill", done.stderr)
