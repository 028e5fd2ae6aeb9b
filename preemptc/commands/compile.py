"""`preemptc compile`: from a network to a bundle."""

from pathlib import Path

import click

from preempt_runtime.bundle import open_bundle
from preempt_runtime.manifest import PROFILE_NAME
from preemptc.commands.compile_tables import tables_of
from preemptc.commands.options import (
    DEFAULT_OVERHEAD_FRAC,
    FILE,
    MAX_SEED,
    Request,
    max_live_bytes_option,
    network_options,
    profile_option,
    remeasure_option,
)
from preemptc.commands.values import duration_ns, fraction
from preemptc.compile_options import (
    DEFAULT_MECHANISM,
    MECHANISM_CHOICES,
    Mechanism,
    compiled_target,
)
from preemptc.goal import Goal
from preemptc.pipeline import compile_model
from preemptc.profile import read_profile
from preemptc.terminal import show, watched


@click.command("compile")
@network_options
@remeasure_option
@click.option(
    "-o", "--output", type=FILE, metavar="DIR", help="The bundle.  [default: MODEL's stem.bundle]"
)
@click.option(
    "--max-segment",
    "max_segment_ns",
    type=duration_ns,
    metavar="TIME",
    help="Least overhead such that no segment takes longer, such as 3ms.",
)
@click.option(
    "--segments",
    "num_segments",
    type=click.IntRange(min=1),
    metavar="N",
    help="Exactly N segments, the longest as short as possible.",
)
@click.option(
    "--max-overhead",
    "max_overhead_frac",
    type=fraction,
    metavar="SHARE",
    help="The longest segment as short as this overhead allows.  [default: 3%]",
)
@click.option(
    "--bound-quantile",
    "quantile",
    type=click.Choice(("p50", "p99", "max")),
    default="p50",
    show_default=True,
    help="Which value of a segment's measured times must keep the bound.",
)
@click.option(
    "--mechanism",
    type=click.Choice(MECHANISM_CHOICES),
    default=DEFAULT_MECHANISM,
    show_default=True,
    help="Cut the network into segments, or put gates between the kernels of one TensorRT engine"
    " (experimental); auto: gates where they can be put in.",
)
@click.option(
    "--engines",
    type=click.Choice(("auto", "require", "skip")),
    default="auto",
    show_default=True,
    help="Build for a GPU here: if it is here, or else refuse, or never.",
)
@profile_option
@click.option(
    "--inputs", type=FILE, metavar="FILE.npz", help="Recorded inputs to check, beside random ones."
)
@click.option(
    "--seed",
    type=click.IntRange(0, MAX_SEED),
    default=0,
    show_default=True,
    help="Of random inputs.",
)
@max_live_bytes_option
def command(
    request: Request, output: Path | None, max_segment_ns: int | None, num_segments: int | None,
    max_overhead_frac: float | None, quantile: str, mechanism: Mechanism, profile: Path | None,
    inputs: Path | None, seed: int, max_live_bytes: int | None,
) -> None:  # fmt: skip
    """Split a network under a bound and write its bundle.

    --max-segment, --segments and --max-overhead exclude each other.
    """
    goal = _goal(max_segment_ns, num_segments, max_overhead_frac, quantile)
    options = request.options(
        goal=goal,
        profile=profile,
        max_live_bytes=max_live_bytes,
        inputs=inputs,
        seed=seed,
        mechanism=mechanism,
    )
    bundle = output or Path(f"{request.model.stem}.bundle")
    replaced = compiled_target(bundle)
    with watched() as progress:
        report = compile_model(request.model, bundle, options, request.cache, progress)
    if replaced not in (None, request.target):
        note = f"replaces {bundle}, which was compiled for {replaced}; another -o keeps both"
        report = {**report, "notes": [note, *report["notes"]]}
    names = read_profile(bundle / PROFILE_NAME).node_names
    show(report, tables_of(report, open_bundle(bundle), names, goal), as_json=request.as_json)


def _goal(
    max_segment_ns: int | None,
    num_segments: int | None,
    max_overhead_frac: float | None,
    quantile: str,
) -> Goal:
    given = {
        "--max-segment": max_segment_ns,
        "--segments": num_segments,
        "--max-overhead": max_overhead_frac,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise click.UsageError(f"{' and '.join(names)} exclude each other; give one of them")
    return Goal(
        max_segment_ns=max_segment_ns,
        num_segments=num_segments,
        max_overhead_frac=max_overhead_frac if names else DEFAULT_OVERHEAD_FRAC,
        quantile=quantile,
    )
