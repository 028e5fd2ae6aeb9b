"""The GPU target: TensorRT behind the seam of `preemptc.backends`."""

from collections.abc import Mapping
from pathlib import Path

from preempt_runtime.backends.cuda import Stream, open_cuda
from preempt_runtime.backends.gpu_clocks import clock_fields
from preempt_runtime.backends.ort import library_version as reference_version
from preempt_runtime.backends.tensorrt import Scratch, bind, deserialize, local_fields
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.manifest import hash_key
from preemptc.backends import DEFAULT_PRECISION, BackendOptions, Progress, silent
from preemptc.backends.roofline import estimate_gpu, flops, moved_bytes
from preemptc.backends.tensorrt.bench import WHOLE_ENGINE, TrtBench
from preemptc.backends.tensorrt.build_watch import BuildWatch
from preemptc.backends.tensorrt.engine_builder import (
    EngineOptions,
    is_strongly_typed,
    shared_builder,
)
from preemptc.backends.tensorrt.inspector import inspected, layers_from_json
from preemptc.backends.tensorrt.lower import (
    read_groups,
    read_lowered,
    write_groups,
    write_typed_graph,
)
from preemptc.backends.tensorrt.profiler import (
    busy_clocks,
    layer_samples,
    measure_boundary,
    measured_profile,
    node_samples,
)
from preemptc.backends.tensorrt.timing import time_in_turn
from preemptc.interface import graph_spec
from preemptc.model import Lowered, Model
from preemptc.onnx_io.files import MODEL_FILE
from preemptc.onnx_io.quantized import is_quantized
from preemptc.profile import LatencyProfile
from preemptc.targets import TARGETS, Target, local_device

DEFAULT_LEVEL = 3
_LAYERS_FILE = "layers.json"
_WHOLE_RUNS = 100
_FLOPS_PER_BYTE = 100  # to weigh operations against bytes where a layer is shared out


class TrtBackend:
    """TensorRT on the GPU of this machine."""

    def __init__(
        self, target: Target, options: EngineOptions, *, is_portable: bool, cache: Path | None
    ) -> None:
        self.target = target.name
        self._cache = cache
        self.is_portable = is_portable
        self._spec = target.gpu
        self._options = options

    def key_fields(self, model: Model) -> Mapping[str, str | int]:
        """Graph, TensorRT, driver, GPU and options; the target's name where the GPU is not here."""
        options = self._options
        device = {"backend": "tensorrt", "target": self.target}
        return {
            **(device if self.is_portable else local_fields()),
            "graph_sha256": model.digest,
            "options": f"precision={options.precision} level={options.level}",
        }

    def lower(self, model: Model, folder: Path, progress: Progress = silent) -> None:
        """Write the typed graph, the engine of the whole and its fused layers into `folder`.

        Without the GPU there is no engine, and groups follow what TensorRT is known to fuse.
        """
        proto = write_typed_graph(
            model,
            folder,
            self._options.precision,
            is_strongly_typed=self.is_portable or is_strongly_typed(),
        )
        if self.is_portable:
            write_groups(proto, (), folder)
            return
        engine = shared_builder(self._options, self._cache).build(
            folder / MODEL_FILE,
            {},
            BuildWatch("lower: the whole network", 0.0, progress),
            is_quantized=is_quantized(proto),
        )
        (folder / WHOLE_ENGINE).write_bytes(engine)
        text = inspected(deserialize(engine, "the whole network"))
        (folder / _LAYERS_FILE).write_text(text)
        layers = layers_from_json(text, [node.name for node in proto.graph.node])
        write_groups(proto, layers, folder)

    def read_lowered(self, model: Model, folder: Path) -> Lowered:
        """The graph that `lower` wrote."""
        fields = self.key_fields(model)
        key = None if self.is_portable else hash_key(fields)
        return read_lowered(model, folder, target=self.target, key=key, key_fields=fields)

    def estimate(self, lowered: Lowered) -> LatencyProfile:
        """Costs by roofline, from the target's data sheet.

        Raises:
            InputError: the target is whatever GPU is here, and none is known.
        """
        if self._spec is None:
            raise InputError(
                f"target {self.target!r} has no data sheet to estimate from; name a GPU of"
                " `preemptc targets`, or measure where the GPU is"
            )
        return estimate_gpu(lowered, self._spec, self._options.precision)

    def profile(self, lowered: Lowered, progress: Progress) -> LatencyProfile:
        """Costs measured on this GPU."""
        progress("profile: layers", 0.3)
        path = lowered.path.with_name(WHOLE_ENGINE)
        graph = lowered.graph
        weights = [
            flops(node, graph) // _FLOPS_PER_BYTE + moved_bytes(node, graph) + 1
            for node in graph.nodes
        ]
        with open_cuda(), Stream(priority="high") as stream:
            engine = deserialize(path.read_bytes(), path.name)
            with (
                Scratch([engine]) as scratch,
                bind(
                    [engine],
                    [(graph.inputs, graph.outputs)],
                    graph_spec(lowered),
                    (),
                    path.name,
                    scratch,
                    stream,
                ) as buffers,
            ):
                rows = time_in_turn(
                    buffers.graphs, buffers.graphs, stream, min_rows=_WHOLE_RUNS, budget_ns=0
                )
                clocks = busy_clocks(buffers, stream, clock_fields, rows[0].whole_ns)
                progress("profile: boundaries", 0.7)
                boundary = measure_boundary(stream)
                samples = layer_samples(buffers, stream)
        groups = read_groups(lowered.path.parent)
        return measured_profile(
            lowered,
            node_samples(lowered, groups, samples, weights),
            [row.whole_ns for row in rows],
            boundary,
            clocks,
        )

    def bench(self, model: Model, lowered: Lowered, progress: Progress = silent) -> TrtBench:
        """Engines of this graph's segments."""
        return TrtBench(model, lowered, shared_builder(self._options, self._cache), progress)


def open_backend(target: str, options: BackendOptions) -> TrtBackend:
    """The backend of GPU targets; portable where the target's GPU is not in this machine.

    Raises:
        InputError: an option that is for CPUs.
        DeviceError: the GPU is not here, and engines are required or the target is `native`; or
            ONNX Runtime is not, against which outputs are checked.
    """
    if options.threads is not None:
        raise InputError("--threads is for the target cpu; leave it out for a GPU")
    found = TARGETS[target]
    missing = None if options.engines == "skip" else local_device(found).unavailable
    if missing is not None and (options.engines == "require" or found.gpu is None):
        raise DeviceError(f"target {target!r}: {missing}")
    engine_options = EngineOptions(
        precision=options.precision or DEFAULT_PRECISION,
        level=DEFAULT_LEVEL if options.level is None else options.level,
    )
    is_portable = options.engines == "skip" or missing is not None
    if not is_portable:
        reference_version()
    return TrtBackend(found, engine_options, is_portable=is_portable, cache=options.cache)
