"""Results of a command: on stdout, and in a file beside them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from preempt_runtime.stdout import results_out
from preempt_runtime.taskset import TaskSetSpec
from preempt_runtime.trace import TraceRecorder, write_trace


def trace_writer(
    path: Path | None, recorder: TraceRecorder, taskset: TaskSetSpec
) -> Callable[[], object] | None:
    """What writes the trace of a run, a track for each task; None where none is asked for."""
    if path is None:
        return None
    return lambda: write_trace(path, recorder.trace([task.name for task in taskset.tasks]))


def put_results(
    document: Callable[[], Mapping[str, Any]],
    print_text: Callable[[TextIO], object],
    *,
    as_json: bool,
    write_file: Callable[[], object] | None = None,
) -> None:
    """Print the document or the text; then write the file, whatever became of stdout.

    Neither a full disk nor a full stdout takes the other's results along.

    Raises:
        PreemptError: one of the two cannot be written.
        BrokenPipeError: whoever read stdout has gone.
    """
    try:
        with results_out() as out:
            if as_json:
                print(json.dumps(document(), indent=1), file=out)
            else:
                print_text(out)
    finally:
        if write_file is not None:
            write_file()
