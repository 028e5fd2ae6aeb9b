"""Stage check: do the chained segments compute what the whole network computes?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preempt_runtime.errors import BuildError
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import SOURCE_REFERENCE, CheckSpec, GraphSpec
from preemptc.backends import Bench, Tensors, Tolerance

NUM_RANDOM_INPUTS = 2
WHOLE_REFERENCE = "whole network, built in one piece with the same options"
DISCRETE_TOLERANCE = 1e-2  # of the elements, at least one: ties, and sums on an edge of rounding


def check_segments(
    bench: Bench,
    graph: GraphSpec,
    split_points: Sequence[int],
    *,
    seed: int,
    recorded: Sequence[Tensors] = (),
) -> CheckSpec:
    """Compare chain against whole, and both against the unoptimised source.

    How far they may be apart is the bench's own tolerance; on a CPU the chain runs the very nodes
    of the whole graph, so it is compared bit by bit. A library that builds each piece anew can
    also get the whole network wrong and its segments right (seen with TensorRT 8.6.0 and a
    SegFormer in fp16): then the source graph is what the chain is judged by.

    Args:
        recorded: more inputs, beside the random ones.

    Raises:
        BuildError: an output differs, or is nothing but NaN; names it, and by how much.
    """
    drawn = [
        random_inputs(graph, seed=seed + idx, task="check") for idx in range(NUM_RANDOM_INPUTS)
    ]
    tolerance = bench.tolerance
    of_whole, of_chain = AgainstSource(tolerance), AgainstSource(tolerance)
    chained_diff, is_bitwise = 0.0, True
    chain_fault: BuildError | None = None
    for idx, inputs in enumerate((*drawn, *recorded)):
        whole = bench.outputs(None, inputs)
        chained = bench.outputs(split_points, inputs)
        try:
            _check_chain(whole, chained, tolerance)
        except BuildError as err:
            check_repeatable(whole, bench.outputs(None, inputs))
            if not tolerance.chained_frac:
                raise
            chain_fault = chain_fault or err
        for name, expected in whole.items():
            is_bitwise = is_bitwise and same_bits(expected, chained[name])
            chained_diff = max(chained_diff, max_abs_diff(expected, chained[name]))
        source = bench.source_outputs(inputs)
        counts = idx >= len(drawn) or not recorded  # random inputs may be out of a domain
        of_whole.add(source, whole, may_be_nan=not counts)
        of_chain.add(source, chained, may_be_nan=not counts)
    what = "recorded" if recorded else "random"
    is_whole_wrong = chain_fault is not None and of_whole.fault(what) is not None
    if is_whole_wrong and of_chain.fault(what) is None:
        return CheckSpec(
            reference=f"{SOURCE_REFERENCE}; the network built in one piece differs from it by"
            f" {of_whole.max_abs_diff:.3g}",
            num_inputs=len(drawn) + len(recorded),
            seed=seed,
            bitwise=False,
            max_abs_diff=of_chain.max_abs_diff,
            tolerance_frac=tolerance.source_frac,
            source_max_abs_diff=of_chain.max_abs_diff,
        )
    for fault in (str(chain_fault) if chain_fault else None, of_whole.fault(what)):
        if fault is not None:
            raise BuildError(fault)
    return CheckSpec(
        reference=WHOLE_REFERENCE,
        num_inputs=len(drawn) + len(recorded),
        seed=seed,
        bitwise=is_bitwise,
        max_abs_diff=chained_diff,
        tolerance_frac=tolerance.chained_frac,
        source_max_abs_diff=of_whole.max_abs_diff,
    )


def check_notes(check: CheckSpec) -> tuple[str, ...]:
    """What people must know of the check; empty if all was as it should be."""
    if check.is_against_whole:
        return ()
    return (
        f"the library builds the whole network wrong: the outputs were compared with the"
        f" {check.reference}; the segments keep within {check.max_abs_diff:.3g}, so the bundle"
        " holds them alone",
    )


def check_repeatable(first: Tensors, second: Tensors) -> None:
    """Return if two runs of the uncut network on the same inputs gave the same bits.

    Raises:
        BuildError: they did not; names the output.
    """
    for name, expected in first.items():
        if not same_bits(expected, second[name]):
            raise BuildError(
                f"output {name!r} differs between two runs of the uncut network on the same inputs:"
                " it draws random numbers; remove that part, nothing can be checked against it"
            )


class AgainstSource:
    """All outputs of one way to run the network beside the source graph's, over all inputs."""

    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self._comparisons: dict[str, _Comparison] = {}

    def add(self, source: Tensors, found: Tensors, *, may_be_nan: bool) -> None:
        """Compare for one set of inputs."""
        for name, expected in source.items():
            comparison = self._comparisons.setdefault(
                name, _Comparison(name=name, tolerance=self._tolerance)
            )
            comparison.add(expected, found[name])
            comparison.has_number |= not may_be_nan and has_number(found[name])

    @property
    def max_abs_diff(self) -> float:
        """Over all outputs and inputs."""
        return max((c.max_abs_diff for c in self._comparisons.values()), default=0.0)

    def fault(self, what: str) -> str | None:
        """What is wrong with an output; None if nothing is."""
        faults = (comparison.fault(what) for comparison in self._comparisons.values())
        return next((fault for fault in faults if fault is not None), None)


@dataclass(slots=True)
class _Comparison:
    """One output of the optimised graph beside the source graph's, over all sets of inputs."""

    name: str
    tolerance: Tolerance
    max_abs_diff: float = 0.0
    num_elements: int = 0
    num_unlike: int = 0
    has_number: bool = False
    _float_fault: str | None = None

    def add(self, expected: NDArray[Any], found: NDArray[Any]) -> None:
        """Compare for one set of inputs."""
        difference = max_abs_diff(expected, found)
        self.max_abs_diff = max(self.max_abs_diff, difference)
        limit = self.tolerance.source_limits.get(self.name, 0.0)
        if expected.dtype.kind != "f" and not limit:
            self.num_elements += expected.size
            self.num_unlike += int(np.count_nonzero(expected != found))
            return
        allowed = max(limit, self.tolerance.source_frac * max(1.0, largest(expected)))
        if not difference <= allowed and self._float_fault is None:
            self._float_fault = (
                f"output {self.name!r} of the optimised network differs from the source graph by"
                f" {difference:.3g}, allowed {allowed:.3g}; {self.tolerance.advice}"
            )

    def fault(self, what: str) -> str | None:
        """What is wrong: too far away, too many unlike elements, or nothing to compare."""
        if self._float_fault is not None:
            return self._float_fault
        allowed = max(1, int(DISCRETE_TOLERANCE * self.num_elements))
        if self.num_unlike > allowed:
            return (
                f"output {self.name!r} of the optimised network differs from the source"
                f" graph in {self.num_unlike} of {self.num_elements} elements, allowed {allowed};"
                f" {self.tolerance.advice}"
            )
        if not self.has_number:
            return (
                f"every value of output {self.name!r} is NaN for {what} inputs, so nothing can be"
                " compared; check the network, or give inputs that it is made for with --inputs"
            )
        return None


def _check_chain(whole: Tensors, chained: Tensors, tolerance: Tolerance) -> None:
    for name, expected in whole.items():
        found = chained[name]
        if tolerance.chained_frac and is_close(expected, found, tolerance.chained_frac):
            continue
        if not same_bits(expected, found):
            allowed = tolerance.chained_frac * largest(expected)
            advice = (
                "try --precision fp32, or other split points"
                if tolerance.chained_frac
                else "this is a bug, please report the model"
            )
            raise BuildError(
                f"output {name!r} of the chained segments differs from the whole network by"
                f" {max_abs_diff(expected, found):.3g}, allowed {allowed:.3g}; {advice}"
            )


def largest(array: NDArray[Any]) -> float:
    """The largest finite absolute value; 0 of an empty array."""
    finite = np.abs(array[np.isfinite(array)]) if array.dtype.kind == "f" else np.abs(array)
    return float(finite.max(initial=0))


def is_close(expected: NDArray[Any], found: NDArray[Any], frac: float) -> bool:
    """Whether floats differ by at most a share of the largest expected value; others are equal.

    Integers and truth values are decided by floats (a class, an index), so that one in a hundred
    may differ where a share is allowed at all.

    >>> is_close(np.array([1.0, 100.0]), np.array([1.5, 100.0]), 0.01)
    True
    """
    if expected.dtype != found.dtype or expected.shape != found.shape:
        return False
    if expected.dtype.kind != "f":
        allowed = max(1, int(DISCRETE_TOLERANCE * expected.size)) if frac else 0
        return int(np.count_nonzero(expected != found)) <= allowed
    return max_abs_diff(expected, found) <= frac * largest(expected)


def has_number(array: NDArray[Any]) -> bool:
    """Whether there is something to compare: a value that is not NaN, or no value at all.

    >>> has_number(np.array([np.nan])), has_number(np.array([np.nan, 1.0]))
    (False, True)
    """
    return array.dtype.kind != "f" or not array.size or not bool(np.isnan(array).all())


def same_bits(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Whether two arrays hold the same bytes; NaNs of the same bits are equal.

    >>> same_bits(np.array([np.nan]), np.array([np.nan]))
    True
    """
    same_form = left.dtype == right.dtype and left.shape == right.shape
    return same_form and left.tobytes() == right.tobytes()


def max_abs_diff(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Largest absolute difference; infinite where only one of the two is NaN.

    >>> max_abs_diff(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    0.5
    """
    left64, right64 = left.astype(np.float64), right.astype(np.float64)
    is_same = (left64 == right64) | (np.isnan(left64) & np.isnan(right64))
    with np.errstate(invalid="ignore"):
        difference = np.where(is_same, 0.0, np.abs(left64 - right64))
    return float(np.where(np.isnan(difference), np.inf, difference).max(initial=0.0))
