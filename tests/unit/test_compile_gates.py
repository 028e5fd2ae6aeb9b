"""`--mechanism gates` from a network to a bundle, on a fake GPU."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from onnxruntime import InferenceSession

from preempt_runtime.backends.gate_board import GateBoard, GiveUp
from preempt_runtime.backends.trt_gated import GatedTrtDevice
from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.executor import Executor
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import Latency
from preempt_runtime.task import Task
from preempt_runtime.testing import Recording
from preemptc.backends.tensorrt.bench import TrtBench
from preemptc.backends.tensorrt.gate_bench import TrtGateBench
from preemptc.compile_options import DEFAULT_MECHANISM, options_from_request
from tests.gpu.commands import Argument, Compiler
from tests.runtime.fake_cuda import OUT_OF_MEMORY
from tests.runtime.fake_graphs import UNSUPPORTED_PTX, CUgraphNodeType
from tests.runtime.test_manifest import SCHEMA
from tests.unit import onnx_models
from tests.unit.timed_gpu import KERNEL_NS, Gpu, installed

pytestmark = pytest.mark.slow  # the fake GPU interprets its gates

BOUND = ("--max-segment", "130us")


JETPACK_6 = {"tensorrt": "8.6.1", "version": 12020, "bindings": 12}


@pytest.fixture
def gpu(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Gpu]:
    yield from installed(monkeypatch, tmp_path, **getattr(request, "param", {}))


@pytest.fixture
def model(gpu: Gpu, tmp_path: Path) -> Path:
    """Eight nodes: mm0, relu0, ..., mm3, relu3."""
    path = onnx_models.save(onnx_models.chain(4), tmp_path / "net.onnx")
    gpu.computes(path)
    return path


class Shop:
    """Compiles one network for the GPU."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.output = model, folder / "net.bundle"
        self.compiler = Compiler(folder / "cache")

    def words(self, *more: Argument, mechanism: str = "gates") -> tuple[Argument, ...]:
        asked = ("--mechanism", mechanism, *(more or BOUND))
        return ("compile", self.model, "--target", "native", *asked, "-o", self.output)

    def report(self, *more: Argument, mechanism: str = "gates") -> Any:
        return self.compiler.json(*self.words(*more, mechanism=mechanism))

    def text(self, *words: Argument) -> str:
        code, stdout, stderr = self.compiler(*(words or self.words()))
        assert code == 0, stderr
        return " ".join(stdout.split())

    def refusal(self, *more: Argument) -> str:
        line = self.compiler.refused(*self.words(*more))
        assert not self.output.exists()
        return line

    @property
    def bundle(self) -> Bundle:
        return open_bundle(self.output)


@pytest.fixture
def shop(model: Path, tmp_path: Path) -> Shop:
    return Shop(model, tmp_path)


# The bundle


def test_the_plan_of_a_bundle(shop: Shop, gpu: Gpu) -> None:
    report = shop.report()
    manifest = shop.bundle.manifest
    jsonschema.validate(json.loads((shop.output / "manifest.json").read_text()), SCHEMA)
    whole, plan = manifest.plans
    assert (whole.id, plan.id, plan.mechanism, plan.source) == (
        "whole", "gates", "gates", "measured",
    )  # fmt: skip
    assert (plan.bound_ns, plan.bound_quantile, plan.margin_frac) == (130_000, "p50", 0.03)
    assert [segment.range for segment in plan.segments] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert {segment.path for segment in plan.segments} == {whole.segments[0].path}
    for segment in plan.segments:
        assert isinstance(segment.latency, Latency)
        assert 2 * KERNEL_NS <= segment.latency.p50_ns <= 0.97 * 130_000
        assert abs(segment.predicted_ns - segment.latency.p50_ns) < 1000
    assert plan.gates is not None
    assert plan.gates.num_nodes == 8
    assert 0 < plan.gates.gate_ns < 5000
    assert plan.gates.fingerprint == report["gates"]["fingerprint"]
    assert plan.chained is not None
    assert whole.chained is not None
    assert plan.chained.p50_ns > whole.chained.p50_ns >= 8 * KERNEL_NS
    assert gpu.builder.builds == ["model.onnx"], "no engine of a segment was built"
    assert [path.name for path in (shop.output / "engines").rglob("*.engine")] == ["whole.engine"]
    assert [path.name for path in (shop.output / "graph").glob("*.onnx")] == ["model.onnx"]


def test_the_check_compares_with_the_same_engine_without_gates(shop: Shop, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((4, 32), np.float32))
    report = shop.report(*BOUND, "--inputs", tmp_path / "x.npz")
    check = shop.bundle.manifest.check
    assert check is not None
    assert (check.reference, check.bitwise, check.num_inputs, check.max_abs_diff) == (
        "the same engine without gates", True, 3, 0.0,
    )  # fmt: skip
    assert check.is_against_whole
    assert report["check"]["num_inputs"] == 3


@pytest.mark.parametrize("goal", [BOUND, ("--segments", "1")])
def test_the_runtime_runs_what_was_planned(shop: Shop, model: Path, goal: tuple[str, ...]) -> None:
    report = shop.report(*goal)
    inputs = random_inputs(shop.bundle.manifest.graphs[0], seed=5, task="test")
    recording = Recording()
    with (
        closing(GatedTrtDevice()) as device,
        closing(device.load(shop.bundle)) as network,
        Executor(device, "fixed-priority", MonotonicClock(), [recording]) as executor,
    ):  # the network is closed after what the executor has of it
        assert network.plan.id == "gates"
        executor.add_task(Task(name="net", network=network, priority=1))
        handle = executor.submit("net", inputs)
        executor.run()
        found = handle.result(timeout=0)
    (expected,) = InferenceSession(str(model)).run(["r3"], inputs)
    np.testing.assert_array_equal(found["r3"], expected)
    assert len(recording.segments) == report["segments"]


@pytest.mark.parametrize("gpu", [JETPACK_6], indirect=True)
def test_an_old_driver_tells_no_names_of_kernels(shop: Shop, gpu: Gpu) -> None:
    report = shop.report()
    assert report["gates"]["node_names"] == [None] * 8
    assert len(shop.bundle.manifest.plans[1].segments) == 4
    assert re.search(r"longest kernel 50\.?\d* us, node \d overhead", shop.text())
    gpu.driver.kernel_ns["relu2"] = 500_000
    found = shop.compiler.refused(*shop.words("--max-segment", "131us"))
    assert found.startswith("kernel node 5 alone takes 500 us, limit 131 us; ")
    gpu.driver.captured_edges = {(idx, idx + 1): int(idx == 3) for idx in range(7)}
    assert "no gates: cuGraphGetEdges failed" in (
        shop.compiler.refused(*shop.words("--max-segment", "132us"))
    )


@pytest.mark.parametrize(
    ("goal", "num_stretches"),
    [(("--segments", "3"), 3), (("--max-overhead", "0.3%"), 3), (("--max-overhead", "50%"), 8)],
)
def test_other_goals(shop: Shop, goal: tuple[str, ...], num_stretches: int) -> None:
    report = shop.report(*goal)
    plan = shop.bundle.manifest.plans[1]
    assert plan.bound_ns is None
    if goal[0] == "--segments" or goal[1] == "50%":
        assert report["segments"] == len(plan.segments) == num_stretches
    else:
        assert report["measured"]["overhead_ratio"] <= 1.003
    assert report["gates"]["gates"] == len(plan.segments)


def test_a_slow_stretch_gets_another_gate(shop: Shop, gpu: Gpu) -> None:
    """Two kernels in a row take longer together than each after a gate."""
    gpu.driver.takes = lambda label, ns: (
        ns + 40_000 if label == "relu1" and gpu.driver.log[-1].endswith("mm1") else ns
    )
    report = shop.report()
    assert report["rounds"] == 2
    ranges = [segment.range for segment in shop.bundle.manifest.plans[1].segments]
    assert (2, 4) not in ranges
    assert max(report["measured"]["segment_p50_ns"]) <= 126_100
    text = shop.text("inspect", shop.output)
    assert f"stretches {len(ranges)}, a gate of" in text


def test_a_graph_may_have_more_nodes_than_the_network(shop: Shop, gpu: Gpu) -> None:
    """What a memset clears stays with the kernel behind it."""
    gpu.trt.extra_kernels = ("early", "zero")
    gpu.driver.kinds["zero"] = CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMSET
    report = shop.report("--max-overhead", "50%")
    assert (report["gates"]["nodes"], report["gates"]["kernels"]) == (10, 9)
    ranges = [segment.range for segment in shop.bundle.manifest.plans[1].segments]
    assert ranges[:3] == [(0, 1), (1, 3), (3, 4)]
    assert "captured graph 10 nodes" in shop.text("inspect", shop.output)
    assert "9 kernels of 10 nodes" in shop.text(*shop.words("--max-overhead", "50%"))


def test_branches_are_timed_too_and_the_width_is_told(shop: Shop, gpu: Gpu) -> None:
    pairs = [(0, 1), (1, 2), (1, 3), (2, 4), (3, 5), (4, 5), (5, 6), (6, 7)]
    gpu.driver.captured_edges = dict.fromkeys(pairs, 0)
    report = shop.report("--segments", "4")
    assert (report["gates"]["is_chain"], report["gates"]["width"]) == (False, 2)
    assert "8 kernels of 8 nodes, at most 2 side by side; fingerprint" in shop.text(
        *shop.words("--segments", "4")
    )


# Refusals


def host_node(gpu: Gpu) -> None:
    gpu.driver.kinds["mm1"] = CUgraphNodeType.CU_GRAPH_NODE_TYPE_HOST


def cooperative(gpu: Gpu) -> None:
    gpu.driver.cooperative.add("mm2")


def no_kernel(gpu: Gpu) -> None:
    for idx in range(4):
        for name in ("mm", "relu"):
            gpu.driver.kinds[f"{name}{idx}"] = CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMCPY


def old_driver(gpu: Gpu) -> None:
    gpu.driver.failures["cuModuleLoadDataEx"] = UNSUPPORTED_PTX


def odd_clock(gpu: Gpu) -> None:
    gpu.driver.event_rate = 3.0


def no_shape(gpu: Gpu) -> None:
    gpu.driver.failures["cuGraphNodeGetType"] = 1


REFUSALS = [
    (host_node, "node 2 of 8 is a host node: it runs on the CPU"),
    (cooperative, "node 4 of 8 (mm2) needs all its blocks at once, and a gate may take the room"),
    (no_kernel, "the captured graph has no kernel"),
    (old_driver, "CUDA_ERROR_222"),
    (odd_clock, "by the clock that gates read the network takes"),
    (no_shape, "cuGraphNodeGetType failed: CUDA_ERROR_INVALID_VALUE"),
]


@pytest.mark.parametrize(("spoil", "reason"), REFUSALS, ids=[f.__name__ for f, _ in REFUSALS])
def test_a_network_without_gates_says_why(shop: Shop, gpu: Gpu, spoil: Any, reason: str) -> None:
    spoil(gpu)
    line = shop.refusal()
    assert line.startswith("no gates: ")
    assert reason in line
    assert line.endswith("; compile it with --mechanism segments")
    report = shop.report("--segments", "1", mechanism="auto")
    (note,) = [note for note in report["notes"] if note.startswith("segments, not gates: ")]
    assert reason in note
    assert "--mechanism" not in note
    assert (report["mechanism"], report["segments"]) == ("segments", 1)
    assert [plan.id for plan in shop.bundle.manifest.plans] == ["segments", "whole"]


def test_a_kernel_over_the_bound_is_named(shop: Shop, gpu: Gpu) -> None:
    gpu.driver.kernel_ns["mm2"] = 300_000
    line = shop.refusal()
    assert line.startswith("kernel node 4 (mm2) alone takes 300 us, limit 130 us; ")
    assert "raise --max-segment to 310us: the smallest feasible bound" in line
    report = shop.report("--segments", "1", mechanism="auto")
    assert report["mechanism"] == "gates"


def test_auto_takes_gates_where_they_keep_the_bound(shop: Shop) -> None:
    report = shop.report(mechanism="auto")
    assert report["mechanism"] == "gates"
    assert not any("not gates" in note for note in report["notes"])
    assert [plan.id for plan in shop.bundle.manifest.plans] == ["whole", "gates"]


def wrong_with_gates(gpu: Gpu) -> None:
    """Let the last kernel compute something else where a gate ran before it."""
    right = gpu.trt.computes
    assert right is not None

    def compute(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        ran = gpu.driver.log[-12:]
        has_gates = any("preempt_gate" in line for line in ran)
        return {name: value + has_gates for name, value in right(inputs).items()}

    gpu.trt.computes = compute


def test_outputs_that_differ_by_a_bit_are_never_packed(shop: Shop, gpu: Gpu) -> None:
    wrong_with_gates(gpu)
    line = shop.refusal()
    assert "output 'r3' of the engine with gates differs from that without by 1 on inputs 0" in line
    assert line.endswith("compile it with --mechanism segments")
    report = shop.report("--segments", "1", mechanism="auto")
    assert report["mechanism"] == "segments"
    assert any("differs from that without by 1" in note for note in report["notes"])


def test_outputs_that_were_there_before_do_not_count(shop: Shop, gpu: Gpu) -> None:
    """An engine that does nothing where a gate ran leaves the outputs of other inputs."""
    right = gpu.trt.computes
    assert right is not None

    def compute(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        has_gates = any("preempt_gate" in line for line in gpu.driver.log[-12:])
        return {} if has_gates else right(inputs)

    gpu.trt.computes = compute
    assert "of the engine with gates differs" in shop.refusal()


def test_a_network_that_draws_numbers_is_told_from_wrong_gates(shop: Shop, gpu: Gpu) -> None:
    rng = Random(1)
    gpu.trt.computes = lambda inputs: {"r3": rng.random()}
    assert "it draws random numbers; remove that part" in shop.refusal()


def test_an_engine_that_is_far_from_the_source_is_refused(shop: Shop, gpu: Gpu) -> None:
    right = gpu.trt.computes
    assert right is not None
    gpu.trt.computes = lambda inputs: {name: 2 * v for name, v in right(inputs).items()}
    assert "of the optimised network differs from the source graph" in shop.refusal()


def test_a_gate_that_gave_up_voids_the_measurement(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    gave_up = GiveUp(reason="it waited", slot=0, holder=1, time_ns=1, is_expiry=False)
    monkeypatch.setattr(GateBoard, "give_ups", lambda board: (gave_up,))
    assert "gates: 1 passed by their limits while nothing else was to run (it waited)" in (
        shop.refusal()
    )


def test_a_gate_that_gave_up_voids_the_check(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    gave_up = GiveUp(reason="it waited", slot=0, holder=1, time_ns=1, is_expiry=False)
    asked = 0

    def give_ups(board: GateBoard) -> tuple[GiveUp, ...]:
        nonlocal asked
        asked += 1
        return (gave_up,) if asked == 3 else ()

    monkeypatch.setattr(GateBoard, "give_ups", give_ups)
    assert "gates: 1 passed by their limits" in shop.refusal()


# Targets without gates


@pytest.mark.usefixtures("quick_measurements")
def test_a_cpu_has_no_gates(tmp_path: Path) -> None:
    path = onnx_models.save(onnx_models.chain(4), tmp_path / "net.onnx")
    compiler, output = Compiler(tmp_path / "cache"), tmp_path / "net.bundle"
    words = ("compile", path, "--segments", "1", "-o", output, "--mechanism")
    assert compiler.refused(*words, "gates") == (
        "--mechanism gates: gates need TensorRT, target 'cpu' has the CPU of this machine, by ONNX"
        " Runtime; leave it out, or name a GPU with --target"
    )
    assert not output.exists()
    report = compiler.json(*words, "auto")
    assert report["mechanism"] == "segments"
    assert report["notes"][0] == (
        "segments, not gates: gates need TensorRT, this is ONNX Runtime on the CPU"
    )
    assert not any("gates" in note for note in compiler.json(*words, "segments")["notes"])


@pytest.mark.parametrize("mechanism", ["gates", "auto"])
def test_a_portable_bundle_gets_gates_where_the_gpu_is(
    shop: Shop, gpu: Gpu, mechanism: str
) -> None:
    words = ("compile", shop.model, "--target", "orin", "--segments", "2", "-o", shop.output)
    report = shop.compiler.json(*words, "--mechanism", mechanism)
    assert (report["mechanism"], report["source"]) == ("segments", "estimated")
    assert report["notes"] == [
        f"mechanism {mechanism}: which kernels there are is known on the device alone, so the"
        " estimated plan is one of segments; `preemptc build` puts gates in there"
    ]
    assert report["notes"][0] in shop.text(*words, "--mechanism", mechanism)
    assert [plan.mechanism for plan in shop.bundle.manifest.plans] == ["segments"]
    assert "segments until it is built; `preemptc build` puts gates in" in shop.text(
        "inspect", shop.output
    )
    assert shop.compiler.json("inspect", shop.output)["requested_mechanism"] == mechanism
    built = shop.compiler.json("build", shop.output)
    assert (built["mechanism"], built["segments"], built["planned_segments"]) == ("gates", 2, 2)
    assert [plan.id for plan in shop.bundle.manifest.plans] == ["whole", "gates"]
    assert "until it is built" not in shop.text("inspect", shop.output)
    again = shop.compiler.json("build", shop.output)
    assert (again["mechanism"], again["planned_segments"]) == ("gates", 2)


def test_what_segments_cannot_keep_by_estimates_is_left_to_the_build(shop: Shop) -> None:
    words = ("compile", shop.model, "--target", "orin", "--segments", "8", "-o", shop.output)
    refusal = shop.compiler.refused(*words)
    assert refusal == shop.compiler.refused(*words, "--mechanism", "auto")
    report = shop.compiler.json(*words, "--mechanism", "gates")
    assert (report["segments"], report["source"]) == (1, "estimated")
    assert report["notes"][-1] == (
        f"one segment until it is built, where gates decide; for segments: {refusal}"
    )
    built = shop.compiler.json("build", shop.output)
    assert (built["mechanism"], built["segments"], built["planned_segments"]) == ("gates", 8, 1)


def test_no_plan_says_that_it_keeps_what_it_does_not(shop: Shop) -> None:
    words = ("compile", shop.model, "--target", "orin", "--max-segment", "1ns", "-o", shop.output)
    assert "alone takes" in shop.compiler.refused(*words)
    report = shop.compiler.json(*words, "--mechanism", "gates")
    (plan,) = shop.bundle.manifest.plans
    assert (report["bound_ns"], plan.bound_ns) == (None, None)
    assert "cannot be preempted" not in shop.text(*words, "--mechanism", "gates")
    assert "kernel node" in shop.compiler.refused("build", shop.output)  # on the device it is known


def test_a_build_may_choose_another_mechanism(shop: Shop) -> None:
    shop.report("--segments", "1")
    built = shop.compiler.json("build", shop.output, "--mechanism", "segments")
    assert built["mechanism"] == "segments"
    request = shop.bundle.manifest.extensions["preemptc"]["request"]
    assert request["mechanism"] == "segments"
    assert shop.compiler.json("build", shop.output)["mechanism"] == "segments"
    assert shop.compiler.json("build", shop.output, "--mechanism", "gates")["mechanism"] == "gates"


def test_a_bundle_of_before_asks_for_segments(shop: Shop) -> None:
    shop.report()
    path = shop.output / "manifest.json"
    document = json.loads(path.read_text())
    del document["extensions"]["preemptc"]["request"]["mechanism"]
    path.write_text(json.dumps(document))
    assert options_from_request(shop.bundle, "native").mechanism == "segments"
    document["extensions"]["preemptc"]["request"]["mechanism"] = "teleport"
    path.write_text(json.dumps(document))
    message = shop.compiler.refused("build", shop.output)
    assert "request.mechanism: found 'teleport', expected one of auto, segments, gates" in message


def test_segments_are_the_default(shop: Shop) -> None:
    assert DEFAULT_MECHANISM == "segments"
    words = ("compile", shop.model, "--target", "native", "--segments", "1", "-o", shop.output)
    assert shop.compiler.json(*words)["mechanism"] == "segments"


def test_each_mechanism_has_its_own_entry_in_the_cache(shop: Shop) -> None:
    first = shop.report("--segments", "1")
    other = shop.report("--segments", "1", mechanism="segments")
    again = shop.report("--segments", "1")
    assert (first["mechanism"], other["mechanism"], again["mechanism"]) == (
        "gates", "segments", "gates",
    )  # fmt: skip
    assert again["gates"] == first["gates"]
    assert again["cache_hits"] > first["cache_hits"]


# What people see


def test_the_report_for_people(shop: Shop) -> None:
    text = shop.text()
    for part in (
        "compiled for native",
        "gates 4, one before the first kernel, the others at 3 of 7 positions; experimental",
        "asked no stretch over 130 us, at the least overhead",
        "bound 130 us at p50",
        "longest stretch 100 us p50, 100 us p99, 100 us max",
        "longest kernel 50.",
        "overhead 0.",
        "measured: each run with gates over the run without beside it, the median of these",
        "ns, from one at every position",
        "8 kernels of 8 nodes, a plain chain; fingerprint",
        "outputs with gates bitwise equal to those without on 2 inputs",
        "stretches of plan 'gates', a gate before each (p50, p99, max measured)",
        "# kernel nodes predicted p50 p99 max 0 0-1 10",
    ):
        assert part in text
    assert "pruning" not in text


def test_the_report_for_programs(shop: Shop) -> None:
    report = shop.report()
    gates = report["gates"]
    assert (gates["positions"], gates["gates"], gates["kernels"], gates["nodes"]) == (7, 4, 8, 8)
    assert gates["node_names"][:2] == ["mm0", "relu0"]
    assert len(gates["node_ns"]) == 8
    assert gates["split_points"] == [2, 4, 6]
    assert (report["built"], report["candidates"], report["source"]) == (0, None, "measured")
    assert report["measured"]["overhead_ratio"] > 1


def test_inspect_shows_stretches_and_one_engine(shop: Shop) -> None:
    shop.report()
    text = shop.text("inspect", shop.output, "--jobs", "3")
    for part in (
        "mechanism gates",
        "captured graph 8 nodes, fingerprint",
        "a device that captures another one leaves this plan out",
        "stretches 4, a gate of",
        "longest stretch 100 us p50",
        "scratch 1 KiB for each job",
        "3 jobs in flight 3 contexts, 3 graphs",
        "stretches of plan 'gates'",
    ):
        assert part in text
    whole, gates = (plan["memory"] for plan in shop.compiler.json("inspect", shop.output)["plans"])
    assert whole == gates
    whole, gates = (
        plan["memory"]
        for plan in shop.compiler.json("inspect", shop.output, "--jobs", "3")["plans"]
    )
    assert gates["device_bytes"] - whole["device_bytes"] == 2 * whole["scratch_bytes"]


def test_verify_runs_the_engine_with_gates_and_without(shop: Shop) -> None:
    shop.report()
    plans = {plan["id"]: plan for plan in shop.compiler.json("verify", shop.output)["plans"]}
    assert (plans["gates"]["skipped"], plans["gates"]["num_inputs"]) == (None, 3)
    assert plans["gates"]["mechanism"] == "gates"
    assert (
        "plan 'gates' 4 stretches between gates, bitwise equal to the same engine without gates on"
        " 3 inputs"
    ) in shop.text("verify", shop.output)


def test_verify_finds_other_outputs(shop: Shop, gpu: Gpu) -> None:
    shop.report()
    wrong_with_gates(gpu)
    line = shop.compiler.refused("verify", shop.output)
    assert (
        "plan 'gates', inputs 0: output 'r3' differs from the same engine's without gates" in line
    )
    assert "by 1, allowed 0" in line


def test_verify_says_what_it_does_not_run(shop: Shop, gpu: Gpu) -> None:
    shop.report()
    gpu.driver.captured_edges = {(idx, idx + 1): 0 for idx in range(6)}
    (whole, gates) = shop.compiler.json("verify", shop.output)["plans"]
    assert whole["skipped"] is None
    assert "plan 'gates' places gates in a graph of fingerprint" in gates["skipped"]
    gpu.driver.captured_edges = None
    gpu.driver.failures["cuModuleLoadDataEx"] = UNSUPPORTED_PTX
    (whole, gates) = shop.compiler.json("verify", shop.output)["plans"]
    assert whole["skipped"] is None
    assert "no gates: " in gates["skipped"]
    assert "CUDA_ERROR_222" in gates["skipped"]


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_memory_that_only_gates_lack_is_a_reason_for_segments(
    shop: Shop, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    make = TrtBench.gates

    def gates(bench: TrtBench) -> TrtGateBench:
        taken = gpu.driver.num_calls["cuMemAlloc"]
        gpu.driver.failures_at["cuMemAlloc", taken + nth] = OUT_OF_MEMORY
        return make(bench)

    monkeypatch.setattr(TrtBench, "gates", gates)
    report = shop.report("--segments", "1", mechanism="auto")
    assert (report["mechanism"], report["segments"]) == ("segments", 1)
    (note,) = [note for note in report["notes"] if note.startswith("segments, not gates: ")]
    assert "CUDA_ERROR_OUT_OF_MEMORY" in note
    assert [plan.id for plan in shop.bundle.manifest.plans] == ["segments", "whole"]


def test_memory_that_segments_lack_too_ends_a_compile(
    shop: Shop, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = TrtBench.gates

    def gates(bench: TrtBench) -> TrtGateBench:
        gpu.driver.failures["cuMemAlloc"] = OUT_OF_MEMORY
        return make(bench)

    monkeypatch.setattr(TrtBench, "gates", gates)
    line = shop.compiler.refused(*shop.words("--segments", "2", mechanism="auto"))
    assert "no device memory for " in line
    assert not shop.output.exists()


def test_an_interrupt_while_gates_are_measured_ends_a_compile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrtGateBench, "measure", interrupted)
    code, _, stderr = shop.compiler(*shop.words(mechanism="auto"))
    assert code == 130
    assert "not gates" not in stderr
    assert not shop.output.exists()
