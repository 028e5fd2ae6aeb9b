"""The tables of the page of gates, one for each step, from its parts."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.gate_held import NETWORK_GOAL, NUM_HELD
from bench.gate_preemption import SLACK_NS
from preempt_runtime.units import fmt_ns

Part = Mapping[str, Any]
_TIMES = ("p50", "p99", "max")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table whose first column is text and whose others are figures.

    >>> table(["a", "b"], [["x", "1"]])
    ['| a | b |', '|---|---:|', '| x | 1 |', '']
    """
    return [
        f"| {' | '.join(headers)} |",
        f"|---|{'---:|' * (len(headers) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def verdict(is_reached: bool) -> str:
    """Whether a goal was reached, so that a miss is seen."""
    return "yes" if is_reached else "**no**"


def networks_table(parts: Sequence[Part]) -> list[str]:
    """Overhead, stretches and outputs of each network, in both modes."""
    headers = [
        "network, mode", "without gates p50", "gates", "overhead", "95 % interval", "of p99",
        "goal", "reached", "longest stretch p50", "p99", "max", "bound", "equal outputs",
    ]  # fmt: skip
    lines = table(headers, (row for part in parts for row in _network_rows(part)))
    for part in parts:
        if "graph" in part:
            compiled = part["compiled"]
            lines.append(
                f"* {part['network']} b{part['batch']}: {part['graph']}, at most {part['width']}"
                f" side by side, {part['aux_streams']} auxiliary streams; gates may stand at"
                f" {compiled['positions']} places; the longest kernel takes"
                f" {fmt_ns(compiled['longest_kernel_ns'])} ({compiled['longest_kernel']}), a gate"
                f" {fmt_ns(compiled['gate_ns'])}."
            )
    return [*lines, ""]


def _network_rows(part: Part) -> Iterable[Sequence[str]]:
    for mode, found in part.get("modes", {}).items():
        overhead, stretches, compiled = found["overhead"], found["stretches"], part["compiled"]
        asked_ns, bound_ns = compiled["asked_bound_ns"], compiled["bound_ns"]
        yield [
            f"{part['network']} b{part['batch']}, {mode}",
            fmt_ns(found["alone_ns"]["p50"]),
            str(part["gates"]),
            f"{overhead['median']:.3f}",
            f"{overhead['low']:.3f} to {overhead['high']:.3f}",
            f"{overhead['p99']:.3f}",
            f"{part['goal']:.2f}",
            verdict(overhead["median"] <= part["goal"]),
            *(fmt_ns(stretches[f"{name}_ns"]) for name in _TIMES),
            fmt_ns(bound_ns) + ("" if bound_ns == asked_ns else f" (asked {fmt_ns(asked_ns)})"),
            f"{found['equal']} of {found['inputs']}",
        ]


def preempt_table(parts: Sequence[Part]) -> list[str]:
    """Latencies of preemptions beside the longest stretch."""
    headers = [
        "preempted, mode, raised by", "preemptions", "parked after p50", "p99", "max",
        "longest stretch p50", "max", f"p99 within {fmt_ns(SLACK_NS)} of it",
        "urgent begins after p50", "p99", "max", "late stretches", "right", "gave up",
    ]  # fmt: skip
    return table(headers, (_preempt_row(part, row) for part in parts for row in part["rows"]))


def _preempt_row(part: Part, row: Mapping[str, Any]) -> Sequence[str]:
    stretches = row["stretches"]
    is_within = "-"
    if "parked_ns" in row and row["mode"] == "exclusive":
        is_within = verdict(row["parked_ns"]["p99"] <= stretches["max_ns"] + SLACK_NS)
    return [
        f"{part['network'] or part['victim']}, {row['mode']}, {row['raising']}",
        f"{row['preemptions']} of {row['asked']}",
        *_three(row.get("parked_ns")),
        fmt_ns(stretches["p50_ns"]),
        fmt_ns(stretches["max_ns"]),
        is_within,
        *_three(row.get("start_ns")),
        str(row["late_starts"]),
        f"{row['right']} of {row['victims']}",
        str(row["give_ups"]),
    ]


def _three(times: Mapping[str, int] | None) -> list[str]:
    return ["-"] * 3 if times is None else [fmt_ns(times[name]) for name in _TIMES]


def held_table(parts: Sequence[Part]) -> list[str]:
    """Times beside waiting gates as ratios to those beside none."""
    counts = [str(number) for number in NUM_HELD]
    headers = [
        "what runs", *(f"{number} held, p50" for number in counts),
        *(f"{number} held, p99" for number in counts), "goal", "reached",
    ]  # fmt: skip
    rows = []
    for row in (row for part in parts for row in part["rows"]):
        if "error" in row:
            rows.append([f"{row['text']}: {_cell(row['error'])}", *["-"] * (len(headers) - 1)])
            continue
        found, is_network = row["held"], row["name"] == "network"
        most = max(found[number]["p99_ratio"] for number in counts)
        rows.append(
            [
                row["text"],
                *(_beside(found, number, "p50") for number in counts),
                *(_beside(found, number, "p99") for number in counts),
                f"{NETWORK_GOAL:.2f}" if is_network else "-",
                verdict(most <= NETWORK_GOAL) if is_network else "-",
            ]
        )
    return table(headers, rows)


def _beside(found: Mapping[str, Any], number: str, name: str) -> str:
    each = found[number]
    return fmt_ns(each[f"{name}_ns"]) if number == "0" else f"{each[f'{name}_ratio']:.3f}"


def soak_table(parts: Sequence[Part]) -> list[str]:
    """Every task of every soak, and what was inverted."""
    headers = ["soak, task", "released", "finished", "wrong", "response p50", "p99", "max"]
    lines = table(headers, (row for part in parts for row in _soak_rows(part)))
    for part in parts:
        if "inversions" in part:
            found = part["inversions"]
            lines.append(
                f"* {part['part']}: {part['ran_s']:g} s, {found['num_stretches']} stretches,"
                f" {found['num_waits']} waits; {found['number']} stretches began while a more"
                f" urgent job waited, for {fmt_ns(found['total_ns'])} in all and"
                f" {fmt_ns(found['longest_ns'])} at most (the longest stretch:"
                f" {fmt_ns(found['longest_stretch_ns'])});"
                f" {len(part['gate_faults'])} gates gave up."
            )
    return [*lines, ""]


def _soak_rows(part: Part) -> Iterable[Sequence[str]]:
    for name, task in part.get("tasks", {}).items():
        counts, responses = task["counts"], task["response_ns"]
        times = None if responses is None else {key: responses[f"{key}_ns"] for key in _TIMES}
        yield [
            f"{part['part']}, {name}",
            str(counts["released"]),
            str(counts["finished"]),
            str(task["wrong"]),
            *_three(times),
        ]


def faults_table(parts: Sequence[Part]) -> list[str]:
    """What was done, what should have come of it, and what did."""
    return [
        "| fault | expected | found | as expected |",
        "|---|---|---|---|",
        *(
            f"| {part['what']} | {part['expected']} | {_cell(part['found'])} |"
            f" {verdict(part['is_expected'])} |"
            for part in parts
        ),
        "",
    ]


def _cell(text: str) -> str:
    """A message in one cell."""
    return " ".join(text.split()).replace("|", "\\|")


def cpu_table(parts: Sequence[Part]) -> list[str]:
    """The dispatcher's CPU time for a job."""
    headers = ["network, how", "segments or stretches", "in flight", "CPU a job", "wall a job"]
    rows = []
    for part, row in ((each, row) for each in parts for row in each["rows"]):
        what = f"{part['network']} b{part['batch']}, {row['case']}"
        if "error" in row:
            rows.append([f"{what}: {_cell(row['error'])}", "-", str(row["buffers"]), "-", "-"])
            continue
        times = (fmt_ns(row["cpu_ns"]), fmt_ns(row["wall_ns"]))
        rows.append([what, str(row["segments"]), str(row["buffers"]), *times])
    return table(headers, rows)


def points_table(parts: Sequence[Part]) -> list[str]:
    """What a point costs by each mechanism."""
    headers = ["point", "points", "each", "95 % interval", "host, each", "chain right"]
    rows = []
    for row in (row for part in parts for row in part["rows"]):
        if "error" in row:
            rows.append([f"{row['text']}: {_cell(row['error'])}", *["-"] * (len(headers) - 1)])
            continue
        interval = f"{fmt_ns(row['low_ns'])} to {fmt_ns(row['high_ns'])}"
        right = verdict(row["is_right"])
        rows.append(
            [row["text"], str(row["points"]), fmt_ns(row["ns"]), interval, fmt_ns(row["host_ns"]),
             right]
        )  # fmt: skip
    return table(headers, rows)


def cost_table(parts: Sequence[Part]) -> list[str]:
    """What a gate costs by how many there are."""
    numbers = sorted({int(key) for part in parts for row in part["rows"] for key in _gates(row)})
    headers = ["gates, times written down", *(f"each of {number}" for number in numbers)]
    rows = (
        [
            f"{row['mode']}, {'yes' if row['timed'] else 'no'}",
            *(fmt_ns(_gates(row)[str(number)]) for number in numbers),
        ]
        for part in parts
        for row in part["rows"]
    )
    return table(headers, rows)


def _gates(row: Mapping[str, Any]) -> Mapping[str, int]:
    found: Mapping[str, int] = row["ns_per_gate"]
    return found


def calls_table(parts: Sequence[Part]) -> list[str]:
    """Which driver calls wait for a gate."""
    rows = (
        [
            name,
            row.get("error", "did not return") if row["ms"] is None else f"{row['ms']:.2f} ms",
            "**yes**" if row["waits"] else "-" if "error" in row else "no",
        ]
        for part in parts
        for name, row in part["rows"].items()
    )
    return table(["call beside a gate that waits for 50 ms", "took", "waits for it"], rows)
