"""Stages load and lower: a model, and the graph of it that the target executes."""

from dataclasses import dataclass, replace
from pathlib import Path

from preemptc import __version__
from preemptc.backends import Backend, Progress, backend_for_target, silent
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.load import load
from preemptc.model import Lowered, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model with the graph that the target executes."""

    model: Model
    lowered: Lowered
    backend: Backend


def prepare(
    path: Path, options: CompileOptions, cache: BuildCache, progress: Progress = silent
) -> Prepared:
    """Load the model and lower it for the target."""
    backend = backend_for_target(options.target, replace(options.backend, cache=cache.root))
    progress("load", 0.0)
    model = load(path, options.shapes, cache)
    progress("lower", 0.0)
    fields = {**backend.key_fields(model), "preemptc": __version__}
    folder = cache.entry("lower", fields, lambda folder: backend.lower(model, folder, progress))
    return Prepared(model=model, lowered=backend.read_lowered(model, folder), backend=backend)
