"""The executed graph's interface and tensors, as the manifest describes them."""

from preempt_runtime.errors import BuildError
from preempt_runtime.manifest import GraphSpec, TensorSpec
from preemptc.model import Graph, Lowered, TensorInfo

GRAPH_ID = "main"


def graph_spec(lowered: Lowered) -> GraphSpec:
    """The network's inputs and outputs.

    Raises:
        BuildError: one of them has no static shape.
    """
    return GraphSpec(
        id=GRAPH_ID,
        variant="full",
        exit_of=None,
        inputs=tuple(tensor_spec(lowered, name) for name in lowered.graph.inputs),
        outputs=tuple(tensor_spec(lowered, name) for name in lowered.graph.outputs),
    )


def tensor_spec(lowered: Lowered, name: str) -> TensorSpec:
    """A tensor of the executed graph.

    Raises:
        BuildError: its shape depends on the data, so no buffer can be allocated.
    """
    return spec_of(lowered.graph, name)


def spec_of(graph: Graph, name: str) -> TensorSpec:
    """A tensor of a graph, as the manifest describes it.

    Raises:
        BuildError: its shape depends on the data.
    """
    info = tensor_info(graph, name)
    return TensorSpec(name=info.name, dtype=info.dtype, shape=info.shape)


def tensor_info(graph: Graph, name: str) -> TensorInfo:
    """A tensor that is handed over.

    Raises:
        BuildError: its shape depends on the data.
    """
    if (info := graph.tensors.get(name)) is None:
        raise BuildError(
            f"{name!r} has a shape that depends on the data (or is no tensor); as an input or"
            " output it needs a static shape"
        )
    return info
