"""What each task of a set may cost: from its bundle, its network, or numbers in the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import InfeasibleError, InputError, ModelError
from preempt_runtime.manifest import SEGMENTS
from preempt_runtime.plan_choice import is_measured, machine_of, plan_with_costs
from preempt_runtime.schedulability import (
    CostSource,
    Front,
    even_front,
    fixed_front,
    front_from_cuts,
)
from preempt_runtime.task_spec import CostSpec, TaskSpec
from preemptc.backends import BackendOptions, Progress
from preemptc.cache import BuildCache
from preemptc.compilation import told_of
from preemptc.compile_options import CompileOptions
from preemptc.costs_now import CostsNow, costs_now
from preemptc.goal import Goal
from preemptc.pipeline import candidates_of, describe_nodes
from preemptc.prepare import Prepared, prepare
from preemptc.profiling import costs_without_device, naming_estimates
from preemptc.search import SegmentCosts, pareto_front, search_bound, segment_costs

_MAX_CUTS = 200
_WHOLE = Goal(num_segments=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCuts:
    """The ways to cut a task's network, and where their costs come from.

    `free_front` has those that a bound in the file rules out, too; None where the file leaves the
    choice, or where there is none. `target` is what executes the network, None for costs in the
    file; `machine` is what a bundle's plan was made for, `total_ns` the most that all segments of a
    bundle were seen to take together, where that was measured. `is_cached` if a profile was found
    in the cache, `measured_at` is when it was measured, `notes` tell of the machine's speed.
    """

    front: Front
    free_front: Front | None
    source: CostSource
    origin: str
    target: str | None = None
    machine: str | None = None
    total_ns: int | None = None
    is_cached: bool = False
    measured_at: str | None = None
    notes: tuple[str, ...] = ()


Known = dict[tuple[object, ...], tuple[Prepared, CostsNow]]
"""The networks of one plan that are profiled, by what tells them apart in its task set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOptions:
    """Where networks without a bundle are profiled; threads and mechanisms of a bundle's plan."""

    target: str
    backend: BackendOptions
    bundle_threads: int | None
    mechanisms: Sequence[str] = (SEGMENTS,)


def costs_of_tasks(
    tasks: tuple[TaskSpec, ...], options: CostOptions, cache: BuildCache, progress: Progress
) -> dict[str, NetworkCuts]:
    """The costs of each task by its name; a network that several tasks name is profiled once.

    Raises:
        PreemptError: a bundle or a network cannot be read, or its bound cannot be kept.
    """
    known: Known = {}
    names = [task.name for task in tasks if task.model is not None]
    return {
        task.name: _costs(
            task,
            options,
            cache,
            progress if task.model is None else told_of(progress, names, names.index(task.name)),
            known,
        )
        for task in tasks
    }


def _costs(
    task: TaskSpec, options: CostOptions, cache: BuildCache, progress: Progress, known: Known
) -> NetworkCuts:
    if task.model is not None:
        return _network_costs(task, task.model, options, cache, progress, known)
    if task.bundle is not None:
        return bundle_costs(task.bundle, task.plan, options.bundle_threads, options.mechanisms)
    assert task.cost is not None, "the task set's reader asks for a bundle, a model or costs"
    return _given_costs(task.cost, task.max_segment_ns)


def _given_costs(cost: CostSpec, max_segment_ns: int | None) -> NetworkCuts:
    free = None
    if cost.segment_ns is not None:
        front = fixed_front(cost.segment_ns)
    elif max_segment_ns is not None:
        front = fixed_front(cost.segments_ns(max_segment_ns))
        free = even_front(cost.total_ns, cost.point_cost_ns)
    else:
        front = even_front(cost.total_ns, cost.point_cost_ns)
    return NetworkCuts(front=front, free_front=free, source="given", origin="the file")


def bundle_costs(
    path: Path,
    plan_id: str | None,
    threads: int | None,
    mechanisms: Sequence[str] = (SEGMENTS,),
) -> NetworkCuts:
    """The measured maxima of a bundle's plan, or what was predicted where nothing is built yet.

    Raises:
        BundleError: damaged, or it has no plan of that name for so many threads.
    """
    bundle = open_bundle(path)
    plan = plan_with_costs(bundle, plan_id, threads, mechanisms)
    segment_ns = tuple(
        max(1, segment.predicted_ns if segment.latency is None else segment.latency.max_ns)
        for segment in plan.segments
    )
    return NetworkCuts(
        front=fixed_front(segment_ns),
        free_front=None,
        source="measured" if is_measured(plan) else "estimated",
        origin=f"{path.name}, plan {plan.id!r}",
        target=plan.target,
        machine=machine_of(bundle.manifest, plan),
        total_ns=plan.chained.max_ns if is_measured(plan) and plan.chained is not None else None,
    )


def _network_costs(
    task: TaskSpec, model: Path, options: CostOptions, cache: BuildCache, progress: Progress,
    known: Known,
) -> NetworkCuts:  # fmt: skip
    compiling = CompileOptions(
        target=options.target,
        goal=_WHOLE,
        backend=options.backend,
        shapes=dict(task.shapes),
        profile=task.profile,
    )
    network = (model, task.shapes, task.profile)
    if network not in known:
        known[network] = _profiled(task, model, compiling, cache, progress)
    prepared, found = known[network]
    profile = found.profile
    costs = segment_costs(candidates_of(prepared, profile, compiling), profile)
    progress("cuts", 0.0)
    every = front_of_network(costs)
    bound_ns = task.max_segment_ns
    front = every
    if bound_ns is not None:
        try:
            with naming_estimates(profile):
                kept = search_bound(costs, bound_ns, describe=describe_nodes(prepared.lowered))
        except InfeasibleError as err:
            raise InfeasibleError(
                f"task {task.name!r}: {err} (in a task set --max-segment is the task's key"
                " max_segment)"
            ) from err
        front = fixed_front(_positive(kept.predicted_ns))
    return NetworkCuts(
        front=front,
        free_front=None if bound_ns is None else every,
        source="predicted" if profile.source == "measured" else "estimated",
        origin=task.profile.name if task.profile else f"a profile of {model.name}",
        target=options.target,
        is_cached=found.is_cached,
        measured_at=profile.measured_at,
        notes=found.notes,
    )


def _profiled(
    task: TaskSpec, model: Path, compiling: CompileOptions, cache: BuildCache, progress: Progress
) -> tuple[Prepared, CostsNow]:
    """A task's network as it is executed, and its costs; errors name the task."""
    try:
        prepared = prepare(model, compiling, cache, progress)
    except ModelError as err:
        if "--shape" not in str(err):
            raise
        raise ModelError(
            f"task {task.name!r}: {err} (in a task set --shape is the task's key shapes)"
        ) from err
    try:
        if prepared.backend.is_portable:
            found = CostsNow(profile=costs_without_device(prepared, compiling))
        else:
            found = costs_now(prepared, compiling, cache, progress)
    except InputError as err:
        raise InputError(f"task {task.name!r}: {err}") from err
    return prepared, found


def front_of_network(costs: SegmentCosts) -> Front:
    """The Pareto front of a network's plans; of very many, evenly spaced ones."""
    plans = pareto_front(costs)
    step = max(1.0, (len(plans) - 1) / (_MAX_CUTS - 1))
    shown = sorted({min(len(plans) - 1, round(idx * step)) for idx in range(_MAX_CUTS)})
    return front_from_cuts(_positive(plans[idx].predicted_ns) for idx in shown)


def _positive(segment_ns: tuple[int, ...]) -> tuple[int, ...]:
    """A segment of nothing but free nodes still takes its nanosecond."""
    return tuple(max(1, cost_ns) for cost_ns in segment_ns)
