"""The check at the end of a compile: what it lets pass, and what it says of the rest."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from preempt_runtime.errors import BuildError
from preempt_runtime.manifest import GraphSpec, TensorSpec
from preemptc.backends import Tensors, Tolerance
from preemptc.check import check_notes, check_segments, max_abs_diff
from tests.unit.fake_bench import FakeBench

Outputs = Mapping[str, Any]
X = TensorSpec(name="x", dtype="float32", shape=(4,))
GRAPH = GraphSpec(id="main", variant="full", exit_of=None, inputs=(X,), outputs=(X,))


class OutputBench(FakeBench):
    """Whole, chained and source outputs of each set of inputs, the last one again at the end."""

    def __init__(
        self,
        source: Sequence[Outputs],
        whole: Sequence[Outputs] | None = None,
        chained: Sequence[Outputs] | None = None,
    ) -> None:
        super().__init__(2, lambda start, end: end - start)
        self._source, self._whole = list(source), list(whole or source)
        self._chained = list(chained or whole or source)

    def outputs(self, split_points: Sequence[int] | None, inputs: Tensors) -> dict[str, Any]:
        return dict(_next(self._whole if split_points is None else self._chained))

    def source_outputs(self, inputs: Tensors) -> dict[str, Any]:
        return dict(_next(self._source))


def _next(outputs: list[Outputs]) -> Outputs:
    return outputs.pop(0) if len(outputs) > 1 else outputs[0]


def of(*values: Any, dtype: str = "float32") -> Outputs:
    return {"y": np.array(values, dtype=dtype)}


def recorded(count: int) -> tuple[Tensors, ...]:
    return tuple({"x": np.zeros(4, np.float32)} for _ in range(count))


def test_differences_of_arrays_without_dimensions() -> None:
    assert max_abs_diff(np.array(1.0), np.array(1.5)) == 0.5
    assert max_abs_diff(np.array(np.nan), np.array(np.nan)) == 0.0
    assert max_abs_diff(np.array(np.nan), np.array(1.0)) == np.inf
    assert max_abs_diff(np.array(np.inf), np.array(np.inf)) == 0.0
    assert max_abs_diff(np.zeros(0), np.zeros(0)) == 0.0


def test_equal_outputs_pass() -> None:
    check = check_segments(OutputBench([of(1.0, 2.0)]), GRAPH, (1,), seed=0, recorded=recorded(1))
    assert (check.num_inputs, check.bitwise, check.source_max_abs_diff) == (3, True, 0.0)


def test_a_chain_that_differs_is_named() -> None:
    bench = OutputBench([of(1.0)], chained=[of(1.0), of(1.25)])
    with pytest.raises(BuildError, match=r"output 'y' of the chained segments differs.* by 0\.25"):
        check_segments(bench, GRAPH, (1,), seed=0)


def test_a_tolerance_is_a_share_of_the_largest_value() -> None:
    close, far = [of(1.0, 100.0), of(2.0, 100.0)], [of(1.0, 100.0), of(4.0, 100.0)]
    tolerance = Tolerance(chained_frac=0.02, source_frac=0.05, reason="half precision")
    bench = OutputBench([close[0]] * 2, chained=close)
    bench.tolerance = tolerance
    check = check_segments(bench, GRAPH, (1,), seed=0)
    assert (check.bitwise, check.max_abs_diff, check.tolerance_frac) == (False, 1.0, 0.02)
    bench = OutputBench([far[0]] * 2, chained=far)
    bench.tolerance = tolerance
    with pytest.raises(BuildError, match=r"by 3, allowed 2; try --precision fp32"):
        check_segments(bench, GRAPH, (1,), seed=0)


def test_an_output_may_have_a_limit_of_its_own() -> None:
    tolerance = Tolerance(
        chained_frac=0.0,
        source_frac=0.05,
        reason="int8",
        source_limits={"y": 3.0},
        advice="quantise otherwise",
    )
    for dtype in ("float32", "int8"):
        source, near, far = (of(10, each, dtype=dtype) for each in (0, 3, 4))
        bench = OutputBench([source], [near])
        bench.tolerance = tolerance
        assert check_segments(bench, GRAPH, (1,), seed=0).source_max_abs_diff == 3.0
        bench = OutputBench([source], [far])
        bench.tolerance = tolerance
        with pytest.raises(BuildError, match=r"by 4, allowed 3; quantise otherwise$"):
            check_segments(bench, GRAPH, (1,), seed=0)


@pytest.mark.parametrize("bad_set", [0, 1, 2])
def test_every_set_is_compared_with_the_source(bad_set: int) -> None:
    whole = [of(1.0), of(1.0), of(1.0)]
    whole[bad_set] = of(2.0)
    bench = OutputBench([of(1.0)] * 3, whole)
    with pytest.raises(BuildError, match=r"differs from the source graph by 1, allowed 0\.01"):
        check_segments(bench, GRAPH, (1,), seed=0, recorded=recorded(1))


def test_the_largest_difference_of_all_sets_is_kept() -> None:
    bench = OutputBench([of(1.0)], [of(1.001), of(1.004), of(1.0)])
    check = check_segments(bench, GRAPH, (1,), seed=0, recorded=recorded(1))
    assert check.source_max_abs_diff == pytest.approx(0.004, abs=1e-6)


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_integers_and_truth_values_are_compared(dtype: str) -> None:
    one, other = of(*[0] * 100, dtype=dtype), of(*[0] * 98, 1, 1, dtype=dtype)
    assert check_segments(OutputBench([one], [other, one]), GRAPH, (1,), seed=0).bitwise
    with pytest.raises(BuildError, match=r"'y' .* in 4 of 200 elements, allowed 2"):
        check_segments(OutputBench([one], [other]), GRAPH, (1,), seed=0)


def test_one_tie_may_break_either_way() -> None:
    one, other = of(3, dtype="int64"), of(7, dtype="int64")
    check_segments(OutputBench([one], [one, other]), GRAPH, (1,), seed=0)
    with pytest.raises(BuildError, match="in 2 of 2 elements, allowed 1"):
        check_segments(OutputBench([one], [other]), GRAPH, (1,), seed=0)


def test_an_output_of_nan_alone_is_refused() -> None:
    nan, some = of(np.nan, np.nan), of(np.nan, 1.0)
    with pytest.raises(BuildError, match=r"every value of output 'y' is NaN for random inputs"):
        check_segments(OutputBench([nan]), GRAPH, (1,), seed=0)
    check_segments(OutputBench([some]), GRAPH, (1,), seed=0)


def test_recorded_inputs_are_judged_where_there_are_any() -> None:
    nan, fine = of(np.nan), of(1.0)
    check_segments(OutputBench([nan, nan, fine]), GRAPH, (1,), seed=0, recorded=recorded(1))
    with pytest.raises(BuildError, match=r"is NaN for recorded inputs"):
        check_segments(OutputBench([fine, fine, nan]), GRAPH, (1,), seed=0, recorded=recorded(2))


LIBRARY = Tolerance(chained_frac=0.02, source_frac=0.05, reason="half precision")


def library_bench(
    source: Outputs, whole: Sequence[Outputs], chained: Sequence[Outputs]
) -> OutputBench:
    bench = OutputBench([source], whole, chained)
    bench.tolerance = LIBRARY
    return bench


def test_a_whole_network_that_is_built_wrong_does_not_condemn_the_segments() -> None:
    bench = library_bench(of(1.0, 100.0), [of(1.0, 40.0)], [of(1.0, 101.0), of(1.0, 100.5)])
    check = check_segments(bench, GRAPH, (1,), seed=0)
    assert not check.is_against_whole
    assert "the network built in one piece differs from it by 60" in check.reference
    assert (check.bitwise, check.max_abs_diff, check.tolerance_frac) == (False, 1.0, 0.05)
    assert check.source_max_abs_diff == 1.0
    (note,) = check_notes(check)
    assert "builds the whole network wrong" in note


def test_it_does_where_they_are_wrong_too() -> None:
    bench = library_bench(of(1.0, 100.0), [of(1.0, 40.0)], [of(1.0, 100.0), of(1.0, 90.0)])
    with pytest.raises(BuildError, match="chained segments differs from the whole network by 60"):
        check_segments(bench, GRAPH, (1,), seed=0)


def test_a_wrong_chain_of_a_right_whole_is_refused() -> None:
    bench = library_bench(of(1.0, 100.0), [of(1.0, 100.0)], [of(1.0, 103.0)])
    with pytest.raises(BuildError, match="chained segments differs from the whole network by 3"):
        check_segments(bench, GRAPH, (1,), seed=0)


def test_a_right_check_has_no_notes() -> None:
    check = check_segments(OutputBench([of(1.0)]), GRAPH, (1,), seed=0)
    assert check.is_against_whole
    assert check_notes(check) == ()
