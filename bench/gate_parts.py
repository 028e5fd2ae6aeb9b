"""Parts of the benchmark of gates: one JSON file each, written as its figures come.

A GPU may be there for minutes at a time. So every part is a file of its own, a run that is cut off
leaves what it has, and the next one goes on with the parts that are missing.
"""

import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.gate_workshop import Hang
from preempt_runtime.backends.cuda_driver import driver_version, gpu_properties
from preempt_runtime.backends.trt_library import local_fields
from preempt_runtime.errors import DeviceError, PreemptError
from preemptc.cache import write_atomically

PARTS = Path("build_cache/bench-gpu-gates/parts")
Part = Mapping[str, Any]


class Budget:
    """The time that a command may take, from the making of this on."""

    def __init__(self, limit_s: float) -> None:
        self._end = time.monotonic() + limit_s

    @property
    def left_s(self) -> float:
        """Seconds that are left, negative when it is over."""
        return self._end - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Whether something that takes so long may begin."""
        return self.left_s >= seconds


class PartFile:
    """Where the figures of one part go.

    Args:
        folder: of all parts.
        step: which step of the benchmark it belongs to.
        name: of the part, also of its file.
        command: what made it, for its readers.
    """

    def __init__(self, folder: Path, step: str, name: str, command: str) -> None:
        self.path = folder / f"{name}.json"
        self._head = {"step": step, "part": name, "command": command}
        self._figures: Part = {}

    @property
    def is_complete(self) -> bool:
        """Whether an earlier run has brought it to its end."""
        return self.path.is_file() and bool(json.loads(self.path.read_text())["is_complete"])

    def write(self, figures: Part, *, is_complete: bool) -> None:
        """Keep what there is by now; the file is there whole or not at all."""
        self._figures = figures
        self.path.parent.mkdir(parents=True, exist_ok=True)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        part = {
            **self._head,
            "is_complete": is_complete,
            "machine": machine_fields(),
            "date": now,
            **figures,
        }
        write_atomically(self.path, (json.dumps(part, indent=1) + "\n").encode())

    @contextmanager
    def keeping(self, **head: Any) -> Iterator[None]:
        """Note an error of the block beside the figures that it has written, and go on.

        A hang is noted, too, but ends the step.

        Args:
            head: what the part says where it has no figures yet.
        """
        try:
            yield
        except Exception as err:
            text = error_text(err)
            self.write({**head, **self._figures, "error": text}, is_complete=False)
            print(f"{self._head['part']}: {text}", flush=True)
            if isinstance(err, Hang):
                raise


def error_text(err: Exception) -> str:
    """What to note of an error; one that nobody raised on purpose is printed with its place."""
    if isinstance(err, PreemptError):
        return str(err)
    traceback.print_exception(err)
    return f"{type(err).__name__}: {err}"


class Parts:
    """All parts of a step, and the time that it has.

    Args:
        folder: of all parts.
        step: whose parts they are.
        command: what makes them, for their readers.
        limit_s: seconds from now on.
        again: also bring parts to their end that have come to it before.
    """

    def __init__(
        self, folder: Path, step: str, command: str, *, limit_s: float, again: bool = False
    ) -> None:
        self.budget = Budget(limit_s)
        self._folder, self._step, self._command, self._again = folder, step, command, again

    def open(self, name: str) -> PartFile | None:
        """The part of that name; None if there is nothing to do for it, which is printed."""
        part = PartFile(self._folder, self._step, name, self._command)
        if part.is_complete and not self._again:
            print(f"{name}: skipped, it stands in {part.path}; --again measures it once more")
            return None
        return part


def machine_fields() -> dict[str, Any]:
    """What the GPU and its libraries are; `tensorrt` is None where it is not installed.

    Raises:
        DeviceError: no GPU.
    """
    try:
        return dict(local_fields())
    except DeviceError:
        found = gpu_properties()
        return {
            "gpu": found.name,
            "num_sms": found.num_sms,
            "compute_capability": found.compute_capability,
            "cuda_driver": driver_version(),
            "tensorrt": None,
        }


def read_parts(folder: Path) -> dict[str, Part]:
    """The parts in a folder, by their names."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {part["part"]: part for part in found}


def merged(old: Mapping[str, Part], new: Mapping[str, Part]) -> dict[str, Part]:
    """The old parts with newer ones in their places; an unfinished one takes no finished one's.

    >>> old = {"a": {"is_complete": True, "date": "1"}}
    >>> merged(old, {"a": {"is_complete": False, "date": "2"}}) == old
    True
    >>> merged(old, {"a": {"is_complete": True, "date": "2"}})["a"]["date"]
    '2'
    """
    found = dict(old)
    for name, part in new.items():
        there = found.get(name)
        if there is None or (part["is_complete"], part["date"]) >= (
            there["is_complete"],
            there["date"],
        ):
            found[name] = part
    return dict(sorted(found.items()))


def command_line(arguments: Sequence[str] | None, module: str = "bench.gpu_gates") -> str:
    """The command that runs now, as a reader would type it."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    return " ".join((f"python -m {module}", *given))
