"""What executes a graph on a target: one package per library, imported when a target asks for it.

`Backend` is the seam. The pipeline calls key_fields, lower and read_lowered, then opens a bench,
then profiles: the bench tells whether a profile in the cache still holds. The `Bench` builds and
measures as many segmentations as re-planning needs, and names the files that go into the bundle.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from preempt_runtime.backends.graph_shape import GraphShape
from preempt_runtime.errors import BuildError, InputError
from preempt_runtime.loading import open_backend as open_runtime
from preempt_runtime.manifest import Latency, TensorSpec
from preemptc.model import Lowered, Model
from preemptc.profile import LatencyProfile
from preemptc.targets import TARGETS

DEFAULT_PRECISION: Literal["fp32", "fp16"] = "fp32"
GATES_BACKEND = "tensorrt"
"""The only backend, by the name in a target, whose networks gates can be put into."""

Tensors = Mapping[str, NDArray[Any]]
Progress = Callable[[str, float], None]


def silent(what: str, frac: float) -> None:
    """The progress that nobody watches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Times of one segmentation, taken in one process with chain and whole alternating.

    `ratio_p50` is the median of the paired ratios chained over whole (chain k against the whole
    run beside it); 1.0 for a plan of one segment. `ratio_error` is half the width of its 95 %
    interval.
    """

    segments: tuple[Latency, ...]
    chained: Latency
    whole: Latency
    ratio_p50: float
    ratio_error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GateMeasurement:
    """Times of a graph with gates, in turn with the same graph without.

    `times` are as those of segments; here the stretches between gates are the segments, by the
    gates' own stamps. `mean_ns` are the means of the stretches' middle halves: finer than the
    device's clock, whose steps may be as long as a kernel.
    """

    times: Measurement
    mean_ns: tuple[int, ...]


class GateRefusal(BuildError):
    """Gates cannot be put into a network: `reason` says why, the message what to do, too."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no gates: {reason}; compile it with --mechanism segments")
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMemory:
    """What an engine takes on the device: scratch memory of a run, and weights where it tells."""

    scratch_bytes: int
    weights_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefacts:
    """The device's files: of the whole network, of each segment, and those that they refer to.

    The first two get names by what they are; `shared` keep theirs, beside the others. `memory` is
    of those that are engines.
    """

    whole: Path
    segments: tuple[Path, ...]
    shared: tuple[Path, ...]
    memory: Mapping[Path, EngineMemory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far outputs may be apart, as a share of the largest value of each output.

    `chained_frac` is for the chain against the whole network (0: bit by bit), `source_frac` for
    the whole network against the source graph in its own precision; `source_limits` are
    differences that certain outputs may have from the source whatever their largest value is.
    `advice` tells people what to do where the source differs more.
    """

    chained_frac: float
    source_frac: float
    reason: str
    source_limits: Mapping[str, float] = field(default_factory=dict)
    advice: str = "try another version of the library, or a higher precision"


EXACT = Tolerance(
    chained_frac=0.0,
    source_frac=1e-2,
    reason="the chain runs the very nodes of the whole graph; optimisation reorders float sums",
    advice="ONNX Runtime's optimisations change what the network computes; try another version of"
    " ONNX Runtime",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """What a user may ask of a backend; each refuses what it does not know.

    `threads` is for the CPU (None: as many as cores), `precision` and `level`, the builder's
    optimisation level, for TensorRT. `engines`: `auto` builds them where the device is, `require`
    refuses to go on without it, `skip` leaves them out. `cache` is the build cache, below which a
    library may keep what it has learnt (None: nowhere).
    """

    threads: int | None = None
    precision: Literal["fp32", "fp16"] | None = None
    level: int | None = None
    engines: str = "auto"
    cache: Path | None = None


class GateBench(Protocol):
    """A whole network as one captured graph, into which gates can be put."""

    @property
    def shape(self) -> GraphShape:
        """Its nodes and edges, without gates."""
        ...

    def measure(self, cuts: Sequence[int], *, min_runs: int, budget_ns: int) -> GateMeasurement:
        """Run it with gates before these positions of its order, and without any, in turn.

        Raises:
            DeviceError: a gate let its job pass without need, or the driver's own text.
        """
        ...

    def outputs(self, cuts: Sequence[int] | None, inputs: Tensors) -> dict[str, Any]:
        """The network's outputs with gates before these positions, or without any if None."""
        ...


class Bench(Protocol):
    """Builds segments of one lowered graph, keeps what it built, measures and compares."""

    @property
    def tolerance(self) -> Tolerance:
        """How exact this library's segments are."""
        ...

    @property
    def num_built(self) -> int:
        """How many segments were built so far, the whole network not counted."""
        ...

    @property
    def library_ns(self) -> int:
        """How long the library took for it."""
        ...

    def build(self, start: int, end: int) -> Path:
        """The piece of nodes [start, end), built at most once.

        Raises:
            BuildError: the library refused this piece; it is remembered.
        """
        ...

    def measure(self, split_points: Sequence[int], *, min_runs: int, budget_ns: int) -> Measurement:
        """Run the chain and the whole network in turn, after a warm-up."""
        ...

    def whole_ns(self) -> int:
        """Median time of the whole network now, over a few runs."""
        ...

    def outputs(self, split_points: Sequence[int] | None, inputs: Tensors) -> dict[str, Any]:
        """The network's outputs, chained at `split_points`, or of the whole network if None."""
        ...

    def source_outputs(self, inputs: Tensors) -> dict[str, Any]:
        """The outputs of the unoptimised source graph."""
        ...

    def boundary_specs(self, split_points: Sequence[int]) -> tuple[TensorSpec, ...]:
        """The tensors that segments hand over, dtype and shape as the device stores them."""
        ...

    def artefacts(self, split_points: Sequence[int]) -> Artefacts:
        """The files of this segmentation, built where they are not yet."""
        ...

    def gates(self) -> AbstractContextManager[GateBench]:
        """The whole network, to put gates into.

        Raises:
            GateRefusal: they cannot be put in; names the node or what else is in the way.
        """
        ...

    def __enter__(self) -> "Bench": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Backend(Protocol):
    """One library on one target."""

    @property
    def target(self) -> str:
        """The name under `--target`."""
        ...

    @property
    def is_portable(self) -> bool:
        """Whether nothing is built: the device is elsewhere, costs are estimated."""
        ...

    def key_fields(self, model: Model) -> Mapping[str, str | int]:
        """What the device artefacts of this model depend on."""
        ...

    def lower(self, model: Model, folder: Path, progress: Progress = silent) -> None:
        """Write the graph that the target executes, and its weights, into `folder`."""
        ...

    def read_lowered(self, model: Model, folder: Path) -> Lowered:
        """The graph that `lower` wrote into `folder`."""
        ...

    def estimate(self, lowered: Lowered) -> LatencyProfile:
        """Costs by roofline, labelled `estimated`; runs nothing."""
        ...

    def profile(self, lowered: Lowered, progress: Progress) -> LatencyProfile:
        """Measured costs of every node and of a boundary."""
        ...

    def bench(self, model: Model, lowered: Lowered, progress: Progress = silent) -> Bench:
        """Where segments of this graph are built and measured."""
        ...


def unused_providers() -> tuple[str, ...]:
    """What else the ONNX Runtime here could run on, such as CUDA; sessions run on the CPU."""
    from preempt_runtime.backends.ort import unused_providers as ask  # imports ONNX Runtime

    return ask()


def backend_for_target(target: str, options: BackendOptions) -> Backend:
    """The backend of a target's name.

    Raises:
        InputError: no such target, or it does not know an option.
        DeviceError: its library is missing.
    """
    if target not in TARGETS:
        raise InputError(f"target {target!r} is unknown; `preemptc targets` lists what there is")
    if TARGETS[target].gpu is None:
        open_runtime(TARGETS[target].backend).key_fields()  # says what to install, if anything
    backend: Backend = importlib.import_module(TARGETS[target].compiler).open_backend(
        target, options
    )
    return backend
