"""The report of a compile, as `--json` prints it and the cache keeps it. Times are in ns."""

from dataclasses import asdict
from typing import Any

from preempt_runtime.manifest import CheckSpec
from preemptc.backends import Bench
from preemptc.candidates import CandidateSet
from preemptc.check import check_notes
from preemptc.goal import Goal
from preemptc.machine_speed import machine_speed, speed_notes
from preemptc.profile import LatencyProfile
from preemptc.search import SplitPlan
from preemptc.trials import MeasuredPlan


def measured_report(
    candidates: CandidateSet, profile: LatencyProfile, measured: MeasuredPlan, goal: Goal,
    check: CheckSpec, bench: Bench,
) -> dict[str, Any]:  # fmt: skip
    """The report of a compile that built and measured its plan."""
    measurement = measured.measurement
    speed = machine_speed(profile, measurement.whole.p50_ns)
    return {
        **_plan_report(candidates, measured.plan, goal),
        "source": "measured",
        "built": bench.num_built,
        "library_s": round(bench.library_ns / 1e9, 3),
        "kept": measured.plan.num_segments,
        "rounds": measured.num_rounds,
        "tried": [
            {
                "segments": len(trial.split_points) + 1,
                "newly_built": trial.num_new,
                "longest_ns": trial.longest_ns,
                "overhead_ratio": round(trial.ratio_p50, 4),
                "kept": trial.split_points == measured.plan.split_points,
            }
            for trial in measured.trials
        ],
        "measured": {
            "segment_p50_ns": [latency.p50_ns for latency in measurement.segments],
            "segment_p99_ns": [latency.p99_ns for latency in measurement.segments],
            "segment_max_ns": [latency.max_ns for latency in measurement.segments],
            "chained_p50_ns": measurement.chained.p50_ns,
            "whole_p50_ns": measurement.whole.p50_ns,
            "overhead_ratio": round(measurement.ratio_p50, 4),
            "machine_speed": speed,
        },
        "notes": [*speed_notes(speed, measurement.ratio_p50), *check_notes(check)],
        "check": {
            "reference": check.reference,
            "is_against_whole": check.is_against_whole,
            "max_abs_diff": check.max_abs_diff,
            "bitwise": check.bitwise,
            "source_max_abs_diff": check.source_max_abs_diff,
        },
    }


def estimated_report(
    candidates: CandidateSet, profile: LatencyProfile, plan: SplitPlan, goal: Goal
) -> dict[str, Any]:
    """The report of a compile for a device that is elsewhere: nothing was built."""
    return {
        **_plan_report(candidates, plan, goal),
        "source": "estimated",
        "profile_source": profile.source,
        "built": 0,
        "library_s": 0.0,
        "kept": 0,
        "rounds": 0,
        "tried": [],
        "measured": None,
        "check": None,
    }


def _plan_report(candidates: CandidateSet, plan: SplitPlan, goal: Goal) -> dict[str, Any]:
    return {
        "segments": plan.num_segments,
        "candidates": asdict(candidates.counts),
        "bound_ns": goal.max_segment_ns,
        "bound_quantile": goal.quantile,
        "predicted_max_ns": plan.max_predicted_ns,
    }
