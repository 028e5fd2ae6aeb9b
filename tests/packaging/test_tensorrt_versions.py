"""Every TensorRT attribute that the backends use exists in the versions that they support.

The attributes come from the sources. NEEDED declares those of TensorRT's objects, which Python
cannot tell, with the versions that must have each. When a test here fails for a new member, add
it there. A use that some versions lack must be in a branch that the version, `hasattr` or `getattr`
with a default decides, in a form that tests/packaging/test_tensorrt_scan.py shows.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.packaging.tensorrt_api import Use, missing, scan
from tests.packaging.tensorrt_wheels import read_api

ROOT = Path(__file__).parents[2]
VERSIONS = ("10.3.0", "10.13.3.9", "10.16.1.11", "11.4.0.106")  # 8.6 is tested on a GPU
ALL = frozenset(VERSIONS)
BEFORE_11 = ALL - {"11.4.0.106"}
OPTIONAL: frozenset[str] = frozenset()  # guarded in a way that the scan does not see

PATTERNS = (
    "runtime/preempt_runtime/backends/tensorrt*.py",
    "runtime/preempt_runtime/backends/trt_*.py",
    "preemptc/backends/tensorrt/*.py",
)
FILES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}

# What a variable of this name, or the result of a function of this name, is an object of.
INSTANCES = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "create_builder_config()": "IBuilderConfig",
    "create_engine_inspector()": "EngineInspector",
    "create_execution_context()": "IExecutionContext",
    "create_execution_context_without_device_memory()": "IExecutionContext",
    "create_network()": "INetworkDefinition",
    "create_timing_cache()": "ITimingCache",
    "deserialize()": "ICudaEngine",
    "deserialize_cuda_engine()": "ICudaEngine",
    "engine": "ICudaEngine",
    "error": "ParserError",
    "get_error()": "ParserError",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "runtime": "Runtime",
    "runtime_of()": "Runtime",
    "tensor": "ITensor",
    "timing_cache": "ITimingCache",
}
# Variables of such a name that hold a thing of ours, where no annotation says so.
OURS = {
    "preemptc/backends/tensorrt/formats.py": ("tensor",),
    "preemptc/backends/tensorrt/groups.py": ("layer",),
    "preemptc/backends/tensorrt/lower.py": ("layer",),
    "preemptc/backends/tensorrt/quantized.py": ("tensor",),
    "runtime/preempt_runtime/backends/tensorrt.py": ("context",),
    "runtime/preempt_runtime/backends/trt_bind.py": ("tensor",),
    "runtime/preempt_runtime/backends/trt_buffers.py": ("tensor",),
    "runtime/preempt_runtime/backends/trt_memory.py": ("network",),
    "runtime/preempt_runtime/backends/trt_tensors.py": ("tensor",),
}
# By class, and by enumeration whose members are computed: the versions that must have a member.
NEEDED: dict[str, dict[str, frozenset[str]]] = {
    "Builder": {
        "build_serialized_network": ALL,
        "create_builder_config": ALL,
        "create_network": ALL,
    },
    "EngineInspector": {"get_engine_information": ALL},
    "IBuilderConfig": {
        "builder_optimization_level": ALL,
        "create_timing_cache": ALL,
        "get_tactic_sources": ALL,
        "max_aux_streams": ALL,
        "progress_monitor": ALL,
        "profiling_verbosity": ALL,
        "set_flag": ALL,
        "set_tactic_sources": ALL,
        "set_timing_cache": ALL,
    },
    "ICudaEngine": {
        "create_engine_inspector": ALL,
        "create_execution_context": ALL,
        "create_execution_context_without_device_memory": BEFORE_11,
        "device_memory_size": BEFORE_11,
        "device_memory_size_v2": ALL,
        "get_engine_stat": ALL - {"10.3.0", "10.13.3.9"},
        "get_tensor_components_per_element": ALL,
        "get_tensor_dtype": ALL,
        "get_tensor_format": ALL,
        "get_tensor_mode": ALL,
        "get_tensor_name": ALL,
        "get_tensor_shape": ALL,
        "get_tensor_vectorized_dim": ALL,
        "num_aux_streams": ALL,
        "num_io_tensors": ALL,
    },
    "IExecutionContext": {
        "device_memory": ALL,
        "execute_async_v3": ALL,
        "profiler": ALL,
        "set_device_memory": ALL,
        "set_tensor_address": ALL,
    },
    "INetworkDefinition": {
        "get_input": ALL,
        "get_output": ALL,
        "num_inputs": ALL,
        "num_outputs": ALL,
    },
    "ITimingCache": {"combine": ALL, "serialize": ALL},
    "ITensor": {"allowed_formats": ALL, "name": ALL},
    "OnnxParser": {"get_error": ALL, "num_errors": ALL, "parse_from_file": ALL},
    "ParserError": {"desc": ALL, "node": ALL, "node_name": ALL, "node_operator": ALL},
    "Runtime": {"deserialize_cuda_engine": ALL},
    "TacticSource": {"CUBLAS": OPTIONAL, "CUBLAS_LT": OPTIONAL, "CUDNN": OPTIONAL},
    "TensorFormat": {
        "CHW2": ALL,
        "CHW32": ALL,
        "CHW4": ALL,
        "HWC": ALL,
        "HWC8": ALL,
        "LINEAR": ALL,
    },
}


def _declared(uses: Iterable[Use]) -> dict[str, Use]:
    """By class and member, a use of each member that must stand in NEEDED."""
    found = {}
    for use in uses:
        owner, *members = use.path.split(".")
        if members and (owner in INSTANCES.values() or members[0] == "*"):
            found[f"{owner}.{members[0]}"] = use
    return found


def _is_declared(path: str) -> bool:
    owner, _, member = path.partition(".")
    return owner in NEEDED and (member == "*" or member in NEEDED[owner])


@pytest.mark.skipif(not SOURCES, reason=f"there is no file to scan: {', '.join(PATTERNS)}")
@pytest.mark.parametrize("file", SOURCES or ["no file"])
def test_every_member_is_declared(file: str) -> None:
    uses = _declared(scan({file: SOURCES[file]}, INSTANCES, ours=OURS))
    unknown = [str(use) for path, use in uses.items() if not _is_declared(path)]
    assert not unknown, f"add to NEEDED, or to OURS if it is not TensorRT's: {unknown}"


def test_every_declaration_is_used() -> None:
    unmatched = [pattern for pattern in PATTERNS if not any(ROOT.glob(pattern))]
    if unmatched:
        pytest.skip(f"only a part of the backends is here: nothing matches {unmatched}")
    used = set(_declared(scan(SOURCES, INSTANCES, ours=OURS)))
    unused = [
        f"{owner}.{name}"
        for owner, members in NEEDED.items()
        for name in members
        if used.isdisjoint({f"{owner}.{name}", f"{owner}.*"})
    ]
    assert not unused, f"not used by {list(SOURCES)}; take them out of NEEDED: {unused}"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_has_what_is_used(version: str, tmp_path: Path) -> None:
    api = read_api(version, tmp_path)
    uses = scan(SOURCES, INSTANCES, api, OURS)
    print(f"TensorRT {version}: {len(uses)} uses in {list(SOURCES) or 'no file; none is here'}")
    members = [
        (f"{owner}.{name}", NEEDED[owner][name]) for owner in NEEDED for name in NEEDED[owner]
    ]
    optional = {path for path, versions in members if versions == OPTIONAL}
    lacking = [str(use) for use in missing(uses, api, optional)]
    assert not lacking, f"TensorRT {version} lacks what it can reach: {lacking}; guard it"
    absent = [path for path, versions in members if version in versions and not api.has(path)]
    assert not absent, f"NEEDED says that TensorRT {version} has {absent}"
