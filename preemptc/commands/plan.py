"""`preemptc plan`: whether a task set keeps its deadlines, and under which bounds."""

from pathlib import Path
from typing import Literal

import click

from preempt_runtime.errors import InfeasibleError
from preempt_runtime.taskset import read_taskset
from preemptc.commands.options import (
    FILE,
    build_cache,
    cache_option,
    json_option,
    remeasure_option,
)
from preemptc.commands.values import duration_ns, fraction, target_name
from preemptc.plan import plan_and_compile, plan_taskset
from preemptc.plan_problem import PlanOptions
from preemptc.plan_refusal import refusal
from preemptc.plan_report import document_of, tables_of
from preemptc.terminal import show, watched


@click.command("plan")
@click.argument("taskset", type=FILE)
@click.option(
    "--margin",
    "margin_frac",
    type=fraction,
    metavar="SHARE",
    help="What bounds add to every cost.  [default: the task set's]",
)
@click.option(
    "--target",
    type=target_name,
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="What executes networks that are not compiled yet.",
)
@click.option(
    "--dispatch",
    "dispatch_ns",
    type=duration_ns,
    metavar="TIME",
    help="What copies and the dispatcher add per segment.  [default: the task set's]",
)
@click.option(
    "--precision",
    type=click.Choice(("fp32", "fp16")),
    help="Of the networks that are compiled, for GPUs.  [default: fp32]",
)
@click.option(
    "--opt-level",
    "level",
    type=click.IntRange(min=0, max=5),
    help="TensorRT's for the networks that are compiled, for GPUs.  [default: 3]",
)
@click.option("--compile", "is_compiling", is_flag=True, help="Compile the networks, check again.")
@remeasure_option
@cache_option
@json_option
def command(
    taskset: Path, margin_frac: float | None, target: str, dispatch_ns: int | None,
    precision: Literal["fp32", "fp16"] | None, level: int | None, is_compiling: bool,
    remeasure: bool, cache: Path, as_json: bool,
) -> None:  # fmt: skip
    """Say whether a task set keeps every deadline, and under which bounds.

    Costs come from bundles (measured maxima), from profiles, or from the task set. Bounds are
    chosen so that the analysis holds at the least overhead. Exit code 1 if it does not hold.
    """
    spec = read_taskset(taskset)
    options = PlanOptions(
        target=target,
        margin_frac=margin_frac,
        dispatch_ns=dispatch_ns,
        precision=precision,
        level=level,
    )
    with watched() as progress:
        choose = plan_and_compile if is_compiling else plan_taskset
        plan = choose(spec, options, build_cache(cache, remeasure=remeasure), progress)
    show(document_of(plan), tables_of(plan), as_json=as_json)
    if (reason := refusal(plan)) is not None:
        raise InfeasibleError(reason)
