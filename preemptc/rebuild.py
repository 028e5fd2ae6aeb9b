"""From a bundle that was compiled elsewhere to one with engines for the device that is here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import DeviceError
from preemptc.backends import Progress
from preemptc.cache import BuildCache
from preemptc.compile_options import Mechanism, compiled_target, options_from_request
from preemptc.deliver import check_place
from preemptc.onnx_io.files import MODEL_FILE
from preemptc.pipeline import compile_model
from preemptc.plan_specs import main_plan
from preemptc.targets import CPU, TARGETS, local_device


def rebuild(
    path: Path, target: str, output: Path | None, cache: BuildCache, progress: Progress,
    mechanism: Mechanism | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compile a bundle's own source graph for the device that is here, by what was asked then.

    Measured costs replace the estimated ones, so the split points may move. The bundle is
    replaced whole; a build that is killed leaves it as it was. `mechanism` replaces the one that
    the bundle was compiled with.

    Returns:
        The report of the compile; `planned_segments` is how many the bundle had before.

    Raises:
        BundleError: damaged, or it does not say what was asked for.
        DeviceError: the target is not here, with what the bundle is for.
        PreemptError: what the compile raises.
    """
    bundle = open_bundle(path)
    bundle.verify_artefacts(None)
    options = options_from_request(bundle, target)
    options = replace(options, mechanism=mechanism or options.mechanism)
    place = output or bundle.root
    check_place(place, cache)  # here, too: whatever is here, nothing may be written there
    _require_here(path, options.target)
    model = bundle.verified_path(f"graph/{MODEL_FILE}")
    # A newer version's bundle may have no plan that this one knows.
    planned = len(main_plan(bundle.manifest).segments) if bundle.manifest.plans else 0
    report = compile_model(model, place, options, cache, progress)
    return {**report, "planned_segments": planned}


def _require_here(path: Path, target: str) -> None:
    """Return if the device that is built for is here.

    Raises:
        DeviceError: it is not.
    """
    missing = local_device(TARGETS[target]).unavailable
    if missing is None:
        return
    made_for = compiled_target(path)
    if made_for == CPU.name:
        raise DeviceError(
            f"{path}: compiled for {made_for}, so it needs no build and runs as it is; to build it"
            f" for a GPU, do so where that is; here {missing}"
        )
    raise DeviceError(
        f"{path}: compiled for {made_for}: engines are built on a machine with that GPU, run"
        f" `preemptc build` there; here {missing}"
    )
