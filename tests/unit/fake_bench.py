"""A bench whose segments cost what a function says: re-planning without a machine."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from preempt_runtime.errors import BuildError
from preempt_runtime.manifest import Latency, TensorSpec
from preemptc.backends import EXACT, Artefacts, GateRefusal, Measurement, Tensors, Tolerance


def steady(cost_ns: int) -> Latency:
    return Latency(p50_ns=cost_ns, p99_ns=cost_ns + 10, max_ns=cost_ns + 20, num_samples=30)


class FakeBench:
    tolerance: Tolerance = EXACT
    library_ns = 0

    def __init__(
        self,
        num_nodes: int,
        cost_ns: Callable[[int, int], int],
        refused: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self.num_nodes, self.cost_ns, self.refused = num_nodes, cost_ns, refused
        self.built: list[tuple[int, int]] = []
        self.measured: list[tuple[int, ...]] = []

    @property
    def num_built(self) -> int:
        return len(self.built)

    def build(self, start: int, end: int) -> Path:
        if (start, end) in self.refused:
            raise BuildError(f"nodes {start} to {end} are refused")
        if (start, end) not in self.built:
            self.built.append((start, end))
        return Path(f"segment-{start}-{end}.onnx")

    def measure(self, split_points: Sequence[int], *, min_runs: int, budget_ns: int) -> Measurement:
        spans = list(pairwise((0, *split_points, self.num_nodes)))
        assert set(spans) <= set(self.built)
        self.measured.append(tuple(split_points))
        costs = [self.cost_ns(start, end) for start, end in spans]
        whole_ns = self.cost_ns(0, self.num_nodes)
        return Measurement(
            segments=tuple(steady(cost) for cost in costs),
            chained=steady(sum(costs)),
            whole=steady(whole_ns),
            ratio_p50=sum(costs) / whole_ns,
        )

    def whole_ns(self) -> int:
        return self.cost_ns(0, self.num_nodes)

    def outputs(self, split_points: Sequence[int] | None, inputs: Tensors) -> dict[str, Any]:
        raise NotImplementedError

    def source_outputs(self, inputs: Tensors) -> dict[str, Any]:
        raise NotImplementedError

    def boundary_specs(self, split_points: Sequence[int]) -> tuple[TensorSpec, ...]:
        raise NotImplementedError

    def artefacts(self, split_points: Sequence[int]) -> Artefacts:
        raise NotImplementedError

    def gates(self) -> NoReturn:
        raise GateRefusal("it is a fake")

    def __enter__(self) -> "FakeBench":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
