"""More work than time: what stays bounded, and how the rest shows."""

import os
import signal
import time
from pathlib import Path

import pytest

from preempt_runtime.errors import InputError
from preempt_runtime.metrics import Quantiles
from preempt_runtime.records import JobState
from preempt_runtime.simulation import backlog
from preempt_runtime.simulation.costs import read_costs
from preempt_runtime.simulation.load import at_load
from preempt_runtime.simulation.simulate import SimulationOptions, SimulationReport, simulate
from preempt_runtime.taskset import TaskSetSpec, read_taskset
from preempt_runtime.testing import Recording

MS = 1_000_000
TOP_NS, LONGEST_BELOW_NS = 3 * MS, 2_100_000
TASKS = """
[[task]]
name = "top"
cost = "3ms"
priority = 3
period = "20ms"
jitter = "4ms"
deadline = "6ms"

[[task]]
name = "middle"
cost = "20ms"
max_segment = "2100us"
point_cost = "100us"
priority = 2
deadline = "60ms"
arrival = { kind = "sporadic", min_interval = "30ms", mean_interval = "38ms" }
MIDDLE

[[task]]
name = "rest"
segments = ["1ms", "2ms", "1ms"]
best_effort = true
arrival = { kind = "closed_loop" }
"""


def taskset_of(folder: Path, middle: str = "") -> TaskSetSpec:
    (folder / "set.toml").write_text(TASKS.replace("MIDDLE", middle), encoding="utf-8")
    return read_taskset(folder / "set.toml")


def run(
    taskset: TaskSetSpec, load: float, *, max_backlog: int = 1000, duration_ns: int = 20_000 * MS
) -> tuple[SimulationReport, Recording]:
    own_load = 3 / 20 + (20 + 10 * 0.1) / 38
    recording = Recording()
    report = simulate(
        at_load(taskset, own_load / load),
        read_costs(taskset),
        SimulationOptions(duration_ns=duration_ns, max_backlog=max_backlog),
        instruments=(recording,),
    )
    assert sum(report.offered_loads.values()) == pytest.approx(load, abs=0.01)
    return report, recording


def response(report: SimulationReport, task: str) -> Quantiles:
    found = report.run.tasks[task].metrics.response
    assert found is not None
    return found


def test_the_top_task_keeps_its_bound_whatever_is_below_it(tmp_path: Path) -> None:
    taskset = taskset_of(tmp_path)
    # R = C + B: nothing interferes, and what blocks has started at least 1 ns before.
    bound_ns = TOP_NS + LONGEST_BELOW_NS - 1
    (calm, _), (busy, _) = run(taskset, 0.7), run(taskset, 1.5)
    assert response(calm, "top").max_ns <= bound_ns
    assert response(busy, "top").max_ns <= bound_ns
    assert response(busy, "top").max_ns > bound_ns - MS // 4  # the test sees what it should bound
    assert busy.run.tasks["top"].metrics.missed == 0


def test_best_effort_starves_and_the_middle_misses_visibly(tmp_path: Path) -> None:
    taskset = taskset_of(tmp_path)
    (calm, _), (busy, _) = run(taskset, 0.7), run(taskset, 1.5)
    rates = [report.run.tasks["rest"].metrics.rate_per_s for report in (calm, busy)]
    assert rates[0] == pytest.approx(0.3 / 0.004, rel=0.05)  # what is left, in jobs of 4 ms
    assert rates[1] < rates[0] / 100
    assert busy.run.tasks["rest"].metrics.released == busy.run.tasks["rest"].metrics.finished
    middle = busy.run.tasks["middle"].metrics
    assert middle.missed > 0.9 * middle.released
    assert (calm.warnings, len(busy.warnings)) == ((), 1)
    assert busy.warnings[0].startswith("task 'middle': its queue grows without bound")
    # Work comes 1.5 times as fast as it is done: of a third nothing is done while it comes.
    assert busy.max_backlogs["middle"] == pytest.approx(
        middle.released * 0.5 / (1.5 - 0.3), rel=0.2
    )
    assert busy.max_backlogs["top"] <= 2


@pytest.mark.parametrize(("middle", "most"), [("max_pending = 3", 5), ('mailbox = "latest"', 3)])
def test_bounded_queues_stay_bounded(tmp_path: Path, middle: str, most: int) -> None:
    report, recording = run(taskset_of(tmp_path, middle), 1.5)
    assert report.warnings == ()
    # The started job, those that wait, and one that is released before another is skipped for it.
    assert report.max_backlogs["middle"] <= most
    skipped = [job for job in recording.jobs if job.state is JobState.SKIPPED]
    assert len(skipped) > 100
    assert {job.task for job in skipped} == {"middle"}
    assert response(report, "top").max_ns <= TOP_NS + LONGEST_BELOW_NS - 1


def test_a_queue_that_holds_too_many_ends_the_simulation(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"task 'middle': more than 50 of its jobs wait at \d+ ns.*max_pending"
    ):
        run(taskset_of(tmp_path), 1.5, max_backlog=50)


def test_a_queue_with_a_bound_of_its_own_may_hold_more(tmp_path: Path) -> None:
    report, _ = run(taskset_of(tmp_path, "max_pending = 60"), 1.5, max_backlog=50)
    assert report.max_backlogs["middle"] in (61, 62)
    assert report.warnings == ()


def test_bounded_queues_that_hold_too_many_together_end_the_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MAX_BACKLOG", 50)
    says = (
        r"set\.toml: more than 50 jobs of all tasks wait, \d+ of them of task 'middle', at \d+ ns"
    )
    with pytest.raises(InputError, match=says):
        run(taskset_of(tmp_path, "max_pending = 60"), 1.5)


def test_a_burst_at_the_end_is_no_growth(tmp_path: Path) -> None:
    releases = [*range(0, 900, 20), *([900] * 40)]
    (tmp_path / "at.txt").write_text("".join(f"{ms}ms\n" for ms in releases), encoding="utf-8")
    (tmp_path / "set.toml").write_text(
        '[[task]]\nname = "a"\ncost = "10ms"\npriority = 1\n'
        'arrival = { kind = "trace", path = "at.txt" }\n',
        encoding="utf-8",
    )
    taskset = read_taskset(tmp_path / "set.toml")
    report = simulate(taskset, read_costs(taskset), SimulationOptions(duration_ns=1_000 * MS))
    assert (report.max_backlogs["a"], report.warnings) == (40, ())


def test_releases_stop_in_the_middle_of_a_segment_when_too_many_wait(tmp_path: Path) -> None:
    text = (
        '[[task]]\nname = "flood"\ncost = "1ms"\npriority = 1\nperiod = "1us"\n'
        '[[task]]\nname = "wall"\ncost = "20s"\npriority = 2\nperiod = "100s"\n'
    )
    (tmp_path / "set.toml").write_text(text, encoding="utf-8")
    taskset = read_taskset(tmp_path / "set.toml")
    recording = Recording()
    options = SimulationOptions(duration_ns=10_000 * MS, max_backlog=100)
    with pytest.raises(InputError, match="task 'flood': more than 100 of its jobs wait"):
        simulate(taskset, read_costs(taskset), options, instruments=(recording,))
    assert 100 < len(recording.releases) < 110  # not the 20 million that fell due


class _Interrupting(Recording):
    """Sends SIGTERM to this process when so many jobs have been released."""

    def __init__(self, num_releases: int) -> None:
        super().__init__()
        self._left = num_releases
        self.sent_s = 0.0

    def job_released(self, job_id: int, task: str, release_ns: int) -> None:
        self._left -= 1
        if self._left == 0:
            self.sent_s = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_in_a_huge_segment_ends_the_simulation_in_a_second(tmp_path: Path) -> None:
    """Though 50 million releases fall due in it, and 190,000 jobs wait already."""
    text = (
        '[[task]]\nname = "flood"\ncost = "1us"\npriority = 2\nperiod = "2us"\n'
        "max_pending = 1000000\n"
        '[[task]]\nname = "wall"\ncost = "100s"\npriority = 1\nperiod = "1000s"\n'
    )
    (tmp_path / "set.toml").write_text(text, encoding="utf-8")
    taskset = read_taskset(tmp_path / "set.toml")
    observer = _Interrupting(190_000)
    options = SimulationOptions(duration_ns=100_000 * MS)
    report = simulate(taskset, read_costs(taskset), options, instruments=(observer,))
    assert time.monotonic() - observer.sent_s < 3  # 0.8 s on a quiet machine
    assert report.run.ended_by is signal.SIGTERM
    flood = report.run.tasks["flood"].metrics
    assert (flood.released, flood.cancelled) == (189_999, 189_999 - flood.finished)
