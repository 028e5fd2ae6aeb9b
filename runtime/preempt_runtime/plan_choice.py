"""Which plan of a bundle tells what its jobs cost where nothing is run: to simulate, to analyse."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from preempt_runtime.bundle import Bundle
from preempt_runtime.errors import BundleError
from preempt_runtime.manifest import SEGMENTS, Manifest, PlanSpec
from preempt_runtime.strict_json import brief

_CPU_BACKEND = "ort"
_MACHINE_FIELDS = ("gpu", "cpu_model")


def plan_with_costs(
    bundle: Bundle,
    plan_id: str | None,
    threads: int | None,
    mechanisms: Sequence[str] = (SEGMENTS,),
) -> PlanSpec:
    """The named plan, or the first measured one, or else the first.

    The plan's key need not be this machine's: nothing is run. A plan whose key has another number
    of threads than asked is left out, as are plans of none of these mechanisms. Of several
    mechanisms plans of the first are preferred.

    Raises:
        BundleError: no plan is left, or the named one is of another mechanism.
    """
    manifest = bundle.manifest
    plans = [
        plan
        for plan in manifest.plans
        if (plan.mechanism in mechanisms if plan_id is None else plan.id == plan_id)
        and (threads is None or _key_fields(manifest, plan).get("threads", threads) == threads)
    ]
    if not plans:
        held = ", ".join(
            f"{brief(plan.id)} ({plan.mechanism}, threads:"
            f" {_key_fields(manifest, plan).get('threads', 'any')})"
            for plan in manifest.plans
        )
        asked = "plan" if plan_id is None else f"plan {brief(plan_id)}"
        mechanisms_held = {plan.mechanism for plan in manifest.plans}
        if plan_id is None and held and mechanisms_held.isdisjoint(mechanisms):
            asked += f" of {' or '.join(mechanisms)}"
        of_threads = "" if threads is None else f" for {threads} threads"
        advice = "name one of these" if held else "compile its model again"
        raise BundleError(
            f"{bundle.root}: no {asked}{of_threads}, it holds {held or 'none'}; {advice}"
        )
    for plan in plans:
        if plan.mechanism not in mechanisms:
            raise BundleError(
                f"{bundle.root}: plan {brief(plan.id)} is a plan of {plan.mechanism}, asked for:"
                f' {" or ".join(mechanisms)}; set mechanism = "{plan.mechanism}" in the task set,'
                " or name another plan"
            )
    plans.sort(key=lambda plan: mechanisms.index(plan.mechanism))
    return next(filter(is_measured, plans), plans[0])


def is_measured(plan: PlanSpec) -> bool:
    """Whether the time of every segment was measured; a manifest's reader checks that it was."""
    return plan.source == "measured"


def machine_of(manifest: Manifest, plan: PlanSpec) -> str | None:
    """What a plan was made for, as far as its key says so."""
    fields = _key_fields(manifest, plan)
    return next((str(fields[name]) for name in _MACHINE_FIELDS if name in fields), None)


def device_difference(devices: Mapping[str, tuple[str, str | None]]) -> str | None:
    """Which tasks' networks are for different devices, as one line; None where they are for one.

    Args:
        devices: the target and, where a plan's key says so, the machine of each task's network.

    >>> device_difference({"a": ("cpu", None), "b": ("cpu", "Intel"), "c": ("orin", None)})
    "task 'a' is for cpu, task 'c' for orin: a run has one device, compile them for the same target"
    """
    for one, other in combinations(devices, 2):
        (target, machine), (others_target, others_machine) = devices[one], devices[other]
        if machine is None or others_machine is None:
            is_same = target == others_target
        else:
            is_same = machine == others_machine
        if not is_same:
            return (
                f"task {one!r} is for {_device_text(target, machine)}, task {other!r} for"
                f" {_device_text(others_target, others_machine)}: a run has one device, compile"
                " them for the same target"
            )
    return None


def _device_text(target: str, machine: str | None) -> str:
    return target if machine is None else f"{target} ({machine})"


def is_for_cpu(manifest: Manifest, plan: PlanSpec) -> bool:
    """Whether a plan's key says so: such a device runs one segment at a time, without gates."""
    return _key_fields(manifest, plan).get("backend") == _CPU_BACKEND


def _key_fields(manifest: Manifest, plan: PlanSpec) -> Mapping[str, str | int]:
    return {} if plan.key is None else manifest.keys[plan.key]
