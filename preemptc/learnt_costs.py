"""What measured segments teach about the costs of those that were not measured."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from preemptc.backends import Measurement
from preemptc.search import SplitPlan
from preemptc.segment_costs import NEVER_NS, SegmentCosts, Span

TRIED_FRAC = 1.5  # a stretch predicted up to here over the bound is built before it is refused
_FITTING_SWEEPS = 8


def costs_at_speed(costs: SegmentCosts, factor: float) -> SegmentCosts:
    """The same costs on a machine that takes `factor` times as long."""
    return replace(
        costs,
        work_ns=tuple(round(cost_ns * factor) for cost_ns in costs.work_ns),
        boundary_ns=tuple(round(cost_ns * factor) for cost_ns in costs.boundary_ns),
        measured_ns={
            span: min(round(ns * factor), NEVER_NS) for span, ns in costs.measured_ns.items()
        },
        measured_bound_ns={
            span: min(round(ns * factor), NEVER_NS) for span, ns in costs.measured_bound_ns.items()
        },
    )


def learnt_costs(
    costs: SegmentCosts,
    predicted: SegmentCosts,
    plan: SplitPlan,
    measurement: Measurement,
    quantile: str,
    slowness: float,
    only: Span | None,
) -> SegmentCosts:
    """The costs with measured segments in place of predictions, and the others after them.

    What all segments take longer than the whole network is what cutting costs; beyond the
    prediction it is shared out evenly among the cuts. The rest is work: that of the nodes of
    each measured segment is scaled so that its prediction is its measurement.

    Args:
        costs: what was known before.
        predicted: the costs that the profile gives.
        plan: what was measured, in `measurement`.
        quantile: which measured value is compared with the bound.
        slowness: how many times as long everything took as at the costs' speed.
        only: the one segment to learn from, of a plan made to measure it; None for all.
    """
    measured, bounds = dict(costs.measured_ns), dict(costs.measured_bound_ns)
    for span, latency in zip(plan.segments, measurement.segments, strict=True):
        if only in (None, span):
            measured.pop(span, None)  # the newest last: the fit follows it most closely
            measured[span] = round(latency.p50_ns / slowness)
            bounds[span] = round(latency.at(quantile) / slowness)
    boundary_ns = costs.boundary_ns
    if only is None and plan.split_points:
        boundary_ns = _dearer(predicted, plan, _cuts_ns(measurement) / slowness)
    return replace(
        costs,
        measured_ns=measured,
        measured_bound_ns=bounds,
        boundary_ns=boundary_ns,
        work_ns=_fitted_work(predicted, boundary_ns, measured),
    )


def _cuts_ns(measurement: Measurement) -> float:
    """What the segments, measured one by one, take longer than the whole network.

    By the paired ratio: the medians of chain and whole move with the machine's speed.
    """
    one_by_one_ns = sum(latency.p50_ns for latency in measurement.segments)
    ratio = measurement.ratio_p50 * one_by_one_ns / max(1, measurement.chained.p50_ns)
    return (ratio - 1) * measurement.whole.p50_ns


def _dearer(predicted: SegmentCosts, plan: SplitPlan, cuts_ns: float) -> tuple[int, ...]:
    """The boundaries' costs, so that those of the plan take `cuts_ns` if they seem too cheap."""
    price_ns = dict(zip(predicted.positions, predicted.boundary_ns, strict=False))
    expected_ns = sum(price_ns[point] for point in plan.split_points)
    more_ns = max(0, round((cuts_ns - expected_ns) / len(plan.split_points)))
    return (0, *(cost_ns + more_ns for cost_ns in predicted.boundary_ns[1:]))


def _fitted_work(
    predicted: SegmentCosts, boundary_ns: tuple[int, ...], measured: Mapping[Span, int]
) -> tuple[int, ...]:
    """The work nearest to the prediction (Kullback-Leibler) that explains all measured segments.

    By iterative proportional fitting: each measured segment scales its nodes' work in turn.
    """
    idx_of = {position: idx for idx, position in enumerate(predicted.positions)}
    work = np.array(predicted.work_ns, dtype=np.float64)
    for _ in range(_FITTING_SWEEPS):
        for (start, end), measured_ns in measured.items():
            nodes = slice(idx_of[start], idx_of[end])
            expected_ns, found_ns = work[nodes].sum(), measured_ns - boundary_ns[nodes.start]
            if expected_ns > 0 and found_ns > 0:
                work[nodes] *= found_ns / expected_ns
    return tuple(round(float(cost_ns)) for cost_ns in work)


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
