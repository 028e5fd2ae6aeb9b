"""From blocks of runs of a pair of networks to its figures; blocks that are kept between runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench.gpu_modes import TWO_IN_FLIGHT, Way, WayRun
from bench.intervals import quantiles_of
from bench.report import kept_frac
from preemptc.cache import write_atomically

Block = Mapping[str, WayRun]


def figures(blocks: Sequence[Block], period_ns: int, ways: Sequence[Way]) -> dict[str, Any]:
    """Every way's figures: quantiles over the jobs of all blocks, rates as medians of blocks.

    `p99_to_alone` and `p50_to_alone` are ratios to the urgent network alone in the same manner,
    `rate_to_alone` to the whole long network alone, with two of its jobs in flight where that was
    run; `kept` is that over the share of time which the urgent jobs leave.
    """
    found = {way.name: _entry(way, [block[way.name] for block in blocks]) for way in ways}
    for way in ways:
        _compare(way, found, period_ns)
    turns = {
        way.name: round(median(times))
        for way in ways
        if way.mode == "preemptive"
        and (times := [run for block in blocks if (run := block[way.name].longest_p99_ns)])
    }
    return {"ways": found, "longest_segment_p99_ns": turns}


def _entry(way: Way, runs: Sequence[WayRun]) -> dict[str, Any]:
    responses = [response_ns for run in runs for response_ns in run.response_ns]
    rates = [run.long_per_s for run in runs if run.long_per_s is not None]
    entry: dict[str, Any] = {
        "text": way.text,
        "urgent": asdict(quantiles_of(responses)) if responses else None,
        "long_per_s": round(median(rates), 2) if rates else None,
    }
    if errors := [run.error for run in runs if run.error is not None]:
        entry["error"] = errors[-1]
    if way.gated is not None and way.gated.mode is not None:
        entry["gate_faults"] = sum(len(run.gate_faults) for run in runs)
    return entry


def _compare(way: Way, found: dict[str, dict[str, Any]], period_ns: int) -> None:
    entry, alone = found[way.name], found.get(way.alone, {}).get("urgent")
    if entry["urgent"] is not None and alone is not None:
        for name in ("p50", "p99"):
            ratio = entry["urgent"][f"{name}_ns"] / alone[f"{name}_ns"]
            entry[f"{name}_to_alone"] = round(ratio, 3)
    long_alone = long_alone_of(way, found)
    if (rate := entry["long_per_s"]) is not None and long_alone is not None:
        entry["rate_to_alone"] = round(rate / long_alone, 3)
        if way.has_urgent and alone is not None:
            kept = kept_frac(
                rate, long_alone, urgent_per_s=1e9 / period_ns, urgent_ns=alone["p50_ns"]
            )
            entry["kept"] = round(kept, 3)


def long_alone_of(way: Way, found: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The rate with which a way's is compared; None if that was not measured."""
    two = found.get(TWO_IN_FLIGHT, {}).get("long_per_s")
    if way.mode is not None and two is not None:
        return float(two)
    rate = found.get(way.long_alone, {}).get("long_per_s")
    return None if rate is None else float(rate)


class BlockFile:
    """Blocks that were run before with the same settings on the same bundles, and those of now."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._settings = json.loads(json.dumps(settings))  # as they are read back
        self.blocks: list[Block] = []
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["settings"] == self._settings:
                self.blocks = [
                    {name: _way_run(fields) for name, fields in block.items()}
                    for block in kept["blocks"]
                ]

    def add(self, block: Block) -> None:
        """Keep one more."""
        self.blocks.append(block)
        blocks = [{name: asdict(run) for name, run in each.items()} for each in self.blocks]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"settings": self._settings, "blocks": blocks})
        write_atomically(self._path, text.encode())


def _way_run(fields: Mapping[str, Any]) -> WayRun:
    lists = {name: tuple(fields[name]) for name in ("response_ns", "gate_faults")}
    return WayRun(**{**fields, **lists})
