"""From a bundle that was compiled elsewhere to one with engines for the device that is here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.errors import BundleError, InputError
from preemptc.backends import BackendOptions, Progress
from preemptc.cache import BuildCache
from preemptc.goal import Goal
from preemptc.onnx_io.files import MODEL_FILE
from preemptc.pack import EXTENSION
from preemptc.pipeline import CompileOptions, compile_model

_AGAIN = "compile it again with `preemptc compile`"


def rebuild(
    path: Path, target: str, output: Path | None, cache: BuildCache, progress: Progress
) -> dict[str, Any]:
    """Compile a bundle's own source graph for the device that is here, by what was asked then.

    Measured costs replace the estimated ones, so the split points may move. The bundle is
    replaced whole; a build that is killed leaves it as it was.

    Returns:
        The report of the compile; `planned_segments` is how many the bundle had before.

    Raises:
        BundleError: damaged, or it does not say what was asked for.
        PreemptError: what the compile raises.
    """
    bundle = open_bundle(path)
    for artefact in bundle.artefacts_for(None):
        bundle.verified_path(artefact.path)
    options = options_from_request(bundle, target)
    model = bundle.verified_path(f"graph/{MODEL_FILE}")
    report = compile_model(model, output or bundle.root, options, cache, progress)
    return {**report, "planned_segments": len(bundle.manifest.plans[0].segments)}


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
