"""A sweep's results: each point over its seeds, as a document and as a table."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, TextIO

from preempt_runtime.metrics import TaskMetrics, json_from_metrics
from preempt_runtime.simulation.points import SweepAxis, Value, name_of
from preempt_runtime.simulation.sweep import SweepRow
from preempt_runtime.tables import print_table
from preempt_runtime.taskset import TaskSetSpec

# Student's t, two-sided 95 %, by degrees of freedom from 1.
_T95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over seeds with its 95 % confidence interval; `low` and `high` are None of one seed.

    The interval is Student's t over the seeds' own means, so that jobs of one run, which depend on
    each other, count as one observation.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointResult:
    """One point over all seeds.

    `miss_rates` are the shares of released jobs that did not finish by their deadline, of tasks
    that have one, `miss_rate` of all these tasks' jobs together; None where there are no such
    jobs. `p99_over_deadline` is of finished jobs. `best_effort_per_s` is None without best effort.
    """

    values: tuple[Value, ...]
    miss_rates: Mapping[str, Estimate | None]
    miss_rate: Estimate | None
    p99_over_deadline: Mapping[str, Estimate | None]
    best_effort_per_s: Estimate | None


def estimate(samples: Sequence[float], *, most: float = math.inf) -> Estimate | None:
    """The mean of one sample a seed; None without samples. The interval keeps to [0, `most`].

    >>> estimate([0.1, 0.2, 0.3], most=1.0)
    Estimate(mean=0.2, low=0.0, high=0.448434)
    """
    if not samples:
        return None
    mean = statistics.fmean(samples)
    if len(samples) == 1:
        return Estimate(mean=round(mean, 6), low=None, high=None)
    quantile = _T95[min(len(samples) - 1, len(_T95)) - 1]
    half = quantile * statistics.stdev(samples) / math.sqrt(len(samples))
    return Estimate(
        mean=round(mean, 6),
        low=round(max(0.0, mean - half), 6),
        high=round(min(most, mean + half), 6),
    )


def results_of(taskset: TaskSetSpec, rows: Sequence[SweepRow]) -> tuple[PointResult, ...]:
    """Every point over its seeds, in the order of the rows."""
    return tuple(
        _result(taskset, values, list(seeds))
        for values, seeds in groupby(rows, key=lambda row: row.values)
    )


def _result(
    taskset: TaskSetSpec, values: tuple[Value, ...], rows: Sequence[SweepRow]
) -> PointResult:
    deadlines_ns = {t.name: t.deadline_ns for t in taskset.tasks if t.deadline_ns is not None}
    best_effort = [task.name for task in taskset.tasks if task.is_best_effort]
    rates = [sum(row.tasks[name].rate_per_s for name in best_effort) for row in rows]
    return PointResult(
        values=values,
        miss_rates={name: _miss_rate(rows, [name]) for name in deadlines_ns},
        miss_rate=_miss_rate(rows, list(deadlines_ns)),
        p99_over_deadline={
            name: estimate([p99_ns / deadline_ns for p99_ns in _p99s_ns(rows, name)])
            for name, deadline_ns in deadlines_ns.items()
        },
        best_effort_per_s=estimate(rates) if best_effort else None,
    )


def _miss_rate(rows: Sequence[SweepRow], names: Sequence[str]) -> Estimate | None:
    shares = []
    for row in rows:
        tasks = [row.tasks[name] for name in names]
        if released := sum(task.released for task in tasks):
            shares.append(sum(map(num_missed, tasks)) / released)
    return estimate(shares, most=1.0)


def num_missed(task: TaskMetrics) -> int:
    """Released jobs that did not finish by their deadline: late, skipped or otherwise lost."""
    return task.missed + task.released - task.finished


def _p99s_ns(rows: Sequence[SweepRow], name: str) -> Iterator[int]:
    for row in rows:
        if (response := row.tasks[name].response) is not None:
            yield response.p99_ns


def document_from_sweep(
    axes: Sequence[SweepAxis], results: Sequence[PointResult], rows: Sequence[SweepRow]
) -> dict[str, Any]:
    """Plain values for `json.dumps`: the points over their seeds, and every row."""
    labels = [axis.label for axis in axes]

    def settings(values: tuple[Value, ...]) -> dict[str, Value]:
        return dict(zip(labels, values, strict=True))

    return {
        "axes": {axis.label: list(axis.values) for axis in axes},
        "points": [
            {"settings": settings(result.values), **_without_values(asdict(result))}
            for result in results
        ],
        "rows": [
            {
                "settings": settings(row.values),
                **_without_values(asdict(row)),
                "tasks": {name: json_from_metrics(task) for name, task in row.tasks.items()},
            }
            for row in rows
        ],
    }


def _without_values(document: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != "values"}


def print_sweep(
    axes: Sequence[SweepAxis], results: Sequence[PointResult], rows: Sequence[SweepRow],
    file: TextIO,
) -> None:  # fmt: skip
    """Write the table, and the first warning of each task."""
    names = list(results[0].miss_rates)
    headers = [axis.label for axis in axes]
    for name in names:
        headers += [f"{name} missed", "p99/deadline"]
    headers += ["all missed", "best effort jobs/s"]
    print_table(headers, [_cells(axes, result) for result in results], file)
    warnings: dict[str, str] = {}
    for row in rows:
        where = name_of(axes, row.values, row.seed)
        for warning in row.warnings:
            warnings.setdefault(warning.partition(":")[0], f"at {where}: {warning}")
    for warning in warnings.values():
        file.write(f"\nwarning: {warning}\n")


def _cells(axes: Sequence[SweepAxis], result: PointResult) -> list[str]:
    cells = [axis.text_of(value) for axis, value in zip(axes, result.values, strict=True)]
    for name, missed in result.miss_rates.items():
        ratio = result.p99_over_deadline[name]
        cells += [_percent(missed), "-" if ratio is None else f"{ratio.mean:.2f}"]
    return [*cells, _percent(result.miss_rate), _rate(result.best_effort_per_s)]


def _percent(found: Estimate | None) -> str:
    return "-" if found is None else f"{100 * found.mean:.2f} %{_half(found, 100, '.2f')}"


def _rate(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.mean:.3g}{_half(found, 1, '.2g')}"


def _half(found: Estimate, factor: float, form: str) -> str:
    """Half the interval, the longer one where it is cut off at an end of the scale."""
    if found.low is None or found.high is None:
        return ""
    return f" +- {factor * max(found.mean - found.low, found.high - found.mean):{form}}"
