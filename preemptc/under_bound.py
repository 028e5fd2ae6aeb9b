"""The first plan whose measured segments keep a bound."""

import math
from dataclasses import replace

from preempt_runtime.errors import BuildError, InfeasibleError
from preempt_runtime.units import fmt_ns
from preemptc.learnt_costs import doubtful_stretches
from preemptc.search import Describe, SplitPlan, fmt_at_least, search_bound
from preemptc.trials import MeasuredPlan, Trials

MARGIN_FRAC = 0.03  # of the bound, for medians that differ between two processes
MAX_ROUNDS = 12
_HEADROOM_FRAC = 0.05  # of the bound, for the error of a prediction


def first_kept(trials: Trials, bound_ns: int, describe: Describe, speed: str) -> MeasuredPlan:
    """The first plan whose measured segments keep the bound.

    Raises:
        InfeasibleError: no plan keeps the bound, or none did in all rounds.
        BuildError: the segments of every plan were refused.
    """
    penalty_ns = max(1, max(trials.predicted.boundary_ns) // 2)
    trials.costs = replace(
        trials.costs, headroom_frac=_HEADROOM_FRAC, unbuilt_penalty_ns=penalty_ns
    )
    longest_ns = 0
    for _ in range(MAX_ROUNDS):
        tried = trials.under_bound(_proposal(trials, bound_ns, describe, speed), bound_ns)
        if tried is not None:
            longest_ns = trials.longest_ns(tried)
            if longest_ns <= bound_ns:
                return tried
    if not longest_ns:
        raise BuildError(
            f"after {trials.num_rounds} rounds no plan could be built: {len(trials.costs.failed)}"
            " segments were refused; try another bound"
        )
    raise InfeasibleError(
        f"after {trials.num_rounds} rounds a segment still takes {fmt_ns(longest_ns)} at"
        f" {trials.quantile}, bound {fmt_ns(bound_ns)}: times on this machine vary more"
        " than that; close other programs, or raise --max-segment"
    )


def _proposal(trials: Trials, bound_ns: int, describe: Describe, speed: str) -> SplitPlan:
    """The best plan under the bound, without headroom where headroom leaves none.

    Before it gives up, every unsplittable stretch whose prediction is a little over the bound
    is built and measured: the prediction may be what is wrong.
    """

    def search() -> SplitPlan:
        return search_bound(
            trials.costs,
            bound_ns,
            describe=describe,
            advise=lambda smallest_ns: bound_with_room(smallest_ns, speed),
        )

    try:
        return search()
    except InfeasibleError:
        trials.costs = replace(trials.costs, headroom_frac=0.0)
    for start, end in doubtful_stretches(trials.costs, bound_ns):
        if trials.glance(start, end, bound_ns):
            break
    return search()


def bound_with_room(smallest_ns: int, speed: str) -> str:
    """A bound that still leaves planning its margin: following it must not fail by noise."""
    roomy_ns = math.ceil(smallest_ns / (1 - MARGIN_FRAC))
    return (
        f"{fmt_at_least(roomy_ns)}: the smallest feasible bound {speed} is"
        f" {fmt_at_least(smallest_ns)}, and planning leaves {MARGIN_FRAC:.0%} of a bound free"
    )
