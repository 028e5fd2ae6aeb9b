"""What a preemption point costs by other mechanisms than gates: a chain of kernels with 63 points.

Nothing waits at any of them: what is measured is the price of being able to. Each chain runs in
turn with the chain without points.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.cut_graphs import cut_graph
from bench.gate_costs import SIZES, paired_ns
from bench.gate_parts import Parts, error_text
from bench.gate_workshop import Chain, Hang, Workshop, finish, open_board
from bench.intervals import median_interval
from preempt_runtime.backends.cuda import DeviceMemory, Event, GraphExec, Stream, open_cuda
from preempt_runtime.backends.cuda_driver import call, constant, has_binding, new_struct
from preempt_runtime.backends.cuda_graph import CudaGraph
from preempt_runtime.backends.gate_board import Mode
from preempt_runtime.backends.gates import GatedGraph
from preempt_runtime.backends.graph_shape import stretches
from preemptc.backends.tensorrt.timing import Launched

_ASSIGN_DEFAULT = 1  # CU_GRAPH_COND_ASSIGN_DEFAULT
_WAIT_GEQ = 0  # CU_STREAM_WAIT_VALUE_GEQ

Built = tuple[Launched, int]
"""What is launched, and how many points are in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointKind:
    """A mechanism: what it is, and what builds a chain with it."""

    name: str
    text: str
    build: Callable[[Chain, Stream, ExitStack], Built]


class Several:
    """Graphs that are launched one after another."""

    def __init__(self, graphs: Sequence[GraphExec]) -> None:
        self._graphs = graphs

    def launch(self, stream: Stream) -> None:
        """Enqueue all of them."""
        for graph in self._graphs:
            graph.launch(stream)


class Alternating:
    """Graphs on two streams in turn, each waiting for an event behind the one before."""

    def __init__(self, graphs: Sequence[GraphExec], other: Stream, events: Sequence[Event]) -> None:
        self._graphs, self._other, self._events = graphs, other, events

    def launch(self, stream: Stream) -> None:
        """Enqueue all of them; the last one is on this stream, or is waited for by it."""
        lanes = (stream, self._other)
        for idx, (graph, event) in enumerate(zip(self._graphs, self._events, strict=True)):
            graph.launch(lanes[idx % 2])
            event.record(lanes[idx % 2])
            lanes[(idx + 1) % 2].wait_for(event)


def _gates(mode: Mode) -> Callable[[Chain, Stream, ExitStack], Built]:
    def build(chain: Chain, stream: Stream, stack: ExitStack) -> Built:
        board = stack.enter_context(open_board(mode))
        cuts = chain.captured.shape().cuts()
        graph = GatedGraph(chain.captured, cuts, board, board.take_slot(), stream)
        return stack.enter_context(graph).graph, graph.num_gates

    return build


@contextmanager
def with_points(captured: CudaGraph, add: Callable[[CudaGraph, Any], Any]) -> Iterator[CudaGraph]:
    """A copy of a chain with a node of another kind before each of its nodes but the first.

    Args:
        captured: a plain chain.
        add: makes the node that waits for the one given, in that graph.
    """
    with captured.clone() as clone:
        clone.remove_edges(lambda start, end: True)
        order = captured.shape().order()
        before = clone.nodes[order[0]]
        for idx in order[1:]:
            point = add(clone, before)
            clone.add_edges([(point, clone.nodes[idx])])
            before = clone.nodes[idx]
        yield clone


def _wait_nodes(chain: Chain, stream: Stream, stack: ExitStack) -> Built:
    """Each waits until a word on the device is at least 1, which it is."""
    word = stack.enter_context(DeviceMemory(8))
    call("cuStreamWriteValue64", stream._raw, word.pointer, 1, 0)
    finish(stream)
    context = call("cuCtxGetCurrent")

    def add(graph: CudaGraph, before: Any) -> Any:
        wait = new_struct("CUstreamBatchMemOpParams")
        wait.waitValue.operation = constant(
            "CUstreamBatchMemOpType", "CU_STREAM_MEM_OP_WAIT_VALUE_64"
        )
        wait.waitValue.address = word.pointer
        wait.waitValue.value64 = 1
        wait.waitValue.flags = _WAIT_GEQ
        params = new_struct("CUDA_BATCH_MEM_OP_NODE_PARAMS")
        params.ctx, params.count, params.flags = context, 1, 0
        params.paramArray = [wait]
        return call("cuGraphAddBatchMemOpNode", graph._raw, [before], 1, params)

    return _instantiated(chain, add, stack)


def _conditional_nodes(chain: Chain, stream: Stream, stack: ExitStack) -> Built:
    """Each has a body of one kernel, and a condition that is false; nothing sets it."""
    word = stack.enter_context(DeviceMemory(8))
    context = call("cuCtxGetCurrent")

    def add(graph: CudaGraph, before: Any) -> Any:
        handle = call("cuGraphConditionalHandleCreate", graph._raw, context, 0, _ASSIGN_DEFAULT)
        params = new_struct("CUgraphNodeParams")
        params.type = constant("CUgraphNodeType", "CU_GRAPH_NODE_TYPE_CONDITIONAL")
        params.conditional.handle = handle
        params.conditional.type = constant("CUgraphConditionalNodeType", "CU_GRAPH_COND_TYPE_IF")
        params.conditional.size = 1
        params.conditional.ctx = context
        data = () if has_binding("cuGraphAddNode_v2") else (None,)  # the bindings for CUDA 13
        node = call("cuGraphAddNode", graph._raw, [before], *data, 1, params)
        body = params.conditional.phGraph_out[0]
        call("cuGraphAddKernelNode", body, [], 0, chain.shop.stamp_params(word.pointer))
        return node

    return _instantiated(chain, add, stack)


def _instantiated(chain: Chain, add: Callable[[CudaGraph, Any], Any], stack: ExitStack) -> Built:
    with with_points(chain.captured, add) as graph:
        return stack.enter_context(graph.instantiate()), len(chain.numbers) - 1


def _pieces(chain: Chain, stack: ExitStack) -> tuple[GraphExec, ...]:
    shape = chain.captured.shape()
    graphs = cut_graph(chain.captured, stretches(shape, shape.cuts()))
    for graph in graphs:
        stack.enter_context(graph)
    return graphs


def _launches(chain: Chain, stream: Stream, stack: ExitStack) -> Built:
    graphs = _pieces(chain, stack)
    return Several(graphs), len(graphs) - 1


def _event_pairs(chain: Chain, stream: Stream, stack: ExitStack) -> Built:
    graphs = _pieces(chain, stack)
    other = stack.enter_context(Stream(priority="low"))
    events = [stack.enter_context(Event(timing=False)) for _ in graphs]
    return Alternating(graphs, other, events), len(graphs) - 1


KINDS = (
    PointKind(name="gate_exclusive", text="gate, exclusive", build=_gates("exclusive")),
    PointKind(name="gate_overlap", text="gate, overlap", build=_gates("overlap")),
    PointKind(
        name="wait_node",
        text="node that waits for a word on the device (batch memory operation)",
        build=_wait_nodes,
    ),
    PointKind(
        name="conditional",
        text="conditional node whose condition is false, without the kernel that would set it",
        build=_conditional_nodes,
    ),
    PointKind(
        name="launches", text="one graph for each stretch, launched by the host", build=_launches
    ),
    PointKind(
        name="events",
        text="the same on two streams in turn, an event recorded and waited for between them",
        build=_event_pairs,
    ),
)


def points(options: argparse.Namespace, parts: Parts) -> None:
    """A row for each mechanism; one that the driver does not have says so."""
    if (part := parts.open("points")) is None:
        return
    rows: list[dict[str, Any]] = []
    head = {"steps": SIZES.num_long, "step_ns": SIZES.duration_ns, "rounds": options.rounds}
    with (
        part.keeping(),
        open_cuda(),
        closing(Workshop(SIZES)) as shop,
        Stream(priority="low") as stream,
    ):
        for kind in KINDS:
            row: dict[str, Any] = {"name": kind.name, "text": kind.text}
            try:
                row |= _measured(kind, shop, stream, options.rounds)
            except Hang:
                raise
            except Exception as err:  # also what these bindings lack
                row["error"] = error_text(err)
            rows.append(row)
            part.write({**head, "rows": rows}, is_complete=len(rows) == len(KINDS))
            print(row, flush=True)


def _measured(kind: PointKind, shop: Workshop, stream: Stream, num_rounds: int) -> dict[str, Any]:
    sizes = shop.sizes
    with (
        shop.chain(range(1, sizes.num_long + 1), sizes.duration_ns) as chain,
        chain.captured.instantiate() as alone,
        ExitStack() as stack,
    ):
        cut, num_points = kind.build(chain, stream, stack)
        begin_ns = time.perf_counter_ns()
        cut.launch(stream)
        host_ns = time.perf_counter_ns() - begin_ns
        finish(stream)
        is_right = _is_right(chain, cut, stream)
        without, with_points_ns = paired_ns([alone, cut], stream, num_rounds)
        each = [
            (cut_ns - alone_ns) / num_points
            for alone_ns, cut_ns in zip(without, with_points_ns, strict=True)
        ]
        found = median_interval(each, seed=0)
    return {
        "points": num_points,
        "ns": round(found.median),
        "low_ns": round(found.low),
        "high_ns": round(found.high),
        "whole_ns": round(median(without)),
        "host_ns": round(host_ns / num_points),
        "is_right": is_right,
    }


def _is_right(chain: Chain, cut: Launched, stream: Stream) -> bool:
    """Whether the chain with points computes what it should."""
    chain.write(1, stream)
    cut.launch(stream)
    finish(stream)
    return bool((chain.read() == chain.expected(1)).all())
