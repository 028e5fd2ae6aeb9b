"""The page of the GPU's deadline benchmark."""

from collections.abc import Mapping
from typing import Any

from bench.deadlines_report import set_table, variant_table, verdict_lines
from preempt_runtime.units import fmt_ns

NAME = "gpu-deadlines"
_CAUSE = (
    "Segments are timed here from the host's launch to its notice of the end, so a hold-up of the"
    " host counts as theirs; `dispatch` covers what was seen of a network alone"
)


def markdown(result: Mapping[str, Any]) -> str:
    """The result as a document."""
    settings, machine, host = result["settings"], result["machine"], result["host"]
    steal = host["steal_frac"]
    stolen = "" if steal is None else f", steal {100 * steal:.1f} %"
    alone = ", ".join(f"{name} {fmt_ns(time)}" for name, time in result["alone_p50_ns"].items())
    lines = [
        "# Deadlines on a GPU: a task set with and without preemption points",
        "",
        f"`{result['command']}`; {machine['gpu']}, TensorRT {machine['tensorrt']}, driver's CUDA"
        f" {machine['cuda_driver']}, host {host['cpu_model']}, {host['cores']} cores{stolen},"
        f" Python {host['python']}, {result['date'][:10]}.",
        "",
        f"Batch 1, fp16, optimisation level {settings['opt_level']}. Alone through the runtime, a"
        f" job takes from release to result (p50): {alone}. From these come the periods: together"
        " the jobs would take the share of the time that stands with each set,"
        f" {settings['first_share']:.0%} of it the most urgent network, the others equal parts of"
        " the rest. Rate-monotonic priorities. Deadlines are periods, but the most urgent network's"
        f" is so short that it leaves {settings['blocking_part']:.0%} of the longest network's time"
        " for waiting. `preemptc plan --compile`"
        " chose the bounds on segments; response-time bounds rest on the maxima measured at compile"
        f" time, a margin of {settings['margin_frac']:.0%},"
        f" {fmt_ns(result['job_dispatch_ns'])} for every job (by so much one alone exceeded its"
        f" network's median in one of twenty cases) and {fmt_ns(result['dispatch_ns'])} for"
        " every segment (which is what each further one added to that). The variants run in turn,"
        " block by block, in one process, with the same releases."
        " A miss *with steal* is one during which the hypervisor gave time of this machine to"
        " others.",
        "",
    ]
    for depth, found in result["depths"].items():
        where = f"D = {depth}"
        lines += [
            f"## {where}: the task set at a load of {found['load']:.0%}",
            "",
            *set_table(found),
        ]
        for name in found["variants"]:
            lines += variant_table(name, found, heading=f"{where}, {name}")
        lines += [f"## {where}: what came out", "", *verdict_lines(found, _CAUSE), ""]
    return "\n".join([*lines, f"Every figure: [{NAME}.json]({NAME}.json).", ""])
