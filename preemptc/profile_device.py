"""Which device a profile is of, against the one that a target is."""

from collections.abc import Mapping

from preempt_runtime.strict_json import brief
from preemptc.gpu_specs import GpuSpec
from preemptc.model import Lowered
from preemptc.profile import LatencyProfile
from preemptc.targets import TARGETS, matching_gpus

_HERE = (
    *("backend", "arch", "cpu_model", "isa", "threads"),
    *("gpu", "num_sms", "compute_capability"),
)  # what decides how fast nodes are, of a KEY's fields; another version of a library may be as fast

_WORDS = {"threads": "--threads"}
_OPTIONS = {"precision": "--precision", "level": "--opt-level"}


def other_device(profile: LatencyProfile, lowered: Lowered) -> str | None:
    """What was found against what is expected, where the profile is of another device.

    A target that is here expects this machine, a named GPU elsewhere one of its compute
    capability and number of SMs. None where they are the same, or the profile does not tell.
    """
    spec = TARGETS[lowered.target].gpu
    if lowered.key is None and spec is not None:
        return _other_gpu(profile, spec)
    named = {"gpu"} if profile.source == "estimated" else set()  # by its data sheet's title
    different = [
        f"found {_WORDS.get(name, name)} {brief(profile.machine[name])}, expected {brief(expected)}"
        for name, expected in lowered.key_fields.items()
        if name in _HERE and name not in named and profile.machine.get(name, expected) != expected
    ]
    return ", ".join(different) or None


def other_options(profile: LatencyProfile, lowered: Lowered) -> str | None:
    """What was found against what is asked for, where the profile is of an engine built otherwise.

    None where they are the same, or the profile does not tell; an estimate tells its precision.
    """
    expected = _options(lowered.key_fields)
    found = {
        **{name: value for name, value in profile.machine.items() if name in _OPTIONS},
        **_options(profile.machine),
    }
    different = [
        f"found {_OPTIONS[name]} {brief(found[name])}, asked for {brief(value)}"
        for name, value in expected.items()
        if name in _OPTIONS and found.get(name, value) != value
    ]
    return ", ".join(different) or None


def _options(fields: Mapping[str, str | int | float]) -> dict[str, str]:
    """Such as `precision=fp16 level=3` of a KEY."""
    pairs = (option.partition("=") for option in str(fields.get("options", "")).split())
    return {name: value for name, _, value in pairs}


def _other_gpu(profile: LatencyProfile, spec: GpuSpec) -> str | None:
    fields = {
        name: value for name, value in profile.machine.items() if not isinstance(value, float)
    }
    known = [target.gpu for target in TARGETS.values() if target.gpu is not None]
    if fields.get("backend") == "ort":
        found = f"the CPU {brief(fields.get('cpu_model'))}"
    elif "compute_capability" not in fields or spec in matching_gpus(fields, known):
        return None
    else:
        found = _gpu(fields.get("gpu"), fields["compute_capability"], fields.get("num_sms"))
    return f"found {found}, expected {_gpu(spec.title, spec.compute_capability, spec.num_sms)}"


def _gpu(name: object, compute_capability: object, num_sms: object) -> str:
    return f"{name} (compute capability {compute_capability}, {num_sms} SMs)"
