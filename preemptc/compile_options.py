"""What a compile was asked for: its options, and the request that a bundle keeps of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from preempt_runtime.bundle import Bundle
from preempt_runtime.errors import BundleError, InputError
from preemptc.backends import BackendOptions
from preemptc.goal import Goal

EXTENSION = "preemptc"
"""Under which name of the manifest's `extensions` the request stands."""

Mechanism = Literal["auto", "segments", "gates"]
MECHANISM_CHOICES: tuple[Mechanism, ...] = get_args(Mechanism)
DEFAULT_MECHANISM: Mechanism = "segments"
"""Gates have not been run on a GPU yet; once they have, this becomes `auto`."""

_AGAIN = "compile it again with `preemptc compile`"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """What a compile depends on, beside the model.

    `mechanism`: how the network gets preemption points. `segments` cuts it into several engines,
    `gates` puts gates between the kernels of one, `auto` takes gates where they can be put in.
    """

    target: str
    goal: Goal
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    backend: BackendOptions = field(default_factory=BackendOptions)
    max_live_bytes: int | None = None
    profile: Path | None = None
    inputs: Path | None = None
    seed: int = 0
    mechanism: Mechanism = DEFAULT_MECHANISM


def request_from_options(options: CompileOptions) -> dict[str, Any]:
    """What was asked for, as a bundle keeps it so that a device can plan again."""
    return {
        "target": options.target,
        "goal": asdict(options.goal),
        "precision": options.backend.precision,
        "level": options.backend.level,
        "max_live_bytes": options.max_live_bytes,
        "seed": options.seed,
        "mechanism": options.mechanism,
    }


def options_from_request(bundle: Bundle, target: str) -> CompileOptions:
    """The options of the compile that made the bundle, for another target.

    Raises:
        BundleError: the bundle does not say, or not in this version's words.
    """
    try:
        request: Mapping[str, Any] = bundle.manifest.extensions[EXTENSION]["request"]
        return CompileOptions(
            target=target,
            goal=_goal(request["goal"]),
            backend=BackendOptions(
                precision=_one_of(request["precision"], (None, "fp32", "fp16")),
                level=_one_of(request["level"], (None, *range(6))),
                engines="require",
            ),
            max_live_bytes=_whole_or_none(request["max_live_bytes"]),
            seed=_whole_or_none(request["seed"]) or 0,
            mechanism=_one_of(request.get("mechanism", "segments"), MECHANISM_CHOICES),
        )
    except (KeyError, TypeError, ValueError, AssertionError, InputError) as err:
        raise BundleError(
            f"{bundle.root}: does not say what was asked of it ({type(err).__name__}: {err});"
            f" {_AGAIN}"
        ) from err


def _goal(fields: Mapping[str, Any]) -> Goal:
    frac = fields["max_overhead_frac"]
    return Goal(
        max_segment_ns=_whole_or_none(fields["max_segment_ns"]),
        num_segments=_whole_or_none(fields["num_segments"]),
        max_overhead_frac=None if frac is None else float(frac),
        quantile=_one_of(fields["quantile"], ("p50", "p99", "max")),
    )


def _whole_or_none(value: object) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"found {value!r}, expected a whole number")
    return value


def _one_of(value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ValueError(f"found {value!r}, expected one of {allowed}")
    return value
