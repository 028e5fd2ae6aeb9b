"""A fake driver whose streams keep what they get, and whose graphs have nodes and edges.

Streams make progress one step at a time, in an order that a seed decides: one access of a gate,
one node of a graph. Gates are the committed PTX, on the fake's device memory. Of a graph any node
may run whose dependencies have ended, so a dependency that is missing shows in some order. Where
`num_queues` is given, streams share hardware queues: what was enqueued later in a queue does not
start before what stands at its front has ended.
"""

import ctypes
import enum
import re
import threading
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from tests.runtime.fake_cuda import INVALID_VALUE, NOT_READY, FakeDriver
from tests.runtime.ptx_machine import Kernel, Warp, kernels

NOT_FOUND = 500
UNSUPPORTED_PTX = 222
NO_BINARY = 209  # CUDA_ERROR_NO_BINARY_FOR_GPU
LOSSY_QUERY = 912
HANG = 702  # CUDA_ERROR_LAUNCH_TIMEOUT
PROGRAMMATIC, ALL_BEGUN = 1, 2
_SIZES = {4: ctypes.c_uint32, 8: ctypes.c_uint64}


class CUdevice_attribute(enum.IntEnum):
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16
    CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT = 17
    CU_DEVICE_ATTRIBUTE_INTEGRATED = 18
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
    CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS = 122


class CUgraphNodeType(enum.IntEnum):
    CU_GRAPH_NODE_TYPE_KERNEL = 0
    CU_GRAPH_NODE_TYPE_MEMCPY = 1
    CU_GRAPH_NODE_TYPE_MEMSET = 2
    CU_GRAPH_NODE_TYPE_HOST = 3
    CU_GRAPH_NODE_TYPE_EMPTY = 5
    CU_GRAPH_NODE_TYPE_BATCH_MEM_OP = 12
    CU_GRAPH_NODE_TYPE_CONDITIONAL = 13


class CUfunction_attribute(enum.IntEnum):
    CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3
    CU_FUNC_ATTRIBUTE_NUM_REGS = 4
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
    CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT = 9


class CUlaunchAttributeID(enum.IntEnum):
    CU_LAUNCH_ATTRIBUTE_COOPERATIVE = 2
    CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4


class CUstreamBatchMemOpType(enum.IntEnum):
    CU_STREAM_MEM_OP_WAIT_VALUE_64 = 4


class CUgraphConditionalNodeType(enum.IntEnum):
    CU_GRAPH_COND_TYPE_IF = 0


class CUjit_option(enum.IntEnum):
    CU_JIT_MAX_REGISTERS = 0


@dataclass
class Node:
    """What one node does: work of a library, or a launch of our own kernel."""

    kind: CUgraphNodeType
    label: str
    work: Callable[[], None] | None = None
    launch: tuple[Kernel, tuple[int, ...], int] | None = None
    grid: int = 1
    is_cooperative: bool = False


@dataclass
class Graph:
    nodes: dict[int, Node] = field(default_factory=dict)
    edges: dict[tuple[int, int], int] = field(default_factory=dict)  # 0, or an edge's port
    clone_of: dict[int, int] = field(default_factory=dict)

    def copy(self) -> "Graph":
        return Graph(dict(self.nodes), dict(self.edges), dict(self.clone_of))


@dataclass
class Entry:
    """What a stream holds: steps that are taken one by one; `can_start` may hold it back."""

    number: int
    label: str
    steps: Iterator[None]
    can_start: Callable[[], bool]


class GraphDriver(FakeDriver):
    """`version` is the driver's; `bindings` 12 or 13 say which functions there are, and how.

    `shapes` maps a label to the kind of its captured node, `captured_edges` replaces the chain.
    """

    CUdevice_attribute = CUdevice_attribute  # type: ignore[assignment]
    CUgraphNodeType = CUgraphNodeType
    CUfunction_attribute = CUfunction_attribute
    CUlaunchAttributeID = CUlaunchAttributeID
    CUjit_option = CUjit_option
    CUstreamBatchMemOpType = CUstreamBatchMemOpType
    CUgraphConditionalNodeType = CUgraphConditionalNodeType

    def __init__(
        self, *, seed: int = 0, version: int = 13000, bindings: int = 13, num_queues: int = 0
    ) -> None:
        super().__init__(1 << 22)
        self.rng = Random(seed)
        self.version, self.bindings, self.num_queues = version, bindings, num_queues
        self.attributes |= {97: 1 << 16, 122: 1}
        self.now_ns, self.step_ns = 1 << 30, 64
        self.kinds: dict[str, Any] = {}
        self.cooperative: set[str] = set()
        self.captured_edges: dict[tuple[int, int], int] | None = None
        self.patience = 200_000
        self.jit_options: list[tuple[Any, Any]] = []
        self._lock = threading.RLock()
        self._waiting: dict[int, list[Entry]] = {}
        self.queue_of: dict[int, int] = {}
        self.next_queue: int | None = None  # of a stream that is used first from now on
        self._modules: dict[int, dict[str, Kernel]] = {}
        self._functions: dict[int, Kernel] = {}
        self._shapes: dict[int, Graph] = {}
        self._shared_of: dict[int, int] = {}
        self._conditions: dict[int, int] = {}
        self._recorded: dict[int, int] = {}  # event -> the number that it must wait for
        self._finished: set[int] = set()
        self._number = 0

    def __getattribute__(self, name: str) -> Any:
        if name.endswith("_v2") and super().__getattribute__("bindings") == 13:
            raise AttributeError(name)
        return super().__getattribute__(name)

    # Memory and time as kernels see them

    def read(self, address: int, num_bytes: int) -> int:
        return int(_SIZES[num_bytes].from_address(address).value)

    def write(self, address: int, num_bytes: int, value: int) -> None:
        _SIZES[num_bytes].from_address(address).value = value

    # Streams make progress

    def enqueue(self, stream: int, label: str, work: Callable[[], None]) -> None:
        if stream in self._capturing:
            self._capturing[stream].append((label, work))
            return
        self._put(stream, label, self._worked(stream, label, work))

    def advance(self, num_steps: int = 1) -> bool:
        """Take steps of streams that the seed chooses; whether anything was left to do."""
        for _ in range(num_steps):
            with self._lock:  # threads look at a device, too
                ready = [stream for stream in self._waiting if self._can_go(stream)]
                if not ready:
                    return False
                self._step(self.rng.choice(ready))
        return True

    def step_stream(self, stream: int) -> bool:
        """One step of this stream; whether it could make one."""
        if not self._can_go(int(stream)):
            return False
        self._step(int(stream))
        return True

    def _can_go(self, stream: int) -> bool:
        entries = self._waiting.get(stream)
        if not entries or not entries[0].can_start():
            return False
        if not self.num_queues:
            return True
        queue = self.queue_of[stream] % self.num_queues
        fronts = [
            others[0].number
            for other, others in self._waiting.items()
            if others and self.queue_of[other] % self.num_queues == queue
        ]
        return entries[0].number == min(fronts)

    def _step(self, stream: int) -> None:
        self.now_ns += self.step_ns
        entry = self._waiting[stream][0]
        if next(entry.steps, self) is self:
            self._waiting[stream].pop(0)
            self._finished.add(entry.number)

    def _put(
        self,
        stream: int,
        label: str,
        steps: Iterator[None],
        can_start: Callable[[], bool] = lambda: True,
    ) -> int:
        with self._lock:
            self._number += 1
            if stream not in self.queue_of:
                number = len(self.queue_of) if self.next_queue is None else self.next_queue
                self.queue_of[stream] = number
            entry = Entry(self._number, label, steps, can_start)
            self._waiting.setdefault(stream, []).append(entry)
            return self._number

    def _worked(self, stream: int, label: str, work: Callable[[], None]) -> Iterator[None]:
        self.log.append(f"{self._streams.get(stream, stream)}: {label}")
        work()
        return
        yield

    def _warped(
        self,
        stream: int,
        launch: tuple[Kernel, tuple[int, ...], int],
        note: str = "",
        is_alone: Callable[[], bool] = lambda: True,
    ) -> Iterator[None]:
        kernel, args, lanes = launch
        self.log.append(f"{self._streams.get(stream, stream)}: {kernel.name}{note}")
        warp = Warp(kernel, args, num_lanes=lanes, is_alone=is_alone)
        while not warp.is_done:
            warp.step(self)
            if not warp.is_done:
                yield
        self.log.append(f"{self._streams.get(stream, stream)}: end of {kernel.name}")

    def _walked(self, stream: int, graph: Graph) -> Iterator[None]:
        """Its nodes, each after those that it depends on, otherwise as the seed has it.

        Behind an edge from `ALL_BEGUN` a node starts with the one before, and what a warp does
        there behind `griddepcontrol.wait` comes after that one's end.
        """
        ended: set[int] = set()
        running: dict[int, Iterator[None]] = {}
        while len(ended) < len(graph.nodes):
            for idx, node in graph.nodes.items():
                if idx in ended or idx in running:
                    continue
                needs = {start: port for (start, end), port in graph.edges.items() if end == idx}
                begun = {*ended, *running}
                if all(s in (begun if port == ALL_BEGUN else ended) for s, port in needs.items()):
                    running[idx] = self._started(stream, node, needs.keys(), ended)
            idx = self.rng.choice(list(running))
            if next(running[idx], self) is self:
                ended.add(idx)
                del running[idx]
            if len(ended) < len(graph.nodes):
                yield

    def _started(
        self, stream: int, node: Node, needs: AbstractSet[int], ended: AbstractSet[int]
    ) -> Iterator[None]:
        if node.launch is not None:
            return self._warped(stream, node.launch, is_alone=lambda: needs <= ended)
        assert node.work is not None
        return self._worked(stream, node.label, node.work)

    # Waiting for streams and events

    def _settle(self, is_reached: Callable[[], bool]) -> tuple[int]:
        for _ in range(self.patience):
            if is_reached():
                return (0,)
            if not self.advance():
                break
        return (0,) if is_reached() else (HANG,)

    def cuStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream not in self._capturing
        return self._settle(lambda: not self._waiting.get(stream))

    def cuCtxSynchronize(self) -> tuple[int]:
        return self._settle(lambda: not any(self._waiting.values()))

    def cuEventRecord(self, event: int, stream: int) -> tuple[int]:
        if stream in self._capturing:
            self.enqueue(stream, "event", lambda: None)
        else:
            number = self._put(stream, "event", iter(()))
            self._recorded[event] = number
        return (0,)

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[int]:
        number = self._recorded.get(event, 0)
        self._put(stream, "wait for event", iter(()), lambda: number in self._finished)
        return (0,)

    def cuEventQuery(self, event: int) -> tuple[int]:
        self.advance(20)
        self.now_ns += 1_000
        return (0 if self._recorded.get(event, 0) in {0, *self._finished} else NOT_READY,)

    def cuEventSynchronize(self, event: int) -> tuple[int]:
        return self._settle(lambda: self._recorded.get(event, 0) in {0, *self._finished})

    # Memory operations, modules, kernels

    def cuDriverGetVersion(self) -> tuple[int, int]:
        return 0, self.version

    def cuCtxGetDevice(self) -> tuple[int, int]:
        return 0, 0

    def cuStreamWriteValue64(self, stream: int, address: int, value: int, flags: int) -> tuple[int]:
        self.enqueue(stream, f"write {value:#x}", lambda: self.write(address, 8, value))
        return (0,)

    def cuMemcpyAsync(self, dst: int, src: int, num_bytes: int, stream: int) -> tuple[int]:
        """Between two host addresses the real one, too, returns only when it is done."""
        super().cuMemcpyAsync(dst, src, num_bytes, stream)
        if stream not in self._capturing and self._is_host(dst) and self._is_host(src):
            return self._settle(lambda: not self._waiting.get(stream))
        return (0,)

    def _is_host(self, address: int) -> bool:
        return any(
            self.open.get(start) == "pinned memory"
            and start <= address < start + ctypes.sizeof(block)
            for start, block in list(self._blocks.items())  # another thread may allocate
        )

    def cuMemcpyHtoD(self, dst: int, src: Any, num_bytes: int) -> tuple[int]:
        ctypes.memmove(dst, src.ctypes.data, num_bytes)
        return (0,)

    def cuModuleLoadDataEx(
        self, image: bytes, number: int, options: list[Any], values: list[Any]
    ) -> tuple[int, int | None]:
        assert image.endswith(b"\0")
        assert number == len(options) == len(values)
        self.jit_options = list(zip(options, values, strict=True))
        target = re.search(rb"^\.target sm_(\d+)", image, re.MULTILINE)
        assert target is not None
        if int(target[1]) > 10 * self.attributes[75] + self.attributes[76]:
            return NO_BINARY, None
        module = self._made("module")
        self._modules[module] = _kernels_of(image)
        return 0, module

    def cuModuleUnload(self, module: int) -> tuple[int]:
        return self._gone(module, "module")

    def cuModuleGetFunction(self, module: int, name: bytes) -> tuple[int, int | None]:
        if (kernel := self._modules[module].get(name.decode())) is None:
            return NOT_FOUND, None
        self._functions[function := next(self._ids)] = kernel
        return 0, function

    def cuFuncSetAttribute(self, function: int, attribute: int, value: int) -> tuple[int]:
        assert function in self._functions
        if attribute == 8:
            self._shared_of[function] = value
            return (0,)
        assert attribute == 9
        assert 0 <= value <= 100
        return (0,)

    def cuFuncGetAttribute(self, attribute: int, function: int) -> tuple[int, int]:
        assert function in self._functions
        return 0, {3: 0, 4: 32}[attribute]

    def CUlaunchConfig(self) -> Any:
        return SimpleNamespace()

    def CUlaunchAttribute(self) -> Any:
        return SimpleNamespace(value=SimpleNamespace(clusterDim=SimpleNamespace()))

    def cuLaunchKernelEx(self, config: Any, function: int, params: Any, extra: int) -> tuple[int]:
        (cluster,) = config.attrs
        assert (int(cluster.id), config.numAttrs, extra) == (4, 1, 0)
        assert config.gridDimX % cluster.value.clusterDim.x == 0
        launch = self._launch(function, params, config.blockDimX)
        self._put(
            config.hStream, launch[0].name, self._warped(config.hStream, launch, " in clusters")
        )
        return (0,)

    def cuLaunchKernel(self, function: int, *rest: Any) -> tuple[int]:
        grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, params, extra = rest
        assert (grid_x, grid_y, grid_z, block_y, block_z, extra) == (1, 1, 1, 1, 1, 0)
        assert shared == self._shared_of.get(function, 0)
        launch = self._launch(function, params, block_x)
        if stream in self._capturing:
            self._capturing[stream].append((launch[0].name, launch))  # type: ignore[arg-type]
            return (0,)
        self._put(stream, launch[0].name, self._warped(stream, launch))
        return (0,)

    def _launch(
        self, function: int, params: tuple[Any, Any], block: int
    ) -> tuple[Kernel, tuple[int, ...], int]:
        values, kinds = params
        kernel = self._functions[function]
        assert len(values) == len(kinds) == len(kernel.params)
        packed = tuple(kind(value).value for value, kind in zip(values, kinds, strict=True))
        assert packed == values
        return kernel, packed, block

    # Graphs

    def cuStreamEndCapture(self, stream: int) -> tuple[int, int | None]:
        code, graph = super().cuStreamEndCapture(stream)
        if graph is not None:
            self._shapes[graph] = self._graph_of(self._graphs[graph])
        return code, graph

    def _graph_of(self, works: list[Any]) -> Graph:
        kernel = CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
        graph = Graph()
        for label, work in works:
            kind = self.kinds.get(label, kernel)
            is_cooperative = label in self.cooperative
            node = Node(kind, label, grid=len(label), is_cooperative=is_cooperative)
            if isinstance(work, tuple):
                node.launch = work
            else:
                node.work = work
            graph.nodes[next(self._ids)] = node
        ids = list(graph.nodes)
        pairs = self.captured_edges
        if pairs is None:
            pairs = {(idx, idx + 1): 0 for idx in range(len(ids) - 1)}
        graph.edges = {(ids[start], ids[end]): data for (start, end), data in pairs.items()}
        return graph

    def cuGraphGetNodes(self, graph: int, number: int = 0) -> tuple[int, list[int], int]:
        ids = list(self._shapes[graph].nodes)
        return 0, ids[:number], len(ids)

    @property
    def library(self) -> SimpleNamespace:
        """What ctypes finds in the driver: a version before 12.3 has no form with data."""

        def without_data(graph: Any, starts: Any, ends: Any, count: Any) -> int:
            has_special = any(self._shapes[graph.value].edges.values())
            return LOSSY_QUERY if has_special else with_data(graph, starts, ends, None, count)

        def with_data(graph: Any, starts: Any, ends: Any, data: Any, count: Any) -> int:
            edges = self._shapes[graph.value].edges
            for idx, (pair, kind) in enumerate(edges.items() if starts else ()):
                starts[idx], ends[idx] = pair
                if data:
                    data[idx].from_port, data[idx].type = kind, min(kind, 1)
            count._obj.value = len(edges)
            return 0

        functions: dict[str, Any] = {"cuGraphGetEdges": without_data}
        if self.version >= 12030:
            functions["cuGraphGetEdges_v2"] = with_data
        return SimpleNamespace(**functions)

    def CUgraphEdgeData(self) -> Any:
        return SimpleNamespace()

    def cuGraphNodeGetType(self, node: int) -> tuple[int, enum.IntEnum]:
        return 0, self._node(node).kind

    def cuGraphKernelNodeGetParams(self, node: int) -> tuple[int, Any]:
        found = self._node(node)
        return 0, SimpleNamespace(
            func=node, kern=0, gridDimX=found.grid, gridDimY=1, gridDimZ=1,
            blockDimX=32, blockDimY=1, blockDimZ=1, sharedMemBytes=0,
        )  # fmt: skip

    def cuGraphKernelNodeGetAttribute(self, node: int, attribute: int) -> tuple[int, Any]:
        assert attribute == 2
        return 0, SimpleNamespace(cooperative=int(self._node(node).is_cooperative))

    def cuFuncGetName(self, function: int) -> tuple[int, bytes]:
        return 0, self._node(function).label.encode()

    def _node(self, node: int) -> Node:
        return next(each.nodes[node] for each in self._shapes.values() if node in each.nodes)

    def cuGraphClone(self, graph: int) -> tuple[int, int]:
        original, clone = self._shapes[graph], Graph()
        for idx, node in original.nodes.items():
            clone.clone_of[idx] = next(self._ids)
            clone.nodes[clone.clone_of[idx]] = node
        for (start, end), data in original.edges.items():
            clone.edges[clone.clone_of[start], clone.clone_of[end]] = data
        made = self._made("graph")
        self._shapes[made] = clone
        return 0, made

    def cuGraphDestroyNode(self, node: int) -> tuple[int]:
        (graph,) = (each for each in self._shapes.values() if node in each.nodes)
        del graph.nodes[node]
        graph.edges = {pair: data for pair, data in graph.edges.items() if node not in pair}
        return (0,)

    def cuGraphNodeFindInClone(self, node: int, clone: int) -> tuple[int, int]:
        return 0, self._shapes[clone].clone_of[node]

    def CUDA_KERNEL_NODE_PARAMS(self) -> Any:
        return SimpleNamespace()

    def cuGraphAddKernelNode(
        self, graph: int, after: list[int], number: int, params: Any
    ) -> tuple[int, int | None]:
        shape = self._shapes[graph]
        if number != len(after) or not set(after) <= shape.nodes.keys():
            return INVALID_VALUE, None
        launch = self._launch(params.func, params.kernelParams, params.blockDimX)
        kind = CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL
        node = next(self._ids)
        shape.nodes[node] = Node(kind, launch[0].name, launch=launch)
        shape.edges |= {(start, node): 0 for start in after}
        return 0, node

    def CUstreamBatchMemOpParams(self) -> Any:
        return SimpleNamespace(waitValue=SimpleNamespace())

    def CUDA_BATCH_MEM_OP_NODE_PARAMS(self) -> Any:
        return SimpleNamespace()

    def CUgraphNodeParams(self) -> Any:
        return SimpleNamespace(conditional=SimpleNamespace())

    def cuGraphAddBatchMemOpNode(
        self, graph: int, after: list[int], number: int, params: Any
    ) -> tuple[int, int | None]:
        (wait,) = [each.waitValue for each in params.paramArray]
        assert (params.count, params.flags, wait.flags, int(wait.operation)) == (1, 0, 0, 4)

        def check() -> None:
            assert self.read(wait.address, 8) >= wait.value64, "it would wait for ever"

        kind = CUgraphNodeType.CU_GRAPH_NODE_TYPE_BATCH_MEM_OP
        return self._add_node(graph, after, number, Node(kind, "wait for a word", work=check))

    def cuGraphConditionalHandleCreate(
        self, graph: int, context: int, default: int, flags: int
    ) -> tuple[int, int | None]:
        assert (default, flags, context) == (0, 1, self.current)
        self._conditions[handle := next(self._ids)] = graph
        return 0, handle

    def cuGraphAddNode(self, graph: int, after: list[int], *rest: Any) -> tuple[int, int | None]:
        number, params = rest if self.bindings == 12 else rest[1:]
        assert self.bindings == 12 or rest[0] is None
        assert self._conditions[params.conditional.handle] == graph
        assert params.conditional.type is CUgraphConditionalNodeType.CU_GRAPH_COND_TYPE_IF
        self._shapes[body := next(self._ids)] = Graph()
        params.conditional.phGraph_out = [body]
        node = Node(params.type, "condition that is false", work=lambda: None)
        return self._add_node(graph, after, number, node)

    def cuGraphAddNode_v2(self, *args: Any) -> tuple[int, int | None]:
        raise NotImplementedError

    def _add_node(
        self, graph: int, after: list[int], number: int, node: Node
    ) -> tuple[int, int | None]:
        shape = self._shapes[graph]
        if number != len(after) or not set(after) <= shape.nodes.keys():
            return INVALID_VALUE, None
        shape.nodes[made := next(self._ids)] = node
        shape.edges |= {(start, made): 0 for start in after}
        return 0, made

    def cuGraphAddDependencies(self, graph: int, *rest: Any) -> tuple[int]:
        return self._add(graph, *self._without_data(rest))

    def cuGraphAddDependencies_v2(self, graph: int, *rest: Any) -> tuple[int]:
        starts, ends, data, number = rest
        return self._add(graph, starts, ends, data, number)

    def cuGraphRemoveDependencies(self, graph: int, *rest: Any) -> tuple[int]:
        return self._remove(graph, *self._without_data(rest))

    def cuGraphRemoveDependencies_v2(self, graph: int, *rest: Any) -> tuple[int]:
        starts, ends, data, number = rest
        return self._remove(graph, starts, ends, data, number)

    def _without_data(self, rest: tuple[Any, ...]) -> tuple[Any, ...]:
        if self.bindings == 13:
            starts, ends, data, number = rest
            return starts, ends, data, number
        starts, ends, number = rest
        return starts, ends, None, number

    def _add(self, graph: int, starts: Any, ends: Any, data: Any, number: int) -> tuple[int]:
        pairs = list(zip(starts, ends, strict=True))
        edges, nodes = self._shapes[graph].edges, self._shapes[graph].nodes
        known = all({*pair} <= nodes.keys() and pair not in edges for pair in pairs)
        if number != len(pairs) or not known:
            return (INVALID_VALUE,)
        edges |= {pair: _port(data[idx]) if data else 0 for idx, pair in enumerate(pairs)}
        return (0,)

    def _remove(self, graph: int, starts: Any, ends: Any, data: Any, number: int) -> tuple[int]:
        pairs = list(zip(starts, ends, strict=True))
        edges = self._shapes[graph].edges
        kinds = [_port(each) for each in data] if data else [0] * len(pairs)
        if number != len(pairs) or [edges.get(pair) for pair in pairs] != kinds:
            return (INVALID_VALUE,)
        for pair in pairs:
            del edges[pair]
        return (0,)

    def cuGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        executable = self._made("graph exec")
        self._shapes[executable] = self._shapes[graph].copy()
        return 0, executable

    def cuGraphLaunch(self, executable: int, stream: int) -> tuple[int]:
        assert self.open[executable] == "graph exec"
        self._put(stream, "graph", self._walked(stream, self._shapes[executable]))
        return (0,)


def _port(data: Any) -> int:
    assert (data.from_port, data.to_port, data.type) in ((0, 0, 0), (1, 0, 1), (2, 0, 1))
    return int(data.from_port)


def _kernels_of(image: bytes) -> dict[str, Kernel]:
    """The kernels of the PTX file that has this content."""
    root = Path(__file__).parents[2]
    paths = [*root.glob("runtime/preempt_runtime/**/*.ptx"), *root.glob("bench/kernels/*.ptx")]
    (path,) = [path for path in paths if path.read_bytes() + b"\0" == image]
    return kernels(path)
