"""`preemptc verify`: is a bundle whole, and does it still compute the same?"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from preempt_runtime.manifest import GATES
from preempt_runtime.units import fmt_bytes, fmt_count
from preemptc.commands.options import FILE, bundle_argument, json_option
from preemptc.commands.values import sha256_hex
from preemptc.report import Table, facts
from preemptc.terminal import show, watched
from preemptc.verify import PlanCheck, Verification, verify_bundle


@click.command("verify")
@bundle_argument
@click.option("--inputs", type=FILE, metavar="FILE.npz", help="Recorded inputs to run, too.")
@click.option(
    "--manifest-sha256",
    type=sha256_hex,
    metavar="HEX",
    help="Accept only the bundle whose manifest has this hash.",
)
@json_option
def command(bundle: Path, inputs: Path | None, manifest_sha256: str | None, as_json: bool) -> None:
    """Check a bundle's files, and its outputs bit by bit.

    Every file is hashed; then every plan for this machine runs on random inputs, and its
    outputs must be those of the whole network. Of a bundle that is not built yet only the files
    are checked.
    """
    with watched() as progress:
        result = verify_bundle(
            bundle, inputs=inputs, manifest_sha256=manifest_sha256, progress=progress
        )
    show(document_of(result), tables_of(result), as_json=as_json)


def document_of(result: Verification) -> Mapping[str, Any]:
    """What `verify` tells programs."""
    return {
        **asdict(result),
        "bundle": str(result.bundle),
        "outputs_checked": result.are_outputs_checked,
    }


def tables_of(result: Verification) -> tuple[Table, ...]:
    """What `verify` tells people."""
    summary = {
        "files": f"{result.num_files}, {fmt_bytes(result.num_bytes)}, as the manifest says",
        "manifest sha256": result.manifest_sha256,
        **{f"plan {plan.id!r}": _outcome(plan) for plan in result.plans},
    }
    what = "verified" if result.are_outputs_checked else "files verified, no outputs run"
    return (facts(f"{result.bundle}: {what}", summary),)


def _outcome(plan: PlanCheck) -> str:
    if plan.skipped is not None:
        return f"not run here: {plan.skipped}"
    if plan.is_reference:
        return f"the reference: {plan.num_segments} segment, {plan.num_inputs} inputs"
    if plan.mechanism == GATES:
        return (
            f"{plan.num_segments} stretches between gates, bitwise equal to the same engine"
            f" without gates on {plan.num_inputs} inputs"
        )
    return f"{fmt_count(plan.num_segments, 'segment')}, bitwise equal on {plan.num_inputs} inputs"
