"""Options that several commands share, and the request that they add up to."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from preempt_runtime.errors import BuildError, InputError
from preempt_runtime.output_file import check_output
from preemptc.backends import BackendOptions
from preemptc.cache import MEASURED_STAGES, BuildCache
from preemptc.commands.values import named_shape, size_bytes, target_name
from preemptc.compile_options import DEFAULT_MECHANISM, CompileOptions, Mechanism
from preemptc.goal import Goal
from preemptc.onnx_io.files import external_files, read

CACHE_VARIABLE = "PREEMPTC_CACHE"
DEFAULT_OVERHEAD_FRAC = 0.03
DEFAULT_GOAL = Goal(max_overhead_frac=DEFAULT_OVERHEAD_FRAC)
MAX_SEED = (1 << 63) - 1  # a manifest has integers of 64 bits


class FilePath(click.Path):
    """A path that every library can take: not empty, which would be the current folder, and UTF-8.

    ONNX Runtime and ONNX take text, and refuse what stands for other bytes with a traceback.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path.

        Raises:
            InputError: it is empty, or not UTF-8.
        """
        path = super().convert(value, param, ctx)
        name = param.opts[-1] if param else "path"
        if not str(value):
            raise InputError(f"{name}: the path is empty; write one")
        try:
            str(path).encode()
        except UnicodeEncodeError as err:
            raise InputError(
                f"{name}: {str(path)!a} is not UTF-8; rename it, or choose another"
            ) from err
        return path


FILE = FilePath(path_type=Path)
Function = Callable[..., None]
Shapes = Mapping[str, tuple[int, ...]]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else there."
)
profile_option = click.option(
    "--profile", type=FILE, metavar="FILE", help="Costs as `preemptc profile` wrote them."
)
max_live_bytes_option = click.option(
    "--max-live-bytes",
    type=size_bytes,
    metavar="SIZE",
    help="The most that may live across a split point, such as 4MiB.",
)
cache_option = click.option(
    "--cache",
    type=FILE,
    default=Path("build_cache"),
    show_default=True,
    envvar=CACHE_VARIABLE,
    show_envvar=True,
    metavar="DIR",
    help="Where finished work is kept; may be deleted at any time.",
)
remeasure_option = click.option(
    "--remeasure",
    is_flag=True,
    help="Measure again what the cache holds; what is built there stays in use.",
)
bundle_argument = click.argument("bundle", type=FILE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Which network, for which target, and where results are kept."""

    model: Path
    target: str
    shapes: Shapes
    backend: BackendOptions
    cache: BuildCache
    as_json: bool

    def options(
        self,
        *,
        goal: Goal = DEFAULT_GOAL,
        profile: Path | None = None,
        max_live_bytes: int | None = None,
        inputs: Path | None = None,
        seed: int = 0,
        mechanism: Mechanism = DEFAULT_MECHANISM,
    ) -> CompileOptions:
        """The options of the pipeline; goal and mechanism count for a compile only."""
        return CompileOptions(
            target=self.target,
            goal=goal,
            shapes=self.shapes,
            backend=self.backend,
            max_live_bytes=max_live_bytes,
            profile=profile,
            inputs=inputs,
            seed=seed,
            mechanism=mechanism,
        )


def build_cache(root: Path, *, remeasure: bool) -> BuildCache:
    """The cache at `root`; with `remeasure`, what was measured there is measured again.

    Raises:
        BuildError: it would be part of a finished bundle.
    """
    cache = BuildCache(root, anew=MEASURED_STAGES if remeasure else ())
    if (bundle := cache.bundle_around()) is not None:
        raise BuildError(
            f"{root}: the cache would lie in the bundle {bundle}, which holds nothing else; choose"
            " another place with --cache"
        )
    return cache


def refuse_overwrite(output: Path, request: Request, *inputs: Path | None) -> None:
    """Return if `output` is a file that may be written, and none of those that will be read.

    Raises:
        InputError: it is no place for a file, in a bundle or the cache, or the model, its weights
            or another input.
        ModelError: the model cannot be read.
    """
    files = [request.model, *(given for given in inputs if given is not None)]
    check_output(output, files=files)
    if request.cache.holds(output):
        raise InputError(
            f"{output}: lies in the cache {request.cache.root}, which may be deleted at any time;"
            " write to another place"
        )
    if output.exists():  # only then may it be a file with weights: the model is read for it
        check_output(output, files=external_files(read(request.model)))


def network_options(function: Function) -> Function:
    """Give a command the model argument and its options, and hand them over as a `Request`."""

    @functools.wraps(function)
    def with_request(
        *, model: Path, target: str, shapes: Shapes, threads: int | None,
        precision: Literal["fp32", "fp16"] | None,
        level: int | None, cache: Path, as_json: bool, engines: str = "auto",
        remeasure: bool = False, **others: Any,
    ) -> None:  # fmt: skip
        request = Request(
            model=model,
            target=target,
            shapes=shapes,
            backend=BackendOptions(
                threads=threads, precision=precision, level=level, engines=engines
            ),
            cache=build_cache(cache, remeasure=remeasure),
            as_json=as_json,
        )
        function(request, **others)

    decorated: Function = with_request
    for option in reversed(_NETWORK_OPTIONS):
        decorated = option(decorated)
    return decorated


def _shapes_by_name(
    ctx: click.Context, param: click.Parameter, pairs: Sequence[tuple[str, tuple[int, ...]]]
) -> Shapes:
    shapes = dict(pairs)
    if len(shapes) < len(pairs):
        raise click.BadParameter("an input is named twice; give each one shape", ctx, param)
    return shapes


_NETWORK_OPTIONS = (
    click.argument("model", type=FILE),
    click.option(
        "--target",
        type=target_name,
        metavar="NAME",
        default="cpu",
        show_default=True,
        help="What executes the network; see `preemptc targets`.",
    ),
    click.option(
        "--shape",
        "shapes",
        type=named_shape,
        multiple=True,
        callback=_shapes_by_name,
        metavar="NAME=1x3x224x224",
        help="Static shape of an input with dynamic dimensions; once per input.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1, max=1024),
        help="Threads of a network on the CPU.  [default: the cores this process may use]",
    ),
    click.option(
        "--precision",
        type=click.Choice(("fp32", "fp16")),
        help="Of weights and tensors, for GPUs; fp32 leaves the network as it is, int8 parts of a"
        " quantised network stay int8.  [default: fp32]",
    ),
    click.option(
        "--opt-level",
        "level",
        type=click.IntRange(min=0, max=5),
        help="How long TensorRT looks for fast kernels, for GPUs.  [default: 3]",
    ),
    cache_option,
    json_option,
)
