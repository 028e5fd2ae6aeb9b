"""The page of what gates cost and gain, from the parts that were measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import gate_tables
from bench.gate_faults import TRIALS
from bench.gate_networks import CASES
from bench.gate_pair import ANNOUNCED_GOAL, KEPT_GOAL, P99_GOAL, PAIRS
from bench.gate_parts import Part
from bench.gate_preemption import CHAINS
from bench.gate_tables import verdict
from bench.gpu_pair_page import way_table
from preempt_runtime.units import fmt_ns

NAME = "gpu-gates"
_GOALS = (
    ("gates_exclusive", P99_GOAL),
    ("gates_first", P99_GOAL),
    ("gates_overlap", P99_GOAL),
    ("gates_announced", ANNOUNCED_GOAL),
    ("gates_first_announced", ANNOUNCED_GOAL),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A step on the page: its title, how to read it, its table, and the parts it should have."""

    step: str
    title: str
    text: str
    table: Callable[[Sequence[Part]], list[str]]
    expected: tuple[str, ...]


def pair_tables(parts: Sequence[Part]) -> list[str]:
    """A table for each pair, and its goals."""
    lines: list[str] = []
    for part in parts:
        settings, gates = part["settings"], part["gates"]["long"]
        lines += [
            f"### {settings['urgent']} every {settings['period_us']} us beside"
            f" {settings['long']} b{settings['batch']}",
            "",
            f"{part['blocks_done']} of {settings['blocks']} blocks. The long network has"
            f" {part['segments']} segments (longest {fmt_ns(part['longest_p50_ns'])} p50), or"
            f" {gates['gates']} gates among {gates['nodes']} nodes (longest stretch"
            f" {fmt_ns(gates['longest_p50_ns'])} p50, {fmt_ns(gates['longest_max_ns'])} max).",
            "",
            *way_table(part["ways"]),
            *_goal_table(part["ways"]),
        ]
    return lines


def _goal_table(ways: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = []
    for name, goal in _GOALS:
        way = ways.get(name, {})
        if "p99_to_alone" in way and "kept" in way:
            ratio, kept = way["p99_to_alone"], way["kept"]
            rows.append(
                [way["text"], f"{ratio:.3f}", f"{goal:.2f}", verdict(ratio <= goal), f"{kept:.3f}",
                 f"{KEPT_GOAL:.2f}", verdict(kept >= KEPT_GOAL), str(way["gate_faults"])]
            )  # fmt: skip
    headers = [
        "way", "p99 to alone", "goal", "reached", "kept", "goal", "reached", "gates gave up",
    ]  # fmt: skip
    return gate_tables.table(headers, rows)


SECTIONS = (
    Section(
        step="networks",
        title="Networks",
        text="Time with gates over time without, by CUDA events, pair by pair: the median with its"
        " 95 % interval, and the ratio of both p99. A job's raise and the stamps of its gates are"
        " in it, copies of inputs and outputs are not. The longest stretch is by the gates' stamps:"
        " its own p50, the largest p99 and maximum of any. Outputs are compared bit by bit.",
        table=gate_tables.networks_table,
        expected=tuple(f"network-{case.name}" for case in CASES),
    ),
    Section(
        step="pair",
        title="An urgent network beside a long one",
        text="Response time runs from release to the outputs in host memory; inputs lie in device"
        " memory. *Alone* is the network without gates under the same releases, through the"
        " runtime; ways in a bare polling loop are compared with that loop alone. The long"
        " network's rate is compared with its own without gates and two jobs in flight. *Kept* is"
        " that ratio over the share of time that urgent jobs leave (1 - urgent jobs per s x urgent"
        " p50 alone). One choice of gates serves all columns of a row.",
        table=pair_tables,
        expected=tuple(f"pair-{case.name}-50us" for case in PAIRS),
    ),
    Section(
        step="preempt",
        title="Preemption latency",
        text="By the device's clock, from the raise until the job that runs has come to the gate"
        " that holds it. Raised by a kernel, that kernel reads the clock right after it has"
        " written the key. Raised by a memory operation, a kernel before it in the stream does, so"
        " the way between the two counts, and the host's from one call to the next. Either needs a"
        " place on an SM: beside a chain that fills the GPU (*full*) raises come when a block"
        " ends.",
        table=gate_tables.preempt_table,
        expected=tuple(f"preempt-{name}" for name in (*CHAINS, "engine")),
    ),
    Section(
        step="held",
        title="What gates that wait take away",
        text="Device time with gates of other jobs waiting, over that with none; the first column"
        " of each three is the time itself. Of the kernels one block fills an SM.",
        table=gate_tables.held_table,
        expected=("held",),
    ),
    Section(
        step="soak",
        title="Soak",
        text="Four real-time levels at random (Poisson) and two best-effort tasks in a closed"
        " loop. Every output is compared with the known one, bit by bit.",
        table=gate_tables.soak_table,
        expected=("soak-exclusive-1", "soak-exclusive-2"),
    ),
    Section(
        step="faults",
        title="Faults",
        text="What goes wrong on purpose.",
        table=gate_tables.faults_table,
        expected=tuple(f"fault-{trial.name}" for trial in TRIALS),
    ),
    Section(
        step="cpu",
        title="The dispatcher's CPU time",
        text="Of the dispatching thread for a job of a closed loop, alone on the device.",
        table=gate_tables.cpu_table,
        expected=("cpu-resnet152-b32",),
    ),
    Section(
        step="points",
        title="Other mechanisms",
        text="A chain of 64 kernels of 20 us with a point between each two, in turn with the chain"
        " without; nothing waits at any of them.",
        table=gate_tables.points_table,
        expected=("points",),
    ),
    Section(
        step="cost",
        title="One gate",
        text="The same chain with gates of the runtime's own, by how many there are.",
        table=gate_tables.cost_table,
        expected=("cost",),
    ),
    Section(
        step="calls",
        title="Driver calls beside a gate that waits",
        text="Of the calls that wait, none may be made while gates can be closed.",
        table=gate_tables.calls_table,
        expected=("calls",),
    ),
)


def markdown(parts: Mapping[str, Part]) -> str:
    """The page of these parts; what is missing or broke off is said."""
    lines = ["# Gates on a GPU: what they cost and gain", ""]
    lines += ["[gates.md](../gates.md) says what a gate is.", ""]
    for section in SECTIONS:
        lines += _section(section, [p for p in parts.values() if p["step"] == section.step])
    if missing := not_measured(parts):
        lines += ["## Not measured", "", *(f"* {line}" for line in missing), ""]
    lines.append(f"Every figure: [{NAME}.json]({NAME}.json).")
    return "\n".join([*lines, ""])


def _section(section: Section, parts: Sequence[Part]) -> list[str]:
    shown = [part for part in parts if not _is_empty(part)]
    if not shown:
        return []
    sources = dict.fromkeys(_source(part) for part in shown)
    return [
        f"## {section.title}",
        "",
        section.text,
        "",
        *section.table(shown),
        *(f"{source}." for source in sources),
        "",
    ]


def _is_empty(part: Part) -> bool:
    """It says why it has no figures, or has none yet."""
    return not any(part.get(name) for name in ("rows", "modes", "ways", "tasks", "found"))


def _source(part: Part) -> str:
    machine = part["machine"]
    command = part["command"].partition(" --out")[0]
    return (
        f"`{command}`; {machine['gpu']}, TensorRT {machine['tensorrt'] or '-'}, driver's CUDA"
        f" {machine['cuda_driver']}, {part['date'][:10]}"
    )


def not_measured(parts: Mapping[str, Part]) -> list[str]:
    """What should be here and is not, or not to its end, with the reason if that is known."""
    lines = []
    for section in SECTIONS:
        there = {name: part for name, part in parts.items() if part["step"] == section.step}
        for name in (*section.expected, *sorted(there.keys() - set(section.expected))):
            if name not in there:
                lines.append(f"{section.title}: {name} has not been run")
            elif "error" in there[name]:
                lines.append(f"{section.title}: {name}: {there[name]['error']}")
            elif not there[name]["is_complete"]:
                lines.append(f"{section.title}: {name} was not run to its end")
    return lines
