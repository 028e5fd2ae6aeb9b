"""What a run was asked for beyond its task set, and what of it is in force."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from preempt_runtime.arrivals import releases_per_s
from preempt_runtime.bundle import Bundle
from preempt_runtime.device import Device
from preempt_runtime.errors import GatesError, InputError
from preempt_runtime.gated_device import GatedDevice
from preempt_runtime.load_taskset import LoadedTaskSet
from preempt_runtime.manifest import GATES
from preempt_runtime.policies import GatePolicy, Policy
from preempt_runtime.process import OptionReport, ProcessOptions
from preempt_runtime.task_spec import TaskSpec
from preempt_runtime.taskset import GateMode, Mechanism, TaskSetSpec

# One task of one empty segment, on an x86 core: 61,000 jobs a second.
MAX_RELEASES_PER_S = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run may change, None being the task set's own; `pins` are manifest hashes."""

    duration_ns: int
    policy: str | None = None
    mechanism: Mechanism | None = None
    gate_mode: GateMode | None = None
    num_warmup_runs: int = 3
    pins: Mapping[str, str] = field(default_factory=dict)
    process: ProcessOptions = field(default_factory=ProcessOptions)


def check_release_rate(taskset: TaskSetSpec) -> None:
    """Return if a dispatcher might keep up with the releases, whatever the jobs take.

    Raises:
        InputError: it cannot, and the run would only release jobs.
    """
    rates = {task.name: releases_per_s(task.arrival) for task in taskset.tasks}
    if (rate := sum(rates.values())) > MAX_RELEASES_PER_S:
        most = max(rates, key=rates.__getitem__)
        raise InputError(
            f"{taskset.path}: {rate:.6g} releases a second, {rates[most]:.6g} of them of task"
            f" {most!r}, a run allows {MAX_RELEASES_PER_S} in all; give it a longer period or a"
            " lower rate"
        )


def check_gates(policy: Policy, bundles: Iterable[Bundle]) -> None:
    """Return if `auto` is to try gates: some network has a plan of them, the policy lets it.

    Raises:
        GatesError: it is not to.
    """
    if not isinstance(policy, GatePolicy):
        raise GatesError(f"gates do not keep the order of policy {policy.name!r}")
    mechanisms = {plan.mechanism for bundle in bundles for plan in bundle.manifest.plans}
    if GATES not in mechanisms:
        raise GatesError("no bundle has a plan of gates")


def not_by_gates(reason: str) -> OptionReport:
    """That `auto` took segments, and why."""
    reason = f"segments, because {reason}"
    return OptionReport(name="mechanism", requested="auto", applied=True, reason=reason)


def gate_mode_option(mode: GateMode | None, gates: GateMode | None) -> tuple[OptionReport, ...]:
    """That a mode of gates was asked for where there are none."""
    if mode is None or gates is not None:
        return ()
    reason = "no effect, jobs are preempted between segments"
    return (OptionReport(name="gate-mode", requested=mode, applied=False, reason=reason),)


def depth_option(asked: int, depth: int, device: Device | GatedDevice) -> tuple[OptionReport, ...]:
    """Nothing where the default was asked for; what the device does not allow, with the reason."""
    if asked == 1:
        return ()
    reason = f"device {device.name!r} allows {device.max_depth}" if depth < asked else ""
    return (OptionReport(name="depth", requested=str(asked), applied=not reason, reason=reason),)


def buffer_options(
    tasks: Iterable[TaskSpec], depth: int, loaded: LoadedTaskSet
) -> tuple[OptionReport, ...]:
    """Of each task with several jobs in flight, whether what is in force lets them be."""
    reports = []
    device = loaded.device
    for task in tasks:
        if task.buffers == 1:
            continue
        reason = ""
        if depth < task.buffers and loaded.gates is None:
            reason = f"a depth of {depth} uses {depth} at most; "
            if device.max_depth < task.buffers:
                reason += f"device {device.name!r} allows a depth of {device.max_depth}"
            else:
                reason += f"give the task set depth = {task.buffers}"
        reports.append(
            OptionReport(
                name=f"buffers of task {task.name}",
                requested=str(task.buffers),
                applied=not reason,
                reason=reason,
            )
        )
    return tuple(reports)
