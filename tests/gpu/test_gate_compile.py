"""Plans of gates on a GPU, from `preemptc compile` to `verify`; run test_gates.py before.

EXPERIMENTAL: an H200 alone has run it so far. Run it alone, with `-x -s`: it prints what it
measured. Nothing waits at a gate here; one that does passes by itself after a fifth of a second.
"""

import faulthandler
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preempt_runtime.backends.trt_gated import GatedTrtDevice
from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.executor import Executor
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import PlanSpec
from preempt_runtime.task import Task
from preempt_runtime.testing import Recording
from preemptc import gate_plan
from tests.gpu.workshop import QUICK, Workshop, outputs_of

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _watchdog(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hundred runs of each choice, and an end if something hangs."""
    monkeypatch.setattr(gate_plan, "_BUDGET_NS", 0)
    faulthandler.dump_traceback_later(240, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def compiled(
    shop: Workshop, network: str, name: str, *goal: str, mechanism: str = "gates"
) -> tuple[Any, Bundle]:
    """The report and the bundle; prints what a person wants to see first."""
    path = shop.folder / f"{name}.bundle"
    report = shop.compiler.json(
        "compile", shop.network(network), "--target", "native", "--mechanism", mechanism, *goal,
        *QUICK, "-o", path,
    )  # fmt: skip
    if (gates := report.get("gates")) is not None:
        ratio = report["measured"]["overhead_ratio"]
        print(f"\n{network} {' '.join(goal)}: {gates['graph']}; {gates['positions']} positions")
        print(f"  {gates['gates']} gates of {gates['gate_ns']} ns, overhead {ratio - 1:.2%}")
        print(f"  without {report['measured']['whole_p50_ns']} ns")
        print(f"  stretches {report['measured']['segment_p50_ns']} ns, notes {report['notes']}")
        print(f"  longest {gates['node_names'][gates['longest_node']]}")
        for kernel, taken_ns in zip(gates["node_names"], gates["node_ns"], strict=True):
            print(f"    {taken_ns:8d} ns  {kernel}")
    return report, open_bundle(path)


def gates_of(bundle: Bundle) -> PlanSpec:
    (plan,) = [plan for plan in bundle.manifest.plans if plan.mechanism == "gates"]
    return plan


@pytest.mark.parametrize("network", ["tiny_cnn", "tiny_branchy"])
def test_a_stretches_by_number(network: str, shop: Workshop) -> None:
    report, bundle = compiled(shop, network, f"gated-{network}", "--segments", "2")
    plan = gates_of(bundle)
    assert [each.id for each in bundle.manifest.plans] == ["whole", "gates"]
    assert len(plan.segments) == report["segments"] == 2
    assert plan.gates is not None
    assert plan.gates.fingerprint == report["gates"]["fingerprint"]
    assert plan.segments[-1].range[1] == plan.gates.num_nodes
    for segment in plan.segments:
        assert segment.latency is not None
        assert 0 < segment.latency.p50_ns <= segment.latency.p99_ns <= segment.latency.max_ns
    check = bundle.manifest.check
    assert check is not None
    assert (check.bitwise, check.max_abs_diff) == (True, 0.0)
    assert 0.9 < report["measured"]["overhead_ratio"] < 3
    assert len(list((bundle.root / "engines").rglob("*.engine"))) == 1


def test_b_the_stretches_add_up_to_the_network(shop: Workshop) -> None:
    """Two clocks agree: the gates' own stamps and CUDA events."""
    report, bundle = compiled(shop, "tiny_cnn", "every", "--max-overhead", "1000%")
    plan = gates_of(bundle)
    stretches_ns = sum(each.latency.p50_ns for each in plan.segments if each.latency)
    assert plan.chained is not None
    print(f"  stretches {stretches_ns} ns, chained {plan.chained.p50_ns} ns")
    assert 0.3 * plan.chained.p50_ns < stretches_ns < 1.2 * plan.chained.p50_ns
    assert sum(report["gates"]["node_ns"]) <= 1.05 * report["measured"]["whole_p50_ns"]


def test_c_a_bound_is_kept_and_one_that_cannot_be_names_the_kernel(shop: Workshop) -> None:
    report, _ = compiled(shop, "tiny_cnn", "once", "--segments", "1")
    longest_ns, whole_ns = report["gates"]["longest_node_ns"], report["measured"]["whole_p50_ns"]
    bound_ns = max(2 * longest_ns, whole_ns // 2) + 2_000
    _, bundle = compiled(shop, "tiny_cnn", "bound", "--max-segment", f"{bound_ns}ns")
    plan = gates_of(bundle)
    assert plan.bound_ns == bound_ns
    assert max(each.latency.p50_ns for each in plan.segments if each.latency) <= bound_ns
    line = shop.compiler.refused(
        "compile", shop.network("tiny_cnn"), "--target", "native", "--mechanism", "gates",
        "--max-segment", "10ns", *QUICK, "-o", shop.folder / "never.bundle",
    )  # fmt: skip
    print(line)
    assert "kernel node" in line
    assert "raise --max-segment to" in line


def test_d_the_same_graph_is_captured_again_and_its_outputs_are_the_same(shop: Workshop) -> None:
    path = shop.folder / "verified.bundle"
    _, bundle = compiled(shop, "tiny_cnn", "verified", "--segments", "2")
    found = {plan["id"]: plan for plan in shop.compiler.json("verify", path)["plans"]}
    assert found["gates"]["skipped"] is None
    assert found["gates"]["num_inputs"] == 3
    code, stdout, stderr = shop.compiler("inspect", path)
    assert (code, stderr) == (0, "")
    assert gates_of(bundle).gates is not None
    assert "stretches of plan 'gates'" in stdout


def test_e_the_runtime_runs_what_was_planned(shop: Workshop) -> None:
    """Against ONNX Runtime, and each stretch where the plan says."""
    report, bundle = compiled(shop, "tiny_cnn", "run", "--segments", "2")
    inputs = random_inputs(bundle.manifest.graphs[0], seed=3, task="test")
    recording = Recording()
    with closing(GatedTrtDevice()) as device, closing(device.load(bundle)) as network:
        assert network.plan.id == "gates"
        with Executor(device, "fixed-priority", MonotonicClock(), [recording]) as executor:
            executor.add_task(Task(name="net", network=network, priority=1))
            executor.warm_up("net", inputs)
            handle = executor.submit("net", inputs)
            executor.run()
            found = handle.result(timeout=0)
    expected = outputs_of(bundle, inputs, "whole")
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
    assert len(recording.segments) >= report["segments"]


def test_f_auto_takes_gates(shop: Workshop) -> None:
    report, bundle = compiled(shop, "tiny_cnn", "auto", "--segments", "2", mechanism="auto")
    print(report["notes"])
    assert report["mechanism"] == "gates"
    assert len(gates_of(bundle).segments) == 2


def test_g_a_portable_bundle_gets_its_gates_here(shop: Workshop, portable: Path) -> None:
    path = shop.folder / "gated-portable.bundle"
    report = shop.compiler.json("build", portable, "--mechanism", "gates", "-o", path)
    assert report["mechanism"] == "gates"
    request = open_bundle(path).manifest.extensions["preemptc"]["request"]
    assert request["mechanism"] == "gates"
    again = shop.compiler.json("build", path)
    assert again["mechanism"] == "gates"
