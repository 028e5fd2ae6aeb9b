"""What a compile was asked for: its options, and the request that a bundle keeps of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.errors import BundleError
from preempt_runtime.manifest import MANIFEST_NAME, SEGMENTS
from preempt_runtime.strict_json import Place, brief
from preempt_runtime.typed_json import record_from_value
from preemptc.backends import BackendOptions
from preemptc.goal import Goal

EXTENSION = "preemptc"
"""Under which name of the manifest's `extensions` the request stands."""

Mechanism = Literal["auto", "segments", "gates"]
MECHANISM_CHOICES: tuple[Mechanism, ...] = get_args(Mechanism)
DEFAULT_MECHANISM: Mechanism = "segments"
"""Gates are experimental (docs/gates.md): nothing uses them unless it is asked for."""

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
    place = Place(where=str(bundle.root / MANIFEST_NAME), steps=("extensions",), todo=_AGAIN)
    found: Any = bundle.manifest.extensions
    for name in (EXTENSION, "request"):
        place = place.field(name)
        if not isinstance(found, Mapping) or name not in found:
            raise place.refuse("not there; the bundle does not say what it was compiled for")
        found = found[name]
    request = _request_from_value(found, place)
    return CompileOptions(
        target=target,
        goal=request.goal,
        backend=BackendOptions(precision=request.precision, level=request.level, engines="require"),
        max_live_bytes=request.max_live_bytes,
        seed=request.seed,
        mechanism=request.mechanism,
    )


def compiled_target(path: Path) -> str | None:
    """The target that the bundle at `path` was compiled for; None: there is none, or no word."""
    if not path.is_dir():
        return None
    try:
        return str(open_bundle(path).manifest.extensions[EXTENSION]["request"]["target"])
    except (BundleError, KeyError, TypeError):
        return None  # a compile replaces it


def requested_mechanism(bundle: Bundle) -> str | None:
    """The mechanism that a bundle was compiled with; None: it does not say."""
    try:
        return str(bundle.manifest.extensions[EXTENSION]["request"]["mechanism"])
    except (KeyError, TypeError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What a device needs to plan again, of what `request_from_options` wrote."""

    goal: Goal
    precision: Any
    level: int | None
    max_live_bytes: int | None
    seed: int
    mechanism: Any


def _request_from_value(value: Any, place: Place) -> _Request:
    if isinstance(value, dict):  # bundles from before there were gates say nothing of them
        value = {"mechanism": SEGMENTS, **value}
    try:
        request = record_from_value(value, _Request, place, is_lenient=True)
    except AssertionError as err:  # the goal's own
        what = "expected one of max_segment_ns, num_segments and max_overhead_frac, not null"
        raise place.field("goal").refuse(what) from err
    goal, at = request.goal, place.field("goal")
    _check_one_of(goal.quantile, ("p50", "p99", "max"), at.field("quantile"))
    _check_one_of(request.precision, (None, "fp32", "fp16"), place.field("precision"))
    _check_one_of(request.level, (None, *range(6)), place.field("level"))
    _check_one_of(request.mechanism, MECHANISM_CHOICES, place.field("mechanism"))
    for number, least, at_number in (
        (goal.max_segment_ns, 1, at.field("max_segment_ns")),
        (goal.num_segments, 1, at.field("num_segments")),
        (goal.max_overhead_frac, 0, at.field("max_overhead_frac")),
        (request.max_live_bytes, 0, place.field("max_live_bytes")),
        (request.seed, 0, place.field("seed")),
    ):
        if number is not None and number < least:
            raise at_number.refuse(f"found {number}, at least {least}")
    return request


def _check_one_of(found: object, allowed: tuple[object, ...], place: Place) -> None:
    if found not in allowed:
        names = ", ".join("null" if each is None else str(each) for each in allowed)
        raise place.refuse(f"found {brief(found)}, expected one of {names}")
