"""The machine under any backend: who else uses it, its cores, its clocks, what it permits."""

from preempt_runtime.doctor.findings import Finding, Level, Subject
from preempt_runtime.units import fmt_bytes

WINDOW_S = 1.0
_BUSY_FRAC = 0.2  # of one core: what takes less hardly shows in a p99
_STEAL_WARN_FRAC, _STEAL_FAIL_FRAC = 0.005, 0.1


def check_motion(subject: Subject) -> list[Finding]:
    """Steal time, and processes that take time, over a window."""
    view = subject.view
    cpu_before, processes_before = view.cpu_times(), view.process_times()
    subject.pause(WINDOW_S)
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


def check_cores(subject: Subject) -> list[Finding]:
    """Enough cores for the threads, in the container, too."""
    view, threads = subject.view, subject.threads
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


def check_load(subject: Subject) -> list[Finding]:
    """Whether the machine is at rest."""
    view = subject.view
    load, num_cores = view.load_average(), len(view.usable_cores)
    if load is None:
        return [Finding(level="warn", what="load", found="unknown", advice="look for other work")]
    is_high = load > 0.5 * num_cores
    return [
        Finding(
            level="warn" if is_high else "ok",
            what="load",
            found=f"{load:.2f} over a minute, {num_cores} cores",
            advice="let the machine come to rest before measuring" if is_high else "",
        )
    ]


def check_governor(subject: Subject) -> list[Finding]:
    """Whether the CPU's clocks vary."""
    view = subject.view
    governors = view.governors()
    if governors == {"performance"}:
        return [Finding(level="ok", what="frequency governor", found="performance")]
    return [
        Finding(
            level="warn",
            what="frequency governor",
            found=", ".join(sorted(governors)) or "not readable (virtual machine?)",
            advice="clocks vary with load; set `performance` on the usable cores, or measure under"
            " the load of the real use",
        )
    ]


def check_smt(subject: Subject) -> list[Finding]:
    """Whether hardware threads share cores."""
    view = subject.view
    is_active = view.is_smt_active()
    return [
        Finding(
            level="warn" if is_active else "ok",
            what="shared cores",
            found={True: "SMT is on", False: "SMT is off", None: "SMT is not reported"}[is_active],
            advice="work on a sibling slows a segment; use one thread of each core (--affinity)"
            if is_active
            else "",
        )
    ]


def check_permissions(subject: Subject) -> list[Finding]:
    """What this user may ask of the system for steadier times."""
    view = subject.view
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
    isolated = f"; isolated: {found}" if (found := view.isolated_cores()) else ""
    affinity = Finding(level="ok", what="affinity", found=f"permitted on cores {cores}{isolated}")
    return [fifo, lock, affinity]


def check_interpreter(subject: Subject) -> list[Finding]:
    """The Python that runs."""
    view = subject.view
    interpreter = view.interpreter
    return [
        Finding(
            level="ok",
            what="Python",
            found=f"{interpreter.version}, switch interval"
            f" {interpreter.switch_interval_s * 1e3:g} ms (lowered while tasks run)",
        )
    ]
