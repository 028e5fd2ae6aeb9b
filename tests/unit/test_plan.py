"""`preemptc plan`: verdicts, bounds, proposals and bundles, from a task set to its bundles."""

import importlib
import json
import re
import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from models.make import make
from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import BundleError, InfeasibleError
from preempt_runtime.manifest import Latency, Manifest
from preempt_runtime.policies import POLICIES
from preempt_runtime.schedulability import ANALYSED_POLICIES
from preempt_runtime.task_spec import CostSpec
from preempt_runtime.taskset import read_taskset
from preemptc import pipeline
from preemptc import plan as plan_module
from preemptc.cache import BuildCache
from preemptc.cli import main
from preemptc.plan import TaskSetPlan
from preemptc.plan_costs import bundle_costs, front_of_network
from preemptc.plan_problem import PlanOptions
from preemptc.search import SegmentCosts, pareto_front
from preemptc.targets import TARGETS
from tests.runtime.fake_bundles import manifest_of, write_bundle
from tests.unit import onnx_models

ROBOT = """\
[taskset]
name = "robot"

[[task]]
name = "detector"
cost = "8ms"
priority = 10
period = "33ms"
deadline = "20ms"

[[task]]
name = "planner"
segments = ["6ms", "6ms", "5ms"]
priority = 5
period = "100ms"

[[task]]
name = "captioner"
cost = "90ms"
point_cost = "100us"
best_effort = true
arrival = { kind = "closed_loop" }
"""


pytestmark = pytest.mark.usefixtures("quick_measurements", "steady_machine")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    make("tiny_cnn", folder / "tiny.onnx")
    make("light/squeezenet", folder / "long.onnx")
    return folder


def plan(text: str, work: Path, *options: str, code: int = 0) -> Result:
    file = work / "robot.toml"
    file.write_text(text)
    arguments = ["plan", str(file), "--cache", str(work / "cache"), *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def document(text: str, work: Path, *options: str, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan(text, work, "--json", *options, code=code).stdout)
    return found


def test_a_plan_that_can_be_computed_by_hand(work: Path) -> None:
    found = document(ROBOT, work)
    detector, planner, captioner = found["tasks"]
    # 8.8 of 20 ms are its own: it bears 11.2 ms and 1 ns, of which 1/11 is margin
    assert (detector["cost_ns"], planner["cost_ns"]) == (8_800_000, 18_700_000)
    assert captioner["max_segment_ns"] == 10_100_000
    assert max(captioner["segment_ns"]) == 10_088_889  # 90.8 ms in 9
    assert detector["blocking_ns"] == 11_097_778 - 1
    assert detector["response_ns"] == 8_800_000 + 11_097_777
    # blocked, then its own first two, then the detector, and once more: it comes every 33 ms
    assert planner["response_ns"] == 11_097_777 + 18_700_000 + 8_800_000 + 8_800_000
    assert (found["schedulable"], found["source"]) == (True, "given")
    assert captioner["response_ns"] is None


def test_people_see_the_same_figures_and_where_they_come_from(work: Path) -> None:
    text = plan(ROBOT, work, "--margin", "20%", "--dispatch", "50us").stdout
    assert "every deadline is kept" in text
    assert "given in the file (detector, planner, captioner)" in text
    assert "20 % on every cost" in text
    assert "dispatching  50 us" in text
    (row,) = [line.split() for line in text.splitlines() if line.strip().startswith("detector")]
    assert row[1:5] == ["9.65", "ms", "1", "9.65"]


def test_bounds_have_three_digits_for_people_and_all_of_them_for_compile(work: Path) -> None:
    text = NETWORKS.replace("best_effort = true", 'best_effort = true\nmax_segment = "6165487ns"')
    shown = plan(text, work).stdout
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("  idle ")]
    assert "6.17ms" in row
    assert "6165.487us" not in row
    assert "--max-segment 6165.487us" in shown
    assert document(text, work)["tasks"][1]["max_segment_ns"] == 6_165_487


def test_what_dispatching_costs_stands_in_the_file_unless_the_command_says_otherwise(
    work: Path,
) -> None:
    slower = ROBOT.replace('name = "robot"', 'name = "robot"\ndispatch = "50us"', 1)
    assert document(slower, work)["tasks"][0]["cost_ns"] == 8_850_000
    assert document(slower, work, "--dispatch", "70us")["tasks"][0]["cost_ns"] == 8_870_000
    once = slower.replace("[taskset]", '[taskset]\njob_dispatch = "300us"', 1)
    assert document(once, work)["tasks"][0]["cost_ns"] == 9_150_000
    assert "of a job     300 us" in plan(once, work).stdout


@pytest.mark.parametrize(
    ("total_ns", "what"), [(9, "no segment takes"), (8, "no segment and no job takes")]
)
def test_a_bound_that_rests_on_whole_jobs_says_so(work: Path, total_ns: int, what: str) -> None:
    manifest = manifest_of((3_000_000,) * 3)
    latency = Latency(p50_ns=1, p99_ns=1, max_ns=3_000_000, num_samples=9)
    built = manifest.plans[0]
    built = replace(
        built,
        source="measured",
        chained=replace(latency, max_ns=total_ns * 1_000_000),
        segments=tuple(replace(segment, latency=latency) for segment in built.segments),
    )
    write_bundle(work / f"{total_ns}.bundle", replace(manifest, plans=(built,)))
    text = ROBOT.replace('segments = ["6ms", "6ms", "5ms"]', f'bundle = "{total_ns}.bundle"')
    assert f"as long as  {what} longer than" in plan(text, work).stdout


def test_overlapping_segments_cost_what_was_measured_of_overlapping(work: Path) -> None:
    slower = ROBOT.replace('name = "robot"', 'name = "robot"\nmargin = 0.0\ncorun = 1.25', 1)
    found = json.loads(plan(slower, work, "--json").stdout)
    assert found["tasks"][0]["cost_ns"] == 10_000_000
    assert "overlapping  1.25 times every cost" in plan(slower, work).stdout


def test_a_late_task_is_named_with_a_change_that_helps(work: Path) -> None:
    bad = ROBOT.replace('"90ms"', '"90ms"\nmax_segment = "20ms"')
    result = plan(bad, work, code=1)
    assert "not schedulable" in result.stdout
    (line,) = [text for text in result.stderr.splitlines() if "error" in text]
    assert "task 'detector' may end 8.69 ms after" in line
    assert line.endswith("this alone would do: max_segment = 10.1ms for 'captioner'")
    assert document(bad, work, code=1)["changes"][0]["kind"] == "bound"
    plan(bad.replace('max_segment = "20ms"', 'max_segment = "10.1ms"'), work)


def test_releases_without_a_least_gap_are_said_and_not_passed_over(work: Path) -> None:
    late = ROBOT.replace('period = "100ms"', 'arrival = { kind = "poisson", rate = 5 }')
    result = plan(late, work, code=1)
    assert "the releases of task 'planner' have no least time between them" in result.stdout
    assert (
        "release 'planner' by a period or a sporadic arrival, or best_effort = true"
        in result.stderr
    )
    assert document(late, work, code=1)["tasks"][0]["schedulable"] is True


def test_in_order_of_release_best_effort_needs_a_period_too(work: Path) -> None:
    result = plan(ROBOT.replace("[taskset]", '[taskset]\npolicy = "fifo"'), work, code=1)
    assert "the releases of task 'captioner' have no least time between them" in result.stdout
    assert (
        "release 'captioner' by a period or a sporadic arrival, or take another policy"
        in result.stderr
    )


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - set(ANALYSED_POLICIES)))
def test_a_policy_without_analysis_is_refused(policy: str, work: Path) -> None:
    result = plan(ROBOT.replace("[taskset]", f'[taskset]\npolicy = "{policy}"'), work, code=1)
    assert f"no analysis for policy '{policy}', only for fixed-priority, " in result.stdout
    advice = "; take one of fixed-priority, rate-monotonic, deadline-monotonic, edf, fifo"
    assert result.stderr.strip().endswith(advice)


def test_order_of_release_takes_as_long_with_several_in_flight(work: Path) -> None:
    text = ROBOT.replace("[taskset]", '[taskset]\npolicy = "fifo"')
    text = text.replace('arrival = { kind = "closed_loop" }', 'period = "1s"')
    one = document(text, work, code=1)
    two = document(text.replace("fifo", 'fifo"\ndepth = 2 # "'), work, code=1)
    assert two["assumptions"]["depth"] == 2
    assert two["tasks"] == one["tasks"]


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "share", "code"), [("rate-monotonic", 1.2, 1), ("edf", 0.7, 0)])
def test_a_thousand_tasks_are_planned_in_seconds(
    policy: str, share: float, code: int, work: Path
) -> None:
    """Whether they keep their deadlines or not; it took a minute or more."""
    tables = "".join(
        f'[[task]]\nname = "t{idx}"\ncost = "{round(share * (10_000 + idx))}us"\n'
        f'point_cost = "50us"\nperiod = "{11_000_000 + 1_100 * idx}us"\n'
        for idx in range(1000)
    )
    start_s = time.monotonic()
    result = plan(f'[taskset]\npolicy = "{policy}"\n{tables}', work, code=code)
    assert result.stdout.count("given in the file") >= 1000
    assert ("not schedulable" in result.stdout) == bool(code)
    assert time.monotonic() - start_s < 30


def test_of_very_many_tasks_not_every_change_is_tried_and_it_says_so(work: Path) -> None:
    urgent = '[[task]]\nname = "urgent"\ncost = "1ms"\nperiod = "100ms"\npriority = 99\n'
    others = "".join(
        f'[[task]]\nname = "t{idx}"\ncost = "1ms"\nperiod = "1s"\npriority = {idx}\n'
        for idx in range(60)
    )
    long = '[[task]]\nname = "long"\nsegments = ["100ms"]\nperiod = "9s"\npriority = 98\n'
    result = plan(urgent + others + long, work, code=1)
    assert "of 62 tasks not every change was tried" in result.stdout
    assert "a deadline of " in result.stdout
    few = plan(urgent + long, work, code=1)
    assert "not every change" not in few.stdout


def test_edf_needs_no_priorities(work: Path) -> None:
    text = ROBOT.replace("[taskset]", '[taskset]\npolicy = "edf"')
    text = text.replace("priority = 10\n", "").replace("priority = 5\n", "")
    found = document(text, work)
    assert found["policy"] == "edf"
    assert found["tasks"][2]["max_segment_ns"] == 10_100_000


def test_the_chosen_cut_is_the_one_that_the_file_would_give(work: Path) -> None:
    """Written into the file as max_segment, a chosen bound gives the same segments."""
    captioner = document(ROBOT, work)["tasks"][2]
    cost = CostSpec(total_ns=90_000_000, point_cost_ns=100_000)
    assert list(cost.segments_ns(captioner["max_segment_ns"])) == captioner["segment_ns"]


# Networks

NETWORKS = """\
[taskset]
threads = 1

[[task]]
name = "urgent"
model = "tiny.onnx"
bundle = "urgent.bundle"
priority = 2
period = "100s"
deadline = "50s"

[[task]]
name = "idle"
model = "tiny.onnx"
bundle = "idle.bundle"
best_effort = true
arrival = { kind = "closed_loop" }
"""


def test_dynamic_shapes_are_given_by_task(work: Path) -> None:
    onnx_models.save(onnx_models.dynamic(), work / "dynamic.onnx")
    text = NETWORKS.replace('"tiny.onnx"', '"dynamic.onnx"')
    result = plan(text, work, code=1)
    assert "task 'urgent': dynamic.onnx: input 'x' has" in result.stderr
    assert "(in a task set --shape is the task's key shapes)" in result.stderr
    text = text.replace('bundle = "urgent', 'shapes = { x = "4x8" }\nbundle = "urgent')
    text = text.replace('bundle = "idle', 'shapes = { x = "2x8" }\nbundle = "idle')
    found = document(text, work, "--compile")
    commands = [shlex.join(words) for words in found["commands"]]
    assert " --shape x=4x8 " in commands[0]
    assert " --shape x=2x8 " in commands[1]
    for name, rows in (("urgent", 4), ("idle", 2)):
        graph = open_bundle(work / f"{name}.bundle").manifest.graphs[0]
        assert [spec.shape for spec in graph.inputs] == [(rows, 8)]
    into_one = text.replace("idle.bundle", "urgent.bundle")
    result = plan(into_one, work, code=1)
    assert "task 'idle': shapes x=2x8 for bundle" in result.stderr
    assert "task 'urgent' has x=4x8" in result.stderr


def test_a_bound_that_the_file_prescribes_is_shown(work: Path) -> None:
    text = ROBOT.replace('point_cost = "100us"', 'point_cost = "100us"\nmax_segment = "40ms"')
    assert document(text, work, code=1)["tasks"][2]["max_segment_ns"] == 40_000_000
    shown = plan(text, work, code=1).stdout
    assert re.search(r"captioner .* 40ms +given in the file", shown)


def test_networks_are_profiled_compiled_and_judged_by_what_was_measured(work: Path) -> None:
    found = document(NETWORKS, work)
    assert (found["source"], found["compiled"]) == ("predicted", False)
    assert [shlex.join(words).split("compile ")[1] for words in found["commands"]] == [
        f"{work}/tiny.onnx --target cpu --segments 1 --bound-quantile max --threads 1"
        f" -o {work}/{name}.bundle"
        for name in ("urgent", "idle")
    ]
    again = document(NETWORKS, work, "--compile")
    assert (again["source"], again["compiled"]) == ("measured", True)
    for task in again["tasks"]:
        manifest = open_bundle(work / f"{task['name']}.bundle").manifest
        measured = [s.latency.max_ns for s in manifest.plans[0].segments if s.latency]
        assert task["segment_ns"] == measured
    bundles_alone = NETWORKS.replace('model = "tiny.onnx"\n', "")
    assert (
        document(bundles_alone, work)["tasks"][0]["segment_ns"] == again["tasks"][0]["segment_ns"]
    )
    with pytest.raises(BundleError, match="no plan 'x', it holds "):
        bundle_costs(work / "idle.bundle", "x", None)


def test_the_plan_of_a_bundle_is_the_one_that_is_simulated(tmp_path: Path) -> None:
    manifest = manifest_of((1000, 1000))
    cut, whole = manifest.plans
    latency = Latency(p50_ns=1900, p99_ns=2000, max_ns=2100, num_samples=9)
    segments = tuple(replace(segment, latency=latency) for segment in whole.segments)
    measured = replace(whole, source="measured", segments=segments)
    write_bundle(tmp_path / "net.bundle", replace(manifest, plans=(cut, measured)))
    for threads in (None, 2):
        costs = bundle_costs(tmp_path / "net.bundle", None, threads)
        assert (costs.front.cuts, costs.source) == (((2100,),), "measured")
    assert bundle_costs(tmp_path / "net.bundle", "cut", None).source == "estimated"
    with pytest.raises(BundleError, match="no plan for 3 threads, it holds 'cut'"):
        bundle_costs(tmp_path / "net.bundle", None, 3)
    text = ROBOT.replace('cost = "8ms"', 'bundle = "net.bundle"')
    assert "measured maxima on Testium 1 (detector)" in plan(text, tmp_path).stdout
    assert document(text, tmp_path)["tasks"][0]["machine"] == "Testium 1"
    others = ROBOT.replace("[taskset]", "[taskset]\nthreads = 3")
    result = plan(others.replace('cost = "8ms"', 'bundle = "net.bundle"'), tmp_path, code=1)
    assert "no plan for 3 threads" in result.stderr


def test_a_bundle_without_plans_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.bundle").mkdir()
    manifest = replace(manifest_of(), plans=(), keys={}, artefacts=())
    write_bundle(tmp_path / "net.bundle", manifest)
    with pytest.raises(BundleError, match="no plan, it holds none; compile its model again"):
        bundle_costs(tmp_path / "net.bundle", None, None)


def test_a_profile_of_the_cache_is_told_with_its_date(work: Path, tmp_path: Path) -> None:
    again = ("--cache", str(tmp_path))
    first = document(NETWORKS, work, *again)
    assert first["tasks"][0]["cached"] is False
    at = document(NETWORKS, work, *again)["tasks"][0]["measured_at"]
    text = " ".join(plan(NETWORKS, work, *again).stdout.split())
    shown = f"urgent ({at[:10]} {at[11:19]} UTC)"
    assert f"measured earlier, found in the cache: {shown}" in text
    assert "--remeasure measures again" in text
    newer = document(NETWORKS, work, *again, "--remeasure")["tasks"]
    assert not any(task["cached"] for task in newer)


def test_a_set_that_does_not_hold_is_not_compiled_and_says_so(work: Path) -> None:
    late = NETWORKS.replace('deadline = "50s"', 'deadline = "1us"').replace("urgent.b", "late.b")
    said = "nothing was compiled: no bounds were found under which every deadline is kept"
    assert said in plan(late, work, "--compile", code=1).stdout
    assert not (work / "late.bundle").exists()
    assert said not in plan(late, work, code=1).stdout


def test_progress_names_the_task_whose_network_it_is_of(work: Path, tmp_path: Path) -> None:
    lines = plan(NETWORKS, work, "--cache", str(tmp_path), "--compile").stderr.splitlines()
    assert any("urgent (1 of 2): profile: " in line for line in lines)
    rounds = [line for line in lines if "round " in line]
    assert rounds[0] == "preemptc: urgent (1 of 2): plan: round 1 of at most 13, 1 segment"
    assert "preemptc: idle (2 of 2): deliver" in lines
    assert not [line for line in lines if line.startswith(("preemptc: plan", "preemptc: measure"))]


ESTIMATED = NETWORKS.replace("tiny", "long")  # on a GPU that is elsewhere: the same everywhere


def test_a_device_that_is_elsewhere_gives_estimates(work: Path) -> None:
    found = document(ESTIMATED, work, "--target", "orin")
    assert found["source"] == "estimated"
    assert {words[4] for words in found["commands"]} == {"orin"}
    half = document(ESTIMATED, work, "--target", "orin", "--precision", "fp16", "--opt-level", "1")
    assert all("--precision fp16 --opt-level 1" in shlex.join(w) for w in half["commands"])
    assert half["tasks"][0]["cost_ns"] < found["tasks"][0]["cost_ns"]
    result = plan(
        ESTIMATED.replace('"50s"', '"50s"\nmax_segment = "1us"'), work, "--target", "orin", code=1
    )
    assert "alone takes" in result.stderr


def test_a_profile_for_another_target_names_both_and_the_task(work: Path) -> None:
    arguments = ["profile", str(work / "tiny.onnx"), "-o", str(work / "cpu.prof")]
    CliRunner().invoke(main, [*arguments, "--cache", str(work / "cache")], catch_exceptions=False)
    text = NETWORKS.replace('bundle = "urgent', 'profile = "cpu.prof"\nbundle = "urgent')
    message = plan(text, work, "--target", "orin", code=1).stderr
    assert "task 'urgent': " in message
    assert "cpu.prof: a profile for target 'cpu', which executes another graph than 'orin'" in (
        message
    )
    assert "`preemptc profile MODEL --target orin -o FILE`" in message


def test_a_bound_that_estimates_refuse_names_task_node_and_key(work: Path) -> None:
    text = ESTIMATED.replace('"50s"', '"50s"\nmax_segment = "1us"')
    message = plan(text, work, "--target", "orin", code=1).stderr
    assert re.search("task 'urgent': by estimated costs, nodes? '.*' alone takes", message)
    assert "(in a task set --max-segment is the task's key max_segment)" in message


def test_bundles_to_build_elsewhere_are_named_with_what_to_do_there(work: Path) -> None:
    text = NETWORKS.replace("idle.bundle", "far.bundle").replace("urgent.b", "near.b")
    found = plan(text, work, "--target", "orin", "--compile", "--precision", "fp16").stdout
    assert "--compile on the device" not in found
    assert "estimated (`preemptc build` on the device measures maxima)" in found
    for name in ("near", "far"):
        path = work / f"{name}.bundle"
        assert path.is_dir()
        assert f"run `preemptc build {path}` there" in " ".join(found.split())
    # A second plan for another precision than the bundles' says so, whatever it is for.
    note = f"{work}/far.bundle was compiled with --precision fp16, this is for fp32: give"
    assert note in plan(text, work, "--target", "orin").stdout
    assert note in " ".join(document(text, work, "--target", "orin")["notes"])
    same = plan(text, work, "--target", "orin", "--precision", "fp16").stdout
    assert "was compiled with --precision" not in same
    assert "was compiled with --precision" not in plan(text, work).stdout  # for the CPU
    assert note in plan(text, work, "--target", "orin", "--compile").stdout
    assert "was compiled with --precision" not in plan(text, work, "--target", "orin").stdout


def cpu_manifest() -> Manifest:
    manifest = manifest_of((1_000_000,))
    plans = tuple(replace(plan, target="cpu") for plan in manifest.plans)
    return replace(manifest, plans=plans)


def test_networks_for_two_devices_are_told(work: Path) -> None:
    write_bundle(work / "here.bundle", cpu_manifest())
    text = ESTIMATED.replace('model = "long.onnx"\nbundle = "urgent', 'bundle = "here')
    text = text.replace("threads = 1", "")
    said = "task 'urgent' is for cpu (Testium 1), task 'idle' for orin: a run has one device"
    assert said in " ".join(document(text, work, "--target", "orin")["notes"])
    assert said in plan(text, work, "--target", "orin").stdout
    assert "a run has one device" not in plan(text, work).stdout


def test_networks_are_compiled_for_the_mechanism_that_the_set_runs_by(work: Path) -> None:
    text = NETWORKS.replace("idle.bundle", "held.bundle").replace("urgent.b", "holding.b")
    text = text.replace("best_effort = true", 'best_effort = true\nmax_segment = "1s"')
    assert "--mechanism" not in plan(text, work, "--target", "orin").stdout
    text = text.replace("threads = 1", 'mechanism = "gates"')
    found = " ".join(plan(text, work, "--target", "orin").stdout.split())
    whole, cut = found.split("preemptc compile ")[-2:]
    assert "--mechanism" not in whole
    assert "--mechanism gates" in cut
    plan(text, work, "--target", "orin", "--compile")
    requests = [
        json.loads((work / f"{name}.bundle" / "manifest.json").read_text())["extensions"]
        for name in ("holding", "held")
    ]
    mechanisms = [each["preemptc"]["request"]["mechanism"] for each in requests]
    assert mechanisms == ["segments", "gates"]
    for options in ((), ("--compile",)):  # for the CPU, and nothing needs a bound
        refused = plan(
            NETWORKS.replace("threads = 1", 'mechanism = "gates"'), work, *options, code=1
        )
        (error,) = refused.stderr.splitlines()  # before any progress
        assert "gates need TensorRT, task 'urgent' is for target 'cpu'" in error
    write_bundle(work / "cpu.bundle", cpu_manifest())
    text = NETWORKS.replace("threads = 1", 'mechanism = "gates"').replace("urgent.b", "cpu.b")
    text = text.replace('model = "tiny.onnx"\nbundle = "cpu', 'bundle = "cpu')
    refused = plan(text, work, "--target", "orin", code=1)
    assert "gates need TensorRT, task 'urgent' is for target 'cpu'" in refused.stderr


def test_the_depth_analysed_is_the_one_that_the_device_allows(work: Path) -> None:
    deep = NETWORKS.replace("[taskset]", "[taskset]\ndepth = 2")
    assert "1 segment (depth 2 was asked for, device 'cpu' allows 1)" in plan(deep, work).stdout
    found = document(deep, work)
    assert (found["assumptions"]["depth"], found["requested_depth"]) == (1, 2)
    document(deep, work, "--compile")
    bundles = deep.replace('model = "tiny.onnx"\n', "")
    assert document(bundles, work)["assumptions"]["depth"] == 1
    shown = plan(deep, work, "--target", "orin").stdout
    assert "in flight   2 segments\n" in shown
    document(deep, work, "--target", "orin", "--compile")
    assert document(bundles, work)["assumptions"]["depth"] == 2


def test_targets_allow_the_depth_that_their_devices_do() -> None:
    for target in TARGETS.values():
        module = importlib.import_module(f"preempt_runtime.backends.{target.backend}")
        devices = [each for each in vars(module).values() if hasattr(each, "max_depth")]
        assert {device.max_depth for device in devices} == {target.max_depth}


def test_a_long_network_is_cut_as_far_as_the_urgent_one_needs(work: Path) -> None:
    whole_ns = document(ESTIMATED, work, "--target", "orin")["tasks"][0]["cost_ns"]
    deadline_ns = whole_ns + whole_ns // 3
    tight = ESTIMATED.replace('"50s"', f'"{deadline_ns}ns"')
    urgent, idle = document(tight, work, "--target", "orin")["tasks"]
    assert (urgent["max_segment_ns"], len(urgent["segment_ns"])) == (None, 1)
    assert len(idle["segment_ns"]) > 2
    assert max(idle["segment_ns"]) <= idle["max_segment_ns"] <= whole_ns // 3
    assert urgent["response_ns"] <= deadline_ns < urgent["response_ns"] + whole_ns // 10


def test_a_bound_in_the_file_is_kept_and_a_bundle_of_two_tasks_keeps_the_smaller(
    work: Path,
) -> None:
    text = ESTIMATED.replace('"50s"', '"50s"\nmax_segment = "200us"')
    found = document(text.replace("idle.bundle", "urgent.bundle"), work, "--target", "orin")
    assert 100_000 < max(found["tasks"][0]["segment_ns"]) <= 200_000
    (command,) = found["commands"]
    assert command[command.index("--max-segment") + 1] == "200us"
    assert "--segments" not in command


def test_a_network_without_a_bundle_cannot_be_compiled(work: Path) -> None:
    text = NETWORKS.replace('bundle = "idle.bundle"\n', "")
    result = plan(text, work, "--compile", code=1)
    assert "task 'idle': no bundle to compile" in result.stderr


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("notes", "{work}/notes: exists and holds 'mine.txt', which is not part of the bundle"),
        ("first.bundle/inner", "lies in that of task 'urgent', {work}/first.bundle; give each"),
        ("cache/lower/inner", "lies in the cache {work}/cache, which may be deleted"),
    ],
)
def test_every_place_is_looked_at_before_any_network_is_compiled(
    place: str, message: str, work: Path
) -> None:
    write_bundle(work / "notes", manifest_of((1000,)))
    (work / "notes" / "mine.txt").touch()
    text = NETWORKS.replace('"idle.bundle"', f'"{place}"').replace("urgent.b", "first.b")
    (error,) = plan(text, work, "--compile", code=1).stderr.splitlines()  # before any progress
    assert error.startswith("preemptc: error: task 'idle': ")
    assert message.format(work=work) in error
    assert "the key 'bundle'" in error
    assert "-o" not in error.replace("--cache", "").split()
    assert not (work / "first.bundle").exists()


def test_a_task_that_shares_a_bundle_is_judged_by_what_was_compiled(work: Path) -> None:
    text = NETWORKS.replace("idle.bundle", "shared.bundle").replace("urgent.bundle", "idle.bundle")
    document(text, work, "--compile")
    shared = NETWORKS.replace("urgent.bundle", "idle.bundle")
    text = shared.replace('model = "tiny.onnx"\n', "", 1).replace("tiny.onnx", "long.onnx")
    before = document(text, work)["tasks"][0]["segment_ns"]
    after = document(text, work, "--compile")
    assert after["tasks"][0]["segment_ns"] == after["tasks"][1]["segment_ns"] != before


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('model = "long.onnx"', "model .*long.onnx for bundle .*, task 'urgent' has .*tiny.onnx"),
        (
            'model = "tiny.onnx"\nprofile = "p.json"',
            "profile .*p.json for bundle .*, task 'urgent' has None",
        ),
    ],
)
def test_two_networks_or_profiles_for_one_bundle_are_refused(
    line: str, found: str, work: Path
) -> None:
    (work / "p.json").touch()
    head, task, idle = NETWORKS.replace("idle.bundle", "urgent.bundle").rpartition("[[task]]")
    text = head + task + idle.replace('model = "tiny.onnx"', line)
    result = plan(text, work, code=1)
    assert re.search(found, result.stderr)


def test_fronts_of_networks_are_their_pareto_fronts() -> None:
    costs = SegmentCosts(
        positions=tuple(range(401)), work_ns=(1000,) * 400, boundary_ns=(0, *[10] * 399)
    )
    plans = pareto_front(costs)
    front = front_of_network(costs)
    assert front.cuts[0] == (400_000,)
    assert max(front.cuts[-1]) == plans[-1].max_predicted_ns
    assert set(front.cuts) <= {found.predicted_ns for found in plans}


def test_the_readme_shows_what_plan_prints(work: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"^```(toml|text)\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (taskset,) = [block for kind, block in blocks if block.startswith("# deadlines.toml")]
    shown = [block for kind, block in blocks if kind == "text"]
    assert plan(taskset, work).stdout in shown


def test_bounds_are_chosen_anew_with_more_room_when_what_was_measured_refutes_them(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
[[task]]
name = "urgent"
cost = "1ms"
priority = 2
period = "10ms"
deadline = "6ms"

[[task]]
name = "long"
model = "long.onnx"
bundle = "roomy.bundle"
profile = "roomy.json"
priority = 1
period = "1s"
"""
    (work / "roomy.toml").write_text(text)
    arguments = ["profile", str(work / "long.onnx"), "-o", str(work / "roomy.json")]
    CliRunner().invoke(main, [*arguments, "--cache", str(work / "cache")], catch_exceptions=False)
    profile = json.loads((work / "roomy.json").read_text())
    profile["node_ns"] = [1_000_000] * len(profile["node_ns"])
    profile["boundary"] = {"fixed_ns": 100, "ns_per_byte": 0.0}
    (work / "roomy.json").write_text(json.dumps(profile))
    chosen: list[tuple[float, int | None]] = []
    told: list[str] = []

    def measured(plan: TaskSetPlan, options: PlanOptions, *_: object) -> TaskSetPlan:
        chosen.append((options.headroom_frac, plan.limits_ns["long"]))
        is_late = len(chosen) < 3
        late = replace(plan.choice.bound.tasks[0], reason="late" if is_late else None)
        bound = replace(plan.choice.bound, tasks=(late, *plan.choice.bound.tasks[1:]))
        return replace(plan, choice=replace(plan.choice, bound=bound))

    monkeypatch.setattr(plan_module, "compile_plan", measured)
    found = plan_module.plan_and_compile(
        read_taskset(work / "roomy.toml"),
        PlanOptions(target="cpu", margin_frac=0.0),
        BuildCache(work / "cache"),
        lambda what, frac: told.append(what),
    )
    passes = [what for what in told if what.startswith("pass ")]
    assert [what.split(":")[0] for what in passes] == [
        "pass 2 of at most 3",
        "pass 3 of at most 3",
    ]
    assert (
        "by what was measured task 'urgent' late, so bounds are chosen again with 25%"
        in (passes[0])
    )
    assert found.choice.bound.tasks[0].reason is None
    assert [headroom for headroom, _ in chosen] == [0.0, 0.0, 0.0]  # judged without any
    limits = [limit_ns for _, limit_ns in chosen if limit_ns is not None]
    assert limits == sorted(limits, reverse=True)
    assert len(set(limits)) == 3


def test_an_error_of_a_compile_names_the_task_and_the_key(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InfeasibleError("node 'n3' alone takes 9 ms")

    monkeypatch.setattr(plan_module, "compile_model", refuse)
    result = plan(NETWORKS, work, "--compile", code=1)
    assert "robot.toml: task 'urgent', cut under " in result.stderr
    assert "node 'n3' alone takes 9 ms (in a task set that is max_segment" in result.stderr
    assert "verdict     not known: a network could not be compiled" in result.stdout
    assert "measured maxima" not in result.stdout.replace("--compile measures maxima", "")


def test_what_was_measured_before_a_compile_failed_is_shown(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_idle(model: Path, bundle: Path, *others: Any) -> Any:
        if bundle.name == "last.bundle":
            raise InfeasibleError("node 'n3' alone takes 9 ms")
        return pipeline.compile_model(model, bundle, *others)

    monkeypatch.setattr(plan_module, "compile_model", refuse_idle)
    text = NETWORKS.replace("idle.bundle", "last.bundle").replace("urgent.b", "first.b")
    result = plan(text, work, "--compile", code=1)
    assert re.search("urgent .* measured maxima\n", result.stdout)
    assert re.search("idle .* predicted from measured medians\n", result.stdout)
    assert "compiled\n" not in result.stdout
    found = document(text, work, "--compile", code=1)
    assert (found["schedulable"], found["compiled"], found["bundles"]) == (False, False, [])
    assert "task 'idle', cut under" in found["failure"]


def test_a_bundle_that_is_there_and_not_judged_by_is_told(work: Path) -> None:
    text = NETWORKS.replace("idle.bundle", "there.bundle").replace("urgent.b", "nowhere.b")
    assert "not judged by" not in plan(text, work).stdout
    (work / "there.bundle").mkdir()
    said = "not judged by the bundle that idle has already, but by what its model is predicted"
    assert said in plan(text, work).stdout
    (work / "nowhere.bundle").mkdir()
    said = "not judged by the bundles that urgent, idle have already, but by what their models are"
    assert said in plan(text, work).stdout
    (work / "nowhere.bundle").rmdir()
    (work / "there.bundle").rmdir()


def test_one_bundle_of_two_spellings_holds_one_network(work: Path) -> None:
    (work / "sub").mkdir(exist_ok=True)
    text = NETWORKS.replace("urgent.bundle", "one.bundle").replace(
        "idle.bundle", "sub/../one.bundle"
    )
    text = "long.onnx".join(text.rsplit("tiny.onnx", 1))
    assert "give each its own bundle" in plan(text, work, code=1).stderr


def test_best_effort_with_and_without_a_period_is_planned_under_edf(work: Path) -> None:
    text = """
[taskset]
policy = "edf"
margin = 0.0
[[task]]
name = "a"
segments = ["5ms"]
period = "20ms"
deadline = "12ms"
[[task]]
name = "b"
segments = ["5ms"]
best_effort = true
arrival = { kind = "closed_loop" }
[[task]]
name = "c"
segments = ["6ms"]
best_effort = true
period = "100ms"
"""
    found = document(text, work)
    assert found["schedulable"] is True
    assert found["tasks"][0]["response_ns"] == 5_000_000 + 6_000_000 - 1
