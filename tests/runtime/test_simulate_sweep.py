"""Sweeps: what each point changes, what is made of the results, and processes that end."""

import math
import statistics
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preempt_runtime.arrivals import Periodic, Poisson, Recorded, Sporadic
from preempt_runtime.errors import InputError
from preempt_runtime.metrics import Quantiles, TaskMetrics, no_jobs
from preempt_runtime.simulation.costs import read_costs
from preempt_runtime.simulation.load import mean_interval_ns, offered_load
from preempt_runtime.simulation.plot import sweep_svg
from preempt_runtime.simulation.points import SweepPoint, axis_from_text, points_of, with_seed
from preempt_runtime.simulation.simulate import SimulationOptions
from preempt_runtime.simulation.sweep import (
    SweepRow,
    check_num_runs,
    run_point,
    run_sweep,
    runs_of,
)
from preempt_runtime.simulation.table import estimate, results_of
from preempt_runtime.taskset import TaskSetSpec, read_taskset

MS = 1_000_000
SVG = "{http://www.w3.org/2000/svg}"
TASKS = """
[[task]]
name = "a"
cost = "2ms"
priority = 3
period = "10ms"
jitter = "3ms"
deadline = "5ms"
[[task]]
name = "b"
segments = ["1ms", "3ms"]
priority = 2
deadline = "15ms"
arrival = { kind = "sporadic", min_interval = "10ms", mean_interval = "20ms" }
[[task]]
name = "c"
cost = "12ms"
max_segment = "4ms"
point_cost = "500us"
priority = 1
seed = 5
arrival = { kind = "poisson", rate = 10 }
[[task]]
name = "d"
cost = "20ms"
best_effort = true
arrival = { kind = "closed_loop" }
"""


@pytest.fixture
def taskset(tmp_path: Path) -> TaskSetSpec:
    (tmp_path / "set.toml").write_text(TASKS, encoding="utf-8")
    return read_taskset(tmp_path / "set.toml")


def points(taskset: TaskSetSpec, *axes: str) -> list[SweepPoint]:
    return list(points_of(taskset, read_costs(taskset), list(map(axis_from_text, axes)), "fixed"))


def load_of(point: SweepPoint) -> float:
    return sum(offered_load(task, point.costs[task.name], "fixed") for task in point.taskset.tasks)


def test_the_load_is_what_releases_ask_for(taskset: TaskSetSpec) -> None:
    costs = read_costs(taskset)
    loads = [offered_load(task, costs[task.name], "fixed") for task in taskset.tasks]
    # c: 12 ms in pieces of at most 4 ms with 500 us a cut: 4 pieces, 13.5 ms.
    assert loads == pytest.approx([2 / 10, 4 / 20, 13.5 / 100, 0.0])


def test_a_load_scales_periods_and_nothing_else(taskset: TaskSetSpec) -> None:
    half, double = points(taskset, "load=0.2675,107%")  # half and twice the set's own 0.535
    assert [load_of(half), load_of(double)] == pytest.approx([0.2675, 1.07])
    a, b, c, d = half.taskset.tasks
    assert a.arrival == Periodic(period_ns=20 * MS, jitter_ns=3 * MS)
    assert (a.period_ns, a.deadline_ns, a.jitter_ns) == (20 * MS, 5 * MS, 3 * MS)
    assert b.arrival == Sporadic(min_interval_ns=20 * MS, mean_interval_ns=40 * MS)
    assert c.arrival == Poisson(rate_per_s=5.0)
    assert d == taskset.tasks[3]
    assert double.taskset.tasks[0].arrival == Periodic(period_ns=5 * MS, jitter_ns=3 * MS)


def test_a_deadline_that_is_the_period_stays_under_another_load(
    tmp_path: Path, taskset: TaskSetSpec
) -> None:
    (tmp_path / "set.toml").write_text(TASKS.replace('deadline = "5ms"', ""), encoding="utf-8")
    (half,) = points(read_taskset(tmp_path / "set.toml"), "load=0.2675")
    assert (half.taskset.tasks[0].period_ns, half.taskset.tasks[0].deadline_ns) == (
        20 * MS,
        10 * MS,
    )


def test_recorded_releases_are_scaled_too(tmp_path: Path, taskset: TaskSetSpec) -> None:
    (tmp_path / "at.txt").write_text("1ms\n3ms\n11ms\n", encoding="utf-8")
    text = TASKS.replace('kind = "poisson", rate = 10', 'kind = "trace", path = "at.txt"')
    (tmp_path / "set.toml").write_text(text, encoding="utf-8")
    recorded = read_taskset(tmp_path / "set.toml")
    base = load_of(points(recorded, "policy=fifo")[0])
    assert base == pytest.approx(0.4 + 13.5 / 5)  # a release every 5 ms on average
    (half,) = points(recorded, f"load={base / 2}")
    assert half.taskset.tasks[2].arrival == Recorded(offsets_ns=(2 * MS, 6 * MS, 22 * MS))


@pytest.mark.parametrize("offsets_ns", [(), (5,), (5, 5)])
def test_too_few_releases_have_no_interval(offsets_ns: tuple[int, ...]) -> None:
    assert mean_interval_ns(Recorded(offsets_ns=offsets_ns)) is None


def test_a_bound_cuts_the_tasks_that_are_given_by_cost(taskset: TaskSetSpec) -> None:
    costs = [point.costs for point in points(taskset, "max_segment=1ms,20ms")]
    assert [len(found["a"].segments) for found in costs] == [2, 1]
    assert [len(found["b"].segments) for found in costs] == [2, 2]  # as written
    assert [len(found["c"].segments) for found in costs] == [23, 1]  # 12 ms by 0.5 ms, one saved
    assert [len(found["d"].segments) for found in costs] == [20, 1]
    (found,) = points(taskset, "max_segment:c=20ms")
    assert [len(found.costs[name].segments) for name in "abcd"] == [1, 2, 1, 1]


def test_every_combination_the_last_axis_fastest(taskset: TaskSetSpec) -> None:
    found = points(taskset, "policy=fifo,fixed-priority", "max_segment:c=3ms,4ms", "load=0.5,0.9")
    assert [point.values for point in found] == [
        (policy, bound_ns, load)
        for policy in ("fifo", "fixed-priority")
        for bound_ns in (3 * MS, 4 * MS)
        for load in (0.5, 0.9)
    ]
    assert [point.taskset.policy for point in found] == ["fifo"] * 4 + ["fixed-priority"] * 4
    # The load is that of the cut network: bounds are applied first, whatever the order.
    assert [load_of(point) for point in found] == pytest.approx([0.5, 0.9] * 4)


def test_repetitions_have_seeds_of_their_own(taskset: TaskSetSpec) -> None:
    assert with_seed(taskset, 0) == taskset
    third = with_seed(taskset, 3)
    assert (third.seed, [task.seed for task in third.tasks]) == (3, [3, 3, 5, 3])
    last = replace(taskset, seed=2**63 - 1, tasks=())
    assert with_seed(last, 1).seed == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed=1", "found key 'speed', allowed load, policy, max_segment, max_segment:TASK"),
        ("load", "'load': found no values; write load=0.5,0.7"),
        ("max_segment:a", "'max_segment:a': found no values; write max_segment:a=1ms,5ms"),
        ("speed", "found key 'speed', allowed load"),
        ("load:a=1", "found key 'load:a', allowed"),
        ("max_segment:=1ms", "found key 'max_segment:', allowed"),
        ("load=0", "load '0', allowed 0.001 to 100"),
        ("load=-1", "load '-1', allowed"),
        ("load=1e-300", "load '1e-300', allowed"),
        ("load=nan", "load 'nan', allowed"),
        ("load=1e9", "load '1e9', allowed"),
        ("load=", "load '', allowed"),
        ("load=0.5,50%", "a value is there twice"),
        ("policy=best", "no policy is called 'best'"),
        ("max_segment=0ms", "max_segment '0ms', allowed a duration above 0"),
        ("max_segment=5", "'5' is not a duration"),
    ],
)
def test_axes_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        axis_from_text(text)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("max_segment:x=1ms", "no task of that name; there are a, b, c, d"),
        ("max_segment:b=1ms", "task 'b' is not given by cost, so there is nothing to cut"),
        ("max_segment:c=500us", "500 us for task 'c', allowed above 500 us"),
    ],
)
def test_axes_that_do_not_fit(taskset: TaskSetSpec, axis: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        points(taskset, axis)


def test_a_load_that_no_arrival_can_have_is_named_with_its_file_and_task(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text(
        '[[task]]\nname = "a"\ncost = "10000000s"\npriority = 1\nperiod = "300000000s"\n',
        encoding="utf-8",
    )
    rare = read_taskset(tmp_path / "set.toml")
    with pytest.raises(
        InputError, match=r"set\.toml: --sweep load=0\.001 .*: task 'a': period is .*, allowed"
    ):
        points(rare, "load=0.001")


def test_a_bound_that_makes_too_many_segments_is_refused_before_they_are_made(
    tmp_path: Path,
) -> None:
    tables = "".join(
        f'[[task]]\nname = "t{idx}"\ncost = "1s"\npriority = 1\nperiod = "9s"\n' for idx in range(6)
    )
    path = tmp_path / "set.toml"
    path.write_text(tables, encoding="utf-8")
    says = r"set\.toml: 599946 segments, 99991 of them of task 't0', allowed 500000 in all"
    with pytest.raises(InputError, match=says):
        points(read_taskset(path), "max_segment=10001ns")
    path.write_text(tables.replace("cost =", 'max_segment = "10001ns"\ncost ='), encoding="utf-8")
    with pytest.raises(InputError, match=says):
        read_taskset(path)


def test_a_task_set_without_costs_to_cut_or_releases_to_scale(tmp_path: Path) -> None:
    text = TASKS[TASKS.index('[[task]]\nname = "d"') :].replace('cost = "20ms"', 'segments=["1ms"]')
    (tmp_path / "set.toml").write_text(text, encoding="utf-8")
    loops = read_taskset(tmp_path / "set.toml")
    with pytest.raises(InputError, match="nothing is released but by closed loops"):
        points(loops, "load=0.5")
    with pytest.raises(InputError, match="no task is given by cost"):
        points(loops, "max_segment=1ms")


def test_results_come_in_the_order_of_the_runs_and_as_without_processes(
    taskset: TaskSetSpec,
) -> None:
    axes = [axis_from_text("load=1.2,0.3"), axis_from_text("policy=fixed-priority,fifo")]
    found = list(points_of(taskset, read_costs(taskset), axes, "random"))
    runs = runs_of(found, SimulationOptions(duration_ns=300 * MS, mode="random"), axes, 2)
    assert [run.name for run in runs[:3]] == [
        "load=120%, policy=fixed-priority, seed=0",
        "load=120%, policy=fixed-priority, seed=1",
        "load=120%, policy=fifo, seed=0",
    ]
    rows = run_sweep(runs, 2)
    assert rows == tuple(map(run_point, runs))
    assert [row.values for row in rows] == [run.values for run in runs]
    assert rows[0].tasks != rows[1].tasks  # another seed
    assert rows[0].offered_load == pytest.approx(1.2)


def test_a_refused_point_is_named(taskset: TaskSetSpec) -> None:
    axes = [axis_from_text("load=90")]
    runs = runs_of(
        points(taskset, "load=90"),
        SimulationOptions(duration_ns=60_000 * MS, max_backlog=500),
        axes,
        1,
    )
    with pytest.raises(InputError, match=r"at load=9000%, seed=0: .*more than 500 of its jobs"):
        run_sweep(runs, 1)


def test_too_many_runs_are_refused() -> None:
    axes = [axis_from_text("load=0.5,0.7")]
    check_num_runs(axes, 5000)
    with pytest.raises(InputError, match="2 points with 5001 seeds are 10002 simulations"):
        check_num_runs(axes, 5001)


def metrics(task: str, released: int, finished: int, missed: int, p99_ns: int) -> TaskMetrics:
    response = Quantiles(p50_ns=1, p95_ns=1, p99_ns=p99_ns, max_ns=p99_ns, num_samples=finished)
    return replace(
        no_jobs(task),
        released=released,
        finished=finished,
        missed=missed,
        response=response if finished else None,
        rate_per_s=float(finished),
    )


def row(value: float, seed: int, **tasks: TaskMetrics) -> SweepRow:
    return SweepRow(
        values=(value,),
        seed=seed,
        duration_ns=1,
        device_busy_frac=1.0,
        offered_load=value,
        tasks=tasks,
        max_backlogs={},
        warnings=(),
    )


def test_rates_are_of_released_jobs_and_intervals_over_seeds(taskset: TaskSetSpec) -> None:
    rows = [
        row(
            0.5,
            seed,
            a=metrics("a", 100, 90, missed, 4 * MS),  # 10 more were skipped
            b=metrics("b", 100, 100, 0, 30 * MS),
            c=metrics("c", 7, 7, 0, 1),  # no deadline
            d=metrics("d", 50, 40 + seed, 0, 1),
        )
        for seed, missed in enumerate((10, 20, 30))
    ]
    (result,) = results_of(taskset, rows)
    assert list(result.miss_rates) == ["a", "b"]
    a = result.miss_rates["a"]
    assert a is not None
    assert a.mean == pytest.approx(0.3)
    assert a.low is not None
    assert a.high is not None
    # t = 4.303 with 2 degrees of freedom, a standard deviation of 0.1 over 3 seeds
    assert [a.low, a.high] == pytest.approx([0.05157, 0.54843], abs=1e-4)
    assert result.miss_rate is not None
    assert result.miss_rate.mean == pytest.approx(0.15)
    ratios = [result.p99_over_deadline[name] for name in "ab"]
    assert [ratio.mean for ratio in ratios if ratio is not None] == [0.8, 2.0]
    assert result.best_effort_per_s is not None
    assert result.best_effort_per_s.mean == 41


def test_points_without_jobs_have_no_rates(taskset: TaskSetSpec) -> None:
    (result,) = results_of(taskset, [row(0.5, 0, **{name: no_jobs(name) for name in "abcd"})])
    assert result.miss_rates == {"a": None, "b": None}
    assert (result.miss_rate, result.p99_over_deadline["a"]) == (None, None)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60))
def test_an_interval_holds_its_mean_and_shrinks_with_seeds(samples: list[float]) -> None:
    found = estimate(samples, most=1.0)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.mean + 1e-6
    assert found.mean - 1e-6 <= found.high <= 1
    half = 1.96 * statistics.stdev(samples) / math.sqrt(len(samples))
    assert found.high - found.mean >= min(half, 1 - found.mean) - 2e-6  # t is above normal


def plotted(taskset: TaskSetSpec, *axes: str) -> ElementTree.Element:
    read = list(map(axis_from_text, axes))
    found = points(taskset, *axes)
    runs = runs_of(found, SimulationOptions(duration_ns=300 * MS), read, 2)
    results = results_of(taskset, tuple(map(run_point, runs)))
    return ElementTree.fromstring(sweep_svg(read, results, title="a <b> & c", label="label"))


def texts_of(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.findall(f"{SVG}text")]


def test_a_plot_has_two_panels_a_line_a_policy_and_a_point_a_load(taskset: TaskSetSpec) -> None:
    root = plotted(taskset, "policy=fifo,fixed-priority", "load=0.3,0.6,1.2")
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == 2 * 2 * 3
    columns = sorted({float(circle.attrib["cx"]) for circle in circles})
    first, second, third = columns
    assert (third - second) / (second - first) == pytest.approx(2, abs=0.02)
    texts = texts_of(root)
    assert {"a <b> & c", "label", "deadlines missed (%)", "best effort (jobs/s)"} <= set(texts)
    assert {"offered load (%)", "fifo", "fixed-priority"} <= set(texts)
    best_effort = [c for c in circles if float(c.attrib["cy"]) > 290]
    for policy in range(2):  # less is left over as the load grows: further down
        heights = [float(c.attrib["cy"]) for c in best_effort[3 * policy : 3 * policy + 3]]
        assert heights == sorted(heights)
        assert heights[0] < heights[2]


def test_bounds_over_a_wide_range_are_spread_out(taskset: TaskSetSpec) -> None:
    root = plotted(taskset, "max_segment:d=200us,2ms,20ms")
    first, second, third = sorted({float(c.attrib["cx"]) for c in root.findall(f"{SVG}circle")})
    assert third - second == pytest.approx(second - first, abs=0.2)
    assert "longest segment of d (ms)" in texts_of(root)


def test_policies_alone_stand_side_by_side(taskset: TaskSetSpec) -> None:
    root = plotted(taskset, "policy=fifo,fixed-priority")
    assert len(root.findall(f"{SVG}circle")) == 2 * 2
    assert not [path for path in root.iter(f"{SVG}path") if "L" in path.attrib["d"]], "no line"
    texts = texts_of(root)
    assert [text for text in texts if text in ("fifo", "fixed-priority")] == [
        *("fifo", "fixed-priority"),
        *("fifo", "fixed-priority"),
    ]
