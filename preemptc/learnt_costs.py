"""What measured segments teach about the costs of those that were not measured."""

from dataclasses import replace

from preemptc.backends import Measurement
from preemptc.search import SplitPlan
from preemptc.segment_costs import SegmentCosts, Span

TRIED_FRAC = 1.5  # a stretch predicted up to here over the bound is built before it is refused


def costs_at_speed(costs: SegmentCosts, factor: float) -> SegmentCosts:
    """The same costs on a machine that takes `factor` times as long."""
    return replace(
        costs,
        work_ns=tuple(round(cost_ns * factor) for cost_ns in costs.work_ns),
        boundary_ns=tuple(round(cost_ns * factor) for cost_ns in costs.boundary_ns),
        measured_ns={span: round(ns * factor) for span, ns in costs.measured_ns.items()},
        measured_bound_ns={
            span: round(ns * factor) for span, ns in costs.measured_bound_ns.items()
        },
    )


def learnt_costs(
    costs: SegmentCosts,
    plan: SplitPlan,
    measurement: Measurement,
    quantile: str,
    slowness: float,
    only: Span | None,
) -> SegmentCosts:
    """The costs with predictions replaced by measurements, and those beside them scaled."""
    measured, bounds = dict(costs.measured_ns), dict(costs.measured_bound_ns)
    work = list(costs.work_ns)
    for span, latency in zip(plan.segments, measurement.segments, strict=True):
        if only in (None, span):
            p50_ns = round(latency.p50_ns / slowness)
            if span not in measured:
                _scale(costs, work, span, p50_ns)
            measured[span], bounds[span] = p50_ns, round(latency.at(quantile) / slowness)
    return replace(costs, measured_ns=measured, measured_bound_ns=bounds, work_ns=tuple(work))


def _scale(costs: SegmentCosts, work: list[int], span: Span, measured_ns: int) -> None:
    """Scale the work of one segment's nodes so that the prediction is the measurement."""
    first, last = costs.positions.index(span[0]), costs.positions.index(span[1])
    predicted_ns, boundary_ns = sum(work[first:last]), costs.boundary_ns[first]
    if predicted_ns > 0 and measured_ns > boundary_ns:
        factor = (measured_ns - boundary_ns) / predicted_ns
        work[first:last] = [round(cost_ns * factor) for cost_ns in work[first:last]]


def doubtful_stretches(costs: SegmentCosts, bound_ns: int) -> list[Span]:
    """Unsplittable, unmeasured stretches that are predicted a little over the bound."""
    spans = zip(costs.positions, costs.positions[1:], strict=False)
    predictions = zip(spans, costs.work_ns, costs.boundary_ns, strict=True)
    return [
        span
        for span, work_ns, boundary_ns in predictions
        if span not in costs.measured_ns
        and bound_ns < work_ns + boundary_ns <= bound_ns * TRIED_FRAC
    ]
