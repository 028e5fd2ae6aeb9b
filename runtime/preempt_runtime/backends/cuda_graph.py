"""A captured CUDA graph before it is instantiated: its nodes and edges, read and edited."""

from collections.abc import Callable, Sequence
from typing import Any

from preempt_runtime.backends.cuda import GraphExec, Stream, captured
from preempt_runtime.backends.cuda_driver import (
    attribute,
    call,
    constant,
    driver_version,
    has_binding,
    new_struct,
)
from preempt_runtime.backends.cuda_edges import DriverEdge, read_edges
from preempt_runtime.backends.cuda_handle import Handle
from preempt_runtime.backends.graph_shape import GraphEdge, GraphNode, GraphShape
from preempt_runtime.errors import DeviceError

_EDGE_DATA = 12_030  # the first driver with it, and with names of functions
_EARLY_CAPABILITY = 9  # the first GPUs on which a kernel can wait for those before it
_LAUNCH_ORDER = 2  # CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER: all blocks have begun
_PROGRAMMATIC = 1  # CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC


class CudaGraph(Handle):
    """Nodes in the driver's order of creation; an edge joins two of them, by index."""

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self.nodes: list[Any] = _nodes(raw)

    def shape(self) -> GraphShape:
        """What every node is and which depend on each other, without what they compute.

        Raises:
            DeviceError: the driver's own text.
        """
        index = {int(node): idx for idx, node in enumerate(self.nodes)}
        edges = tuple(
            GraphEdge(
                start=index[edge.start],
                end=index[edge.end],
                is_programmatic=not edge.is_ordinary,
            )
            for edge in read_edges(self._raw)
        )
        return GraphShape(nodes=tuple(map(_described, self.nodes)), edges=edges)

    def clone(self) -> "CudaGraph":
        """A copy whose nodes stand in the same order; attributes of kernels are kept."""
        raw = call("cuGraphClone", self._raw)
        copy = CudaGraph.__new__(CudaGraph)
        Handle.__init__(copy, raw)
        try:
            copy.nodes = [call("cuGraphNodeFindInClone", node, raw) for node in self.nodes]
        except BaseException:
            copy.close()
            raise
        return copy

    def add_kernel(self, params: Any, after: Sequence[Any], *, is_early: bool = False) -> Any:
        """A new node that waits for those nodes; it is none of `nodes`.

        Where `has_early_starts` says so it may be early: it starts as soon as all blocks of those
        nodes, which are kernels, have begun, and waits itself for what they do
        (`griddepcontrol.wait`).

        Raises:
            DeviceError: the driver's own text.
        """
        if not is_early:
            return call("cuGraphAddKernelNode", self._raw, list(after), len(after), params)
        made = call("cuGraphAddKernelNode", self._raw, [], 0, params)
        data = _new_edge_data(_LAUNCH_ORDER, 0, _PROGRAMMATIC)
        pairs = [(each, made) for each in after]
        self._change("cuGraphAddDependencies", pairs, [data] * len(pairs))
        return made

    def add_edges(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        """Let the second node of each pair wait for the end of the first."""
        self._change("cuGraphAddDependencies", pairs, None)

    def remove_edges(self, is_gone: Callable[[int, int], bool]) -> None:
        """Drop the edges for whose nodes, by index, the function says so."""
        index = {int(node): idx for idx, node in enumerate(self.nodes)}
        gone = [
            edge for edge in read_edges(self._raw) if is_gone(index[edge.start], index[edge.end])
        ]
        pairs = [(self.nodes[index[edge.start]], self.nodes[index[edge.end]]) for edge in gone]
        is_ordinary = all(edge.is_ordinary for edge in gone)
        data = None if is_ordinary else [_data_of(edge) for edge in gone]
        self._change("cuGraphRemoveDependencies", pairs, data)

    def instantiate(self) -> GraphExec:
        """What can be launched; later changes of this graph do not reach it."""
        _, num_nodes = call("cuGraphGetNodes", self._raw)
        return GraphExec(call("cuGraphInstantiate", self._raw, 0), int(num_nodes))

    def _change(self, function: str, pairs: Sequence[tuple[Any, Any]], data: Any) -> None:
        """The bindings for CUDA 12 name the form with data apart; those for 13 have no other."""
        if not pairs:
            return
        starts, ends = [start for start, _ in pairs], [end for _, end in pairs]
        if not has_binding(f"{function}_v2"):  # CUDA 13
            call(function, self._raw, starts, ends, data, len(pairs))
        elif driver_version() >= _EDGE_DATA:
            call(f"{function}_v2", self._raw, starts, ends, data, len(pairs))
        else:
            call(function, self._raw, starts, ends, len(pairs))

    def _destroy(self) -> None:
        call("cuGraphDestroy", self._raw)


def has_early_starts(device: Any) -> bool:
    """Whether a kernel's node may start before the kernels in front of it have ended.

    That takes compute capability 9.0 and a driver for CUDA 12.3.

    Raises:
        DeviceError: the driver's own text.
    """
    capability = attribute("COMPUTE_CAPABILITY_MAJOR", device)
    return capability >= _EARLY_CAPABILITY and driver_version() >= _EDGE_DATA


def capture_graph(stream: Stream, enqueue: Callable[[], None]) -> CudaGraph:
    """What `enqueue` puts on the stream, as a graph that can be read and edited.

    Raises:
        DeviceError: something in it cannot be captured.
    """
    return CudaGraph(captured(stream, enqueue))


def _nodes(graph: Any) -> list[Any]:
    _, number = call("cuGraphGetNodes", graph)
    nodes, found = call("cuGraphGetNodes", graph, int(number))
    return list(nodes)[: int(found)]


def _data_of(edge: DriverEdge) -> Any:
    return _new_edge_data(edge.from_port, edge.to_port, edge.kind)


def _new_edge_data(from_port: int, to_port: int, kind: int) -> Any:
    data = new_struct("CUgraphEdgeData")
    data.from_port, data.to_port, data.type = from_port, to_port, kind
    return data


def _described(node: Any) -> GraphNode:
    kind = call("cuGraphNodeGetType", node).name.removeprefix("CU_GRAPH_NODE_TYPE_").lower()
    if kind != "kernel":
        return GraphNode(kind=kind)
    params = call("cuGraphKernelNodeGetParams", node)
    attribute = constant("CUlaunchAttributeID", "CU_LAUNCH_ATTRIBUTE_COOPERATIVE")
    is_cooperative = bool(call("cuGraphKernelNodeGetAttribute", node, attribute).cooperative)
    return GraphNode(
        kind=kind,
        name=_kernel_name(params),
        grid=(int(params.gridDimX), int(params.gridDimY), int(params.gridDimZ)),
        block=(int(params.blockDimX), int(params.blockDimY), int(params.blockDimZ)),
        shared_bytes=int(params.sharedMemBytes),
        is_cooperative=is_cooperative,
    )


def _kernel_name(params: Any) -> str | None:
    """The kernel's name; None before CUDA 12.3, whose driver does not tell."""
    if driver_version() < _EDGE_DATA:
        return None
    function, raw = ("cuFuncGetName", params.func)
    if not int(raw):
        function, raw = ("cuKernelGetName", params.kern)
    try:
        name: bytes = call(function, raw)
    except DeviceError:
        return None
    return name.decode(errors="replace")
