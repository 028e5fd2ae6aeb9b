"""A captured CUDA graph before it is instantiated: its nodes and edges, read and edited."""

from collections.abc import Callable, Sequence
from typing import Any

from preempt_runtime.backends.cuda import GraphExec, Stream, captured
from preempt_runtime.backends.cuda_driver import (
    call,
    constant,
    driver_version,
    has_binding,
)
from preempt_runtime.backends.cuda_handle import Handle
from preempt_runtime.backends.graph_shape import GraphEdge, GraphNode, GraphShape
from preempt_runtime.errors import DeviceError

_EDGE_DATA = 12_030  # the first driver with it, and with names of functions


class CudaGraph(Handle):
    """Nodes in the driver's order of creation; an edge joins two of them, by index."""

    def __init__(self, raw: Any) -> None:
        super().__init__(raw)
        self.nodes: list[Any] = _listed("cuGraphGetNodes", raw)[0]

    def shape(self) -> GraphShape:
        """What every node is and which depend on each other, without what they compute.

        Raises:
            DeviceError: the driver's own text.
        """
        index = {int(node): idx for idx, node in enumerate(self.nodes)}
        edges = tuple(
            GraphEdge(start=index[int(start)], end=index[int(end)], is_programmatic=bool(kind))
            for start, end, kind, _ in self._edges()
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

    def add_kernel(self, params: Any, after: Sequence[Any]) -> Any:
        """A new node that waits for those nodes; it is none of `nodes`."""
        return call("cuGraphAddKernelNode", self._raw, list(after), len(after), params)

    def add_edges(self, pairs: Sequence[tuple[Any, Any]]) -> None:
        """Let the second node of each pair wait for the end of the first."""
        self._change("cuGraphAddDependencies", pairs, None)

    def remove_edges(self, is_gone: Callable[[int, int], bool]) -> None:
        """Drop the edges for whose nodes, by index, the function says so."""
        index = {int(node): idx for idx, node in enumerate(self.nodes)}
        gone = [
            (start, end, data)
            for start, end, _, data in self._edges()
            if is_gone(index[int(start)], index[int(end)])
        ]
        pairs = [(start, end) for start, end, _ in gone]
        data = [each for _, _, each in gone]
        self._change("cuGraphRemoveDependencies", pairs, None if None in data else data)

    def instantiate(self) -> GraphExec:
        """What can be launched; later changes of this graph do not reach it."""
        _, num_nodes = call("cuGraphGetNodes", self._raw)
        return GraphExec(call("cuGraphInstantiate", self._raw, 0), int(num_nodes))

    def _edges(self) -> list[tuple[Any, Any, int, Any]]:
        """Start, end, 0 or the kind of a special edge, and the driver's data if it has any.

        The bindings for CUDA 12 name the form with data apart; those for 13 have no other.
        """
        function = "cuGraphGetEdges"
        if has_binding(f"{function}_v2") and driver_version() >= _EDGE_DATA:
            function = f"{function}_v2"
        starts, ends, *data = _listed(function, self._raw)
        if not data:
            return [(start, end, 0, None) for start, end in zip(starts, ends, strict=True)]
        return [
            (start, end, int(each.type), each)
            for start, end, each in zip(starts, ends, data[0], strict=True)
        ]

    def _change(self, function: str, pairs: Sequence[tuple[Any, Any]], data: Any) -> None:
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


def capture_graph(stream: Stream, enqueue: Callable[[], None]) -> CudaGraph:
    """What `enqueue` puts on the stream, as a graph that can be read and edited.

    Raises:
        DeviceError: something in it cannot be captured.
    """
    return CudaGraph(captured(stream, enqueue))


def _listed(function: str, graph: Any) -> tuple[list[Any], ...]:
    """The lists that a function returns, which is asked for their length first."""
    *_, number = call(function, graph)
    *lists, found = call(function, graph, int(number))
    return tuple(list(each)[: int(found)] for each in lists)


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



