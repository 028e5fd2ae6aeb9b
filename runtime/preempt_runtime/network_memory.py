"""What a network takes of memory: once, and for each of its jobs in flight."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preempt_runtime.manifest import GATES, Manifest, PlanSpec

_EXTENSION, _ENGINES = "preemptc", "engines"
_ALIGNMENT = 256  # of the scratch block


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMemory:
    """The memory of one plan, as far as it can be told without a device.

    Once: `engine_bytes` are its engine files, weights and kernels; of these `weights_bytes` are
    weights. `scratch_bytes` is one block, the largest segment's. Both are None where TensorRT, or
    the bundle, does not tell.

    For each job in flight: an execution context and a captured graph of each segment, whose own
    memory nobody tells; the tensors that segments hand over, `boundary_bytes`; and inputs and
    outputs, `interface_bytes`, once on the device and once in pinned host memory, or only there
    with `is_zero_copy`. Jobs that interleave at gates have a scratch block each
    (`has_scratch_per_job`). On a CPU there are neither contexts nor graphs, and everything lies
    once in host memory.
    """

    backend: str
    num_segments: int
    engine_bytes: int
    boundary_bytes: int
    interface_bytes: int
    weights_bytes: int | None = None
    scratch_bytes: int | None = None
    is_zero_copy: bool = False
    has_scratch_per_job: bool = False

    @property
    def is_on_gpu(self) -> bool:
        """There is device memory beside the host's."""
        return self.backend == "tensorrt"

    @property
    def contexts_per_job(self) -> int:
        """Execution contexts of one job, and as many captured graphs."""
        return self.num_segments if self.is_on_gpu else 0

    @property
    def device_bytes_per_job(self) -> int:
        """Device memory of one job's tensors."""
        if not self.is_on_gpu:
            return 0
        return self.boundary_bytes + (0 if self.is_zero_copy else self.interface_bytes)

    @property
    def host_bytes_per_job(self) -> int:
        """Host memory of one job's tensors, pinned where there is a GPU."""
        return self.interface_bytes + (0 if self.is_on_gpu else self.boundary_bytes)

    def device_bytes(self, num_jobs: int) -> int | None:
        """Device memory with so many jobs in flight, contexts and graphs aside.

        Weights count with the whole engine files where nobody tells them apart. None where the
        scratch block is not known.
        """
        if self.scratch_bytes is None:
            return None
        weights_bytes = self.engine_bytes if self.weights_bytes is None else self.weights_bytes
        num_blocks = num_jobs if self.has_scratch_per_job else 1
        scratch_bytes = num_blocks * self.scratch_bytes
        return weights_bytes + scratch_bytes + num_jobs * self.device_bytes_per_job


def scratch_block_bytes(needed: int) -> int:
    """The size of a block that holds so much.

    >>> scratch_block_bytes(0), scratch_block_bytes(257)
    (256, 512)
    """
    return max(_ALIGNMENT, -(-needed // _ALIGNMENT) * _ALIGNMENT)


def memory_from_manifest(manifest: Manifest, plan: PlanSpec) -> NetworkMemory | None:
    """What the plan will take where it runs; None while nothing is built for it.

    A narrower type than the manifest's (int64 before TensorRT 10) may take less.
    """
    if plan.key is None:
        return None
    paths = [path for path, _, _ in plan.files]
    sizes = {artefact.path: artefact.num_bytes for artefact in manifest.artefacts}
    told = [_told(manifest, path) for path in paths]
    weights = [_size(engine, "weights_bytes") for engine in told]
    scratch = [_size(engine, "scratch_bytes") for engine in told]
    known_weights = [size for size in weights if size is not None]
    known_scratch = [size for size in scratch if size is not None]
    all_known = len(known_scratch) == len(paths)
    return NetworkMemory(
        backend=str(manifest.keys[plan.key].get("backend")),
        num_segments=len(paths),
        engine_bytes=sum(sizes[path] for path in paths),
        boundary_bytes=boundary_bytes(plan),
        interface_bytes=interface_bytes(manifest, plan),
        weights_bytes=sum(known_weights) if len(known_weights) == len(paths) else None,
        scratch_bytes=scratch_block_bytes(max(known_scratch)) if all_known else None,
        has_scratch_per_job=plan.mechanism == GATES,
    )


def boundary_bytes(plan: PlanSpec) -> int:
    """All tensors that segments hand over."""
    return sum(spec.num_bytes for spec in plan.boundaries)


def interface_bytes(manifest: Manifest, plan: PlanSpec) -> int:
    """Inputs and outputs of the plan's graph."""
    graph = manifest.graph_of(plan)
    return sum(spec.num_bytes for spec in (*graph.inputs, *graph.outputs))


def extension_from_engines(engines: Mapping[str, tuple[int, int | None]]) -> dict[str, Any]:
    """What a bundle's `extensions.preemptc` keeps of its engines' (scratch, weights) by path."""
    return {
        _ENGINES: {
            path: {"scratch_bytes": scratch_bytes, "weights_bytes": weights_bytes}
            for path, (scratch_bytes, weights_bytes) in sorted(engines.items())
        }
    }


def _told(manifest: Manifest, path: str) -> object:
    """What the extension says of an engine; it may hold anything, as readers need not know it."""
    found: object = manifest.extensions
    for key in (_EXTENSION, _ENGINES, path):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _size(engine: object, key: str) -> int | None:
    found = engine.get(key) if isinstance(engine, dict) else None
    return found if type(found) is int and found >= 0 else None
