"""Stages load and lower: a model, and the graph of it that the target executes."""

from dataclasses import dataclass, replace
from pathlib import Path

from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.manifest import GATES
from preemptc import __version__
from preemptc.backends import GATES_BACKEND, Backend, Progress, backend_for_target, silent
from preemptc.cache import BuildCache
from preemptc.compile_options import CompileOptions
from preemptc.load import load
from preemptc.model import Lowered, Model
from preemptc.targets import TARGETS, local_device


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model with the graph that the target executes."""

    model: Model
    lowered: Lowered
    backend: Backend


def require_device(options: CompileOptions, command: str) -> None:
    """Return if networks can be measured here as on the target, before anything is loaded.

    Raises:
        DeviceError: the target is elsewhere; the message says to run `command` there.
    """
    backend = backend_for_target(options.target, options.backend)
    if backend.is_portable:
        here = local_device(TARGETS[options.target]).unavailable
        raise DeviceError(
            f"target {options.target!r} is not here; run `preemptc {command} ... --target"
            f" {options.target}` where it is (here: {here})"
        )


def check_mechanism(options: CompileOptions) -> None:
    """Return if the target can run what is asked for, before anything is loaded.

    Raises:
        InputError: gates are required of a target that has none.
    """
    target = TARGETS.get(options.target)
    if options.mechanism == GATES and target is not None and target.backend != GATES_BACKEND:
        raise InputError(
            f"--mechanism gates: gates need TensorRT, target {options.target!r} has"
            f" {target.description}; leave it out, or name a GPU with --target"
        )


def prepare(
    path: Path, options: CompileOptions, cache: BuildCache, progress: Progress = silent
) -> Prepared:
    """Load the model and lower it for the target."""
    backend = backend_for_target(options.target, replace(options.backend, cache=cache.root))
    cache.sweep()
    progress("load", 0.0)
    model = load(path, options.shapes, cache)
    progress("lower", 0.0)
    fields = {**backend.key_fields(model), "preemptc": __version__}
    folder = cache.entry("lower", fields, lambda folder: backend.lower(model, folder, progress))
    return Prepared(model=model, lowered=backend.read_lowered(model, folder), backend=backend)
