"""What on this machine would make measured bounds false, found before a run rather than after.

A finding is `ok`, `warn` (times will scatter) or `fail` (the run cannot work, or its bounds mean
nothing), with what was found and what to do about it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from preempt_runtime.bundle import Bundle
from preempt_runtime.errors import BundleError, DeviceError
from preempt_runtime.loading import FindBackend, backend_name, open_backend, plan_to_load
from preempt_runtime.manifest import PlanSpec
from preempt_runtime.system_view import SystemView
from preempt_runtime.units import fmt_bytes

WINDOW_S = 1.0
_BUSY_FRAC = 0.2  # of one core: what takes less hardly shows in a p99
_STEAL_WARN_FRAC, _STEAL_FAIL_FRAC = 0.005, 0.1

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at; `advice` is empty where nothing needs to be done."""

    level: Level
    what: str
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPlan:
    """A bundle, and the plan of it that a task asks for (None: the first that fits)."""

    bundle: Bundle
    plan_id: str | None = None


def doctor(
    plans: Sequence[AskedPlan],
    *,
    view: SystemView,
    find_backend: FindBackend = open_backend,
    threads: int | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[Finding, ...]:
    """Everything that was looked at, in a fixed order; takes `WINDOW_S` for what is in motion.

    Args:
        plans: what would be loaded together.
        view: the machine.
        find_backend: the backend of a name.
        threads: what the task set asks for.
        pause: lets the window pass.
    """
    return (
        *_check_motion(view, pause),
        *_check_cores(view, threads),
        _check_load(view),
        _check_governor(view),
        _check_smt(view),
        *_check_permissions(view),
        _check_interpreter(view),
        _check_wheels(view, plans),
        *(_check_plan(plan, view, find_backend, threads) for plan in plans),
        *_check_memory(view, plans),
    )


def _check_motion(view: SystemView, pause: Callable[[float], None]) -> list[Finding]:
    cpu_before, processes_before = view.cpu_times(), view.process_times()
    pause(WINDOW_S)
    cpu_after, processes_after = view.cpu_times(), view.process_times()
    if cpu_before is None or cpu_after is None:
        steal = Finding(
            level="warn",
            what="steal time",
            found="/proc/stat cannot be read",
            advice="whether a host takes time away is unknown; look at the host",
        )
    else:
        total_ticks = max(1, cpu_after.total_ticks - cpu_before.total_ticks)
        steal = _judge_steal((cpu_after.steal_ticks - cpu_before.steal_ticks) / total_ticks)
    busy = []
    for pid, after in processes_after.items():
        ticks_before = processes_before[pid].ticks if pid in processes_before else 0
        core_frac = (after.ticks - ticks_before) / (view.ticks_per_s * WINDOW_S)
        if core_frac >= _BUSY_FRAC:
            busy.append((core_frac, f"{after.name} (pid {pid}) {core_frac:.0%} of a core"))
    texts = [text for _, text in sorted(busy, reverse=True)[:3]]
    return [
        steal,
        Finding(
            level="warn" if busy else "ok",
            what="other processes",
            found="; ".join(texts) or f"none takes {_BUSY_FRAC:.0%} of a core",
            advice="stop them, or keep the cores apart with --affinity" if busy else "",
        ),
    ]


def _judge_steal(steal_frac: float) -> Finding:
    level: Level = "ok"
    if steal_frac >= _STEAL_WARN_FRAC:
        level = "fail" if steal_frac >= _STEAL_FAIL_FRAC else "warn"
    return Finding(
        level=level,
        what="steal time",
        found=f"{steal_frac:.1%} over {WINDOW_S:g} s",
        advice="" if level == "ok" else "another guest takes time; use dedicated cores",
    )


def _check_cores(view: SystemView, threads: int | None) -> list[Finding]:
    num_cores, quota = len(view.usable_cores), view.cpu_quota()
    is_short = threads is not None and threads > num_cores
    findings = [
        Finding(
            level="fail" if is_short else "ok",
            what="cores",
            found=f"{num_cores} usable" + (f", {threads} threads asked" if threads else ""),
            advice="threads would wait for each other; lower `threads`" if is_short else "",
        )
    ]
    if quota is not None:
        is_short = quota < (threads or num_cores)
        findings.append(
            Finding(
                level="fail" if is_short else "ok",
                what="container limit",
                found=f"{quota:g} cores' worth of time",
                advice="the container is stopped when it is used up; raise the limit (cpu.max)"
                if is_short
                else "",
            )
        )
    return findings


def _check_load(view: SystemView) -> Finding:
    load, num_cores = view.load_average(), len(view.usable_cores)
    if load is None:
        return Finding(level="warn", what="load", found="unknown", advice="look for other work")
    is_high = load > 0.5 * num_cores
    return Finding(
        level="warn" if is_high else "ok",
        what="load",
        found=f"{load:.2f} over a minute, {num_cores} cores",
        advice="let the machine come to rest before measuring" if is_high else "",
    )


def _check_governor(view: SystemView) -> Finding:
    governors = view.governors()
    if governors == {"performance"}:
        return Finding(level="ok", what="frequency governor", found="performance")
    return Finding(
        level="warn",
        what="frequency governor",
        found=", ".join(sorted(governors)) or "not readable (virtual machine?)",
        advice="clocks vary with load; set `performance` on the usable cores, or measure under"
        " the load of the real use",
    )


def _check_smt(view: SystemView) -> Finding:
    is_active = view.is_smt_active()
    return Finding(
        level="warn" if is_active else "ok",
        what="shared cores",
        found={True: "SMT is on", False: "SMT is off", None: "SMT is not reported"}[is_active],
        advice="work on a sibling slows a segment; use one thread of each core (--affinity)"
        if is_active
        else "",
    )


def _check_permissions(view: SystemView) -> list[Finding]:
    share = view.fifo_share()
    limited = f", at most {share:.0%} of each period" if share is not None else ""
    fifo = Finding(level="ok", what="SCHED_FIFO", found=f"permitted{limited}")
    if not view.may_use_fifo():
        fifo = Finding(
            level="warn",
            what="SCHED_FIFO",
            found="not permitted",
            advice="--sched-fifo needs CAP_SYS_NICE, or rtprio in limits.conf",
        )
    lock = Finding(level="ok", what="locked memory", found="permitted")
    if not view.may_lock_memory():
        lock = Finding(
            level="warn",
            what="locked memory",
            found=f"limited to {fmt_bytes(view.memlock_limit or 0)}",
            advice="--mlock needs CAP_IPC_LOCK, or memlock in limits.conf",
        )
    cores = ",".join(str(core) for core in sorted(view.usable_cores))
    return [fifo, lock, Finding(level="ok", what="affinity", found=f"permitted on cores {cores}")]


def _check_interpreter(view: SystemView) -> Finding:
    interpreter = view.interpreter
    return Finding(
        level="ok",
        what="Python",
        found=f"{interpreter.version}, switch interval"
        f" {interpreter.switch_interval_s * 1e3:g} ms (lowered while tasks run)",
    )


def _check_wheels(view: SystemView, plans: Sequence[AskedPlan]) -> Finding:
    wheels = view.interpreter.wheels
    found = ", ".join(f"{name} {version}" for name, version in wheels.items()) or "not installed"
    level: Level = "ok"
    advice = ""
    if len(wheels) > 1:
        level, advice = "fail", "the two overwrite each other; uninstall both, install one"
    elif not wheels:
        is_needed = any(_backend(asked.bundle, plan) == "ort" for asked, plan in _asked(plans))
        level = "fail" if is_needed else "warn"
        advice = "pip install 'preempt-runtime[cpu]'"
    return Finding(level=level, what="ONNX Runtime", found=found, advice=advice)


def _check_plan(
    asked: AskedPlan, view: SystemView, find_backend: FindBackend, threads: int | None
) -> Finding:
    bundle, what = asked.bundle, f"bundle {asked.bundle.root.name}"
    try:
        backend = find_backend(backend_name(bundle, asked.plan_id, find_backend, threads))
        plan = plan_to_load(bundle, asked.plan_id, backend, threads)
    except (BundleError, DeviceError) as err:
        return Finding(level="fail", what=what, found=str(err))
    found = f"plan {plan.id!r}, {len(plan.segments)} segments, {plan.source}"
    built_for = bundle.manifest.keys[plan.key].get("threads") if plan.key else None
    if isinstance(built_for, int) and built_for > len(view.usable_cores):
        return Finding(
            level="fail",
            what=what,
            found=f"{found}, made for {built_for} threads on {len(view.usable_cores)} usable cores",
            advice="compile it again on this machine, or give the process its cores",
        )
    try:
        for path in _used_files(bundle, plan):
            bundle.verified_path(path)
    except BundleError as err:
        return Finding(level="fail", what=what, found=str(err))
    return Finding(level="ok", what=what, found=found)


def _used_files(bundle: Bundle, plan: PlanSpec) -> list[str]:
    """What a run opens, so that damage shows here first; `preemptc verify` hashes the rest."""
    made_for_device = {artefact.path for artefact in bundle.artefacts_for(plan.key)}
    return sorted(made_for_device | {segment.path for segment in plan.segments})


def _check_memory(view: SystemView, plans: Sequence[AskedPlan]) -> list[Finding]:
    if not plans:
        return []
    need_bytes, available_bytes = _need_bytes(plans), view.available_bytes()
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


def _asked(plans: Sequence[AskedPlan]) -> list[tuple[AskedPlan, PlanSpec]]:
    """Each bundle with the plan that is named, or its first one."""
    pairs = []
    for asked in plans:
        named = [p for p in asked.bundle.manifest.plans if asked.plan_id in (None, p.id)]
        pairs += [(asked, plan) for plan in named[:1]]
    return pairs


def _backend(bundle: Bundle, plan: PlanSpec) -> str | None:
    fields = bundle.manifest.keys.get(plan.key, {}) if plan.key is not None else {}
    return str(fields["backend"]) if "backend" in fields else None


def _need_bytes(plans: Sequence[AskedPlan]) -> int:
    """Size of the plans' files and of one job's tensors; what is shared counts once."""
    files, tensors = {}, {}
    for asked, plan in _asked(plans):
        bundle = asked.bundle
        graph = next(graph for graph in bundle.manifest.graphs if graph.id == plan.graph)
        tensors[bundle.root, plan.id] = sum(
            tensor.num_bytes for tensor in (*graph.inputs, *graph.outputs, *plan.boundaries)
        )
        own = {segment.path for segment in plan.segments}
        foreign = {s.path for other in bundle.manifest.plans for s in other.segments} - own
        for file in bundle.artefacts_for(plan.key):
            if file.path not in foreign:
                files[bundle.root, file.path] = file.num_bytes
    return sum(files.values()) + sum(tensors.values())
