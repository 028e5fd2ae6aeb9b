"""Imports point one way; the runtime never needs the compiler."""

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST_MAY_IMPORT = {
    "backends.graph_shape",
    "bundle",
    "device",
    "errors",
    "gate_keys",
    "input_file",
    "inputs",
    "loading",
    "manifest",
    "manifest_check",
    "manifest_json",
    "network_memory",
    "output_file",
    "plan_choice",
    "schedulability",
    "start",
    "stdout",
    "strict_json",
    "svg",
    "task_spec",
    "taskset",
    "typed_json",
    "units",
    "write_refusal",
}
BACKENDS = {
    "backends.cuda",
    "backends.cuda_graph",
    "backends.gate_board",
    "backends.gates",
    "backends.gpu_clocks",
    "backends.ort",
    "backends.tensorrt",
    "gated_device",
}
LIGHT = {"preempt_runtime", "numpy", "tomllib", "tomli", "rich"}  # tomllib: standard from 3.11
LIBRARIES = {
    "ort.py": "onnxruntime",
    "cuda_driver.py": "cuda",
    "nvml.py": "pynvml",
    "trt_library.py": "tensorrt",
    "trt_tensors.py": "ml_dtypes",
}
"""The one file of the runtime's backends that may import a heavy library, for each of them."""


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def _modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", _modules("runtime/preempt_runtime"), ids=lambda p: p.name)
def test_runtime_imports_nothing_of_the_compiler(path: Path) -> None:
    for name in _imports(path):
        top = name.split(".")[0]
        is_backend = "backends" in path.parts and top == LIBRARIES.get(path.name)
        assert top in LIGHT or top in sys.stdlib_module_names or is_backend, f"{path}: {name}"


@pytest.mark.parametrize("path", _modules("preemptc"), ids=lambda p: p.name)
def test_compiler_imports_only_the_contract_of_the_runtime(path: Path) -> None:
    for name in _imports(path):
        if name.startswith("preempt_runtime."):
            allowed = HOST_MAY_IMPORT | (BACKENDS if "backends" in path.parts else set())
            assert name.removeprefix("preempt_runtime.") in allowed, f"{path}: {name}"


PACKAGES = ("backends.ort", "backends.tensorrt")
VALUES = {"model", "profile"}  # what the stages hand to each other
PURE = {"interface", "segments", "swap"}  # small pure helpers, and one rename, that stages share
ONNX = {
    "onnx_io.files", "onnx_io.graphs", "onnx_io.names", "onnx_io.order", "onnx_io.precision",
    "onnx_io.quantized", "onnx_io.simplify", "onnx_io.versions",
}  # fmt: skip
ALLOWED: dict[str, set[str]] = {
    "model": set(),
    "profile": set(),
    "swap": set(),
    "plot": set(),
    "gpu_specs": set(),
    "targets": {"gpu_specs"},
    "interface": {"model"},
    "segments": {"model"},
    "analysis": {"model"},
    "locks": set(),
    "leftovers": {"locks", "swap"},
    "cache": {"leftovers", "locks", "swap"},
    "onnx_io": set(),
    "onnx_io.versions": set(),
    "onnx_io.files": set(),
    "onnx_io.graphs": {"model", "onnx_io.files"},
    "onnx_io.names": {"onnx_io.files"},
    "onnx_io.order": {"onnx_io.files", "onnx_io.graphs", "onnx_io.names"},
    "onnx_io.precision": {
        "onnx_io.files", "onnx_io.names", "onnx_io.order", "onnx_io.quantized",
    },
    "onnx_io.quantized": {"onnx_io.files"},
    "onnx_io.simplify": ONNX - {"onnx_io.simplify"},
    "backends": {*VALUES, "targets"},
    "backends.stats": {"backends"},
    "backends.positions": {"model"},
    "backends.reference": {"backends", "onnx_io.files"},
    "backends.roofline": {*VALUES, "gpu_specs"},
    "load": {"cache", "model", *ONNX},
    "candidates": {*VALUES, "analysis"},
    "segment_costs": set(),
    "segment_paths": {"segment_costs"},
    "search": {"candidates", "profile", "segment_costs", "segment_paths"},
    "gate_search": {"segment_costs"},
    "gate_plan": {"backends", "gate_search", "goal", "search", "trials", "under_bound"},
    "gate_check": {"backends", "check"},
    "learnt_costs": {"backends", "search", "segment_costs"},
    "goal": {"search", "segment_costs"},
    "trials": {"backends", "learnt_costs", "search", "segment_costs"},
    "under_bound": {"learnt_costs", "search", "trials"},
    "improve": {"search", "segment_costs", "trials"},
    "replan": {
        "backends", "goal", "improve", "search", "segment_costs", "trials", "under_bound",
    },
    "check": {"backends"},
    "plan_specs": {*VALUES, "gate_plan", "goal", "interface", "search", "segments", "trials"},
    "pack": {
        "backends", "cache", "compile_options", "gate_plan", "goal", "plan_specs", "search",
        "trials", *VALUES, *PURE, *ONNX,
    } - {
        "onnx_io.names", "onnx_io.order", "onnx_io.precision", "onnx_io.quantized",
        "onnx_io.simplify",
    },
    "deliver": {"cache", "locks", "swap"},
    "verify": {"backends", "backends.reference", "check", "onnx_io.files", "pack"},
    "machine_speed": {"profile"},
    "report": {"candidates", "profile"},
    "terminal": {"backends", "report"},
    "compile_options": {"backends", "goal"},
    "prepare": {"backends", "cache", "compile_options", "load", "model", "targets"},
    "profile_device": {*VALUES, "gpu_specs", "targets"},
    "profiling": {
        *VALUES, "backends", "cache", "compile_options", "machine_speed", "prepare",
        "profile_device",
    },
    "costs_now": {
        "backends", "cache", "compile_options", "machine_speed", "prepare", "profile", "profiling",
    },
    "compile_report": {
        "backends", "candidates", "check", "compile_options", "gate_plan", "goal",
        "machine_speed", "profile", "search", "trials",
    },
    "pipeline": {
        *VALUES, "backends", "cache", "candidates", "check", "compile_options", "compile_report",
        "deliver", "gate_check", "gate_plan", "goal", "interface", "machine_speed",
        "onnx_io.versions", "pack", "prepare",
        "profiling", "replan", "search",
    },
    "rebuild": {
        "backends", "cache", "compile_options", "deliver", "onnx_io.files", "pipeline",
        "plan_specs", "targets",
    },
    "plan_costs": {
        "backends", "cache", "compilation", "compile_options", "costs_now", "goal", "pipeline",
        "prepare", "profiling", "search",
    },
    "compilation": {"backends", "compile_options", "goal"},
    "plan_depth": {"plan_costs", "targets"},
    "plan_notes": {"backends", "compilation", "compile_options", "targets"},
    "plan_targets": {"backends", "plan_costs", "targets"},
    "plan_problem": {"plan_costs", "plan_depth"},
    "plan": {
        "backends", "cache", "compilation", "deliver", "pipeline", "plan_costs",
        "plan_notes", "plan_problem", "plan_targets", "targets",
    },
    "plan_refusal": {"plan"},
    "plan_report": {"plan", "plan_depth", "report"},
    "interruption": set(),
    "cli": {"interruption"},
    "start": {"cli", "interruption"},
    "__main__": {"start"},
}  # fmt: skip
"""Which module of the compiler may import which. A stage imports earlier stages' types."""


def _own_imports(path: Path) -> set[str]:
    """Modules of the compiler that a file imports, `from preemptc import x` included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = node.module or ""
            found |= {parent, *(f"{parent}.{alias.name}" for alias in node.names)}
    return {_name(module) for module in _modules("preemptc") if _dotted(module) in found} - {""}


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _name(path: Path) -> str:
    return _dotted(path).removeprefix("preemptc").removeprefix(".")


def _allowed(name: str) -> set[str]:
    for package in PACKAGES:
        if name.startswith(package):
            own = {n for n in map(_name, _modules("preemptc")) if n.startswith(f"{package}.")}
            shared = {n for n in ALLOWED if n.startswith("backends")}
            kept = {"cache", "interruption"}  # where work stands, and how Ctrl-C ends it
            return {"analysis", "targets", *kept, *shared, *own, *VALUES, *PURE, *ONNX} - {
                "onnx_io.simplify"
            }
    if name.startswith("commands"):
        shared = {"commands.compile_tables", "commands.options", "commands.values"}
        return {*shared, *ALLOWED} - {"cli", "start", "__main__", "load"}
    return ALLOWED[name]


@pytest.mark.parametrize("path", [p for p in _modules("preemptc") if _name(p)], ids=_name)
def test_modules_of_the_compiler_import_only_what_the_table_allows(path: Path) -> None:
    packages = {"commands", "onnx_io", *PACKAGES}  # a package counts as what is taken from it
    surplus = _own_imports(path) - _allowed(_name(path)) - packages
    assert not surplus, f"{_name(path)} imports {sorted(surplus)}"


def test_the_table_has_no_circle_and_no_stranger() -> None:
    graphlib.TopologicalSorter(ALLOWED).prepare()
    names = {_name(path) for path in _modules("preemptc")}
    assert set(ALLOWED) <= names


def test_no_library_is_imported_before_a_target_asks() -> None:
    code = (
        "import sys, preemptc.pipeline, preemptc.verify\n"
        "from preemptc.commands import inspect, targets, values\n"
        "assert 'onnxruntime' not in sys.modules"
    )
    paths = f"{ROOT}{os.pathsep}{ROOT / 'runtime'}"
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
