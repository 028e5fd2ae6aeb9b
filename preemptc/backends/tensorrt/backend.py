"""The GPU target: TensorRT behind the seam of `preemptc.backends`."""

from collections.abc import Mapping
from pathlib import Path

from preempt_runtime.backends.cuda import Stream, open_cuda
from preempt_runtime.backends.tensorrt import Scratch, bind, deserialize, library, local_fields

from preempt_runtime.errors import InputError
from preempt_runtime.manifest import hash_key
from preemptc.backends import BackendOptions, Progress
from preemptc.backends.roofline import flops, moved_bytes
from preemptc.backends.tensorrt.bench import WHOLE_ENGINE, TrtBench
from preemptc.backends.tensorrt.engine_builder import EngineBuilder, EngineOptions
from preemptc.backends.tensorrt.inspector import layers_from_json
from preemptc.backends.tensorrt.lower import (
    read_groups,
    read_lowered,
    write_groups,
    write_typed_graph,
)
from preemptc.backends.tensorrt.profiler import (
    layer_samples,
    measure_boundary,
    measured_profile,
    node_samples,
)
from preemptc.backends.tensorrt.timing import time_in_turn
from preemptc.interface import graph_spec
from preemptc.model import Lowered, Model
from preemptc.onnx_io.files import MODEL_FILE
from preemptc.profile import LatencyProfile

DEFAULT_PRECISION = "fp32"
DEFAULT_LEVEL = 3
_LAYERS_FILE = "layers.json"
_WHOLE_RUNS = 100
_FLOPS_PER_BYTE = 100  # to weigh operations against bytes where a layer is shared out


class TrtBackend:
    """TensorRT on the GPU of this machine."""

    target = "native"

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._builder: EngineBuilder | None = None

    def key_fields(self, model: Model) -> Mapping[str, str | int]:
        """Graph, TensorRT, driver, GPU and options."""
        options = self._options
        return {
            **local_fields(),
            "graph_sha256": model.digest,
            "options": f"precision={options.precision} level={options.level}",
        }

    def lower(self, model: Model, folder: Path) -> None:
        """Write the typed graph, the engine of the whole and its fused layers into `folder`."""
        proto = write_typed_graph(model, folder, self._options.precision)
        engine = self._engine_builder().build(folder / MODEL_FILE, {})
        (folder / WHOLE_ENGINE).write_bytes(engine)
        text = _inspect(engine)
        (folder / _LAYERS_FILE).write_text(text)
        layers = layers_from_json(text, [node.name for node in proto.graph.node])
        write_groups(proto, layers, folder)

    def read_lowered(self, model: Model, folder: Path) -> Lowered:
        """The graph that `lower` wrote."""
        fields = self.key_fields(model)
        return read_lowered(
            model, folder, target=self.target, key=hash_key(fields), key_fields=fields
        )

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
            with bind(
                [engine],
                [(graph.inputs, graph.outputs)],
                graph_spec(lowered),
                (),
                path.name,
                Scratch([engine]),
                stream,
            ) as buffers:
                rows = time_in_turn(
                    buffers.graphs, buffers.graphs, stream, min_rows=_WHOLE_RUNS, budget_ns=0
                )
                progress("profile: boundaries", 0.7)
                boundary = measure_boundary(stream)
                samples = layer_samples(buffers, stream)
        groups = read_groups(lowered.path.parent)
        return measured_profile(
            lowered,
            node_samples(lowered, groups, samples, weights),
            [row.whole_ns for row in rows],
            boundary,
            {},
        )

    def bench(self, model: Model, lowered: Lowered) -> TrtBench:
        """Engines of this graph's segments."""
        return TrtBench(model, lowered, self._engine_builder())

    def _engine_builder(self) -> EngineBuilder:
        if self._builder is None:
            self._builder = EngineBuilder(self._options)
        return self._builder


def _inspect(engine: bytes) -> str:
    inspector = deserialize(engine, "the whole network").create_engine_inspector()
    return str(inspector.get_engine_information(library().LayerInformationFormat.JSON))


def open_backend(options: BackendOptions) -> TrtBackend:
    """The backend of GPU targets.

    Raises:
        InputError: an option that is for CPUs.
    """
    if options.threads is not None:
        raise InputError("--threads is for the target cpu; leave it out for a GPU")
    return TrtBackend(
        EngineOptions(
            precision=options.precision or DEFAULT_PRECISION,
            level=DEFAULT_LEVEL if options.level is None else options.level,
        )
    )
