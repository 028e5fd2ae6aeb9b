"""The report of a compile: which of the plans that were measured is the one kept."""

import pytest

from preempt_runtime.manifest import Latency
from preemptc.backends import Measurement
from preemptc.compile_report import tried_plans
from preemptc.search import SplitPlan
from preemptc.trials import MeasuredPlan, Trial

LATENCY = Latency(p50_ns=10, p99_ns=10, max_ns=10, num_samples=30)
KEPT = SplitPlan(num_nodes=4, split_points=(2,), predicted_ns=(5, 5), overhead_ns=0)
MEASURED = Measurement(
    segments=(LATENCY, LATENCY), chained=LATENCY, whole=LATENCY, ratio_p50=1.0, ratio_error=0.0
)


@pytest.mark.parametrize(
    ("tried", "kept"),
    [
        ([(1,), (2,)], [False, True]),
        ([(2,), (2,), (2,)], [False, False, True]),
        ([(2,), (1, 3)], [True, False]),
        ([], []),
    ],
)
def test_one_of_the_plans_that_were_tried_is_kept(
    tried: list[tuple[int, ...]], kept: list[bool]
) -> None:
    trials = tuple(
        Trial(split_points=points, num_new=0, longest_ns=5, ratio_p50=1.0) for points in tried
    )
    found = tried_plans(MeasuredPlan(plan=KEPT, measurement=MEASURED, trials=trials))
    assert [plan["kept"] for plan in found] == kept
    assert [plan["segments"] for plan in found] == [len(points) + 1 for points in tried]
