"""The captured graph of one engine, cut into one graph for each stretch: a way to compare with.

Like segments the host launches stretch after stretch; like gates the kernels are those of the whole
engine. Pieces are made here of a plan of gates, and run in their order alone, never one by itself:
a kernel may wait for ever for what an earlier piece prepares.
"""

from collections.abc import Sequence
from contextlib import ExitStack

from preempt_runtime.backends.cuda import GraphExec, Stream
from preempt_runtime.backends.cuda_driver import call
from preempt_runtime.backends.cuda_graph import CudaGraph
from preempt_runtime.backends.graph_shape import Stretch, stretches
from preempt_runtime.backends.tensorrt import Scratch, TrtBuffers, bind
from preempt_runtime.backends.trt_engines import PlanEngines, load_engines
from preempt_runtime.bundle import Bundle
from preempt_runtime.manifest import GATES, PlanSpec, SegmentSpec


def cut_graph(captured: CudaGraph, pieces: Sequence[Stretch]) -> tuple[GraphExec, ...]:
    """One launchable graph for each piece, in order.

    Raises:
        DeviceError: the driver's own text; none is left open.
    """
    with ExitStack() as stack:
        graphs = tuple(stack.enter_context(_piece(captured, piece)) for piece in pieces)
        stack.pop_all()
    return graphs


def _piece(captured: CudaGraph, piece: Stretch) -> GraphExec:
    kept = set(piece.nodes)
    with captured.clone() as clone:
        for idx, node in enumerate(clone.nodes):
            if idx not in kept:
                call("cuGraphDestroyNode", node)  # its edges go with it
        graph: GraphExec = clone.instantiate()
    return graph


class CutNetwork:
    """A plan of gates without gates: on a device without them, one graph for each stretch."""

    def __init__(self, bundle: Bundle, *, zero_copy: bool) -> None:
        self._loaded: PlanEngines = load_engines(bundle, plan_of_gates(bundle))
        self.name = self._loaded.name
        self.graph = self._loaded.graph
        self.plan = self._loaded.plan
        self._zero_copy = zero_copy
        self._scratch = Scratch(self._loaded.engines)

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """The stretches."""
        return self.plan.segments

    def new_buffers(self) -> TrtBuffers:
        """Buffers for one more job; jobs of one network run one after another."""
        loaded = self._loaded
        with ExitStack() as stack, Stream(priority="low") as stream:
            buffers = stack.enter_context(
                bind(
                    loaded.engines,
                    loaded.interfaces,
                    loaded.graph,
                    (),
                    loaded.name,
                    self._scratch,
                    stream,
                    zero_copy=self._zero_copy,
                    captures=False,
                )
            )
            with buffers.capture_segment(0, stream) as captured:
                cuts = [segment.range[0] for segment in self.plan.segments[1:]]
                pieces = stretches(captured.shape(), cuts)
                buffers.use_graphs(cut_graph(captured, pieces))
            for graph in buffers.graphs:
                graph.upload(stream)
            stream.synchronize()
            stack.pop_all()
        return buffers

    def close(self) -> None:
        """Release engine and scratch memory; no job may be in flight."""
        self._scratch.close()


def plan_of_gates(bundle: Bundle) -> PlanSpec:
    """The bundle's plan of gates; it must have one."""
    return next(plan for plan in bundle.manifest.plans if plan.mechanism == GATES)
