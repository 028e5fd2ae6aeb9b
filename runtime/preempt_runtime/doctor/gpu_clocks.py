"""Clocks and power: whether they stay, and whether they are those that bundles were measured at."""

from collections.abc import Mapping

from preempt_runtime.bundle import Bundle
from preempt_runtime.doctor.findings import Finding, Subject, cannot_tell
from preempt_runtime.errors import BundleError
from preempt_runtime.gpu_view import (
    HIGHEST_CLOCK,
    LOWEST_CLOCK,
    MEMORY_CLOCK,
    NOT_THROTTLED,
    PERSISTENCE,
    POWER_LIMIT,
    POWER_MODE,
    SM_CLOCK,
    GpuClocks,
    GpuProbe,
    GpuView,
)
from preempt_runtime.manifest import MAX_PROFILE_BYTES, PROFILE_NAME
from preempt_runtime.strict_json import Place, document_from_json
from preempt_runtime.tegra import is_tegra, over_current_events
from preempt_runtime.unknown import Unknown

_MAX_TEXT = 100  # of a clock or the name of a power mode
_SAME_FRAC = 0.02  # clocks move in steps of 7 to 15 MHz
_WATCHED = {
    SM_CLOCK: ("SM clock", "MHz", 1),
    MEMORY_CLOCK: ("memory clock", "MHz", 1),
    HIGHEST_CLOCK: ("highest clock", "MHz", 1),
    POWER_LIMIT: ("power limit", "W", 1000),
    POWER_MODE: ("power mode", "", 1),
    PERSISTENCE: ("persistence mode", "", 1),
}
_COOL = {
    True: "cool it, or choose a power mode that it can keep: `sudo nvpmodel -m MODE`",
    False: "cool it, or lower the clocks to what it can keep: `sudo nvidia-smi -lgc MHZ`",
}


def check_clocks(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Whether the clocks are locked: by their limits on a Jetson, by what load does elsewhere."""
    what = "GPU clocks"
    if isinstance(gpu.busy, Unknown):
        return [cannot_tell(what, gpu.busy)]
    busy_mhz, idle_mhz = gpu.busy.mhz(SM_CLOCK), gpu.idle.mhz(SM_CLOCK)
    mode = gpu.busy.fields.get(POWER_MODE)
    suffix = "" if mode is None else f", power mode {mode}"
    lowest_mhz, highest_mhz = gpu.busy.mhz(LOWEST_CLOCK), gpu.busy.mhz(HIGHEST_CLOCK)
    if lowest_mhz is not None and highest_mhz is not None:
        is_locked = lowest_mhz == highest_mhz
        found = (
            f"locked at {highest_mhz} MHz"
            if is_locked
            else (f"between {lowest_mhz} and {highest_mhz} MHz, {busy_mhz} under load")
        )
        advice = "choose a mode (`nvpmodel -q` shows it), then: sudo jetson_clocks"
    elif busy_mhz is not None and idle_mhz is not None:
        is_locked = abs(busy_mhz - idle_mhz) <= _SAME_FRAC * busy_mhz
        found = f"SM {busy_mhz} MHz under load, {idle_mhz} idle"
        wanted = _measured_clock(subject) or busy_mhz
        which = "" if isinstance(gpu.pci_bus_id, Unknown) else f" -i {gpu.pci_bus_id}"
        advice = (
            f"they follow load and heat; lock them: sudo nvidia-smi{which} -lgc {wanted},{wanted}"
        )
    else:
        return [cannot_tell(what, Unknown(gpu.busy.unknown.get(SM_CLOCK, "nothing tells it")))]
    return [
        Finding(
            level="ok" if is_locked else "warn",
            what=what,
            found=f"{found}{suffix}",
            advice="" if is_locked else advice,
        )
    ]


def check_throttling(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """What slows the clocks now: heat, power, the supply."""
    what = "GPU throttling"
    states = [gpu.idle.throttling]
    states += [] if isinstance(gpu.busy, Unknown) else [gpu.busy.throttling]
    known = [state for state in states if not isinstance(state, Unknown)]
    events = {n: c for n, c in over_current_events(subject.view.root).items() if c}
    active = sorted({state for state in known if state != NOT_THROTTLED})
    texts = list(active)
    if events:
        counts = ", ".join(f"{name} {count}" for name, count in events.items())
        texts.append(f"over-current events since boot: {counts}")
    if texts:
        is_jetson = is_tegra(subject.view.root)
        advice = _COOL[is_jetson] if active else "see whether they grow during a run"
        return [Finding(level="warn", what=what, found="; ".join(texts), advice=advice)]
    if not known:
        unknown = next(state for state in states if isinstance(state, Unknown))
        return [cannot_tell(what, unknown)]
    return [Finding(level="ok", what=what, found="none at the moment")]


def check_profiles(subject: Subject, probe: GpuProbe, gpu: GpuView) -> list[Finding]:
    """Each bundle's clocks when it was measured against those of now."""
    bundles = {asked.bundle.root: asked.bundle for asked, _ in subject.named_plans("tensorrt")}
    return [_check_profile(bundle, gpu) for bundle in bundles.values()]


def _check_profile(bundle: Bundle, gpu: GpuView) -> Finding:
    what = f"clocks of {bundle.root.name}"
    then = recorded_clocks(bundle)
    if isinstance(then, Unknown):
        return cannot_tell(what, then)
    if isinstance(gpu.busy, Unknown):
        return cannot_tell(what, gpu.busy)
    same: list[str] = []
    slower: list[str] = []
    for name, text, is_worse in _compare(then, gpu.busy):
        (slower if is_worse else same).append(text if is_worse else name)
    if slower:
        return Finding(
            level="warn",
            what=what,
            found="; ".join(slower),
            advice="set them as they were, or measure here and now: preemptc build",
        )
    if not same:
        return cannot_tell(what, Unknown("none that the bundle holds can be read here"))
    return Finding(
        level="ok", what=what, found=f"no lower than when it was measured: {', '.join(same)}"
    )


def _compare(then: Mapping[str, str | int | float], now: GpuClocks) -> list[tuple[str, str, bool]]:
    """Name, text and whether times may be longer, of each field that both know."""
    found = []
    for field, (name, unit, scale) in _WATCHED.items():
        old, new = then.get(field), now.fields.get(field)
        if old is None or new is None:
            continue
        if isinstance(old, str) or isinstance(new, str):
            found.append((name, f"{name} {new}, measured with {old}", str(old) != str(new)))
            continue
        text = f"{name} {new // scale} {unit}, measured at {round(old / scale)} {unit}"
        found.append((name, text, new < (1 - _SAME_FRAC) * old))
    return found


def _measured_clock(subject: Subject) -> int | None:
    """The SM clock that the first bundle was measured at, if it holds one."""
    for asked, _ in subject.named_plans("tensorrt"):
        then = recorded_clocks(asked.bundle)
        if not isinstance(then, Unknown) and isinstance(clock := then.get(SM_CLOCK), int):
            return clock
    return None


def recorded_clocks(bundle: Bundle) -> Mapping[str, str | int | float] | Unknown:
    """Clock fields that a bundle's profile holds, by which its times were measured."""
    if all(artefact.path != PROFILE_NAME for artefact in bundle.manifest.artefacts):
        return Unknown("the bundle holds no profile")
    where = str(bundle.root / PROFILE_NAME)
    place = Place(where=where, todo="compile the bundle again", error=BundleError)
    try:
        text = bundle.read_bytes(PROFILE_NAME)
        document = document_from_json(text, place, max_bytes=MAX_PROFILE_BYTES)
    except BundleError as err:
        return Unknown(str(err))
    machine = document.get("machine") if isinstance(document, dict) else None
    fields = {
        name: value
        for name, value in (machine.items() if isinstance(machine, dict) else ())
        if name in _WATCHED and isinstance(value, str | int | float) and len(str(value)) < _MAX_TEXT
    }
    if not fields:
        return Unknown("its profile holds no clocks; measure it again: preemptc build")
    return fields
