"""A captured graph cut into one graph for each stretch: what gates are compared with.

For benchmarks alone. A piece is the captured graph without the nodes of all other stretches. They
always run in the order of the chain, one job after another: a piece by itself may wait for ever for
what an earlier node prepares.
"""

from collections.abc import Sequence
from contextlib import ExitStack

from preempt_runtime.backends.cuda import GraphExec, Stream
from preempt_runtime.backends.cuda_driver import call
from preempt_runtime.backends.cuda_graph import CudaGraph
from preempt_runtime.backends.graph_shape import stretches
from preempt_runtime.backends.tensorrt import TrtBuffers, TrtDevice, TrtNetwork
from preempt_runtime.bundle import Bundle
from preempt_runtime.errors import GatesError
from preempt_runtime.manifest import GATES_PLAN_ID, WHOLE_PLAN_ID, GraphSpec, PlanSpec, SegmentSpec


def gates_plan(bundle: Bundle) -> PlanSpec:
    """The bundle's plan of gates.

    Raises:
        GatesError: it has none.
    """
    found = [plan for plan in bundle.manifest.plans if plan.id == GATES_PLAN_ID]
    if not found:
        raise GatesError(f"{bundle.root}: no plan of gates; compile it with --mechanism gates")
    return found[0]


def cuts_of(plan: PlanSpec) -> tuple[int, ...]:
    """The positions in the graph's order before which the plan's later stretches begin."""
    return tuple(segment.range[0] for segment in plan.segments[1:])


def check_fingerprint(plan: PlanSpec, captured: CudaGraph) -> None:
    """Return if this is the graph that the plan's gates were placed in.

    Raises:
        GatesError: it is another one.
    """
    assert plan.gates is not None
    if (found := captured.shape().fingerprint()) != plan.gates.fingerprint:
        raise GatesError(
            f"captured graph {found}, plan {plan.id!r} is of {plan.gates.fingerprint};"
            " compile the bundle again here"
        )


def cut_graphs(captured: CudaGraph, cuts: Sequence[int], stack: ExitStack) -> tuple[GraphExec, ...]:
    """One graph for each stretch between the cuts, in order; `stack` owns them."""
    pieces = stretches(captured.shape(), cuts)
    found = []
    for piece in pieces:
        kept = set(piece.nodes)
        with captured.clone() as clone:
            for idx, node in enumerate(clone.nodes):
                if idx not in kept:
                    call("cuGraphDestroyNode", node)
            found.append(stack.enter_context(clone.instantiate()))
    return tuple(found)


class CutNetwork:
    """The whole network of a bundle on a plain device, its graph cut where its gates would stand.

    Raises:
        GatesError: the bundle has no plan of gates, or of another graph.
        DeviceError: TensorRT or the driver refused.
    """

    def __init__(self, device: TrtDevice, bundle: Bundle) -> None:
        self.plan = gates_plan(bundle)
        self._network: TrtNetwork = device.load(bundle, WHOLE_PLAN_ID)
        self._stack = ExitStack()

    @property
    def name(self) -> str:
        """That of the bundle."""
        return self._network.name

    @property
    def graph(self) -> GraphSpec:
        """The network's interface."""
        return self._network.graph

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """The stretches."""
        return self.plan.segments

    def new_buffers(self) -> TrtBuffers:
        """Buffers whose graphs are the pieces; they stay until the network is closed."""
        buffers = self._network.new_buffers()
        try:
            with Stream(priority="low") as stream, buffers.capture_segment(0, stream) as captured:
                check_fingerprint(self.plan, captured)
                buffers.graphs = cut_graphs(captured, cuts_of(self.plan), self._stack)
                for graph in buffers.graphs:
                    graph.upload(stream)
                stream.synchronize()
        except BaseException:
            buffers.close()
            raise
        return buffers

    def close(self) -> None:
        """Release graphs and engine; buffers must be closed before."""
        self._stack.close()
        self._network.close()
