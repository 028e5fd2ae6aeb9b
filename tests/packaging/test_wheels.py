"""The runtime's wheel alone, in a bare environment: it installs, and every module imports."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_IMPORT_ALL = """
import importlib, json, pkgutil, sys
import preempt_runtime
names = [m.name for m in pkgutil.walk_packages(preempt_runtime.__path__, "preempt_runtime.")]
for name in names:
    importlib.import_module(name)
heavy = {"onnx", "onnxruntime", "onnx_graphsurgeon", "preemptc", "tensorrt", "cuda", "click"}
print(json.dumps({"modules": names, "heavy": sorted(heavy & set(sys.modules))}))
"""


def _run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _run(*pip, "wheel", "--no-deps", "-w", folder, ROOT / "runtime")
    (wheel,) = folder.glob("preempt_runtime-*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    _run(python, *pip[1:], "install", wheel)
    return python


def test_every_module_imports_without_the_compiler(bare_python: Path) -> None:
    found = json.loads(_run(bare_python, "-c", _IMPORT_ALL))
    assert found["heavy"] == []
    backends = {f"preempt_runtime.backends.{name}" for name in ("ort", "cuda", "tensorrt")}
    assert {"preempt_runtime.executor", *backends} <= set(found["modules"])


def test_the_wheel_ships_the_schema_and_the_command(bare_python: Path) -> None:
    code = "import preempt_runtime, pathlib; print(pathlib.Path(preempt_runtime.__file__).parent)"
    package = Path(_run(bare_python, "-c", code).strip())
    assert (package / "manifest.schema.json").is_file()
    assert (package / "py.typed").is_file()
    for name in ("gate.ptx", "gate_sm90.ptx"):
        assert (package / "backends" / "kernels" / name).is_file()
    assert "preempt-rt" in _run(bare_python.with_name("preempt-rt"), "--version")


def test_a_bundle_that_needs_onnx_runtime_says_so(bare_python: Path) -> None:
    code = (
        "from preempt_runtime.backends.ort import OrtDevice, local_fields\n"
        "from preempt_runtime.errors import DeviceError\n"
        "try:\n    local_fields()\nexcept DeviceError as err:\n    print(err)"
    )
    assert "pip install onnxruntime" in _run(bare_python, "-c", code)


@pytest.mark.parametrize(
    ("before", "module"), [("sys", "preempt_runtime"), ("numpy", "preempt_runtime.executor")]
)
def test_import_is_quick_and_light(before: str, module: str) -> None:
    """The package alone, and what the executor adds to numpy, which is the larger part."""
    code = (
        f"import sys, time, {before}; t = time.perf_counter(); import {module};"
        "print(time.perf_counter() - t);"
        "print(sorted({'onnx', 'onnxruntime', 'preemptc'} & set(sys.modules)))"
    )
    runs = [_run(sys.executable, "-c", code).splitlines() for _ in range(5)]
    assert all(run[1] == "[]" for run in runs)
    assert min(float(run[0]) for run in runs) < 0.150  # others on the machine only add to it
