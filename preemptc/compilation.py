"""One network of a task set to compile, as a command and as what the pipeline takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preempt_runtime.task_spec import NamedShape
from preempt_runtime.units import fmt_exact_ns
from preemptc.backends import BackendOptions, Progress
from preemptc.compile_options import DEFAULT_MECHANISM, CompileOptions, Mechanism
from preemptc.goal import Goal

_QUANTILE = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """One bundle to compile: `max_segment_ns` is None for a network that stays whole.

    `mechanism` is how a network that is cut gets its preemption points.
    """

    model: Path
    bundle: Path | None
    profile: Path | None
    target: str
    backend: BackendOptions
    max_segment_ns: int | None
    shapes: tuple[NamedShape, ...] = ()
    mechanism: Mechanism = DEFAULT_MECHANISM

    @property
    def words(self) -> tuple[str, ...]:
        """The command that does it."""
        cut = ("--segments", "1")
        if self.max_segment_ns is not None:
            cut = ("--max-segment", fmt_exact_ns(self.max_segment_ns))
        return (
            *("preemptc", "compile", str(self.model), "--target", self.target, *cut),
            *("--bound-quantile", _QUANTILE),
            *(word for option, value in self._chosen() for word in (option, str(value))),
            *(word for named in self.shapes for word in ("--shape", shape_text(named))),
            *(("--profile", str(self.profile)) if self.profile is not None else ()),
            *(("-o", str(self.bundle)) if self.bundle is not None else ()),
        )

    @property
    def options(self) -> CompileOptions:
        """The same for the pipeline."""
        is_whole = self.max_segment_ns is None
        return CompileOptions(
            target=self.target,
            goal=Goal(
                max_segment_ns=self.max_segment_ns,
                num_segments=1 if is_whole else None,
                quantile=_QUANTILE,
            ),
            backend=self.backend,
            shapes=dict(self.shapes),
            profile=self.profile,
            mechanism=self._mechanism,
        )

    @property
    def _mechanism(self) -> Mechanism:
        return DEFAULT_MECHANISM if self.max_segment_ns is None else self.mechanism

    def _chosen(self) -> list[tuple[str, object]]:
        """The options that differ from their defaults."""
        options = {
            "--threads": self.backend.threads,
            "--precision": self.backend.precision,
            "--opt-level": self.backend.level,
            "--mechanism": None if self._mechanism == DEFAULT_MECHANISM else self._mechanism,
        }
        return [(option, value) for option, value in options.items() if value is not None]


def told_of(progress: Progress, names: Sequence[str], number: int) -> Progress:
    """Progress that names the network it is of: the one at `number` of these."""
    prefix = f"{names[number]} ({number + 1} of {len(names)})"
    return lambda what, frac: progress(f"{prefix}: {what}", frac)


def shape_text(named: NamedShape) -> str:
    """A shape as `--shape` takes it.

    >>> shape_text(("image", (1, 3, 224)))
    'image=1x3x224'
    """
    name, dims = named
    return f"{name}={'x'.join(map(str, dims))}"
