"""The page of the benchmark of an urgent network beside a long one."""

from collections.abc import Mapping
from typing import Any

from preempt_runtime.units import fmt_ns

NAME = "gpu-pair"
_COMMAND = "make bench-gpu-pair"
_QUANTILES = ("p50_ns", "p95_ns", "p99_ns", "max_ns")


def markdown(result: Mapping[str, Any]) -> str:
    """The page of the result."""
    settings, machine = result["settings"], result["machine"]
    turns = ", ".join(
        f"D = {name[-1]}: {fmt_ns(time_ns)}"
        for name, time_ns in result["longest_segment_p99_ns"].items()
        if name.startswith("segments_")
    )
    gates = [_gates_text(role, plan) for role, plan in result.get("gates", {}).items()]
    raw = {name: way for name, way in result["ways"].items() if name.startswith("raw_")}
    ours = {name: way for name, way in result["ways"].items() if name not in raw}
    lines = [
        "# An urgent network beside a long one on a GPU",
        "",
        f"An urgent {settings['urgent']} (batch 1), one every {settings['period_us']} us on"
        f" average, late by up to half of that (uniform), beside a {settings['long']} (batch"
        f" {settings['batch']}) in a closed loop, both fp16, optimisation level"
        f" {settings['opt_level']}. The long one has {result['segments']} segments under a bound of"
        f" {fmt_ns(result['bound_ns'])}, the longest takes {fmt_ns(result['longest_p50_ns'])} p50."
        " Response time runs from release, which is polled for, to the outputs in host memory;"
        f" inputs lie in device memory. {result['blocks_done']} blocks in one process, every way in"
        " each; times are over"
        " the jobs of all blocks, rates the median of the blocks.",
        *gates,
        "",
        "## Through the runtime",
        "",
        *way_table(ours),
        "## Graphs on streams, without the runtime",
        "",
        "A polling loop launches whole networks as CUDA graphs, two jobs of the long one in"
        " flight: what the hardware gives without preemption points. Ratios are to this loop's own"
        " figures alone.",
        "",
        *way_table(raw),
        "*to alone*: p99 over the urgent network's p99 alone; the long network's rate over that of"
        " the whole one alone, with two jobs in flight. *kept*: that rate over the share of time"
        " that urgent jobs leave (1 - urgent jobs per s x urgent p50 alone). The longest segment"
        " beside urgent jobs, from the"
        f" host's launch to its notice of the end, p99: {turns}.",
        "",
        f"`{_COMMAND}`; {machine['gpu']}, TensorRT {machine['tensorrt']}, driver's CUDA"
        f" {machine['cuda_driver']}, {result['date'][:10]}. Every figure: [{NAME}.json]"
        f"({NAME}.json).",
        "",
    ]
    return "\n".join(lines)


def _gates_text(role: str, plan: Mapping[str, Any]) -> str:
    return (
        f"Gates of the {role} one: {plan['gates']} gates in {plan['nodes']} kernel nodes, the"
        f" longest stretch takes {fmt_ns(plan['longest_p50_ns'])} p50 and"
        f" {fmt_ns(plan['longest_max_ns'])} at most, a gate {fmt_ns(plan['gate_ns'])}."
    )


def way_table(ways: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row for each way, by its figures; what could not be run says why below."""
    return [
        "| way | urgent p50 | p95 | p99 | max | to alone | jobs | long jobs/s | to alone | kept |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(way) for way in ways.values()),
        "",
        *(f"* {way['text']}: {way['error']}" for way in ways.values() if "error" in way),
        *([""] if any("error" in way for way in ways.values()) else []),
    ]


def _row(way: Mapping[str, Any]) -> str:
    urgent, rate = way["urgent"], way["long_per_s"]
    cells = [way["text"]]
    if urgent is None:
        cells += ["-"] * 6
    else:
        cells += [fmt_ns(urgent[name]) for name in _QUANTILES]
        cells += [_share(way, "p99_to_alone", 2), str(urgent["num_samples"])]
    if rate is None:
        cells += ["-"] * 3
    else:
        cells += [f"{rate:.1f}", _share(way, "rate_to_alone", 3), _share(way, "kept", 3)]
    return f"| {' | '.join(cells)} |"


def _share(way: Mapping[str, Any], key: str, digits: int) -> str:
    return f"{way[key]:.{digits}f}" if key in way else "-"
