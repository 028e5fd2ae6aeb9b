"""Plans as the manifest describes them: measured segments, the whole network, an estimate."""

from collections.abc import Sequence

from preempt_runtime.manifest import (
    GATES,
    GATES_PLAN_ID,
    SEGMENTS,
    SEGMENTS_PLAN_ID,
    WHOLE_PLAN_ID,
    GateSpec,
    Latency,
    Manifest,
    PlanSpec,
    SegmentSpec,
    TensorSpec,
)
from preemptc.gate_plan import MeasuredGates
from preemptc.goal import Goal
from preemptc.interface import GRAPH_ID, spec_of
from preemptc.model import Lowered, Model
from preemptc.profile import LatencyProfile
from preemptc.search import SplitPlan
from preemptc.segments import Segment, boundary_names
from preemptc.trials import MeasuredPlan


def measured_plan(
    lowered: Lowered,
    segments: Sequence[Segment],
    paths: Sequence[str],
    measured: MeasuredPlan,
    goal: Goal,
    boundaries: tuple[TensorSpec, ...],
) -> PlanSpec:
    """The plan whose segments were built and measured.

    Args:
        lowered: the executed graph.
        segments: its pieces.
        paths: of the pieces' files in the bundle.
        measured: the split points, predictions and times.
        goal: whose bound is kept.
        boundaries: what the pieces hand over, as the device stores it.
    """
    return PlanSpec(
        id=SEGMENTS_PLAN_ID,
        graph=GRAPH_ID,
        target=lowered.target,
        key=lowered.key,
        mechanism=SEGMENTS,
        bound_ns=goal.max_segment_ns,
        bound_quantile=goal.quantile,
        margin_frac=measured.margin_frac,
        source="measured",
        boundaries=boundaries,
        segments=tuple(
            SegmentSpec(
                path=paths[idx],
                range=(segment.start, segment.end),
                source_range=(
                    lowered.source_positions[segment.start],
                    lowered.source_positions[segment.end],
                ),
                inputs=segment.inputs,
                outputs=segment.outputs,
                live_bytes=segment.live_bytes,
                predicted_ns=measured.plan.predicted_ns[idx],
                latency=measured.measurement.segments[idx],
            )
            for idx, segment in enumerate(segments)
        ),
        chained=measured.measurement.chained,
    )


def gates_plan(lowered: Lowered, path: str, gates: MeasuredGates, goal: Goal) -> PlanSpec:
    """The plan of one engine whose stretches between gates were measured.

    Args:
        lowered: the executed graph, all of it in that engine.
        path: of the engine in the bundle.
        gates: where they stand, predictions and times.
        goal: whose bound is kept.
    """
    measured, graph = gates.measured, lowered.graph
    last = measured.plan.num_segments - 1
    return PlanSpec(
        id=GATES_PLAN_ID,
        graph=GRAPH_ID,
        target=lowered.target,
        key=lowered.key,
        mechanism=GATES,
        bound_ns=goal.max_segment_ns,
        bound_quantile=goal.quantile,
        margin_frac=measured.margin_frac,
        source="measured",
        boundaries=(),
        segments=tuple(
            SegmentSpec(
                path=path,
                range=span,
                source_range=(0, lowered.source_positions[graph.num_nodes]),
                inputs=graph.inputs if idx == 0 else (),
                outputs=graph.outputs if idx == last else (),
                live_bytes=0,
                predicted_ns=measured.plan.predicted_ns[idx],
                latency=measured.measurement.segments[idx],
            )
            for idx, span in enumerate(measured.plan.segments)
        ),
        chained=measured.measurement.chained,
        gates=GateSpec(
            fingerprint=gates.shape.fingerprint(),
            num_nodes=len(gates.shape.nodes),
            gate_ns=gates.figures.gate_ns,
        ),
    )


def main_plan(manifest: Manifest) -> PlanSpec:
    """The plan that a bundle was compiled for, beside the one of the whole network."""
    plans = manifest.plans
    return next((plan for plan in plans if plan.id != WHOLE_PLAN_ID), plans[0])


def whole_plan(lowered: Lowered, path: str, profile: LatencyProfile, whole: Latency) -> PlanSpec:
    """The plan of the network in one piece, which took `whole` in turn with another plan."""
    num_nodes = lowered.graph.num_nodes
    return PlanSpec(
        id=WHOLE_PLAN_ID,
        graph=GRAPH_ID,
        target=lowered.target,
        key=lowered.key,
        mechanism=SEGMENTS,
        bound_ns=None,
        bound_quantile="p50",
        margin_frac=0.0,
        source="measured",
        boundaries=(),
        segments=(
            SegmentSpec(
                path=path,
                range=(0, num_nodes),
                source_range=(0, lowered.source_positions[num_nodes]),
                inputs=lowered.graph.inputs,
                outputs=lowered.graph.outputs,
                live_bytes=0,
                predicted_ns=profile.total_ns,
                latency=whole,
            ),
        ),
        chained=whole,
    )


def estimated_plan(
    model: Model,
    lowered: Lowered,
    pieces: Sequence[Segment],
    paths: Sequence[str],
    plan: SplitPlan,
    goal: Goal,
) -> PlanSpec:
    """The plan for a device that is elsewhere: pieces of the source graph, nothing built.

    Args:
        model: the source graph.
        lowered: the graph that the device is expected to execute.
        pieces: of the source graph, one per segment of the plan.
        paths: of the pieces' files in the bundle.
        plan: split points of the executed graph and predictions.
        goal: whose bound is kept.
    """
    names = boundary_names(model.graph, pieces)
    return PlanSpec(
        id=SEGMENTS_PLAN_ID,
        graph=GRAPH_ID,
        target=lowered.target,
        key=None,
        mechanism=SEGMENTS,
        bound_ns=goal.max_segment_ns,
        bound_quantile=goal.quantile,
        margin_frac=0.0,
        source="estimated",
        boundaries=tuple(spec_of(model.graph, name) for name in names),
        segments=tuple(
            SegmentSpec(
                path=paths[idx],
                range=plan.segments[idx],
                source_range=(piece.start, piece.end),
                inputs=piece.inputs,
                outputs=piece.outputs,
                live_bytes=piece.live_bytes,
                predicted_ns=plan.predicted_ns[idx],
                latency=None,
            )
            for idx, piece in enumerate(pieces)
        ),
        chained=None,
    )
