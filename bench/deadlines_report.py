"""From blocks of the deadline benchmark to its result and page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from bench.deadline_tally import TaskTally
from bench.intervals import median_interval, quantiles_of
from bench.publish import where
from preempt_runtime.cost_watch import CostDrift
from preempt_runtime.schedulability import SetBound
from preempt_runtime.units import fmt_bytes, fmt_count, fmt_ns

MAX_OVERLOAD_RATIO = 1.15
LOAD, OVERLOAD = 0.70, 1.50
_CAUSE = (
    "Likely, and not measured apart: at compile time a network's segments run one after another,"
    " here between other networks' segments, on cold caches; and others share the machine. A larger"
    " margin or `resume_cost` is what such a machine needs"
)
CUT, UNCUT, OVERLOADED = "with points", "uncut", f"{100 * OVERLOAD:.0f} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockResult:
    """One variant, run once; `rss_bytes` is the process's memory before and after."""

    variant: str
    tasks: Mapping[str, TaskTally]
    drifts: Mapping[str, CostDrift]
    busy_frac: float
    rss_bytes: tuple[int, int]


def result_of(
    blocks: Sequence[BlockResult],
    *,
    bound: SetBound,
    num_segments: Mapping[str, int],
    costs_ns: Mapping[str, int],
    settings: Mapping[str, Any],
    machine: Mapping[str, Any],
) -> dict[str, Any]:
    """The result as it is written.

    Args:
        blocks: in the order in which they ran.
        bound: of the compiled set.
        num_segments: of each network as it was cut.
        costs_ns: each whole network's median, from which the periods were made.
        settings: the command and what it was given.
        machine: where this ran.
    """
    return {
        "settings": dict(settings),
        **set_result(blocks, bound=bound, num_segments=num_segments, costs_ns=costs_ns),
        "overload": _overload(blocks, bound.tasks[0].name),
        "machine": dict(machine),
    }


def set_result(
    blocks: Sequence[BlockResult],
    *,
    bound: SetBound,
    num_segments: Mapping[str, int],
    costs_ns: Mapping[str, int],
) -> dict[str, Any]:
    """A task set with its bounds, and how it fared in each variant; arguments as `result_of`."""
    variants = dict.fromkeys(block.variant for block in blocks)
    return {
        "tasks": {
            task.name: {
                "whole_p50_ns": costs_ns[task.name],
                "deadline_ns": task.deadline_ns,
                "num_segments": num_segments[task.name],
                "cost_bound_ns": task.cost_ns,
                "longest_bound_ns": task.longest_ns,
                "response_bound_ns": task.response_ns,
            }
            for task in bound.tasks
        },
        "bound_source": bound.source,
        "is_schedulable": bound.is_schedulable,
        "variants": {name: _variant(name, blocks) for name in variants},
    }


def _variant(name: str, blocks: Sequence[BlockResult]) -> dict[str, Any]:
    mine = [block for block in blocks if block.variant == name]
    return {
        "blocks": len(mine),
        "busy_frac": round(median(block.busy_frac for block in mine), 4),
        "tasks": {
            task: {
                **_task([block.tasks[task] for block in mine if task in block.tasks]),
                "segments_over_allowed": sum(block.drifts[task].num_exceeded for block in mine),
                "segments_run": sum(block.drifts[task].num_segments_run for block in mine),
            }
            for task in mine[0].drifts
        },
    }


def _task(tallies: Sequence[TaskTally]) -> dict[str, Any]:
    finished = [response_ns for tally in tallies for response_ns in tally.response_ns]
    return {
        "jobs": sum(tally.jobs for tally in tallies),
        "finished": len(finished),
        "missed": sum(tally.missed for tally in tallies),
        "missed_with_steal": sum(tally.missed_with_steal for tally in tallies),
        "dropped": sum(tally.dropped for tally in tallies),
        "response": asdict(quantiles_of(finished)) if finished else None,
    }


def _overload(blocks: Sequence[BlockResult], top: str) -> dict[str, Any]:
    """The most urgent task's p99 overloaded over that of the same round's `CUT`, and memory."""

    def p99s(variant: str) -> list[int]:
        mine = [block for block in blocks if block.variant == variant]
        return [quantiles_of(block.tasks[top].response_ns).p99_ns for block in mine]

    pairs = zip(p99s(OVERLOADED), p99s(CUT), strict=True)
    ratios = [round(over_ns / normal_ns, 4) for over_ns, normal_ns in pairs]
    interval = median_interval(ratios, seed=0)
    loaded = [block for block in blocks if block.variant == OVERLOADED]
    return {
        "task": top,
        "p99_ratio": {"median": interval.median, "low": interval.low, "high": interval.high},
        "p99_ratios": ratios,
        "p99_ratio_is_reached": interval.median <= MAX_OVERLOAD_RATIO,
        "rss_bytes": [block.rss_bytes for block in loaded],
    }


def page(result: Mapping[str, Any]) -> str:
    """The result as a document."""
    return "\n".join(
        [
            "# Deadlines on a processor: five networks, with and without preemption points\n",
            *_introduction(result),
            "## The task set\n",
            *set_table(result),
            *(line for name in result["variants"] for line in variant_table(name, result)),
            "## What came out\n",
            *verdict_lines(result, _CAUSE),
            *_overload_lines(result),
            "",
        ]
    )


def _introduction(result: Mapping[str, Any]) -> list[str]:
    settings = result["settings"]
    return [
        f"`{settings['command']}`; {where(result['machine'])}.",
        f"{settings['rounds']} rounds of blocks of {fmt_ns(settings['block_ns'])}, overloaded"
        f" {fmt_ns(settings['overload_block_ns'])}; threads: {settings['threads']}.",
        f"The networks take {settings['load']:.0%} of the machine, the most urgent one"
        f" {settings['first_load']:.0%} and the others equal parts of the rest;",
        "deadlines are periods; rate-monotonic priorities. `preemptc plan --compile` chose the"
        f" bounds (attempts: {settings['attempts']}; measured anew where an outlier\nleft no"
        " bound);"
        " response-time bounds rest on the maxima measured at compile time and a margin of"
        f" {settings['margin_frac']:.0%}. The"
        " variants run in turn, block by block, in one process;"
        f" `{UNCUT}` has the same releases and priorities\nas `{CUT}`; under `{OVERLOADED}` the"
        f" other tasks are released so often that the load is {settings['overload']:.0%}.\n"
        "A miss *with steal* is one during which the hypervisor gave"
        " time of this machine to others.\n",
    ]


def set_table(result: Mapping[str, Any]) -> list[str]:
    """The tasks with their bounds, and the analysis's verdict."""
    lines = [
        "| task | whole p50 | deadline | segments | longest, with margin | response bound |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, task in result["tasks"].items():
        bound_ns = task["response_bound_ns"]
        lines.append(
            f"| {name} | {fmt_ns(task['whole_p50_ns'])} | {fmt_ns(task['deadline_ns'])} |"
            f" {task['num_segments']} | {fmt_ns(task['longest_bound_ns'])} |"
            f" {'none' if bound_ns is None else fmt_ns(bound_ns)} |"
        )
    verdict = "every deadline is kept" if result["is_schedulable"] else "not schedulable"
    return [*lines, "", f"The analysis says: {verdict} ({result['bound_source']} costs).", ""]


def variant_table(name: str, result: Mapping[str, Any], *, heading: str = "") -> list[str]:
    """How each task fared in a variant, under a heading: the variant's name by default."""
    variant = result["variants"][name]
    lines = [
        f"## {heading or name.capitalize()}\n",
        f"{fmt_count(variant['blocks'], 'block')}, the device busy"
        f" {variant['busy_frac']:.0%} of the time.\n",
        "| task | jobs | missed | of them with steal | dropped | response p50 | p99 | max |"
        " max over bound | segments over the allowed time |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for task in result["tasks"]:
        found = variant["tasks"][task]
        response = found["response"]
        times = ["-"] * 3
        ratio = "-"
        if response is not None:
            times = [fmt_ns(response[key]) for key in ("p50_ns", "p99_ns", "max_ns")]
            bound_ns = result["tasks"][task]["response_bound_ns"]
            if bound_ns is not None and name == CUT:
                ratio = f"{response['max_ns'] / bound_ns:.2f}"
        lines.append(
            f"| {task} | {found['jobs']} | {found['missed']} | {found['missed_with_steal']} |"
            f" {found['dropped']} | {' | '.join(times)} | {ratio} |"
            f" {found['segments_over_allowed']} of {found['segments_run']} |"
        )
    return [*lines, ""]


def verdict_lines(result: Mapping[str, Any], cause: str) -> list[str]:
    """Misses with and without points, and where an observed maximum exceeded its bound.

    Args:
        result: as `set_result` makes it.
        cause: what to say of segments that took longer than allowed.
    """
    lines = []
    for name in (CUT, UNCUT):
        tasks = result["variants"][name]["tasks"].values()
        missed, jobs = (sum(task[key] for task in tasks) for key in ("missed", "jobs"))
        stolen = sum(task["missed_with_steal"] for task in tasks)
        lines.append(
            f"* {name}: {missed} of {jobs} jobs missed their deadline ({missed / jobs:.2%}),"
            f" {stolen} of them with steal"
        )
    tasks = result["variants"][CUT]["tasks"]
    over = {
        name: tasks[name]["response"]["max_ns"] / task["response_bound_ns"]
        for name, task in result["tasks"].items()
        if task["response_bound_ns"] and tasks[name]["response"]
    }
    exceeded = [ratio for ratio in over.values() if ratio > 1]
    run, too_long = (
        sum(task[key] for task in tasks.values())
        for key in ("segments_run", "segments_over_allowed")
    )
    if not exceeded:
        return [*lines, "* reached: no observed maximum exceeds its bound"]
    return [
        *lines,
        f"* NOT kept: the observed maximum of {len(exceeded)} of {len(over)} tasks exceeds its"
        f" bound, up to {max(exceeded):.2f} times. A bound holds as long as no segment takes longer"
        f" than it did at compile time, and the margin; {too_long} of {run} segments did"
        f" ({too_long / run:.1%}), as every run reported. {cause}",
    ]


def _overload_lines(result: Mapping[str, Any]) -> list[str]:
    overload = result["overload"]
    ratio = overload["p99_ratio"]
    verdict = "reached" if overload["p99_ratio_is_reached"] else "NOT reached"
    grown = [after - before for before, after in overload["rss_bytes"]]
    later = f", in the others by at most {fmt_bytes(max(grown[1:]))}" if len(grown) > 1 else ""
    return [
        f"* {verdict}: {overload['task']}'s p99 at {OVERLOADED} over that at"
        f" {100 * LOAD:.0f} %, round by round:"
        f" {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}], asked at most"
        f" {MAX_OVERLOAD_RATIO}",
        f"* memory of the process grew by {fmt_bytes(grown[0])} in the first overloaded block"
        f"{later}; each block loads all bundles anew, which left it at"
        f" {fmt_bytes(overload['rss_bytes'][-1][1])} after the last",
    ]
