import errno
import gc
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from preempt_runtime.process import (
    LinuxCalls,
    OptionReport,
    ProcessOptions,
    apply_memory,
    apply_scheduling,
)

ALL = ProcessOptions(sched_fifo=40, affinity=(1, 0), mlock=True)


@dataclass
class FakeCalls:
    """A system that allows everything but what is listed in `refused`, and notes each call."""

    refused: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def _note(self, name: str, text: str) -> None:
        self.log.append(text)
        if name in self.refused:
            code = self.refused[name]
            raise OSError(code, os.strerror(code))

    def scheduler(self) -> tuple[int, int]:
        return os.SCHED_OTHER, 0

    def set_scheduler(self, policy: int, priority: int) -> None:
        self._note("scheduler", f"scheduler {policy} {priority}")

    def affinity(self) -> set[int]:
        return {0, 1, 2}

    def set_affinity(self, cores: set[int]) -> None:
        self._note("affinity", f"affinity {sorted(cores)}")

    def lock_memory(self) -> None:
        self._note("mlock", "lock")

    def unlock_memory(self) -> None:
        self._note("munlock", "unlock")


def test_scheduling_is_applied_and_put_back() -> None:
    calls = FakeCalls()
    with apply_scheduling(ALL, calls) as reports:
        assert reports == (
            OptionReport(name="affinity", requested="1,0", applied=True, reason=""),
            OptionReport(name="sched_fifo", requested="40", applied=True, reason=""),
        )
        assert calls.log == ["affinity [0, 1]", f"scheduler {os.SCHED_FIFO} 40"]
        calls.log.clear()
    assert calls.log == [f"scheduler {os.SCHED_OTHER} 0", "affinity [0, 1, 2]"]


def test_memory_is_applied_and_put_back() -> None:
    calls = FakeCalls()
    frozen_before = gc.get_freeze_count()
    with apply_memory(ALL, calls) as reports:
        assert reports == (OptionReport(name="mlock", requested="yes", applied=True, reason=""),)
        assert calls.log == ["lock"]
        assert gc.get_freeze_count() > frozen_before
    assert calls.log == ["lock", "unlock"]
    assert gc.get_freeze_count() == 0


def test_what_a_run_keeps_is_collected_in_short_steps() -> None:
    before, found, kept = gc.get_threshold(), [], []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop":
            found.append(info["generation"])

    with apply_memory(ProcessOptions(), FakeCalls()):
        gc.callbacks.append(note)
        try:
            kept = [[each] for each in range(100_000)]
        finally:
            gc.callbacks.remove(note)
    assert set(found) == {0, 1}
    assert found.count(1) >= len(found) // 3  # none looks at more than three times 700 objects
    assert len(kept) == 100_000
    assert gc.get_threshold() == before


def test_nothing_asked_is_nothing_done() -> None:
    calls = FakeCalls()
    nothing = ProcessOptions()
    with apply_scheduling(nothing, calls) as first, apply_memory(nothing, calls) as second:
        assert (first, second) == ((), ())
    assert calls.log == []


def test_refusals_are_reported_with_what_would_allow_them() -> None:
    calls = FakeCalls(
        refused={"scheduler": errno.EPERM, "affinity": errno.EINVAL, "mlock": errno.ENOMEM}
    )
    with apply_scheduling(ALL, calls) as scheduling, apply_memory(ALL, calls) as memory:
        reports = {report.name: report for report in (*scheduling, *memory)}
    assert {name for name, report in reports.items() if report.applied} == set()
    assert reports["affinity"].reason == (
        "Invalid argument; name cores that this process may use (see `preempt-rt doctor`)"
    )
    assert reports["sched_fifo"].reason == (
        "Operation not permitted; needs CAP_SYS_NICE, or `ulimit -r 40` (rtprio in limits.conf)"
    )
    assert reports["mlock"].reason == (
        "Cannot allocate memory; needs CAP_IPC_LOCK, or `ulimit -l unlimited`"
        " (memlock in limits.conf)"
    )
    # What was not applied is not put back.
    assert calls.log == ["affinity [0, 1]", f"scheduler {os.SCHED_FIFO} 40", "lock"]


def test_a_system_without_the_call_is_a_refusal_too() -> None:
    class Elsewhere(FakeCalls):
        def scheduler(self) -> tuple[int, int]:
            raise AttributeError("module 'os' has no attribute 'sched_getscheduler'")

    with apply_scheduling(ProcessOptions(sched_fifo=5), Elsewhere()) as (report,):
        assert (report.applied, report.reason) == (False, "this system does not have it")


def test_what_cannot_be_put_back_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    calls = FakeCalls()
    with caplog.at_level(logging.WARNING), apply_memory(ProcessOptions(mlock=True), calls):
        calls.refused["munlock"] = errno.EPERM
    assert caplog.messages == ["mlock could not be put back: Operation not permitted"]


def test_an_error_inside_still_puts_everything_back() -> None:
    calls = FakeCalls()
    with pytest.raises(KeyboardInterrupt), apply_scheduling(ALL, calls):
        raise KeyboardInterrupt
    assert calls.log[-1] == "affinity [0, 1, 2]"


def test_affinity_of_this_machine_is_set_and_put_back() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    with apply_scheduling(ProcessOptions(affinity=(core,)), LinuxCalls()) as (report,):
        assert (report.applied, os.sched_getaffinity(0)) == (True, {core})
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("cores", [(4096,), (-1,), (10**12,)])
def test_cores_that_do_not_exist_are_a_refusal(cores: tuple[int, ...]) -> None:
    with apply_scheduling(ProcessOptions(affinity=cores)) as (report,):
        assert not report.applied
        assert report.reason.endswith(
            "; name cores that this process may use (see `preempt-rt doctor`)"
        )


def test_a_priority_that_does_not_exist_is_a_refusal() -> None:
    with apply_scheduling(ProcessOptions(sched_fifo=1000)) as (report,):
        assert not report.applied


LOCK_PROGRAM = """
import resource
from preempt_runtime.process import ProcessOptions, apply_memory

def locked_kb():
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmLck"))

with apply_memory(ProcessOptions(mlock=True)) as (report,):
    assert report.applied == (locked_kb() > 0), report
    assert report.applied or "CAP_IPC_LOCK" in report.reason, report
assert locked_kb() == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_locked_in_a_process_of_its_own() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", LOCK_PROGRAM], check=True, env=environment, timeout=60)
