from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import deadline_runs
from bench.deadline_tally import DeadlineTally
from bench.deadlines import NETWORKS, DeadlineOptions, settings_of, tasksets
from bench.deadlines_report import (
    CUT,
    OVERLOADED,
    UNCUT,
    BlockResult,
    page,
    result_of,
)
from preempt_runtime.cost_watch import CostDrift
from preempt_runtime.errors import InfeasibleError
from preempt_runtime.records import JobRecord, JobState
from preempt_runtime.schedulability import AnalysedTask, Assumptions, analyse
from preempt_runtime.system_view import view_this_machine
from preempt_runtime.taskset import read_taskset
from preemptc.plan_problem import PlanOptions

MS = 1_000_000
RECORD = JobRecord(
    job_id=0,
    task="mobilenet_v2",
    priority=0,
    release_ns=0,
    start_ns=0,
    end_ns=5 * MS,
    deadline_ns=10 * MS,
    state=JobState.FINISHED,
    blocking_ns=0,
    num_preemptions=0,
    num_segments_run=1,
    error=None,
)


def stat(root: Path, steal_ticks: int) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "stat").write_text(f"cpu  10 0 10 100 0 0 0 {steal_ticks} 0 0\n")


def job(release_ms: int, end_ms: int, **values: object) -> JobRecord:
    times = {
        "release_ns": release_ms * MS,
        "end_ns": end_ms * MS,
        "deadline_ns": (release_ms + 10) * MS,
    }
    return replace(RECORD, **times, **values)  # type: ignore[arg-type]


@pytest.fixture
def tally(tmp_path: Path) -> DeadlineTally:
    stat(tmp_path, 0)
    found = DeadlineTally(replace(view_this_machine(), root=tmp_path))
    found.job_ended(job(0, 5))
    stat(tmp_path, 3)
    found.job_ended(job(6, 20))  # missed, and time was stolen since the look at 5 ms
    found.job_ended(job(21, 40))  # missed, nothing was stolen since the look at 20 ms
    found.job_ended(job(41, 52, state=JobState.DROPPED))
    return found


def test_misses_are_told_apart_by_the_time_that_was_stolen(tally: DeadlineTally) -> None:
    found = tally.tasks["mobilenet_v2"]
    assert (found.jobs, found.missed, found.missed_with_steal, found.dropped) == (4, 2, 1, 1)
    assert list(found.response_ns) == [5 * MS, 14 * MS, 19 * MS]


def test_the_task_set_is_read_and_the_first_task_is_the_same_in_every_variant(
    tmp_path: Path,
) -> None:
    costs_ns = [4 * MS, 38 * MS, 60 * MS, 62 * MS, 105 * MS]
    for name in NETWORKS:
        (tmp_path / f"{name}.onnx").write_bytes(b"")
    firsts = []
    texts = tasksets(costs_ns, threads=2)
    for load, late, variant in ((0.7, "run", CUT), (1.5, "drop", OVERLOADED)):
        path = tmp_path / "tasks.toml"
        path.write_text(texts[variant])
        taskset = read_taskset(path)
        shares = [
            cost_ns / (task.period_ns or 1)
            for cost_ns, task in zip(costs_ns, taskset.tasks, strict=True)
        ]
        assert sum(shares) == pytest.approx(load, rel=1e-6)
        assert all(task.deadline_ns == task.period_ns for task in taskset.tasks)
        assert {task.late for task in taskset.tasks[1:]} == {late}
        firsts.append(taskset.tasks[0])
    assert firsts[0] == firsts[1]


def test_the_page_holds_what_was_measured(tally: DeadlineTally) -> None:
    drift = CostDrift(
        num_segments_run=40,
        num_exceeded=2,
        slowdown_factor=1.0,
        worst_segment_idx=0,
        worst_elapsed_ns=2,
        worst_allowed_ns=1,
        max_observed_ns=(2,),
    )
    blocks = [
        BlockResult(
            variant=variant,
            tasks=tally.tasks,
            drifts={"mobilenet_v2": drift},
            busy_frac=0.7,
            rss_bytes=(100 << 20, 101 << 20),
        )
        for variant in (CUT, UNCUT, OVERLOADED)
    ]
    task = AnalysedTask(name="mobilenet_v2", segment_ns=(4 * MS,), period_ns=10 * MS, priority=1)
    result = result_of(
        blocks,
        bound=analyse([task], "fixed-priority", Assumptions(margin_frac=0.2)),
        num_segments={"mobilenet_v2": 1},
        costs_ns={"mobilenet_v2": 4 * MS},
        settings={"attempts": 2}
        | settings_of(
            DeadlineOptions(
                rounds=3,
                block_ns=20_000 * MS,
                overload_block_ns=30_000 * MS,
                threads=1,
                folder=Path(),
                cache=Path(),
            )
        ),
        machine={
            "cpu_model": "Testium 1",
            "cores": 2,
            "steal_frac": 0.01,
            "onnxruntime": "1",
            "python": "3",
            "date": "2026-01-02T03:04:05+00:00",
        },
    )
    found = result["variants"][CUT]["tasks"]["mobilenet_v2"]
    assert (found["missed"], found["segments_over_allowed"]) == (2, 2)
    assert result["overload"]["p99_ratios"] == [1.0]
    text = page(result)
    command = "python -m bench.deadlines --rounds 3 --block-s 20 --overload-s 30 --threads 1"
    assert f"`{command}`; Testium 1" in text
    assert "3 rounds of blocks of 20 s, overloaded 30 s; threads: 1." in text
    assert "the load is 150%" in text
    row = "| mobilenet_v2 | 4 | 2 | 1 | 1 | 14 ms | 19 ms | 19 ms | 3.96 | 2 of 40 |"
    assert row in text
    assert "* reached: mobilenet_v2's p99 at 150 % over that at 70 %" in text
    assert "| mobilenet_v2 | 4 ms | 10 ms | 1 | 4.8 ms | 4.8 ms |" in text


class Answer:
    """What `plan_and_compile` gives: a plan, as far as is looked at."""

    def __init__(self, is_schedulable: bool) -> None:
        bound = SimpleNamespace(name="a", reason="late", is_schedulable=is_schedulable)
        self.choice = SimpleNamespace(
            is_schedulable=is_schedulable, bound=SimpleNamespace(tasks=[bound])
        )


@pytest.mark.parametrize(("answers", "attempts"), [
    ([True], 1), ([False, True], 2), ([None, True], 2), ([False, False], 2),
])  # fmt: skip
def test_everything_is_measured_anew_until_the_analysis_holds(
    answers: list[bool | None], attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def plan_and_compile(taskset: object, planning: object, cache: object, progress: object) -> Any:
        asked.append(cache)
        if (answer := answers[len(asked) - 1]) is None:
            raise InfeasibleError("an outlier")
        return Answer(answer)

    monkeypatch.setattr(deadline_runs, "plan_and_compile", plan_and_compile)
    caches: Any = ["first", "second"]
    plan, found = deadline_runs.compiled(Any, PlanOptions(target="cpu"), caches)  # type: ignore[arg-type]
    assert (plan.choice.is_schedulable, found) == (answers[-1], attempts)
    assert asked == caches[:attempts]


def test_what_the_last_attempt_raised_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def plan_and_compile(*args: object) -> None:
        raise InfeasibleError("an outlier")

    monkeypatch.setattr(deadline_runs, "plan_and_compile", plan_and_compile)
    caches: Any = ["first", "second"]
    with pytest.raises(InfeasibleError, match="an outlier"):
        deadline_runs.compiled(Any, PlanOptions(target="cpu"), caches)  # type: ignore[arg-type]


def test_short_jobs_are_looked_at_now_and_then_and_misses_always(tmp_path: Path) -> None:
    stat(tmp_path, 0)
    view = replace(view_this_machine(), root=tmp_path)
    found = DeadlineTally(view, look_every_ns=100 * MS)
    found.job_ended(job(0, 1))
    stat(tmp_path, 3)
    found.job_ended(job(2, 3))  # too soon to look
    found.job_ended(job(4, 20))  # missed: time was stolen since the look at 1 ms
    found.job_ended(job(21, 40))  # missed, nothing was stolen since the look at 20 ms
    tally = found.tasks["mobilenet_v2"]
    assert (tally.jobs, tally.missed, tally.missed_with_steal) == (4, 2, 1)
