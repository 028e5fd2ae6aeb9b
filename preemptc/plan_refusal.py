"""Why a task set's plan is refused, and what alone would help, in one line."""

from preempt_runtime.schedulability import ANALYSED_POLICIES, TaskBound
from preempt_runtime.units import fmt_count, fmt_ns
from preemptc.plan import TaskSetPlan


def refusal(plan: TaskSetPlan) -> str | None:
    """One line: which task is late, by how much, and which single change would do; None: none.

    Or why a network could not be compiled.
    """
    if plan.failure is not None:
        return plan.failure
    late = [bound for bound in plan.choice.bound.tasks if not bound.is_schedulable]
    if not late:
        return None
    worst = max(late, key=lambda bound: -(bound.slack_ns or 0))
    others = f" (and {fmt_count(len(late) - 1, 'more task')})" if len(late) > 1 else ""
    return f"{plan.taskset.path}: task {worst.name!r}{others} {_why(worst)}; {_advice(plan)}"


def _why(bound: TaskBound) -> str:
    if bound.response_ns is None or bound.deadline_ns is None:
        return f"has no bound: {bound.reason}"
    times = f"bound {fmt_ns(bound.response_ns)}, allowed {fmt_ns(bound.deadline_ns)}"
    return f"{bound.reason} ({times})"


def _advice(plan: TaskSetPlan) -> str:
    if plan.changes:
        return f"this alone would do: {plan.changes[0].text}"
    if plan.taskset.policy not in ANALYSED_POLICIES:
        return f"take one of {', '.join(ANALYSED_POLICIES)}"
    is_fifo = plan.taskset.policy == "fifo"
    unknown = [
        task.name
        for task in plan.taskset.tasks
        if task.period_ns is None and (is_fifo or not task.is_best_effort)
    ]
    if unknown:
        other = "take another policy" if is_fifo else "best_effort = true"
        return f"release {unknown[0]!r} by a period or a sporadic arrival, or {other}"
    return "no single change that was tried would do: take load off the device"
