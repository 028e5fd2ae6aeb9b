"""Plans as the manifest describes them: measured segments, the whole network, an estimate."""

from collections.abc import Sequence

from preempt_runtime.manifest import (
    SEGMENTS_PLAN_ID,
    WHOLE_PLAN_ID,
    PlanSpec,
    SegmentSpec,
    TensorSpec,
)
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
        mechanism="segments",
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


def whole_plan(
    lowered: Lowered, path: str, profile: LatencyProfile, measured: MeasuredPlan
) -> PlanSpec:
    """The plan of the network in one piece, measured in turn with `measured`."""
    num_nodes = lowered.graph.num_nodes
    return PlanSpec(
        id=WHOLE_PLAN_ID,
        graph=GRAPH_ID,
        target=lowered.target,
        key=lowered.key,
        mechanism="segments",
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
                latency=measured.measurement.whole,
            ),
        ),
        chained=measured.measurement.whole,
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
        mechanism="segments",
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
