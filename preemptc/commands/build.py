"""`preemptc build`: engines for the device that is here, from a bundle compiled anywhere."""

from pathlib import Path

import click

from preempt_runtime.bundle import open_bundle
from preempt_runtime.manifest import PROFILE_NAME
from preemptc.commands.compile_tables import tables_of
from preemptc.commands.options import (
    FILE,
    build_cache,
    bundle_argument,
    cache_option,
    json_option,
    remeasure_option,
)
from preemptc.commands.values import target_name
from preemptc.compile_options import MECHANISM_CHOICES, Mechanism, options_from_request
from preemptc.profile import read_profile
from preemptc.rebuild import rebuild
from preemptc.terminal import show, watched


@click.command("build")
@bundle_argument
@click.option(
    "--target",
    type=target_name,
    default="native",
    show_default=True,
    metavar="NAME",
    help="What to build for; it must be here.",
)
@click.option(
    "--mechanism",
    type=click.Choice(MECHANISM_CHOICES),
    help="Segments, or gates in one engine (experimental).  [default: as the bundle was compiled]",
)
@click.option("-o", "--output", type=FILE, metavar="DIR", help="[default: the bundle itself]")
@remeasure_option
@cache_option
@json_option
def command(
    bundle: Path, target: str, mechanism: Mechanism | None, output: Path | None, remeasure: bool,
    cache: Path, as_json: bool,
) -> None:  # fmt: skip
    """Build a bundle's engines on the device that will run them.

    Everything is measured here and planned again under the bound that the bundle was compiled
    with, so the split points may move. The bundle is replaced whole.
    """
    with watched() as progress:
        made_in = build_cache(cache, remeasure=remeasure)
        report = rebuild(bundle, target, output, made_in, progress, mechanism)
    built = open_bundle(output or bundle)
    names = read_profile(built.root / PROFILE_NAME).node_names
    goal = options_from_request(built, target).goal
    show(report, tables_of(report, built, names, goal), as_json=as_json)
