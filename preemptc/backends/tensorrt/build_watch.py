"""Signs of life of one build, and the way to stop it.

TensorRT 10 tells its phases to a progress monitor and stops where that says so. TensorRT 8.6 has
none: there the newest line of the log says which layer is being timed, and nothing stops it.
"""

import re
import time
from typing import Any

from preemptc.backends import Progress

_QUICK_S, _SLOW_S = 2.0, 5.0
_PATIENT_AFTER_S = 20.0
_TIMING = re.compile(r"Timing Runner: (.{1,200}?) \(\w+")
_MAX_NAME = 60


class BuildWatch:
    """What a build tells while it goes on.

    Args:
        what: what is built, as the user is told it.
        frac: how much of the work is done before this build; 0 if that is not known.
        progress: where it is told.
    """

    def __init__(self, what: str, frac: float, progress: Progress) -> None:
        self._what, self._frac, self._progress = what, frac, progress
        self._begin_s = self._told_s = time.monotonic()
        self._phases: dict[str, list[int]] = {}  # open phases, inner ones last: [steps done, steps]
        self.is_stopped = False
        progress(what, frac)

    def stop(self) -> None:
        """Ask TensorRT to end early, which it does at the next step of a phase."""
        self.is_stopped = True

    def tick(self, newest: str) -> None:
        """Tell that the build goes on, every few seconds.

        Args:
            newest: TensorRT's newest message.
        """
        now_s = time.monotonic()
        elapsed_s = now_s - self._begin_s
        pause_s = _QUICK_S if elapsed_s < _PATIENT_AFTER_S else _SLOW_S
        if now_s - self._told_s < pause_s:
            return
        self._told_s = now_s
        self._progress(f"{self._what}: {elapsed_s:.0f} s{self._detail(newest)}", self._frac)

    def _detail(self, newest: str) -> str:
        for name, (done, num_steps) in reversed(tuple(self._phases.items())):
            if num_steps > 0:
                return f", {_short(name)} {min(done, num_steps)} of {num_steps}"
        found = _TIMING.search(newest)
        return f", timing {_short(found[1])}" if found else ""

    def begin_phase(self, name: str, num_steps: int) -> None:
        """A phase of the build has begun."""
        self._phases[name] = [0, num_steps]

    def complete_step(self, name: str, step: int) -> bool:
        """Note the step; False asks TensorRT to stop."""
        phase = self._phases.get(name)
        if phase is not None:
            phase[0] = step + 1
        return not self.is_stopped

    def end_phase(self, name: str) -> None:
        """A phase of the build has ended."""
        self._phases.pop(name, None)


def progress_monitor(trt: Any, watch: BuildWatch) -> Any:
    """An `IProgressMonitor` that tells the watch; TensorRT calls it from several threads."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes on what TensorRT says."""

        def __init__(self) -> None:
            super().__init__()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Take the beginning of a phase."""
            watch.begin_phase(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Take a step; say whether to go on."""
            return watch.complete_step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            """Take the end of a phase."""
            watch.end_phase(phase_name)

    return Monitor()


def _short(name: str) -> str:
    """A name that fits a line.

    >>> _short("conv1 + relu1"), len(_short("x" * 500))
    ('conv1 + relu1', 60)
    """
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."
