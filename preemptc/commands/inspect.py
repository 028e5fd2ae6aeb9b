"""`preemptc inspect`: what a bundle holds."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.device import MAX_BUFFERS
from preempt_runtime.errors import BundleError
from preempt_runtime.manifest import (
    GATES,
    PROFILE_NAME,
    WHOLE_PLAN_ID,
    CheckSpec,
    GraphSpec,
    Manifest,
    PlanSpec,
    TensorSpec,
)
from preempt_runtime.network_memory import boundary_bytes, interface_bytes, memory_from_manifest
from preempt_runtime.units import fmt_bytes, fmt_ns
from preemptc.commands.options import bundle_argument, json_option
from preemptc.compile_options import requested_mechanism
from preemptc.machine_speed import machine_speed, speed_notes
from preemptc.profile import LatencyProfile, profile_from_json
from preemptc.report import Table, facts, fmt_bound, fmt_latency, longest_segment, segment_table
from preemptc.targets import TARGETS, FieldMatch, compare_key, local_device
from preemptc.terminal import show

_PORTABLE = "portable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """A bundle, its profile, and field by field whether each plan fits this machine.

    Memory is counted for `num_jobs` jobs in flight of one task.
    """

    bundle: Bundle
    matches: Mapping[str, tuple[FieldMatch, ...]]
    profile: LatencyProfile | None
    num_jobs: int = 1

    @property
    def node_names(self) -> tuple[str, ...] | None:
        """The executed graph's nodes, where the bundle tells them."""
        return self.profile.node_names if self.profile else None

    @property
    def machine_speed(self) -> float | None:
        """At which part of the profile's speed the machine ran when the plans were measured.

        None where the profile was not measured, or no plan of the whole network was.
        """
        latencies = [
            plan.segments[0].latency for plan in self.manifest.plans if plan.id == WHOLE_PLAN_ID
        ]
        if self.profile is None or not latencies or latencies[0] is None:
            return None
        return machine_speed(self.profile, latencies[0].p50_ns)

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    def is_runnable(self, plan: PlanSpec) -> bool:
        """Whether the plan was built for this machine."""
        fields = self.matches.get(plan.id)
        return fields is not None and all(field.is_same for field in fields)


@click.command("inspect")
@bundle_argument
@click.option(
    "--jobs",
    "num_jobs",
    type=click.IntRange(1, MAX_BUFFERS),
    default=1,
    metavar="N",
    help="Count the memory of so many jobs in flight of one task (its `buffers`); default 1.",
)
@json_option
def command(bundle: Path, num_jobs: int, as_json: bool) -> None:
    """Show what a bundle holds, and whether it fits this machine.

    That includes what jobs in flight take of memory. Only the manifest and the profile are read;
    `preemptc verify` checks every file.
    """
    contents = read_contents(open_bundle(bundle), num_jobs)
    show(document_of(contents), tables_of(contents), as_json=as_json)


def read_contents(bundle: Bundle, num_jobs: int = 1) -> Contents:
    """What `inspect` shows of a bundle.

    Raises:
        PreemptError: its profile is damaged, or has fewer nodes than a plan.
    """
    manifest = bundle.manifest
    profile = None
    if any(artefact.path == PROFILE_NAME for artefact in manifest.artefacts):
        profile = profile_from_json(
            bundle.read_bytes(PROFILE_NAME), str(bundle.root / PROFILE_NAME)
        )
        for plan in manifest.plans:
            if plan.mechanism == GATES:  # its nodes are kernels, which no profile knows
                continue
            if (end := plan.segments[-1].range[1]) > (num_nodes := len(profile.node_names)):
                raise BundleError(
                    f"{bundle.root}: the segments of plan {plan.id!r} end at node {end}, but"
                    f" {PROFILE_NAME} knows {num_nodes} nodes; compile the bundle again"
                )
    names_here = {plan.target for plan in manifest.plans} & TARGETS.keys()
    devices = {name: local_device(TARGETS[name]) for name in names_here}
    matches = {
        plan.id: compare_key(manifest.keys[plan.key], devices[plan.target])
        for plan in manifest.plans
        if plan.key is not None and plan.target in devices
    }
    return Contents(bundle=bundle, matches=matches, profile=profile, num_jobs=num_jobs)


def document_of(contents: Contents) -> Mapping[str, Any]:
    """What `inspect` tells programs."""
    manifest = contents.manifest
    return {
        "bundle": str(contents.bundle.root),
        "manifest_sha256": contents.bundle.manifest_sha256,
        "toolchain": dict(manifest.toolchain),
        "requested_mechanism": requested_mechanism(contents.bundle),
        "requires": list(manifest.requires),
        "graphs": [dataclasses.asdict(graph) for graph in manifest.graphs],
        "plans": [
            {
                **dataclasses.asdict(plan),
                "runnable_here": contents.is_runnable(plan),
                "memory": _memory_document(contents, plan),
                "key_match": [
                    {**dataclasses.asdict(field), "same": field.is_same}
                    for field in contents.matches.get(plan.id, ())
                ],
            }
            for plan in manifest.plans
        ],
        "keys": {key: dict(fields) for key, fields in manifest.keys.items()},
        "artefacts": [dataclasses.asdict(artefact) for artefact in manifest.artefacts],
        "check": dataclasses.asdict(manifest.check) if manifest.check else None,
        "machine_speed": contents.machine_speed,
        "notes": list(speed_notes(contents.machine_speed, None)),
    }


def tables_of(contents: Contents) -> tuple[Table, ...]:
    """What `inspect` tells people."""
    manifest = contents.manifest
    num_bytes = sum(artefact.num_bytes for artefact in manifest.artefacts)
    versions = ", ".join(f"{name} {text}" for name, text in sorted(manifest.toolchain.items()))
    summary = {
        "manifest sha256": contents.bundle.manifest_sha256,
        "made by": versions,
        "files": f"{len(manifest.artefacts)}, {fmt_bytes(num_bytes)}",
        "check": _check(manifest.check),
    }
    return (
        facts(str(contents.bundle.root), summary, speed_notes(contents.machine_speed, None)),
        *(_graph_table(graph) for graph in manifest.graphs),
        *(_plan_table(contents, plan) for plan in manifest.plans),
        *_key_tables(contents),
        *(segment_table(plan, contents.node_names) for plan in manifest.plans),
        _artefact_table(manifest),
    )


def _check(check: CheckSpec | None) -> str:
    if check is None:
        return "none was made"
    difference = "bitwise equal" if check.bitwise else f"{check.max_abs_diff:.3g} apart"
    return (
        f"{difference} on {check.num_inputs} inputs, against: {check.reference};"
        f" {check.source_max_abs_diff:.3g} from the source graph"
    )


def _graph_table(graph: GraphSpec) -> Table:
    kinds = (("input", graph.inputs), ("output", graph.outputs))
    return Table(
        title=f"graph {graph.id!r}, {graph.variant}",
        columns=("", "name", "dtype", "shape", "bytes"),
        numbers=frozenset({"bytes"}),
        rows=tuple(_tensor_row(kind, spec) for kind, specs in kinds for spec in specs),
    )


def _tensor_row(kind: str, spec: TensorSpec) -> tuple[str, ...]:
    shape = "x".join(map(str, spec.shape)) or "scalar"
    return kind, spec.name, spec.dtype, shape, fmt_bytes(spec.num_bytes)


def _plan_table(contents: Contents, plan: PlanSpec) -> Table:
    runs = "yes" if contents.is_runnable(plan) else "no, see the key below"
    if plan.key is None:
        runs = "no, nothing is built for it yet"
    return facts(
        f"plan {plan.id!r} of graph {plan.graph!r} for {plan.target}",
        {
            "runs here": runs,
            "key": plan.key or "none",
            "mechanism": _mechanism(contents, plan),
            **_pieces(plan),
            "chained": fmt_latency(plan.chained),
            **_memory_facts(contents, plan),
        },
    )


def _mechanism(contents: Contents, plan: PlanSpec) -> str:
    """The plan's; and what a build makes of a plan of which nothing is built yet."""
    asked = requested_mechanism(contents.bundle)
    if plan.key is not None or asked in (None, plan.mechanism):
        return plan.mechanism
    where = "" if asked == GATES else " where they can be put in"
    return f"{plan.mechanism} until it is built; `preemptc build` puts gates in{where}"


def _pieces(plan: PlanSpec) -> Mapping[str, str]:
    """The plan's segments, or its stretches between gates, and the bound that they keep."""
    number, bound = str(len(plan.segments)), fmt_bound(plan.bound_ns, plan.bound_quantile)
    if plan.gates is None:
        return {"segments": number, "bound": bound, "longest segment": longest_segment(plan)}
    return {
        "captured graph": f"{plan.gates.num_nodes} nodes, fingerprint {plan.gates.fingerprint};"
        " a device that captures another one leaves this plan out",
        "stretches": f"{number}, a gate of {fmt_ns(plan.gates.gate_ns)} before each",
        "bound": bound,
        "longest stretch": longest_segment(plan),
    }


def _memory_document(contents: Contents, plan: PlanSpec) -> Mapping[str, Any]:
    memory, num_jobs = memory_from_manifest(contents.manifest, plan), contents.num_jobs
    if memory is None:
        return _unbuilt_memory_document(contents, plan)
    return {
        "jobs": num_jobs,
        "engine_bytes": memory.engine_bytes,
        "weights_bytes": memory.weights_bytes,
        "scratch_bytes": memory.scratch_bytes,
        "per_job": {
            "contexts": memory.contexts_per_job,
            "graphs": memory.contexts_per_job,
            "device_bytes": memory.device_bytes_per_job,
            "host_bytes": memory.host_bytes_per_job,
        },
        "contexts": num_jobs * memory.contexts_per_job,
        "graphs": num_jobs * memory.contexts_per_job,
        "device_bytes": memory.device_bytes(num_jobs) if memory.is_on_gpu else None,
        "host_bytes": num_jobs * memory.host_bytes_per_job,
    }


def _unbuilt_memory_document(contents: Contents, plan: PlanSpec) -> Mapping[str, Any]:
    """The planned tensors; what only a build tells is None."""
    device_bytes, host_bytes = _planned_tensor_bytes(contents, plan)
    return {
        "jobs": contents.num_jobs,
        **dict.fromkeys(("engine_bytes", "weights_bytes", "scratch_bytes")),
        "per_job": {
            **dict.fromkeys(("contexts", "graphs")),
            "device_bytes": device_bytes,
            "host_bytes": host_bytes,
        },
        **dict.fromkeys(("contexts", "graphs", "device_bytes")),
        "host_bytes": contents.num_jobs * host_bytes,
    }


def _planned_tensor_bytes(contents: Contents, plan: PlanSpec) -> tuple[int, int]:
    """What one job will take on the GPU and of pinned memory, if the build keeps the plan."""
    host_bytes = interface_bytes(contents.manifest, plan)
    return boundary_bytes(plan) + host_bytes, host_bytes


def _memory_facts(contents: Contents, plan: PlanSpec) -> Mapping[str, str]:
    """What the jobs of one task take; where the GPU shares the CPU's memory, pinned alone."""
    memory, num_jobs = memory_from_manifest(contents.manifest, plan), contents.num_jobs
    label = "a job in flight" if num_jobs == 1 else f"{num_jobs} jobs in flight"
    if memory is None:
        device_bytes, host_bytes = _planned_tensor_bytes(contents, plan)
        return {
            label: f"as planned: tensors {fmt_bytes(num_jobs * device_bytes)},"
            f" pinned {fmt_bytes(num_jobs * host_bytes)}",
            "contexts, graphs, scratch": "known after `preemptc build`",
        }
    host = fmt_bytes(num_jobs * memory.host_bytes_per_job)
    if not memory.is_on_gpu:
        return {label: f"{host} of tensors"}
    number = num_jobs * memory.contexts_per_job
    device = fmt_bytes(num_jobs * memory.device_bytes_per_job)
    scratch = "unknown" if memory.scratch_bytes is None else fmt_bytes(memory.scratch_bytes)
    scratch += " for each job" if memory.has_scratch_per_job else ""
    weights = memory.weights_bytes
    of_it = "" if weights is None else f" ({fmt_bytes(weights)} weights)"
    total = memory.device_bytes(num_jobs)
    return {
        "loaded once": f"engines {fmt_bytes(memory.engine_bytes)}{of_it}, scratch {scratch}",
        label: f"{number} contexts, {number} graphs, tensors {device}, pinned {host}",
        "GPU memory": "unknown, build it again for its scratch memory"
        if total is None
        else f"{fmt_bytes(total)}, and what contexts and graphs take",
    }


def _key_tables(contents: Contents) -> Sequence[Table]:
    """One table per KEY, as its plans share it."""
    tables = {}
    for plan in contents.manifest.plans:
        if plan.key is not None and plan.id in contents.matches:
            rows = tuple(
                (field.name, _shown(field.bundle), _shown(field.here), _same(field))
                for field in contents.matches[plan.id]
            )
            columns = ("field", "bundle", "this machine", "")
            tables[plan.key] = Table(title=f"key {plan.key}", columns=columns, rows=rows)
    return list(tables.values())


def _shown(value: str | int | None) -> str:
    return "-" if value is None else str(value)


def _same(field: FieldMatch) -> str:
    return "same" if field.is_same else "DIFFERS"


def _artefact_table(manifest: Manifest) -> Table:
    """Number and size of the files of each KEY."""
    sizes: dict[str, list[int]] = {}
    for artefact in manifest.artefacts:
        sizes.setdefault(artefact.key or _PORTABLE, []).append(artefact.num_bytes)
    return Table(
        title="files",
        columns=("key", "files", "size"),
        numbers=frozenset({"files", "size"}),
        rows=tuple((key, str(len(all_)), fmt_bytes(sum(all_))) for key, all_ in sizes.items()),
    )
