"""TensorRT with gates on a fake driver: what runs beside what, and what is left behind."""

import ctypes
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preempt_runtime import gate_progress
from preempt_runtime.backends import cuda_driver, cuda_wait, gate_board, trt_gated
from preempt_runtime.backends.cuda import open_cuda
from preempt_runtime.backends.gate_board import Mode
from preempt_runtime.backends.gate_canary import held_up
from preempt_runtime.backends.trt_buffers import TrtBuffers
from preempt_runtime.backends.trt_gated import GatedNetwork, GatedTrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.clock import MonotonicClock
from preempt_runtime.device import Array
from preempt_runtime.errors import DeviceError, GatesError, InputError
from preempt_runtime.executor import Executor
from preempt_runtime.gate_keys import EMPTY, key_of
from preempt_runtime.gated_device import GatedDevice
from preempt_runtime.records import JobState
from preempt_runtime.task import Task
from preempt_runtime.testing import Recording
from tests.runtime.fake_cuda import NOT_READY, OUT_OF_MEMORY
from tests.runtime.fake_graphs import GraphDriver
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.gated_trt_world import gated_bundle, install_graphs, open_device
from tests.runtime.tensorrt_world import expected

X = np.arange(6, dtype=np.float32).reshape(2, 3)
INPUTS: dict[str, Array] = {"x": X, "scale": np.full(1, 0.5, np.float32)}
MODES: tuple[Mode, ...] = ("exclusive", "overlap")


@pytest.fixture
def trt(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[FakeTensorRT]:
    """A fake TensorRT on a driver whose streams make progress when somebody looks."""
    found = install_graphs(monkeypatch, tmp_path, **getattr(request, "param", {}))
    yield found
    assert found.driver.open == {}, "left open"


def run(
    device: GatedTrtDevice, tasks: list[Task], jobs: list[tuple[str, dict[str, Array]]]
) -> tuple[list[Any], Recording]:
    recording = Recording()
    with Executor(device, "fixed-priority", MonotonicClock(), [recording]) as executor:
        executor.add_tasks(tasks)
        for task in tasks:
            executor.warm_up(task.name, INPUTS)
        handles = [executor.submit(name, inputs) for name, inputs in jobs]
        executor.run()
        executor.check_integrity()
    return handles, recording


def inputs_of(number: int) -> dict[str, Array]:
    return {"x": X + number, "scale": np.full(1, number, np.float32)}


def result_of(number: int) -> float:
    return float((X + number).sum() + number + 7)


def test_it_is_a_device_with_gates(trt: FakeTensorRT) -> None:
    with open_device() as device:
        assert isinstance(device, GatedDevice)


@pytest.mark.parametrize("mode", MODES)
def test_jobs_of_two_networks_interleave_and_compute_what_they_should(
    mode: Mode, trt: FakeTensorRT, tmp_path: Path
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device(mode) as device:
        urgent, other = device.load(bundle), device.load(bundle)
        assert urgent.plan.id == "gates"
        assert len(urgent.segments) == 3
        assert min(trt.runs_before_captures) == 2, "as often as where the gates were planned"
        tasks = [
            Task(name="rt", network=urgent, priority=1),
            Task(name="be", network=other, buffers=2),
        ]
        jobs = [(("be", "rt")[number % 2], inputs_of(number)) for number in range(8)]
        handles, recording = run(device, tasks, jobs)
        for number, handle in enumerate(handles):
            assert float(handle.result()["y"]) == result_of(number)
        assert {record.state for record in recording.jobs} == {JobState.FINISHED}
        kinds = [r.segment_idx for r in recording.segments if r.task == "rt"]
        assert kinds == [0, 1, 2] * 4
        assert device.give_ups() == ()
        for each in (urgent, other):
            each.close()


def test_times_are_waited_for_where_the_outputs_are_there_first(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, bundle = GraphDriver.cuEventQuery, gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        network = device.load(bundle)
        buffers = network.new_buffers()
        for number in range(1, 6):
            buffers.write_inputs(inputs_of(number))
            begin_ns = trt.driver.now_ns
            device.start(buffers, ("real-time", number), is_urgent=True)
            monkeypatch.setattr(GraphDriver, "cuEventQuery", _query_one_step)
            while not device.is_done(buffers):
                pass
            times = device.times(buffers)
            monkeypatch.setattr(GraphDriver, "cuEventQuery", query)
            assert float(buffers.read_outputs()["y"]) == result_of(number)
            assert begin_ns <= times.arrived_ns[0] <= times.end_ns <= trt.driver.now_ns
        buffers.close()
        network.close()


def _query_one_step(driver: GraphDriver, event: int) -> tuple[int]:
    """As the driver's, but little happens meanwhile: what comes after the event has not ended."""
    driver.advance(1)
    return (0 if driver._recorded[event] in driver._finished else NOT_READY,)


def test_at_most_one_stretch_runs_at_a_time_in_exclusive_mode(
    trt: FakeTensorRT, tmp_path: Path
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        networks = [device.load(bundle) for _ in range(3)]
        tasks = [
            Task(name=f"t{idx}", network=network, priority=idx or None, buffers=2)
            for idx, network in enumerate(networks)
        ]
        trt.driver.log.clear()
        jobs = [(f"t{number % 3}", inputs_of(number)) for number in range(12)]
        _, recording = run(device, tasks, jobs)
        spans = sorted((r.start_ns, r.end_ns) for r in recording.segments)
        assert len(spans) == 12 * 3
        assert [(a, b) for a, b in pairwise(spans) if a[1] > b[0]] == []
        for each in networks:
            each.close()


def test_segments_run_on_it_too_with_a_gate_before_each(trt: FakeTensorRT, tmp_path: Path) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        cut = device.load(bundle, "segments")
        gated = device.load(bundle, "gates")
        tasks = [Task(name="cut", network=cut, priority=1), Task(name="be", network=gated)]
        handles, recording = run(device, tasks, [("be", INPUTS), ("cut", INPUTS)])
        want = expected(15, 0.5)
        assert float(handles[1].result()["y"]) == want["y"]
        assert handles[1].result()["early"][0] == want["early"]
        assert float(handles[0].result()["y"]) == 15 + 0.5 + 7
        kinds = [r.segment_idx for r in recording.segments if r.task == "cut"]
        assert kinds == [0, 1, 2]
        for each in (cut, gated):
            each.close()


def test_another_graph_than_planned_is_refused(trt: FakeTensorRT, tmp_path: Path) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle", fingerprint="0123456789abcdef")
    with (
        open_device() as device,
        pytest.raises(
            DeviceError,
            match=r"net\.bundle: plan 'gates' .* 0123456789abcdef, this driver captures",
        ),
    ):
        device.load(bundle)


def test_kernels_that_need_the_whole_gpu_cannot_have_gates(
    trt: FakeTensorRT, tmp_path: Path
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    trt.driver.cooperative.add("engine +7")
    with open_device() as device, pytest.raises(DeviceError, match=r"net\.bundle: plan 'gates'"):
        device.load(bundle)
    with open_device() as device, pytest.raises(DeviceError, match=r"no gates: .*at once"):
        device.load(bundle, "whole")


def test_only_one_process_has_the_device(trt: FakeTensorRT, tmp_path: Path) -> None:
    with open_device() as first:
        expected_text = f"another process runs jobs with gates on it: process {os.getpid()}"
        with pytest.raises(DeviceError, match=expected_text):
            GatedTrtDevice()
        assert first.name == "Testium 9000"
    with open_device():
        pass


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_a_lock_file_that_is_none_is_refused(kind: str, trt: FakeTensorRT, tmp_path: Path) -> None:
    with open_cuda():
        path = tmp_path / f"preempt-rt-gpu-{cuda_driver.pci_bus_id()}.lock"
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda p: os.symlink("/dev/null", p)}
    make[kind](path)
    with pytest.raises(DeviceError, match=r"the GPU's lock file (is no|cannot be)"):
        GatedTrtDevice()


@pytest.mark.parametrize("trt", [{"num_queues": 2}], indirect=True)
def test_streams_that_hold_each_other_up_are_found_before_a_run(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    driver = trt.driver
    assert isinstance(driver, GraphDriver)
    driver.step_ns = 20_000  # a gate's limit of 50 ms comes soon
    monkeypatch.setattr(trt_gated, "held_up", held_up)
    with open_device() as device:
        network = device.load(bundle)
        with pytest.raises(DeviceError, match=r"share a hardware queue.*MAX_CONNECTIONS=32"):
            run(device, [Task(name="be", network=network, buffers=4)], [("be", INPUTS)])
        network.close()


def test_a_task_may_join_while_gates_wait(trt: FakeTensorRT, tmp_path: Path) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        first, second = device.load(bundle), device.load(bundle)
        with Executor(device, "fixed-priority", MonotonicClock()) as executor:
            executor.add_task(Task(name="be", network=first))
            handles = [executor.submit("be", inputs_of(number)) for number in range(3)]
            executor.step()
            executor.add_task(Task(name="rt", network=second, priority=1, buffers=2))
            handles.append(executor.submit("rt", inputs_of(3)))
            num_streams = trt.driver.num_calls["cuStreamCreateWithPriority"]
            executor.run()
            # The thread that adds a task has made all that its jobs need.
            assert trt.driver.num_calls["cuStreamCreateWithPriority"] == num_streams
            executor.change_task(Task(name="rt", network=second, buffers=2))
            executor.submit("rt", inputs_of(3))
            executor.run()
            assert trt.driver.num_calls["cuStreamCreateWithPriority"] == num_streams + 1
        assert [float(h.result()["y"]) for h in handles] == [result_of(n) for n in range(4)]
        for each in (first, second):
            each.close()


def test_a_task_may_leave_while_a_job_waits_at_a_gate(trt: FakeTensorRT, tmp_path: Path) -> None:
    """To free memory waits for all work: the dispatcher leaves that to whoever opens all gates."""
    bundle, driver = gated_bundle(tmp_path / "net.bundle"), trt.driver
    with open_device() as device:
        first, second = device.load(bundle), device.load(bundle)
        with Executor(device, "fixed-priority", MonotonicClock()) as executor:
            executor.add_tasks([Task(name="be", network=first), Task(name="rt", network=second)])
            executor.warm_up("be", INPUTS)
            handle = executor.submit("be", INPUTS)
            executor.step()
            num_freed = driver.num_calls.get("cuMemFree", 0)
            executor.remove_task("rt", wait=False)
            executor.step()
            assert driver.num_calls.get("cuMemFree", 0) == num_freed
            second.close()
            assert driver.num_calls["cuMemFree"] > num_freed
            executor.run()
            assert float(handle.result()["y"]) == float(X.sum() + 0.5 + 7)
        first.close()


def test_what_takes_a_key_back_comes_before_the_next_one(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is cancelled as it ends, and the next one in its buffers begins at once."""
    bundle, driver = gated_bundle(tmp_path / "net.bundle"), trt.driver
    assert isinstance(driver, GraphDriver)
    with open_device() as device:
        network = device.load(bundle)
        buffers = network.new_buffers()
        buffers.write_inputs(INPUTS)
        device.start(buffers, ("real-time", 1), is_urgent=True)
        driver.cuCtxSynchronize()
        lagging, can_go = {device.board.control.handle}, driver._can_go
        monkeypatch.setattr(driver, "_can_go", lambda s: s not in lagging and can_go(s))
        device.cancel(buffers)
        while not device.is_done(buffers):
            pass
        driver.log.clear()
        device.start(buffers, ("real-time", 2), is_urgent=True)
        driver.advance(500)
        lagging.clear()
        while not device.is_done(buffers):
            pass
        writes = [int(line.split()[-1], 16) for line in driver.log if ": write" in line]
        assert writes == [(1 << 64) - 1, key_of("real-time", 2, buffers.slot)]
        driver.log.clear()
        device.announce(buffers, ("real-time", 3))
        device.cancel(buffers)
        device.start(buffers, ("real-time", 4), is_urgent=True)
        driver.cuCtxSynchronize()
        written = [line for line in driver.log if ": write" in line]
        assert [line.partition(":")[0] for line in written] == ["high"] * 3
        assert int(written[-1].split()[-1], 16) == key_of("real-time", 4, buffers.slot)
        assert device.is_done(buffers)
        buffers.close()
        network.close()


def test_memory_counts_a_scratch_block_for_each_job(trt: FakeTensorRT, tmp_path: Path) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        network = device.load(bundle)
        memory = network.memory()
        assert memory.has_scratch_per_job
        assert memory.num_segments == 1  # engines, and contexts of a job
        one, two = memory.device_bytes(1), memory.device_bytes(2)
        assert one is not None
        assert two is not None
        assert two - one == 5120 + memory.device_bytes_per_job
        network.close()


def test_too_many_jobs_are_refused_by_their_number(trt: FakeTensorRT, tmp_path: Path) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        network = device.load(bundle)
        with (
            Executor(device, "fixed-priority", MonotonicClock()) as executor,
            pytest.raises(GatesError, match=r"'be': .* 33 of 33 .*32 jobs .* slots are taken"),
        ):
            executor.add_task(Task(name="be", network=network, buffers=33))
        network.close()


@pytest.mark.parametrize("number", range(1, 5))
def test_memory_that_only_gates_need_is_asked_for_in_vain(
    number: int, trt: FakeTensorRT, tmp_path: Path
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        network = device.load(bundle)
        network.new_buffers().close()
        taken = trt.driver.num_calls["cuMemAlloc"]
        trt.driver.failures_at["cuMemAlloc", taken + number] = OUT_OF_MEMORY
        with pytest.raises(GatesError, match=r"out of memory.*; or run with --mechanism segments"):
            network.new_buffers()
        network.new_buffers().close()
        network.close()
        with pytest.raises(InputError, match=r"^network 'net\.bundle' is closed; load it again$"):
            network.new_buffers()


def test_a_driver_that_refuses_the_gates_is_no_reason_not_to_run_by_segments(
    trt: FakeTensorRT,
) -> None:
    trt.driver.failures["cuModuleLoadDataEx"] = 218
    with pytest.raises(GatesError, match=r"no gates: .*; or run with --mechanism segments"):
        GatedTrtDevice()


def test_gates_where_the_graph_cannot_be_cut_are_refused_with_their_plan(
    trt: FakeTensorRT, tmp_path: Path
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    manifest = json.loads((bundle.root / "manifest.json").read_text())
    plan = manifest["plans"][2]
    plan["gates"]["num_nodes"] = 90
    plan["segments"][1]["range"] = [2, 80]
    plan["segments"][2]["range"] = [80, 90]
    (bundle.root / "manifest.json").write_text(json.dumps(manifest))
    with open_device() as device, pytest.raises(GatesError, match=r"'gates': .* before node 80"):
        device.load(open_bundle(bundle.root))


def test_waiting_for_all_waits_for_a_job_whose_start_was_interrupted(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with open_device() as device:
        network: GatedNetwork = device.load(bundle)
        with Executor(device, "fixed-priority", MonotonicClock()) as executor:
            executor.add_task(Task(name="rt", network=network, priority=1))
            executor.warm_up("rt", INPUTS)
            handle = executor.submit("rt", INPUTS)
            with monkeypatch.context() as patch:
                patch.setattr(TrtBuffers, "copy_outputs", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    executor.run()
            assert handle.record.state is JobState.CANCELLED
            assert set(device.board.slots()) == {EMPTY}  # its graph has run to its end
            executor.check_integrity()
        network.close()


def test_users_share_a_lock_file_where_linux_protects_those_of_others(
    trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = os.open

    def protecting(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT and os.path.exists(path):  # fs.protected_regular = 2
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really_open(path, flags, *args, **options)

    with open_device():
        pass
    monkeypatch.setattr(os, "open", protecting)
    with open_device():
        pass


def test_a_file_system_that_knows_no_locks_is_named(
    trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DeviceError, match=r"\.lock: .* cannot be opened: No locks available"):
        GatedTrtDevice()


def test_a_launch_that_the_driver_refuses_leaves_no_key_behind(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        network: GatedNetwork = device.load(bundle)
        with Executor(device, "fixed-priority", MonotonicClock()) as executor:
            executor.add_task(Task(name="rt", network=network, priority=1))
            executor.warm_up("rt", INPUTS)
            handle = executor.submit("rt", INPUTS)
            with monkeypatch.context() as patch:
                patch.setattr(trt.driver, "cuGraphLaunch", lambda *_: (700,))
                executor.run()
            with pytest.raises(DeviceError, match="cuGraphLaunch failed"):
                handle.result()
            trt.driver.cuCtxSynchronize()
        assert set(device.board.slots()) == {(1 << 64) - 1}
        network.close()


def test_outputs_may_stay_on_the_device_and_keep_their_buffers(
    trt: FakeTensorRT, tmp_path: Path
) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        network = device.load(bundle)
        with Executor(device, "fixed-priority", MonotonicClock()) as executor:
            executor.add_task(Task(name="be", network=network, outputs="device", buffers=2))
            executor.warm_up("be", INPUTS)
            handles = [executor.submit("be", inputs_of(number)) for number in range(3)]
            for _ in range(400):
                executor.step()
            assert executor.num_held_outputs("be") == 2
            assert not handles[2].done()
            for number in (0, 1):
                with handles[number].result() as outputs:
                    pointer = outputs["y"].__cuda_array_interface__["data"][0]
                    assert ctypes.c_float.from_address(pointer).value == result_of(number)
            executor.run()
            handles[2].result().release()
        network.close()


def test_a_dispatcher_on_a_thread_of_its_own(trt: FakeTensorRT, tmp_path: Path) -> None:
    bundle = gated_bundle(tmp_path / "net.bundle")
    with open_device() as device:
        first, second = device.load(bundle), device.load(bundle)
        with Executor(device, "fixed-priority", MonotonicClock()) as executor:
            executor.add_task(Task(name="be", network=first, buffers=2))
            executor.warm_up("be", INPUTS)
            executor.start()
            handles = [executor.submit("be", inputs_of(number)) for number in range(4)]
            executor.add_task(Task(name="rt", network=second, priority=1))
            handles += [executor.submit("rt", inputs_of(number)) for number in range(4)]
            for number, handle in enumerate(handles):
                assert float(handle.result(timeout=60)["y"]) == result_of(number % 4)
            executor.remove_task("rt")
            executor.stop()
        for each in (first, second):
            each.close()


@pytest.fixture
def kept(trt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What a GPU that hangs keeps: by this process no longer than by the test."""
    found: list[Any] = []
    monkeypatch.setattr(cuda_wait, "_KEPT", found)
    yield found
    assert trt.driver.open, "it keeps what is open"
    trt.driver.open.clear()


def test_a_gpu_that_hangs_hangs_no_process(
    trt: FakeTensorRT, kept: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call that waits for the GPU is made from then on; what it uses is kept."""
    monkeypatch.setattr(gate_progress, "PATIENCE_NS", 50_000_000)
    bundle = gated_bundle(tmp_path / "net.bundle")
    device = GatedTrtDevice()
    network = device.load(bundle)
    executor = Executor(device, "fixed-priority", MonotonicClock())
    executor.add_task(Task(name="rt", network=network, priority=1, buffers=2))
    executor.submit("rt", INPUTS)
    executor.run()
    handles = [executor.submit("rt", INPUTS) for _ in range(3)]
    monkeypatch.setattr(trt.driver, "advance", lambda num_steps=1: False)
    before = dict(trt.driver.num_calls)
    with pytest.raises(DeviceError, match=r"still there: rt 1, rt 2; the GPU hangs.* end this"):
        executor.run()
    for handle in handles[:2]:
        with pytest.raises(DeviceError, match="the GPU hangs"):
            handle.result(timeout=0)
    assert handles[2].done()
    with pytest.raises(DeviceError, match="the GPU hangs"):
        network.new_buffers()
    executor.close()
    num_open = len(trt.driver.open)
    network.close()
    device.close()
    device.close()
    assert len(trt.driver.open) == num_open > 0
    assert len(kept) == 2
    assert kept[0].engines
    for name in ("cuStreamSynchronize", "cuEventSynchronize", "cuCtxSynchronize", "cuMemFree"):
        assert trt.driver.num_calls.get(name, 0) == before.get(name, 0), name


def test_what_does_not_end_while_all_gates_are_open_is_told(
    trt: FakeTensorRT, kept: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_board, "PATIENCE_NS", 50_000_000)
    bundle = gated_bundle(tmp_path / "net.bundle")
    device = GatedTrtDevice()
    network = device.load(bundle)
    buffers = network.new_buffers()
    buffers.use_stream(is_urgent=False)
    stuck, can_go = buffers.stream, trt.driver._can_go
    assert stuck is not None
    monkeypatch.setattr(
        trt.driver, "_can_go", lambda stream: stream != stuck.handle and can_go(stream)
    )
    buffers.write_inputs(INPUTS)
    device.start(buffers, ("best-effort", 0), is_urgent=False)
    with pytest.raises(DeviceError, match=r"all gates being open: not done after 0\.05 s; the"):
        network.new_buffers()
    with pytest.raises(DeviceError, match="the GPU hangs"):
        device.wait_for_all()
    buffers.close()
    network.close()
    device.close()
    assert len(kept) == 2


def test_buffers_are_released_when_the_job_in_them_has_ended(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that leaves closes them; the copies of its last job may still be on their way."""
    bundle = gated_bundle(tmp_path / "net.bundle")
    destroy, left = trt.driver.cuGraphExecDestroy, []

    def watched(executable: int) -> tuple[int]:
        left.append([stream for stream, entries in trt.driver._waiting.items() if entries])
        return (destroy(executable)[0],)

    with open_device() as device:
        network = device.load(bundle)
        buffers = network.new_buffers()
        buffers.write_inputs(INPUTS)
        device.start(buffers, ("best-effort", 0), is_urgent=False)
        buffers.close()
        monkeypatch.setattr(trt.driver, "cuGraphExecDestroy", watched)
        network.close()
        assert left == [[]]


def test_a_gpu_that_hangs_is_no_reason_to_run_by_segments() -> None:
    with pytest.raises(cuda_wait.HangError), trt_gated._gates_alone():
        raise cuda_wait.HangError("not done")
