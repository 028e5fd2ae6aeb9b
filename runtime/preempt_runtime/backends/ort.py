"""ONNX Runtime on the CPU: one session per segment, bound to preallocated boundary tensors."""

import functools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preempt_runtime.bundle import Bundle, choose_plan
from preempt_runtime.device import MAX_THREADS, Array, JobBuffers, check_array, check_open
from preempt_runtime.errors import BundleError, DeviceError
from preempt_runtime.manifest import GraphSpec, PlanSpec, SegmentSpec, TensorSpec
from preempt_runtime.memory import exceeds_memory
from preempt_runtime.strict_json import brief
from preempt_runtime.units import fmt_bytes

try:
    import onnxruntime as ort
except ImportError:  # the module can be imported, and its absence reported, without the library
    ort = None

_USED_PROVIDERS = ("CPUExecutionProvider", "AzureExecutionProvider")  # the latter is no device
_ALIGNMENT = 64
_ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_tile",
    "asimd",
    "asimddp",
    "sve",
    "i8mm",
    "bf16",
)


def library_version() -> str:
    """Version of ONNX Runtime.

    Raises:
        DeviceError: it is missing, or two of its wheels were installed over each other.
    """
    version = getattr(ort, "__version__", None)
    if version is None:
        raise DeviceError(
            "ONNX Runtime is missing or broken; install it with `pip install onnxruntime`"
            " (and only one of onnxruntime and onnxruntime-gpu)"
        )
    return str(version)


def unused_providers() -> tuple[str, ...]:
    """What else this ONNX Runtime was built for, such as CUDA: sessions here run on the CPU."""
    providers: Sequence[str] = getattr(ort, "get_available_providers", tuple)()
    return tuple(name for name in providers if name not in _USED_PROVIDERS)


@functools.cache
def local_fields() -> dict[str, str | int]:
    """What a CPU plan's key must match on this machine, field by field."""
    info: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        name, _, value = line.partition(":")
        info.setdefault(name.strip(), value.strip())
    flags = set(info.get("flags", info.get("Features", "")).split())
    family = " ".join(info.get(name, "") for name in ("cpu family", "model", "CPU part")).split()
    return {
        "backend": "ort",
        "onnxruntime": library_version(),
        "arch": platform.machine(),
        "cpu_model": " ".join([info.get("model name") or platform.processor() or "cpu", *family]),
        "isa": " ".join(flag for flag in _ISA_FLAGS if flag in flags),
    }


def hazards(*, is_warm: bool) -> tuple[str, ...]:
    """Nothing: what disturbs a CPU takes a while to be seen, and `preempt-rt doctor` looks."""
    return ()


def default_threads() -> int:
    """As many threads as this process may use cores."""
    return len(os.sched_getaffinity(0))


def session_options(threads: int) -> "ort.SessionOptions":
    """Options of every session that runs an already optimised graph.

    Optimisation is off: the graph was optimised once, as a whole. Idle pools must not spin: with
    ten sessions of a ResNet-50 on 2 cores the chain took 1.02 times the whole network with
    `force_spinning_stop`, 1.6 times without (x86-64, 2 cores, ONNX Runtime 1.31.1, 2026-11-21).
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal: errors are raised, and would be printed besides
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def open_session(path: Path, threads: int) -> "ort.InferenceSession":
    """A session of one graph file; its external weights are mapped, not read.

    Raises:
        DeviceError: ONNX Runtime's own text.
    """
    try:
        return ort.InferenceSession(
            str(path), session_options(threads), providers=["CPUExecutionProvider"]
        )
    except Exception as err:  # onnxruntime raises its own classes, without a common root
        raise DeviceError(
            f"{path.name}: ONNX Runtime refused it ({_one_line(err)});"
            " compile the bundle again on this machine"
        ) from err


def aligned_empty(spec: TensorSpec) -> Array:
    """An uninitialised array on a cache line's boundary, as ONNX Runtime allocates its own.

    Raises:
        DeviceError: numpy lacks the dtype, or there is no memory.
    """
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as err:
        raise DeviceError(
            f"tensor {brief(spec.name)}: numpy has no {spec.dtype}, so it cannot run on this CPU;"
            " convert the network to float32 or float16"
        ) from err
    try:
        raw = np.empty(spec.num_bytes + _ALIGNMENT, dtype=np.uint8)
    except (MemoryError, ValueError, OverflowError) as err:  # by how far it exceeds the memory
        raise _no_memory(spec) from err
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + spec.num_bytes].view(dtype).reshape(spec.shape)


def _no_memory(spec: TensorSpec) -> DeviceError:
    return DeviceError(
        f"tensor {brief(spec.name)}: no memory for its {fmt_bytes(spec.num_bytes)};"
        " run fewer or smaller networks"
    )


@dataclass(slots=True)
class OrtBuffers:
    """One job's tensors and, per segment, the session bound to them."""

    arrays: dict[str, Array]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    bindings: tuple[tuple["ort.InferenceSession", "ort.IOBinding"], ...]
    name: str

    def write_inputs(self, inputs: Mapping[str, Array]) -> None:
        """Copy checked host arrays into the input buffers."""
        for name in self.input_names:
            array = self.arrays[name]
            if not isinstance(inputs[name], np.ndarray):  # refuses it, by name
                check_array(name, inputs[name], dtype=array.dtype.name, shape=array.shape)
            np.copyto(array, inputs[name])

    def read_outputs(self) -> dict[str, Array]:
        """Copies of the outputs, owned by the caller."""
        return {name: self.arrays[name].copy() for name in self.output_names}

    def close(self) -> None:
        """Drop the tensors and what is bound to them."""
        self.bindings = ()
        self.arrays = {}

    def run_segment(self, segment_idx: int) -> None:
        """Run one segment to its end in the calling thread; the GIL is released meanwhile.

        Raises:
            DeviceError: ONNX Runtime's own text.
        """
        session, binding = self.bindings[segment_idx]
        try:
            session.run_with_iobinding(binding)
        except Exception as err:
            raise DeviceError(
                f"{self.name}: segment {segment_idx} failed in ONNX Runtime: {_one_line(err)}"
            ) from err


def bind(
    sessions: Sequence["ort.InferenceSession"],
    segments: Sequence[tuple[Sequence[str], Sequence[str]]],
    graph: GraphSpec,
    boundaries: Sequence[TensorSpec],
    name: str,
) -> OrtBuffers:
    """Buffers for one job: each tensor allocated once, each session bound to what it reads.

    Args:
        sessions: one per segment, in order.
        segments: names of the tensors that each segment reads and writes.
        graph: the network's interface.
        boundaries: the tensors that segments hand over.
        name: what messages call the network.

    Raises:
        DeviceError: a tensor has no memory, or is not what ONNX Runtime expects of it.
    """
    specs = {spec.name: spec for spec in (*graph.inputs, *graph.outputs, *boundaries)}
    if exceeds_memory(sum(spec.num_bytes for spec in specs.values())):
        raise _no_memory(max(specs.values(), key=lambda spec: spec.num_bytes))
    arrays = {tensor: aligned_empty(spec) for tensor, spec in specs.items()}
    for spec in graph.inputs:
        arrays[spec.name].fill(0)
    try:
        bindings = _bindings(sessions, segments, arrays)
    except Exception as err:  # onnxruntime raises its own classes, without a common root
        raise DeviceError(
            f"{name}: ONNX Runtime refused its tensors ({_one_line(err)}); compile the bundle again"
        ) from err
    return OrtBuffers(
        arrays=arrays,
        input_names=tuple(spec.name for spec in graph.inputs),
        output_names=tuple(spec.name for spec in graph.outputs),
        bindings=bindings,
        name=name,
    )


def _bindings(
    sessions: Sequence["ort.InferenceSession"],
    segments: Sequence[tuple[Sequence[str], Sequence[str]]],
    arrays: Mapping[str, Array],
) -> tuple[tuple["ort.InferenceSession", "ort.IOBinding"], ...]:
    values = {tensor: ort.OrtValue.ortvalue_from_numpy(array) for tensor, array in arrays.items()}
    bindings = []
    for session, (inputs, outputs) in zip(sessions, segments, strict=True):
        binding = session.io_binding()
        for tensor in inputs:
            binding.bind_ortvalue_input(tensor, values[tensor])
        for tensor in outputs:
            binding.bind_ortvalue_output(tensor, values[tensor])
        bindings.append((session, binding))
    return tuple(bindings)


@dataclass(slots=True)
class OrtNetwork:
    """A plan whose segments are loaded as sessions."""

    name: str
    graph: GraphSpec
    plan: PlanSpec
    sessions: tuple["ort.InferenceSession", ...]

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """The plan's segments in the order in which they run."""
        return self.plan.segments

    def new_buffers(self) -> OrtBuffers:
        """Buffers for one more job in flight.

        Raises:
            InputError: the network is closed.
            DeviceError: a tensor has no memory, or is not what ONNX Runtime expects of it.
        """
        check_open(self.name, self.sessions)
        interfaces = [(segment.inputs, segment.outputs) for segment in self.plan.segments]
        return bind(self.sessions, interfaces, self.graph, self.plan.boundaries, self.name)

    def close(self) -> None:
        """Drop the sessions; their memory goes with the last buffers."""
        self.sessions = ()


class OrtDevice:
    """The CPU: a launched segment runs to its end in the dispatcher's thread."""

    name = "cpu"
    max_depth = 1

    def load(self, bundle: Bundle, plan_id: str | None = None) -> OrtNetwork:
        """Load the first plan that fits this machine, or the one named.

        Raises:
            BundleError: no plan fits, its key has no possible threads, or a file is damaged.
            DeviceError: ONNX Runtime refused a segment.
        """
        plan = choose_plan(bundle, local_fields(), plan_id=plan_id)
        threads = _threads(bundle, plan)
        bundle.verify_artefacts(plan.key)
        sessions = tuple(
            open_session(bundle.verified_path(segment.path), threads) for segment in plan.segments
        )
        graph = bundle.manifest.graph_of(plan)
        return OrtNetwork(name=bundle.root.name, graph=graph, plan=plan, sessions=sessions)

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        """Run the segment; on a CPU there is nothing to overlap with."""
        assert isinstance(buffers, OrtBuffers)
        buffers.run_segment(segment_idx)

    def wait(self, num_left: int = 0) -> None:
        """Return at once: `launch` came back when the segment had ended."""

    def stream(self, *, is_urgent: bool) -> object | None:
        """No streams on a CPU."""
        return None

    def close(self) -> None:
        """Nothing is held beyond the networks."""


def _threads(bundle: Bundle, plan: PlanSpec) -> int:
    assert plan.key is not None, "a plan that fits this machine has a key"
    found = bundle.manifest.keys[plan.key].get("threads")
    if type(found) is not int or not 1 <= found <= MAX_THREADS:
        raise BundleError(
            f"{bundle.root}: key {plan.key}: threads is {brief(found)}, allowed 1 to"
            f" {MAX_THREADS}; compile it again"
        )
    return found


def _one_line(err: Exception) -> str:
    return " ".join(str(err).split())[:300] or type(err).__name__
