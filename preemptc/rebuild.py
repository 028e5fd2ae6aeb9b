"""From a bundle that was compiled elsewhere to one with engines for the device that is here."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from preempt_runtime.bundle import open_bundle
from preemptc.backends import Progress
from preemptc.cache import BuildCache
from preemptc.compile_options import Mechanism, options_from_request
from preemptc.onnx_io.files import MODEL_FILE
from preemptc.pipeline import compile_model
from preemptc.plan_specs import main_plan


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
        PreemptError: what the compile raises.
    """
    bundle = open_bundle(path)
    bundle.verify_artefacts(None)
    options = options_from_request(bundle, target)
    options = replace(options, mechanism=mechanism or options.mechanism)
    model = bundle.verified_path(f"graph/{MODEL_FILE}")
    # A newer version's bundle may have no plan that this one knows.
    planned = len(main_plan(bundle.manifest).segments) if bundle.manifest.plans else 0
    report = compile_model(model, output or bundle.root, options, cache, progress)
    return {**report, "planned_segments": planned}
