"""Clocks and power state of the GPU now: what a measured time depends on."""

from pathlib import Path

from preempt_runtime.backends.cuda_driver import pci_bus_id
from preempt_runtime.backends.nvml import MEMORY_DOMAIN, SM_DOMAIN, Nvml, open_nvml
from preempt_runtime.errors import DeviceError
from preempt_runtime.gpu_view import (
    MAX_MEMORY_CLOCK,
    MAX_SM_CLOCK,
    MEMORY_CLOCK,
    NOT_THROTTLED,
    PERSISTENCE,
    POWER_LIMIT,
    SM_CLOCK,
    THROTTLING,
    GpuClocks,
)
from preempt_runtime.tegra import is_tegra, tegra_clocks
from preempt_runtime.unknown import Unknown

# Bits of nvmlClocksEventReason...: what slows a GPU that has work, not idleness (0x1) and not the
# clocks that an administrator has set (0x2).
_REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "temperature",
    0x40: "temperature (hardware)",
    0x80: "power brake",
    0x100: "display clock",
}


def clock_fields(root: Path = Path("/")) -> dict[str, str | int]:
    """Clocks and power state now, in the names of a profile's `machine`, as far as known.

    Ask while the GPU is at work: an idle one is clocked down.
    """
    try:
        address: str | Unknown = pci_bus_id()
    except DeviceError as err:
        address = Unknown(str(err))
    with open_nvml(address) as nvml:
        return dict(clocks_now(nvml, root).fields)


def clocks_now(nvml: Nvml | Unknown, root: Path) -> GpuClocks:
    """Clocks and power state now; on a Jetson what NVML does not know comes from files."""
    found = _nvml_clocks(nvml)
    if not is_tegra(root):
        return found
    files = tegra_clocks(root)
    fields = {**files.fields, **found.fields}
    unknown = {**found.unknown, **files.unknown}
    return GpuClocks(
        fields=fields, unknown={name: why for name, why in unknown.items() if name not in fields}
    )


def _nvml_clocks(nvml: Nvml | Unknown) -> GpuClocks:
    names = (
        *(SM_CLOCK, MEMORY_CLOCK, MAX_SM_CLOCK, MAX_MEMORY_CLOCK),
        *(POWER_LIMIT, PERSISTENCE, THROTTLING),
    )
    if isinstance(nvml, Unknown):
        return GpuClocks(fields={}, unknown=dict.fromkeys(names, nvml.reason))
    reasons = nvml.number("CurrentClocksEventReasons", "CurrentClocksThrottleReasons")
    persistence = nvml.ask("PersistenceMode")
    values = (
        nvml.number("ClockInfo", args=(SM_DOMAIN,)),
        nvml.number("ClockInfo", args=(MEMORY_DOMAIN,)),
        nvml.number("MaxClockInfo", args=(SM_DOMAIN,)),
        nvml.number("MaxClockInfo", args=(MEMORY_DOMAIN,)),
        nvml.number("EnforcedPowerLimit", "PowerManagementLimit"),
        persistence if isinstance(persistence, Unknown) else ("off", "on")[bool(persistence)],
        reasons if isinstance(reasons, Unknown) else _text_of_reasons(reasons),
    )
    found = dict(zip(names, values, strict=True))
    return GpuClocks(
        fields={name: value for name, value in found.items() if not isinstance(value, Unknown)},
        unknown={name: why.reason for name, why in found.items() if isinstance(why, Unknown)},
    )


def _text_of_reasons(bits: int) -> str:
    return ", ".join(text for bit, text in _REASONS.items() if bits & bit) or NOT_THROTTLED
