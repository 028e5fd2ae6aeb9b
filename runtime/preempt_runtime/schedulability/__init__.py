"""Whether every deadline is kept: response-time bounds with fixed preemption points.

Pure functions of frozen values, in integer nanoseconds. docs/schedulability.md has the model, the
formulas with their sources, and what must hold for a bound to mean anything.
"""

from preempt_runtime.schedulability.analysis import ANALYSED_POLICIES, analyse
from preempt_runtime.schedulability.bounds import Choice, choose_bounds
from preempt_runtime.schedulability.changes import (
    Change,
    Problem,
    single_changes,
    tries_every_change,
)
from preempt_runtime.schedulability.cuts import (
    Front,
    even_front,
    fixed_front,
    front_from_cuts,
)
from preempt_runtime.schedulability.limits import segment_limits
from preempt_runtime.schedulability.model import (
    SOURCES,
    AnalysedTask,
    Assumptions,
    CostSource,
    SetBound,
    TaskBound,
)

__all__ = [
    "ANALYSED_POLICIES",
    "SOURCES",
    "AnalysedTask",
    "Assumptions",
    "Change",
    "Choice",
    "CostSource",
    "Front",
    "Problem",
    "SetBound",
    "TaskBound",
    "analyse",
    "choose_bounds",
    "even_front",
    "fixed_front",
    "front_from_cuts",
    "segment_limits",
    "single_changes",
    "tries_every_change",
]
