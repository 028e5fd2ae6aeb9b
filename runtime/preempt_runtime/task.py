"""Task: a network with its urgency, its mailbox and the callables around it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np

from preempt_runtime.device import MAX_BUFFERS, Array, Network, check_array, is_device_array
from preempt_runtime.errors import InputError
from preempt_runtime.gate_limits import ANNOUNCED_NS
from preempt_runtime.units import MAX_NS
from preempt_runtime.whole_number import checked_whole

Mailbox = Literal["queue", "latest"]
LatePolicy = Literal["run", "skip", "drop"]
LATE: tuple[LatePolicy, ...] = ("run", "skip", "drop")
Outputs = Literal["host", "device"]
MAX_PRIORITY = (1 << 63) - 1  # and its negative; task sets, admission and gates allow less
MAX_PENDING = 1_000_000
Admit = Literal["refuse", "warn", "off"]
ADMIT: tuple[Admit, ...] = ("refuse", "warn", "off")
Pre = Callable[[Mapping[str, Array], object | None], Mapping[str, Array]]
Post = Callable[[dict[str, Array], object | None], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What releases jobs: one network, run for every job; jobs start in the order of release.

    `priority`: a larger one runs first; None is best effort, below every priority.
    `mailbox`: `queue` runs every job in release order; `latest` keeps only the newest job that has
    not started, and skips the one it replaces (cameras). `max_pending` bounds a queue: a job that
    finds it full is skipped.
    `period_ns` is the least time between two releases, `jitter_ns` how much later than that a
    release may come; nobody enforces them, bounds rest on them. Policies and `late` take the
    period for the deadline where there is none.
    `late` says what becomes of a job whose deadline has come: `run` runs it all the same, `skip`
    skips it if it has not started and a newer one waits, `drop` drops it, at its next preemption
    point if it has started.
    `pre(inputs, stream)` returns the network's inputs, `post(outputs, stream)` the job's result.
    Both run on the dispatcher as segments of their own, so they are non-preemptive and count;
    `pre_ns` and `post_ns` are the longest that they were seen to take, which admission asks for.
    `total_ns` is the longest that all segments were seen to take together, where that is known.
    `buffers` is how many of its jobs may be in flight, each in buffers of its own: with more than
    one, the next job's first segment may be launched behind the last segment of the one before.
    `outputs`: `host` copies them, `device` leaves them where they are, for other libraries; a job's
    result is then a `DeviceOutputs`, and its buffers are taken until that is released.
    `announce_ns` is how long before a release that is known less urgent jobs are held back at their
    gates, on a device that has them: the job then finds the device free.
    `check_inputs` scans floating-point inputs for NaN at submit.
    """

    name: str
    network: Network
    priority: int | None = None
    relative_deadline_ns: int | None = None
    mailbox: Mailbox = "queue"
    max_pending: int | None = None
    period_ns: int | None = None
    jitter_ns: int = 0
    late: LatePolicy = "run"
    pre: Pre | None = None
    post: Post | None = None
    pre_ns: int | None = None
    post_ns: int | None = None
    total_ns: int | None = None
    buffers: int = 1
    outputs: Outputs = "host"
    announce_ns: int = 0
    check_inputs: bool = False
    remaining_by_step_ns: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(f"a task's name is {repr(self.name)[:40]}; write a string")
        if not self.name:
            raise InputError("a task has an empty name; name it")
        if not hasattr(self.network, "segments"):
            raise InputError(
                f"task {self.name!r}: network {repr(self.network)[:40]}, expected one that a device"
                " has loaded"
            )
        if not self.network.segments:
            raise InputError(f"task {self.name!r}: network {self.network.name!r} has no segments")
        if self.priority is not None:
            self._check("priority", self.priority, -MAX_PRIORITY, MAX_PRIORITY)
        if self.mailbox not in ("queue", "latest"):
            raise InputError(
                f"task {self.name!r}: mailbox {self.mailbox!r}, expected 'queue' or 'latest'"
            )
        if self.max_pending is not None and self.mailbox == "latest":
            raise InputError(
                f"task {self.name!r}: max_pending bounds a queue, a latest mailbox holds one job;"
                " leave one of them out"
            )
        if self.max_pending is not None:
            self._check("max_pending", self.max_pending, 1, MAX_PENDING)
        self._check("buffers", self.buffers, 1, MAX_BUFFERS)
        if self.outputs not in ("host", "device"):
            raise InputError(
                f"task {self.name!r}: outputs {self.outputs!r}, expected 'host' or 'device'"
            )
        self._check_times()
        object.__setattr__(self, "remaining_by_step_ns", _remaining_by_step_ns(self))

    def _check(self, what: str, found: object, at_least: int, at_most: int, unit: str = "") -> None:
        where = f"task {self.name!r}: {what}"
        checked_whole(where, found, at_least=at_least, at_most=at_most, unit=unit)

    def _check_times(self) -> None:
        durations = {
            "relative deadline": self.relative_deadline_ns,
            "period": self.period_ns,
            "time of pre": self.pre_ns,
            "time of post": self.post_ns,
            "time in all": self.total_ns,
        }
        for what, duration_ns in durations.items():
            if duration_ns is not None:
                self._check(what, duration_ns, 1, MAX_NS, "of ns")
        self._check("jitter", self.jitter_ns, 0, MAX_NS, "of ns")
        self._check("time of its announcement", self.announce_ns, 0, ANNOUNCED_NS, "of ns")
        if self.late not in LATE:
            raise InputError(f"task {self.name!r}: late {self.late!r}, expected one of {LATE}")
        if self.late != "run" and self.implicit_deadline_ns is None:
            raise InputError(
                f"task {self.name!r}: late {self.late!r}, but a job without deadline or period is"
                " never late; give it a relative_deadline_ns"
            )

    @property
    def implicit_deadline_ns(self) -> int | None:
        """The relative deadline, or else the period: a job is to end before the next comes."""
        return self.period_ns if self.relative_deadline_ns is None else self.relative_deadline_ns

    @property
    def cost_ns(self) -> int:
        """What a job is expected to take on the device; `pre` and `post` are not known, so 0."""
        return self.remaining_by_step_ns[0]

    @property
    def steps(self) -> tuple[int | str, ...]:
        """What a job runs, in order: `pre`, the segments by number, `post`."""
        return (
            *(("pre",) if self.pre is not None else ()),
            *range(len(self.network.segments)),
            *(("post",) if self.post is not None else ()),
        )

    @property
    def is_best_effort(self) -> bool:
        """It has no priority, so every task with one runs first."""
        return self.priority is None


def _remaining_by_step_ns(task: Task) -> tuple[int, ...]:
    """Expected time of all steps from each on, the last entry 0: medians where measured."""
    remaining_ns = [0]
    segments = task.network.segments
    for step in reversed(task.steps):
        cost_ns = 0
        if isinstance(step, int):
            latency = segments[step].latency
            cost_ns = segments[step].predicted_ns if latency is None else latency.p50_ns
        remaining_ns.append(remaining_ns[-1] + cost_ns)
    return tuple(reversed(remaining_ns))


def checked_submission(task: Task, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """The inputs of one job, if the task accepts them; those of `pre` are its own affair.

    Raises:
        InputError: another name, dtype or shape than the network's, or NaN under `check_inputs`.
    """
    if task.pre is None:
        inputs = checked_inputs(task, inputs)
    if task.check_inputs:
        for name, array in inputs.items():
            if isinstance(array, np.ndarray) and array.dtype.kind == "f" and np.isnan(array).any():
                raise InputError(
                    f"task {task.name!r}: input {name!r} holds"
                    f" {int(np.isnan(array).sum())} NaN of {array.size} values; mend the source"
                )
    return inputs


def checked_inputs(task: Task, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """A network's inputs by name, each with the dtype and shape that the network expects.

    What stands in device memory is checked by the device, when the job starts.

    Raises:
        InputError: found against expected.
    """
    specs = task.network.graph.inputs
    if not (type(inputs) is dict or isinstance(inputs, Mapping)) or len(inputs) != len(specs):
        raise InputError(_names_message(task, inputs))
    checked = {}
    for spec in specs:
        if spec.name not in inputs:
            raise InputError(_names_message(task, inputs))
        array = inputs[spec.name]
        # The rule is check_array's; it takes 2 us, all of it in numpy's `dtype.name`.
        is_wrong = type(array) is not np.ndarray or (array.dtype, array.shape) != (
            _dtype_from_name(spec.dtype),
            spec.shape,
        )
        if is_wrong and not (type(array) is not np.ndarray and is_device_array(array)):
            check_array(spec.name, array, dtype=spec.dtype, shape=spec.shape)
        checked[spec.name] = array
    return checked


@cache
def _dtype_from_name(name: str) -> np.dtype[Any] | None:
    try:
        return np.dtype(name)
    except TypeError:  # such as bfloat16, which numpy knows only with a package more
        return None


def _names_message(task: Task, inputs: object) -> str:
    found = sorted(map(str, inputs)) if isinstance(inputs, Mapping) else type(inputs).__name__
    expected = [spec.name for spec in task.network.graph.inputs]
    return f"task {task.name!r}: found inputs {found}, network expects {expected}"
