"""Whether every deadline is kept: response-time bounds with fixed preemption points.

Pure functions of frozen values, in integer nanoseconds. docs/schedulability.md has the model, the
formulas with their sources, and what must hold for a bound to mean anything.
"""

from preempt_runtime.schedulability.analysis import ANALYSED_POLICIES, analyse
from preempt_runtime.schedulability.model import (
    SOURCES,
    AnalysedTask,
    Assumptions,
    SetBound,
    Source,
    TaskBound,
)

__all__ = [
    "ANALYSED_POLICIES",
    "SOURCES",
    "AnalysedTask",
    "Assumptions",
    "SetBound",
    "Source",
    "TaskBound",
    "analyse",
]
