"""The bundles: whether they run here, whether they are whole, whether memory holds them."""

from collections.abc import Sequence

from preempt_runtime.bundle import Bundle
from preempt_runtime.doctor.findings import AskedPlan, Finding, Level, Subject, backend_of
from preempt_runtime.errors import BundleError, DeviceError
from preempt_runtime.loading import backend_name, plan_to_load
from preempt_runtime.manifest import PlanSpec
from preempt_runtime.units import fmt_bytes, fmt_count


def check_plans(subject: Subject) -> list[Finding]:
    """Whether a plan of each bundle fits this machine, and what a run would open is undamaged."""
    return [_check_plan(subject, asked) for asked in subject.plans]


def _check_plan(subject: Subject, asked: AskedPlan) -> Finding:
    bundle, what = asked.bundle, f"bundle {asked.bundle.root.name}"
    find_backend, threads = subject.find_backend, subject.threads
    num_cores = len(subject.view.usable_cores)
    try:
        backend = find_backend(backend_name(bundle, asked.plan_id, find_backend, threads))
        plan = plan_to_load(bundle, asked.plan_id, backend, threads, asked.mechanisms)
    except (BundleError, DeviceError) as err:
        return Finding(
            level="fail", what=what, found="; ".join((str(err), *_damage_of_source(asked)))
        )
    found = f"plan {plan.id!r}, {fmt_count(len(plan.segments), 'segment')}, {plan.source}"
    built_for = bundle.manifest.keys[plan.key].get("threads") if plan.key else None
    if isinstance(built_for, int) and built_for > num_cores:
        return Finding(
            level="fail",
            what=what,
            found=f"{found}, made for {built_for} threads on {num_cores} usable cores",
            advice="compile it again on this machine, or give the process its cores",
        )
    if damage := _damage(bundle, used_files(bundle, plan)):
        return Finding(level="fail", what=what, found=damage[0])
    return Finding(level="ok", what=what, found=found)


def _damage_of_source(asked: AskedPlan) -> tuple[str, ...]:
    """What is damaged of what `preemptc build` would take, where nothing is built yet."""
    plans = [plan for plan in asked.bundle.manifest.plans if asked.plan_id in (None, plan.id)]
    if any(plan.key is not None for plan in plans):
        return ()
    return _damage(asked.bundle, [file.path for file in asked.bundle.artefacts_for(None)])


def _damage(bundle: Bundle, paths: Sequence[str]) -> tuple[str, ...]:
    """The first of these files that is not what the manifest says; none if all are whole."""
    try:
        for path in paths:
            bundle.verified_path(path)
    except BundleError as err:
        return (str(err),)
    return ()


def used_files(bundle: Bundle, plan: PlanSpec) -> list[str]:
    """What a run opens, so that damage shows here first; `preemptc verify` hashes the rest."""
    made_for_device = {artefact.path for artefact in bundle.artefacts_for(plan.key)}
    return sorted(made_for_device | {segment.path for segment in plan.segments})


def check_memory(subject: Subject) -> list[Finding]:
    """Whether the host's memory holds all that is not on a GPU."""
    plans = [
        pair for pair in subject.named_plans() if backend_of(pair[0].bundle, pair[1]) != "tensorrt"
    ]
    if not plans:
        return []
    need_bytes, available_bytes = file_and_tensor_bytes(plans), subject.view.available_bytes()
    estimate = f"{fmt_bytes(need_bytes)} of weights and buffers (estimated)"
    if available_bytes is None:
        return [
            Finding(
                level="warn",
                what="memory",
                found=f"{estimate}, available: unknown",
                advice="compare with the machine's memory",
            )
        ]
    level: Level = "ok"
    advice = ""
    if need_bytes > available_bytes:
        level, advice = "fail", "it would swap or be killed; run fewer networks"
    elif 2 * need_bytes > available_bytes:
        level, advice = "warn", "sessions may keep repacked weights beside the file's; try it"
    return [
        Finding(
            level=level,
            what="memory",
            found=f"{estimate}, {fmt_bytes(available_bytes)} available",
            advice=advice,
        )
    ]


def file_and_tensor_bytes(plans: Sequence[tuple[AskedPlan, PlanSpec]]) -> int:
    """Size of the plans' files, which tasks share, and of the tensors of each task's buffers."""
    files, tensor_bytes = {}, 0
    for asked, plan in plans:
        bundle = asked.bundle
        graph = bundle.manifest.graph_of(plan)
        tensors = (*graph.inputs, *graph.outputs, *plan.boundaries)
        tensor_bytes += asked.buffers * sum(tensor.num_bytes for tensor in tensors)
        own = {segment.path for segment in plan.segments}
        foreign = {s.path for other in bundle.manifest.plans for s in other.segments} - own
        for file in bundle.artefacts_for(plan.key):
            if file.path not in foreign:
                files[bundle.root, file.path] = file.num_bytes
    return sum(files.values()) + tensor_bytes
