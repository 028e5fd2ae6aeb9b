"""What the doctor is asked about, and what it answers.

A finding is `ok`, `warn` (times will scatter, or something could not be told) or `fail` (the run
cannot work, or its bounds mean nothing), with what was found and what to do about it.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from preempt_runtime.bundle import Bundle
from preempt_runtime.gpu_view import GpuProbe
from preempt_runtime.loading import FindBackend
from preempt_runtime.manifest import SEGMENTS, PlanSpec
from preempt_runtime.system_view import SystemView
from preempt_runtime.unknown import Unknown

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at; `advice` is empty where nothing needs to be done."""

    level: Level
    what: str
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedPlan:
    """A bundle, the plan of it that a task asks for (None: the first that fits), its buffers.

    `mechanisms` are what the task set lets jobs be preempted by.
    """

    bundle: Bundle
    plan_id: str | None = None
    buffers: int = 1
    mechanisms: tuple[str, ...] = (SEGMENTS,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is examined.

    `plans` would be loaded together, `threads` is what the task set asks for. `gpu` asks about the
    GPU, None for the one of this machine. `pause` lets the window pass in which what moves is
    watched.
    """

    plans: Sequence[AskedPlan]
    view: SystemView
    find_backend: FindBackend
    threads: int | None
    gpu: GpuProbe | None
    pause: Callable[[float], None] = time.sleep

    def named_plans(self, backend: str | None = None) -> list[tuple[AskedPlan, PlanSpec]]:
        """Each bundle with the plan that is named, or its first one; those of one backend only."""
        pairs = []
        for asked in self.plans:
            plans = asked.bundle.manifest.plans
            named = [plan for plan in plans if asked.plan_id in (None, plan.id)]
            if backend is not None:
                named = [plan for plan in named if backend_of(asked.bundle, plan) == backend]
            pairs += [(asked, plan) for plan in named[:1]]
        return pairs


Check = Callable[[Subject], Iterable[Finding]]


def backend_of(bundle: Bundle, plan: PlanSpec) -> str | None:
    """The backend that a plan was built for, or will be; None where its key does not say."""
    if plan.key is None:
        return "ort" if plan.target == "cpu" else "tensorrt"
    fields = bundle.manifest.keys[plan.key]
    return str(fields["backend"]) if "backend" in fields else None


def cannot_tell(what: str, unknown: Unknown, advice: str = "") -> Finding:
    """The finding of something that nothing here tells."""
    return Finding(level="warn", what=what, found=f"cannot tell: {unknown.reason}", advice=advice)
