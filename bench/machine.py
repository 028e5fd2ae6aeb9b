"""Where and when something was measured, and how much of the machine others had meanwhile."""

import os
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import preempt_runtime
import preemptc
from preempt_runtime.backends.ort import library_version, local_fields
from preempt_runtime.system_view import CpuTimes, SystemView, view_this_machine

_PACKAGES = ("onnx", "numpy")


class MachineWatch:
    """Looks at the machine at the start of a measurement, and again at its end."""

    def __init__(self, view: SystemView | None = None) -> None:
        self._view = view or view_this_machine()
        self._load_before = self._view.load_average()
        self._before = self._view.cpu_times()

    def describe(self) -> dict[str, Any]:
        """Processor, cores, versions, date, load at the start, share of time stolen since then.

        Steal time is what the hypervisor gave to others while this machine wanted to run; None
        where the system does not tell.
        """
        return {
            "cpu_model": local_fields()["cpu_model"],
            "isa": local_fields()["isa"],
            "cores": len(self._view.usable_cores),
            "cores_present": os.cpu_count(),
            "load_average_before": self._load_before,
            "steal_frac": steal_frac(self._before, self._view.cpu_times()),
            "python": self._view.interpreter.version,
            "preemptc": preemptc.__version__,
            "preempt_runtime": preempt_runtime.__version__,
            "onnxruntime": library_version(),  # of whichever of its wheels is installed
            **{name: version(name) for name in _PACKAGES},
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


def steal_frac(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Stolen share of all cores' time between two readings.

    >>> before = CpuTimes(total_ticks=100, steal_ticks=5)
    >>> steal_frac(before, CpuTimes(total_ticks=300, steal_ticks=6))
    0.005
    """
    if before is None or after is None or after.total_ticks <= before.total_ticks:
        return None
    stolen = after.steal_ticks - before.steal_ticks
    return round(stolen / (after.total_ticks - before.total_ticks), 5)
