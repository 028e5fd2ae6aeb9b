"""The engines of a plan: read, checked and deserialised once, whatever runs them."""

from dataclasses import dataclass
from typing import Any

from preempt_runtime.backends.trt_context import weights_bytes
from preempt_runtime.backends.trt_library import deserialize
from preempt_runtime.backends.trt_tensors import stored_specs
from preempt_runtime.bundle import Bundle
from preempt_runtime.manifest import GraphSpec, PlanSpec
from preempt_runtime.network_memory import NetworkMemory

Interface = tuple[tuple[str, ...], tuple[str, ...]]
"""Names of the tensors that an engine reads and writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEngines:
    """A plan's engines in order; `num_bytes` are those of their files."""

    name: str
    graph: GraphSpec
    plan: PlanSpec
    engines: tuple[Any, ...]
    num_bytes: int

    @property
    def interfaces(self) -> tuple[Interface, ...]:
        """What each engine reads and writes."""
        return tuple((inputs, outputs) for _, inputs, outputs in self.plan.files)


def load_engines(bundle: Bundle, plan: PlanSpec) -> PlanEngines:
    """The plan's engines; the caller has found its key to be this machine's.

    No engine is deserialised before the hashes of all files of that key were found right.

    Raises:
        BundleError: a file is damaged.
        DeviceError: TensorRT refused an engine.
    """
    bundle.verify_artefacts(plan.key)
    name = bundle.root.name
    engines, num_bytes = [], 0
    for path, _, _ in plan.files:
        blob = bundle.read_bytes(path)
        engines.append(deserialize(blob, f"{name}: {path}"))
        num_bytes += len(blob)
    return PlanEngines(
        name=name,
        graph=bundle.manifest.graph_of(plan),
        plan=plan,
        engines=tuple(engines),
        num_bytes=num_bytes,
    )


def loaded_memory(loaded: PlanEngines, *, scratch_bytes: int, zero_copy: bool) -> NetworkMemory:
    """What the engines take, once and for each job, as TensorRT and the plan tell it."""
    graph, plan = loaded.graph, loaded.plan
    stored = stored_specs(loaded.engines, loaded.interfaces, graph, plan.boundaries)
    interface = {spec.name for spec in (*graph.inputs, *graph.outputs)}
    weights = [weights_bytes(engine) for engine in loaded.engines]
    known = [num_bytes for num_bytes in weights if num_bytes is not None]
    sizes = {name: spec.num_bytes for name, spec in stored.items()}
    interface_bytes = sum(sizes[name] for name in interface)
    return NetworkMemory(
        backend="tensorrt",
        num_segments=len(loaded.engines),
        engine_bytes=loaded.num_bytes,
        weights_bytes=sum(known) if len(known) == len(weights) else None,
        scratch_bytes=scratch_bytes,
        boundary_bytes=sum(sizes.values()) - interface_bytes,
        interface_bytes=interface_bytes,
        is_zero_copy=zero_copy,
    )
