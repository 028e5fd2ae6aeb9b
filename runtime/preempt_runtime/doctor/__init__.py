"""`preempt-rt doctor`: one list of checks (`checks.py`), one module for each thing looked at."""

from preempt_runtime.doctor.checks import doctor
from preempt_runtime.doctor.findings import AskedPlan, Finding
from preempt_runtime.doctor.tasksets import check_together

__all__ = ["AskedPlan", "Finding", "check_together", "doctor"]
