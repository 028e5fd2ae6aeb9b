"""What a plan has to say of bundles that were there before it."""

from collections.abc import Iterable
from pathlib import Path

from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import BundleError
from preemptc.backends import DEFAULT_PRECISION
from preemptc.compilation import Compilation
from preemptc.compile_options import EXTENSION
from preemptc.targets import CPU


def precision_notes(compilations: Iterable[Compilation]) -> tuple[str, ...]:
    """What to know of GPU bundles that are there already, of another precision than asked for."""
    notes = []
    for each in compilations:
        there = None if each.bundle is None else _precision_of(each.bundle)
        asked = each.backend.precision or DEFAULT_PRECISION
        if there not in (None, asked) and each.target != CPU.name:
            notes.append(
                f"{each.bundle} was compiled with --precision {there}, this is for {asked}: give"
                f" --precision {there} to plan for the same"
            )
    return tuple(notes)


def _precision_of(bundle: Path) -> str | None:
    """The precision that a bundle for a GPU was compiled with; None: there is none, or no word."""
    if not bundle.is_dir():
        return None
    try:
        manifest = open_bundle(bundle).manifest
        request = manifest.extensions[EXTENSION]["request"]
        target, precision = request["target"], request["precision"]
    except (BundleError, KeyError, TypeError):
        return None  # a compile replaces it
    return None if target == CPU.name else str(precision or DEFAULT_PRECISION)
