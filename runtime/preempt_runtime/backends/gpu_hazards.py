"""What would make a run's bounds false, cheap enough to ask before every run."""

from preempt_runtime.backends.cuda_driver import pci_bus_id
from preempt_runtime.backends.gpu_clocks import clocks_now
from preempt_runtime.backends.gpu_probe import processes_now
from preempt_runtime.backends.nvml import Nvml, open_nvml
from preempt_runtime.errors import DeviceError
from preempt_runtime.gpu_users import other_processes, other_users
from preempt_runtime.gpu_view import NOT_THROTTLED
from preempt_runtime.system_view import SystemView, view_this_machine
from preempt_runtime.unknown import Unknown


def hazards(*, is_warm: bool, view: SystemView | None = None) -> tuple[str, ...]:
    """Other users of the GPU, and once this process has warmed it up, throttled clocks.

    What cannot be told is no hazard here; `preempt-rt doctor` names it.
    """
    view = view or view_this_machine()
    try:
        address: str | Unknown = pci_bus_id()
    except DeviceError as err:
        address = Unknown(str(err))
    with open_nvml(address) as nvml:
        return _throttling(nvml, view) if is_warm else _others(nvml, view)


def _others(nvml: Nvml | Unknown, view: SystemView) -> tuple[str, ...]:
    processes, _ = processes_now(nvml)
    others = other_processes(view, processes)
    if isinstance(others, Unknown):
        users = other_users(view).names
        others = tuple(f"{name} (pid {pid})" for pid, name in users.items())
    if not others:
        return ()
    return (f"other processes use the GPU, and bounds leave no room for them: {'; '.join(others)}",)


def _throttling(nvml: Nvml | Unknown, view: SystemView) -> tuple[str, ...]:
    found = clocks_now(nvml, view.root).throttling
    if isinstance(found, Unknown) or found == NOT_THROTTLED:
        return ()
    return (f"the GPU's clocks are throttled ({found}): segments may take longer than measured",)
