"""The committed PTX: what drivers accept, what the runtime calls, and that it is gate.cu's."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging import nvrtc
from tests.packaging.nvrtc import PtxFile
from tests.runtime.gate_world import EARLY_PTX, KERNELS, PTX
from tests.runtime.ptx_machine import kernels

every_file = pytest.mark.parametrize("file", nvrtc.FILES, ids=lambda file: file.path.name)


def test_every_ptx_that_is_committed_is_made_by_the_compiler() -> None:
    committed = {*PTX.parent.glob("*.ptx"), *nvrtc.ROOT.glob("bench/**/*.ptx")}
    assert committed == {file.path for file in nvrtc.FILES}


@every_file
def test_its_first_two_directives_suit_the_oldest_driver_and_gpu(file: PtxFile) -> None:
    text = file.path.read_text(encoding="utf-8")
    directives = re.findall(r"^\.(?:version|target) .*$", text, re.MULTILINE)
    assert [each.split()[0] for each in directives] == [".version", ".target"]
    major, minor = re.findall(r"\d+", directives[0])
    assert (int(major), int(minor)) <= (8, 2)  # CUDA 12.2, JetPack 6.0
    assert directives[1] == f".target sm_{file.capability}"
    assert file.capability == 75 or (file.path, file.capability) == (EARLY_PTX, 90)


def test_its_entry_points_are_those_that_the_runtime_calls() -> None:
    assert {name: len(kernel.params) for name, kernel in KERNELS.items()} == {
        "preempt_gate_overlap": 3,
        "preempt_gate_exclusive": 3,
        "preempt_gate_exclusive_first": 3,
        "preempt_clear": 3,
        "preempt_raise": 4,
    }
    assert ".shared" not in PTX.read_text(encoding="utf-8")
    assert ".local" not in PTX.read_text(encoding="utf-8")


def test_what_starts_early_waits_before_it_looks_and_is_the_same_from_there_on() -> None:
    """So that what holds of one file in every order of accesses holds of both."""
    early = kernels(EARLY_PTX)
    assert early.keys() == KERNELS.keys()
    for name, kernel in KERNELS.items():
        code = list(early[name].code)
        waits = [at for at, each in enumerate(code) if each.name.startswith("griddepcontrol")]
        if name == "preempt_raise":  # in no graph
            assert not waits
        else:
            (at,) = waits
            assert not code[at].guard
            assert not any(each.is_access or each.name == "bra" for each in code[:at])
            del code[at]
        assert tuple(code) == kernel.code, name


def test_a_first_gate_looks_when_it_has_the_answer_whether_it_took_the_gpu() -> None:
    """Else both go out together: the machine that runs PTX in tests does one after the other."""
    code = KERNELS["preempt_gate_exclusive_first"].code
    take = next(at for at, each in enumerate(code) if each.name.startswith("atom"))
    answers = {code[take].operands[0]}
    for each in code[take + 1 :]:
        if answers & {each.guard.lstrip("!"), *each.operands[1:]}:
            if each.name.startswith("bra"):
                return
            answers.add(each.operands[0].partition("|")[0])
        assert not (each.is_access and "ld." in each.name), "it looks without the answer"


def test_stamps_are_taken_where_no_two_stretches_can_overlap_by_them() -> None:
    """A first gate's when the GPU is its job's, a clear's while it still is."""
    for name, is_late in (("preempt_gate_exclusive_first", True), ("preempt_clear", False)):
        code = KERNELS[name].code
        clock = next(at for at, each in enumerate(code) if "%globaltimer" in each.operands)
        atom = next(at for at, each in enumerate(code) if each.name.startswith("atom"))
        assert (clock > atom) == is_late, name


@every_file
def test_it_is_what_the_compiler_makes_of_the_source(file: PtxFile) -> None:
    if reason := nvrtc.missing():
        pytest.skip(reason)
    assert nvrtc.compiled_elsewhere(file) == file.path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "architecture"),
    [
        *((PTX, each) for each in ("sm_75", "sm_80", "sm_87", "sm_90", "sm_100")),
        *((EARLY_PTX, each) for each in ("sm_90", "sm_100")),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_a_gate_takes_at_most_32_registers(path: Path, architecture: str, tmp_path: Path) -> None:
    if (ptxas := shutil.which("ptxas")) is None:
        pytest.skip("no ptxas: it comes with the CUDA toolkit")
    command = [ptxas, "-v", "-maxrregcount=32", f"-arch={architecture}", str(path)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "gate.cubin")], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and "not defined for option" in done.stderr:
        pytest.skip(f"this ptxas does not know {architecture}")
    assert done.returncode == 0, done.stderr
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", done.stderr)]
    assert len(registers) == len(KERNELS)
    assert max(registers) <= 32
    assert not re.findall(r"[1-9]\d* bytes spill", done.stderr)
