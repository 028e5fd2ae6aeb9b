"""Options of the process that make its timing steadier; each is tried, and reported if refused.

None of them is needed to be correct, so none of them raises: a run goes on without, and its
report says which options were in force. Everything is put back on exit.
"""

import contextlib
import ctypes
import gc
import logging
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

_MCL_CURRENT, _MCL_FUTURE = 1, 2
_GC_THRESHOLDS = 700, 1, 1000
"""What outlives two collections is looked at again when there are 2.1 million more objects."""
_LOGGER = logging.getLogger(__name__)

_FIFO_ADVICE = "needs CAP_SYS_NICE, or `ulimit -r {priority}` (rtprio in limits.conf)"
_MLOCK_ADVICE = "needs CAP_IPC_LOCK, or `ulimit -l unlimited` (memlock in limits.conf)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """What to ask of the operating system and the interpreter; the default asks nothing.

    `sched_fifo` is a real-time priority, 1 to 99, `affinity` the cores to stay on.
    """

    sched_fifo: int | None = None
    affinity: tuple[int, ...] | None = None
    mlock: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionReport:
    """What became of one option: `reason` says what was refused and what would allow it."""

    name: str
    requested: str
    applied: bool
    reason: str


class OsCalls(Protocol):
    """The calls behind the options; each raises OSError with the system's reason."""

    def scheduler(self) -> tuple[int, int]:
        """Policy and priority of the calling thread."""
        ...

    def set_scheduler(self, policy: int, priority: int) -> None:
        """Set policy and priority of the calling thread."""
        ...

    def affinity(self) -> set[int]:
        """Cores that the calling thread may use."""
        ...

    def set_affinity(self, cores: set[int]) -> None:
        """Keep the calling thread on these cores."""
        ...

    def lock_memory(self) -> None:
        """Keep the process's memory resident."""
        ...

    def unlock_memory(self) -> None:
        """Let the process's memory be swapped again."""
        ...


class LinuxCalls:
    """The real calls. Threads that are created later inherit policy and cores."""

    def scheduler(self) -> tuple[int, int]:
        """Policy and priority of the calling thread."""
        return os.sched_getscheduler(0), os.sched_getparam(0).sched_priority

    def set_scheduler(self, policy: int, priority: int) -> None:
        """Set policy and priority of the calling thread."""
        os.sched_setscheduler(0, policy, os.sched_param(priority))

    def affinity(self) -> set[int]:
        """Cores that the calling thread may use."""
        return os.sched_getaffinity(0)

    def set_affinity(self, cores: set[int]) -> None:
        """Keep the calling thread on these cores."""
        os.sched_setaffinity(0, cores)

    def lock_memory(self) -> None:
        """Lock what is mapped; what will be mapped only where no limit could then refuse it."""
        limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        flags = _MCL_CURRENT | (_MCL_FUTURE if limit == resource.RLIM_INFINITY else 0)
        _call_libc("mlockall", flags)

    def unlock_memory(self) -> None:
        """Unlock everything."""
        _call_libc("munlockall")


@contextlib.contextmanager
def apply_scheduling(
    options: ProcessOptions, calls: OsCalls | None = None
) -> Iterator[tuple[OptionReport, ...]]:
    """Cores and real-time priority for the calling thread, put back on exit.

    Enter it in the dispatcher's thread before a device is opened: the threads that the device
    creates inherit both.
    """
    calls = calls or LinuxCalls()
    reports = []
    with contextlib.ExitStack() as undo:
        if (cores := options.affinity) is not None:
            advice = "name cores that this process may use (see `preempt-rt doctor`)"
            requested = ",".join(map(str, cores))
            reports.append(
                _report("affinity", requested, advice, lambda: _set_affinity(calls, undo, cores))
            )
        if (priority := options.sched_fifo) is not None:
            advice = _FIFO_ADVICE.format(priority=priority)
            reports.append(
                _report(
                    "sched_fifo", str(priority), advice, lambda: _set_fifo(calls, undo, priority)
                )
            )
        yield tuple(reports)


@contextlib.contextmanager
def apply_memory(
    options: ProcessOptions, calls: OsCalls | None = None
) -> Iterator[tuple[OptionReport, ...]]:
    """Resident memory, and short garbage collections, undone on exit.

    A full collection looks at everything that is loaded, and stops all threads meanwhile: 4 ms in a
    process that has loaded ONNX Runtime, 10 ms beside the compiler (x86-64, Python 3.11,
    2026-11-26). So what is loaded is left out, and what a run makes and keeps, such as its records,
    is seldom looked at: while 900,000 objects come to be, Python's own thresholds stop all threads
    for up to 37 ms, these for up to 0.15 ms (same machine, 2026-11-27). Enter it when everything is
    loaded and warm, just before the run.
    """
    calls = calls or LinuxCalls()
    reports = []
    with contextlib.ExitStack() as undo:
        gc.collect()
        gc.freeze()
        undo.callback(gc.unfreeze)
        undo.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(*_GC_THRESHOLDS)
        if options.mlock:
            reports.append(
                _report("mlock", "yes", _MLOCK_ADVICE, lambda: _lock_memory(calls, undo))
            )
        yield tuple(reports)


def _set_affinity(calls: OsCalls, undo: contextlib.ExitStack, cores: tuple[int, ...]) -> None:
    before = calls.affinity()
    calls.set_affinity(set(cores))
    undo.callback(_restore, "affinity", lambda: calls.set_affinity(before))


def _set_fifo(calls: OsCalls, undo: contextlib.ExitStack, priority: int) -> None:
    policy_before, priority_before = calls.scheduler()
    calls.set_scheduler(os.SCHED_FIFO, priority)
    undo.callback(
        _restore, "sched_fifo", lambda: calls.set_scheduler(policy_before, priority_before)
    )


def _lock_memory(calls: OsCalls, undo: contextlib.ExitStack) -> None:
    calls.lock_memory()
    undo.callback(_restore, "mlock", calls.unlock_memory)


def _report(name: str, requested: str, advice: str, apply: Callable[[], None]) -> OptionReport:
    try:
        apply()
    except (OSError, ValueError, OverflowError) as err:
        text = err.strerror if isinstance(err, OSError) and err.strerror else str(err)
        return OptionReport(
            name=name, requested=requested, applied=False, reason=f"{text}; {advice}"
        )
    except AttributeError:
        return OptionReport(
            name=name, requested=requested, applied=False, reason="this system does not have it"
        )
    return OptionReport(name=name, requested=requested, applied=True, reason="")


def _restore(name: str, undo: Callable[[], None]) -> None:
    try:
        undo()
    except OSError as err:
        _LOGGER.warning("%s could not be put back: %s", name, err.strerror)


def _call_libc(function: str, *args: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*args) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
