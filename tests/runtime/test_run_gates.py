"""Whole runs by gates on a fake device: which mechanism is taken, and what the report says."""

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from preempt_runtime.bundle import Bundle, choose_plan, open_bundle
from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import Network
from preempt_runtime.errors import BundleError, GatesError, InputError
from preempt_runtime.manifest import GATES_FIRST, GateSpec, Manifest
from preempt_runtime.plan_choice import plan_with_costs
from preempt_runtime.run_options import RunOptions
from preempt_runtime.run_report import document_from_report, print_report
from preempt_runtime.run_taskset import RunReport, run_taskset
from preempt_runtime.simulation.costs import read_costs
from preempt_runtime.taskset import read_taskset
from preempt_runtime.testing import Recording
from tests.runtime.fake_bundles import (
    FIELDS,
    FakeBackend,
    LoadedNetwork,
    LoadingFakeDevice,
    manifest_of,
    write_bundle,
)
from tests.runtime.gated_world import FakeGatedDevice

MS = 1_000_000
TWO_TASKS = """
[taskset]
name = "pair"
mechanism = "MECHANISM"

[[task]]
name = "urgent"
bundle = "short.bundle"
priority = 9
deadline = "4ms"
arrival = {kind = "periodic", period = "20ms", offset = "5ms"}

[[task]]
name = "long"
bundle = "long.bundle"
best_effort = true
buffers = 2
arrival = {kind = "closed_loop"}
"""


class LoadingGatedFake(FakeGatedDevice):
    """Loads the bundles of fake_bundles; `unfit` are names of bundles that cannot have gates."""

    def __init__(self, clock: VirtualClock, mode: str, unfit: tuple[str, ...] = ()) -> None:
        super().__init__(clock)
        self.mode = mode
        self.unfit = unfit
        self.events: list[str] = []

    def load(self, bundle: Bundle, plan_id: str | None = None) -> Network:
        plan = choose_plan(bundle, FIELDS, plan_id=plan_id, mechanisms=("gates", "segments"))
        if bundle.root.name in self.unfit:
            raise GatesError(f"{bundle.root.name}: another graph than planned")
        name = f"{bundle.root.name}:{plan.id}"
        return LoadedNetwork(
            name=name,
            segment_ns=tuple(segment.predicted_ns for segment in plan.segments),
            graph=bundle.manifest.graphs[0],
            events=self.events,
            plan_segments=plan.segments,
        )


def with_gates(manifest: Manifest, num_stretches: int) -> Manifest:
    """A plan of gates more, on the plan `whole`."""
    whole = manifest.plans[1]
    (segment,) = whole.segments
    stretches = tuple(
        dataclasses.replace(
            segment,
            range=(idx, idx + 1),
            inputs=segment.inputs if idx == 0 else (),
            outputs=segment.outputs if idx == num_stretches - 1 else (),
            predicted_ns=segment.predicted_ns // num_stretches,
        )
        for idx in range(num_stretches)
    )
    gates = GateSpec(fingerprint="0" * 16, num_nodes=num_stretches, gate_ns=800)
    plan = dataclasses.replace(
        whole, id="gates", mechanism="gates", segments=stretches, gates=gates
    )
    return dataclasses.replace(manifest, plans=(*manifest.plans, plan))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "short.bundle", manifest_of((2 * MS,)))
    write_bundle(tmp_path / "long.bundle", with_gates(manifest_of((3 * MS,) * 10), 60))
    return tmp_path


class Bench:
    """Runs on fakes with and without gates, and the devices that were opened."""

    def __init__(self, folder: Path, mechanism: str, **gated: Any) -> None:
        (folder / "set.toml").write_text(TWO_TASKS.replace("MECHANISM", mechanism))
        self.taskset = read_taskset(folder / "set.toml")
        self.clock, self.recording = VirtualClock(), Recording()
        self.plain: LoadingFakeDevice | None = None
        self.gated: LoadingGatedFake | None = None
        self.tune: Callable[[LoadingGatedFake], object] = lambda _: None
        self._gated = gated

    def run(self, **options: Any) -> RunReport:
        return run_taskset(
            self.taskset,
            RunOptions(duration_ns=100 * MS, num_warmup_runs=1, **options),
            find_backend=lambda _: FakeBackend(
                make_device=self._open, make_gated_device=self._open_gated
            ),
            clock=self.clock,
            instruments=(self.recording,),
        )

    def _open(self) -> LoadingFakeDevice:
        self.plain = LoadingFakeDevice(self.clock)
        return self.plain

    def _open_gated(self, mode: str) -> LoadingGatedFake:
        self.gated = LoadingGatedFake(self.clock, mode, **self._gated)
        self.tune(self.gated)
        return self.gated


def printed(report: RunReport) -> str:
    out = io.StringIO()
    print_report(report, out)
    return out.getvalue()


def test_an_urgent_job_waits_for_a_stretch_instead_of_a_segment(folder: Path) -> None:
    blocking = {}
    for mechanism in ("segments", "gates"):
        bench = Bench(folder, mechanism)
        report = bench.run()
        urgent = report.tasks["urgent"].metrics
        assert urgent.finished == urgent.released == 5
        assert urgent.blocking is not None
        blocking[mechanism] = urgent.blocking.max_ns
        assert report.mechanism == mechanism
    assert blocking["segments"] > 900_000
    assert 0 < blocking["gates"] <= 500_200


def test_the_report_says_by_what_jobs_were_preempted(folder: Path) -> None:
    bench = Bench(folder, "gates")
    report = bench.run(gate_mode="overlap")
    assert bench.gated is not None
    assert bench.gated.mode == "overlap"
    document = document_from_report(report)
    assert (document["mechanism"], document["gate_mode"]) == ("gates", "overlap")
    assert document["tasks"]["long"]["plan"] == "gates"
    assert document["tasks"]["long"]["num_segments"] == 60
    assert document["tasks"]["urgent"]["plan"] == "cut"  # no plan of gates: one before a segment
    assert "by gates (overlap)" in printed(report)
    (buffers,) = [each for each in report.options if each.name == "buffers of task long"]
    assert buffers.applied  # at a depth of 1


def test_segments_are_the_default_and_a_command_may_ask_for_gates(folder: Path) -> None:
    text = TWO_TASKS.replace('mechanism = "MECHANISM"\n', "")
    (folder / "default.toml").write_text(text)
    assert read_taskset(folder / "default.toml").mechanism == "segments"
    bench = Bench(folder, "segments")
    assert bench.run(mechanism="gates").mechanism == "gates"
    assert bench.plain is None


def test_auto_takes_gates_where_a_bundle_has_them(folder: Path) -> None:
    bench = Bench(folder, "auto")
    report = bench.run()
    assert (report.mechanism, report.gate_mode) == ("gates", "exclusive")
    assert bench.plain is None


def reason_of(report: RunReport) -> str:
    (option,) = [each for each in report.options if each.name == "mechanism"]
    assert option.requested == "auto"
    assert option.reason.startswith("segments, because ")
    assert f"option mechanism = auto: {option.reason}\n" in printed(report)
    return option.reason


def test_auto_takes_segments_and_says_why(folder: Path) -> None:
    bench = Bench(folder, "auto", unfit=("long.bundle",))
    report = bench.run()
    assert report.mechanism == "segments"
    assert "long.bundle: another graph than planned" in reason_of(report)

    assert "'prema'" in reason_of(Bench(folder, "auto").run(policy="prema"))

    held_up = Bench(folder, "auto")
    held_up.tune = lambda device: setattr(device, "is_held_up", True)
    report = held_up.run()
    assert "hold each other up" in reason_of(report)
    assert report.tasks["urgent"].metrics.finished == 5

    write_bundle(folder / "long.bundle", manifest_of((3 * MS,) * 10))
    assert "no bundle has a plan of gates" in reason_of(Bench(folder, "auto").run())


def test_a_mode_of_gates_without_gates_has_no_effect_and_it_says_so(folder: Path) -> None:
    report = Bench(folder, "segments").run(gate_mode="overlap")
    assert "option gate-mode = overlap: refused: no effect, jobs are preempted between" in (
        printed(report)
    )
    assert "gate-mode" not in printed(Bench(folder, "gates").run(gate_mode="overlap"))
    assert "gate-mode" not in printed(Bench(folder, "segments").run())


def test_who_insists_on_gates_is_refused_instead(folder: Path) -> None:
    with pytest.raises(GatesError, match=r"long\.bundle: another graph than planned"):
        Bench(folder, "gates", unfit=("long.bundle",)).run()
    with pytest.raises(InputError, match="'prema': a job's urgency changes"):
        Bench(folder, "gates").run(policy="prema")


def test_a_plan_of_gates_that_nobody_may_run_is_refused_with_what_would_run_it(
    folder: Path,
) -> None:
    text = TWO_TASKS.replace('"long.bundle"', '"long.bundle"\nplan = "gates"')
    asked = r"'gates' is a plan of gates, asked for: segments; run with --mechanism gates"
    bench = Bench(folder, "segments")
    (folder / "set.toml").write_text(text.replace("MECHANISM", "segments"))
    bench.taskset = read_taskset(folder / "set.toml")
    with pytest.raises(BundleError, match=asked):
        bench.run()
    assert bench.run(mechanism="gates").tasks["long"].plan == "gates"
    gates = "and not by gates: long.bundle: another graph than planned"
    unfit = Bench(folder, "auto", unfit=("long.bundle",))
    unfit.taskset = bench.taskset
    with pytest.raises(BundleError, match=f"{asked}.*; {gates}"):
        unfit.run(mechanism="auto")


def test_a_bundle_with_gates_alone_is_simulated_where_they_are_asked_for(folder: Path) -> None:
    manifest = with_gates(manifest_of((3 * MS,) * 10), 60)
    write_bundle(folder / "long.bundle", dataclasses.replace(manifest, plans=manifest.plans[2:]))
    (folder / "set.toml").write_text(TWO_TASKS.replace("MECHANISM", "segments"))
    with pytest.raises(BundleError, match=r"no plan of segments, it holds 'gates' \(gates, thr"):
        read_costs(read_taskset(folder / "set.toml"))


def test_what_gates_gave_up_stands_in_the_report(folder: Path) -> None:
    bench = Bench(folder, "gates")
    fault = "slot 1 waited no longer for slot 0: the holder of a key did nothing"
    bench.tune = lambda device: setattr(device, "given_up", (fault,))
    report = bench.run()
    assert report.gate_faults == (fault,)
    assert f"bounds of the jobs concerned do not hold: {fault}" in printed(report)


@pytest.mark.parametrize("key", ["mechanism", "gate_mode"])
def test_other_words_are_refused_by_their_place(key: str, folder: Path) -> None:
    text = TWO_TASKS.replace('mechanism = "MECHANISM"', f'{key} = "magic"')
    (folder / "set.toml").write_text(text)
    with pytest.raises(InputError, match=f"{key}"):
        read_taskset(folder / "set.toml")


def test_simulation_and_doctor_look_at_the_plan_that_would_run(folder: Path) -> None:
    found = {}
    for mechanism in ("segments", "gates", "auto"):
        (folder / "set.toml").write_text(TWO_TASKS.replace("MECHANISM", mechanism))
        costs = read_costs(read_taskset(folder / "set.toml"))
        found[mechanism] = (costs["long"].plan, len(costs["long"].segments), costs["urgent"].plan)
    assert found == {
        "segments": ("cut", 10, "cut"),
        "gates": ("gates", 60, "cut"),
        "auto": ("gates", 60, "cut"),
    }
    bundle = open_bundle(folder / "long.bundle")
    with pytest.raises(BundleError, match=r"'gates' is a plan of gates, asked for: segments; set"):
        plan_with_costs(bundle, "gates", None)
    assert plan_with_costs(bundle, "gates", None, GATES_FIRST).id == "gates"
    text = TWO_TASKS.replace("MECHANISM", "gates")
    (folder / "set.toml").write_text(text.replace('"long.bundle"', '"long.bundle"\nplan = "whole"'))
    assert read_costs(read_taskset(folder / "set.toml"))["long"].plan == "whole"
