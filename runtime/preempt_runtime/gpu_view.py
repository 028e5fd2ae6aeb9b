"""What is known of the GPU before a run: values, or why they are unknown.

Nothing here needs a library; `preempt_runtime.backends.gpu_probe` finds the values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from preempt_runtime.bundle import Bundle
from preempt_runtime.manifest import PlanSpec
from preempt_runtime.unknown import Unknown

if TYPE_CHECKING:
    from preempt_runtime.backends.cuda_driver import GpuProperties

SM_CLOCK = "gpu_sm_clock_mhz"
MEMORY_CLOCK = "gpu_memory_clock_mhz"
MAX_SM_CLOCK = "gpu_max_sm_clock_mhz"
MAX_MEMORY_CLOCK = "gpu_max_memory_clock_mhz"
LOWEST_CLOCK = "gpu_lowest_clock_mhz"
HIGHEST_CLOCK = "gpu_highest_clock_mhz"
POWER_LIMIT = "gpu_power_limit_mw"
PERSISTENCE = "gpu_persistence"
POWER_MODE = "power_mode"
THROTTLING = "gpu_throttling"
"""Names of clock fields, in `GpuClocks.fields` and in a profile's `machine`."""

NOT_THROTTLED = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClocks:
    """Clocks and power state at one moment; a field that is not known is left out.

    `LOWEST_CLOCK` and `HIGHEST_CLOCK` are the limits within which a Jetson's governor moves,
    `POWER_MODE` is its nvpmodel mode. `unknown` says of what was left out why.
    """

    fields: Mapping[str, str | int]
    unknown: Mapping[str, str] = field(default_factory=dict)

    def mhz(self, name: str) -> int | None:
        """A clock; None if it is not known."""
        found = self.fields.get(name)
        return found if isinstance(found, int) else None

    @property
    def throttling(self) -> str | Unknown:
        """What slows the clocks at the moment, `NOT_THROTTLED` if nothing does."""
        if THROTTLING in self.fields:
            return str(self.fields[THROTTLING])
        return Unknown(self.unknown.get(THROTTLING, "nothing tells it"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process with a context on the GPU; `num_bytes` is its device memory, None if unknown."""

    pid: int
    kind: str
    num_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryHealth:
    """ECC now and after the next reboot, and rows whose replacement waits or has failed."""

    ecc: bool | Unknown
    pending_ecc: bool | Unknown
    is_remap_pending: bool | Unknown
    has_remap_failed: bool | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuView:
    """The GPU and its libraries, seen before this process uses it.

    `cuda_version` is the driver's: 13000 is 13.0. `compute_mode` is CUDA's number.
    `stream_priorities` are the lowest and the highest, of which the highest is the smaller number.
    `unseen_bytes` is device memory in use though no process was seen. `busy` are the clocks while
    this process kept the GPU busy, `idle` those before.
    """

    properties: GpuProperties | Unknown
    pci_bus_id: str | Unknown
    driver: str | Unknown
    cuda_version: int | Unknown
    bindings: str | Unknown
    tensorrt: str | Unknown
    compute_mode: int | Unknown
    can_preempt_compute: bool | Unknown
    has_kernel_timeout: bool | Unknown
    is_display_active: bool | Unknown
    is_mig: bool | Unknown
    health: MemoryHealth
    processes: tuple[GpuProcess, ...] | Unknown
    mps_processes: tuple[GpuProcess, ...] | Unknown
    unseen_bytes: int | Unknown
    stream_priorities: tuple[int, int] | Unknown
    free_bytes: int | Unknown
    idle: GpuClocks
    busy: GpuClocks | Unknown

    @property
    def is_integrated(self) -> bool:
        """It shares the CPU's memory, as on a Jetson."""
        return not isinstance(self.properties, Unknown) and self.properties.is_integrated


class GpuProbe(Protocol):
    """Finds out what a `GpuView` holds; a test brings its own."""

    def view(self) -> GpuView:
        """Everything; takes a moment, and a context while it lasts."""
        ...

    def scratch_bytes(self, bundle: Bundle, plan: PlanSpec) -> int | Unknown:
        """Scratch memory of a plan's engines, which are loaded one after another to ask them.

        The caller has checked that the plan was built for this machine.
        """
        ...
