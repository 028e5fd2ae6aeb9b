"""Traces for Perfetto and chrome://tracing: one track for each task, one slice for each segment.

Source: the Trace Event Format, "complete" (X), "instant" (i) and "metadata" (M) events. Times are
microseconds as floats, so nanoseconds survive up to 2^53 ns, 104 days, after the trace's origin.
"""

import json
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from preempt_runtime.errors import PreemptError
from preempt_runtime.input_file import checked_path
from preempt_runtime.output_file import write_output
from preempt_runtime.records import JobRecord, JobState, SegmentRecord
from preempt_runtime.write_refusal import refusal_text

_PID = 1
_STATE_INSTANTS = {
    JobState.SKIPPED: "skipped",
    JobState.DROPPED: "dropped",
    JobState.CANCELLED: "cancelled",
    JobState.FAILED: "failed",
}


class TraceRecorder:
    """An instrument that keeps what a trace needs.

    `max_records` bounds its memory: it keeps the last that many of each kind of record.
    """

    def __init__(self, max_records: int | None = None) -> None:
        self._releases: deque[tuple[int, str, int]] = deque(maxlen=max_records)
        self._segments: deque[SegmentRecord] = deque(maxlen=max_records)
        self._jobs: deque[JobRecord] = deque(maxlen=max_records)

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        """Keep it."""
        self._releases.append((job_id, task, release_ns))

    def segment_ended(self, record: SegmentRecord) -> None:
        """Keep it."""
        self._segments.append(record)

    def job_ended(self, record: JobRecord) -> None:
        """Keep it."""
        self._jobs.append(record)

    def trace(self, tasks: Sequence[str] = ()) -> dict[str, Any]:
        """What it has kept, as `trace_from_records`."""
        return trace_from_records(self._releases, self._segments, self._jobs, tasks)


def trace_from_records(
    releases: Iterable[tuple[int, str, int]],
    segments: Iterable[SegmentRecord],
    jobs: Iterable[JobRecord],
    tasks: Sequence[str] = (),
) -> dict[str, Any]:
    """A trace document; time 0 is its earliest event.

    Args:
        releases: (job id, task name, release in ns).
        segments: in any order.
        jobs: ended ones; their misses, skips, drops, cancellations and failures become
            instants.
        tasks: the order of the tracks; tasks that are not named follow by name.
    """
    releases, segments, jobs = list(releases), list(segments), list(jobs)
    found = {task for _, task, _ in releases} | {record.task for record in segments}
    found |= {record.task for record in jobs}
    names: list[str] = [*dict.fromkeys(tasks), *sorted(found - set(tasks))]
    tids = {name: tid for tid, name in enumerate(names, 1)}
    timed = [_release_event(*release) for release in releases]
    timed += [_segment_event(record) for record in segments]
    timed += [event for record in jobs for event in _job_events(record)]
    origin_ns = min((at_ns for at_ns, _, _ in timed), default=0)
    timed.sort(key=lambda entry: (entry[0], tids[entry[1]], entry[2]["ph"], entry[2]["name"]))
    events = [_metadata("process_name", 0, {"name": "preempt-runtime"})]
    for name, tid in tids.items():
        events.append(_metadata("thread_name", tid, {"name": name}))
        events.append(_metadata("thread_sort_index", tid, {"sort_index": tid}))
    for at_ns, task, event in timed:
        place = {"pid": _PID, "tid": tids[task], "ts": (at_ns - origin_ns) / 1000}
        events.append({**event, **place})
    return {"displayTimeUnit": "ns", "traceEvents": events}


def text_from_trace(trace: dict[str, Any]) -> str:
    """The document as JSON, one event a line, so that it can be read and compared."""
    events = ",\n".join(json.dumps(event, sort_keys=True) for event in trace["traceEvents"])
    unit = json.dumps(trace["displayTimeUnit"])
    return f'{{"displayTimeUnit": {unit}, "traceEvents": [\n{events}\n]}}\n'


def write_trace(path: str | Path, trace: dict[str, Any]) -> None:
    """Write it so that a reader never sees half a trace.

    Raises:
        InputError: `path` is no path, or empty.
        PreemptError: it cannot be written there, with the system's reason.
    """
    path = checked_path(path, "a trace")
    try:
        write_output(path, text_from_trace(trace).encode())
    except OSError as err:
        what = f"{path}: cannot write the trace"
        raise PreemptError(refusal_text(what, err, otherwise="name another file")) from err


_Timed = tuple[int, str, dict[str, Any]]


def _release_event(job_id: int, task: str, release_ns: int) -> _Timed:
    return release_ns, task, _instant("release", job_id)


def _segment_event(record: SegmentRecord) -> _Timed:
    event = {
        "ph": "X",
        "name": f"{record.task}[{record.segment_idx}]",
        "cat": "urgent" if record.is_urgent else "best_effort",
        "dur": record.elapsed_ns / 1000,
        "args": {"job": record.job_id, "segment": record.segment_idx},
    }
    return record.start_ns, record.task, event


def _job_events(record: JobRecord) -> list[_Timed]:
    events: list[_Timed] = []
    if record.is_missed and record.deadline_ns is not None:
        events.append((record.deadline_ns, record.task, _instant("missed", record.job_id)))
    if record.state in _STATE_INSTANTS and record.end_ns is not None:
        event = _instant(_STATE_INSTANTS[record.state], record.job_id)
        if record.error is not None:
            event["args"]["error"] = record.error
        events.append((record.end_ns, record.task, event))
    return events


def _instant(name: str, job_id: int) -> dict[str, Any]:
    return {"ph": "i", "s": "t", "name": name, "cat": "job", "args": {"job": job_id}}


def _metadata(name: str, tid: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"ph": "M", "name": name, "pid": _PID, "tid": tid, "args": args}
