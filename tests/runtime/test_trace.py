"""Traces: the text of a hand-drawn schedule, and what a viewer relies on."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from preempt_runtime.clock import VirtualClock
from preempt_runtime.errors import PreemptError
from preempt_runtime.executor import Executor
from preempt_runtime.policies import FixedPriority
from preempt_runtime.task import Task
from preempt_runtime.testing import EXAMPLE_INPUTS, FakeDevice, FakeNetwork
from preempt_runtime.trace import TraceRecorder, text_from_trace, write_trace


def record_schedule(recorder: TraceRecorder) -> None:
    """Two tasks, a preemption, a missed deadline, a skip, a cancellation, a failure and a drop."""
    clock = VirtualClock(start_ns=5_000_000)
    device = FakeDevice(clock, failures=[("captioner", 2)])
    with Executor(device, FixedPriority(), clock, [recorder]) as executor:
        executor.add_task(
            Task(
                name="detector",
                network=FakeNetwork(name="detector", segment_ns=(250_000,)),
                priority=10,
                relative_deadline_ns=400_000,
                mailbox="latest",
            )
        )
        executor.add_task(
            Task(
                name="captioner",
                network=FakeNetwork(name="captioner", segment_ns=(1_000_500, 800_000, 700_000)),
            )
        )
        executor.add_task(
            Task(
                name="planner",
                network=FakeNetwork(name="planner", segment_ns=(300_000,)),
                priority=1,
                period_ns=500_000,
                late="drop",
            )
        )
        executor.submit("planner", EXAMPLE_INPUTS, release_ns=5_100_000)
        executor.submit("captioner", EXAMPLE_INPUTS)
        waiting = executor.submit("captioner", EXAMPLE_INPUTS)
        for at_ns in (5_300_000, 5_700_000, 6_500_000):
            executor.submit("detector", EXAMPLE_INPUTS, release_ns=at_ns)
        clock.call_at(5_500_000, waiting.cancel)
        executor.run()


def test_the_trace_of_a_schedule_is_golden(golden: Callable[[str, str], None]) -> None:
    recorder = TraceRecorder()
    record_schedule(recorder)
    golden("trace.json", text_from_trace(recorder.trace(["detector", "captioner"])))


def test_slices_of_a_trace_do_not_overlap_and_tracks_are_named(tmp_path: Path) -> None:
    recorder = TraceRecorder()
    record_schedule(recorder)
    write_trace(str(tmp_path / "trace.json"), recorder.trace())
    document = json.loads((tmp_path / "trace.json").read_text())
    events = document["traceEvents"]
    names = {
        event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"
    }
    assert names == {1: "captioner", 2: "detector", 3: "planner"}  # by name where no order is given
    slices = [event for event in events if event["ph"] == "X"]
    assert len(slices) == 5
    free_us = 0.0
    for event in slices:
        assert event["ts"] >= free_us
        free_us = event["ts"] + event["dur"]
        assert event["name"].startswith(names[event["tid"]])
    assert min(event["ts"] for event in events if "ts" in event) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_a_bounded_recorder_keeps_the_last_records() -> None:
    recorder = TraceRecorder(max_records=1)
    record_schedule(recorder)
    events = recorder.trace()["traceEvents"]
    assert [event["name"] for event in events if event["ph"] == "X"] == ["captioner[2]"]


def test_a_trace_of_nothing_can_be_read() -> None:
    assert len(json.loads(text_from_trace(TraceRecorder().trace()))["traceEvents"]) == 1


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PreemptError, match=r"missing/trace\.json: cannot write the trace: No such"):
        write_trace(tmp_path / "missing" / "trace.json", TraceRecorder().trace())
    (tmp_path / "folder").mkdir()
    with pytest.raises(PreemptError, match="cannot write the trace: Is a directory"):
        write_trace(tmp_path / "folder", TraceRecorder().trace())
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_write_that_breaks_off_leaves_the_old_trace_and_no_rest(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    write_trace(path, TraceRecorder().trace())
    before = path.read_text()
    recorder = TraceRecorder()
    record_schedule(recorder)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))  # as a disk that fills up
    try:
        with pytest.raises(PreemptError, match="File too large; allow larger files"):
            write_trace(path, recorder.trace())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == before
    assert [found.name for found in tmp_path.iterdir()] == ["trace.json"]
