"""What is found out about a GPU by the fakes of CUDA, NVML and TensorRT, and without each."""

import dataclasses
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from preempt_runtime.backends import cuda_driver, gpu_probe, nvml
from preempt_runtime.backends.gpu_hazards import hazards
from preempt_runtime.backends.gpu_probe import LocalGpu
from preempt_runtime.doctor import doctor
from preempt_runtime.gpu_view import GpuProcess, GpuView
from preempt_runtime.unknown import Unknown
from tests.runtime.fake_cuda import OUT_OF_MEMORY
from tests.runtime.fake_nvml import H200, MEMORY_V2, FakeNvml, NVMLError, process
from tests.runtime.fake_tensorrt import FakeTensorRT
from tests.runtime.tensorrt_world import install, write_bundle
from tests.runtime.test_doctor import QUIET_TREE, view_of, write_tree

MIB = 1 << 20


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorRT]:
    trt = install(monkeypatch, memory_bytes=128 * MIB)
    monkeypatch.setattr(gpu_probe, "_BUSY_S", 0.0)
    monkeypatch.setattr(gpu_probe, "_COPY_BYTES", MIB)
    yield trt
    assert trt.driver.open == {}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    fake = FakeNvml()
    monkeypatch.setattr(nvml, "pynvml", fake)
    yield fake
    assert fake.num_open == 0


def unknown_fields(view: GpuView) -> set[str]:
    return {
        field.name
        for field in dataclasses.fields(view)
        if isinstance(getattr(view, field.name), Unknown)
    }


def test_everything_is_told_where_everything_is_there(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    fake.values["ComputeRunningProcesses"] = [process(41), process(42, None)]
    fake.values["GraphicsRunningProcesses"] = [process(41), process(43)]
    view = LocalGpu(tmp_path).view()
    assert unknown_fields(view) <= {"bindings"}  # no wheel of it is installed here
    assert not isinstance(view.properties, Unknown)
    assert (view.properties.name, view.pci_bus_id) == ("Testium 9000", "0000:18:00.0")
    assert (view.driver, view.cuda_version, view.tensorrt) == ("580.159.04", 12060, "8.6.1")
    assert (view.compute_mode, view.can_preempt_compute, view.has_kernel_timeout) == (
        0,
        True,
        False,
    )
    assert (view.stream_priorities, view.free_bytes) == ((0, -5), 128 * MIB)
    assert view.processes == (
        GpuProcess(pid=41, kind="compute", num_bytes=300 * MIB),
        GpuProcess(pid=42, kind="compute", num_bytes=None),
        GpuProcess(pid=43, kind="graphics", num_bytes=300 * MIB),
    )
    assert (view.mps_processes, view.unseen_bytes) == ((), 0)
    assert (view.is_mig, view.is_display_active) == (False, False)
    health = view.health
    assert (health.ecc, health.pending_ecc) == (True, True)
    assert (health.is_remap_pending, health.has_remap_failed) == (False, False)


def test_processes_are_asked_for_before_this_one_has_a_context(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    assert trt.driver.num_calls.get("cuDevicePrimaryCtxRetain", 0) == 0

    class Watched(list[object]):
        def __iter__(self) -> Iterator[object]:
            assert trt.driver.num_calls.get("cuDevicePrimaryCtxRetain", 0) == 0
            return super().__iter__()

    fake.values["ComputeRunningProcesses"] = Watched([process(41)])
    LocalGpu(tmp_path).view()
    assert trt.driver.num_calls["cuDevicePrimaryCtxRetain"] == 1


def test_clocks_are_read_while_the_gpu_has_work(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    clocks = {1: 345, 2: 2619}

    class Governed(dict[int, int]):
        def __getitem__(self, domain: int) -> int:
            is_busy = any("copy" in line for line in trt.driver.log)
            return 1980 if is_busy and domain == 1 else clocks[domain]

    fake.values["ClockInfo"] = Governed(clocks)
    view = LocalGpu(tmp_path).view()
    assert view.idle.fields["gpu_sm_clock_mhz"] == 345
    assert not isinstance(view.busy, Unknown)
    assert view.busy.fields["gpu_sm_clock_mhz"] == 1980


def test_memory_in_use_without_a_process_is_told(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    fake.values["MemoryInfo"] = {MEMORY_V2: types.SimpleNamespace(used=900 * MIB)}
    assert LocalGpu(tmp_path).view().unseen_bytes == 900 * MIB


def test_without_nvml_the_rest_is_told(
    trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml, "pynvml", None)
    write_tree(tmp_path, {"proc/driver/nvidia/version": "NVRM version:  NVIDIA 580\nGCC: 1\n"})
    view = LocalGpu(tmp_path).view()
    assert unknown_fields(view) <= {
        *("processes", "mps_processes", "unseen_bytes", "is_display_active", "is_mig", "bindings"),
    }
    assert view.driver == "NVRM version: NVIDIA 580"
    assert view.processes == Unknown("NVML is not asked: pip install nvidia-ml-py")
    assert view.idle.fields == {}


def test_without_a_driver_nothing_is_told_and_nothing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_driver, "driver", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    view = LocalGpu(tmp_path).view()
    known = {field.name for field in dataclasses.fields(view)} - unknown_fields(view)
    assert known <= {"health", "idle", "bindings"}
    assert isinstance(view.properties, Unknown)
    assert view.properties.reason.startswith("cuda-bindings is missing or broken")


def test_an_integrated_gpu_supports_nothing_of_nvml(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    fake.values = {}
    trt.driver.attributes[18] = 1
    view = LocalGpu(tmp_path).view()
    assert view.processes == Unknown("nvmlDeviceGetComputeRunningProcesses_v2: Not Supported")
    assert isinstance(view.health.ecc, Unknown)
    assert view.is_integrated


def test_pages_are_asked_for_where_rows_are_not_remapped(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    del fake.values["RemappedRows"]
    fake.values["RetiredPagesPendingStatus"] = 1
    health = LocalGpu(tmp_path).view().health
    assert health.is_remap_pending is True
    assert isinstance(health.has_remap_failed, Unknown)


def test_a_full_gpu_hides_only_its_clocks_under_load(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    trt.driver.failures["cuMemAlloc"] = OUT_OF_MEMORY
    view = LocalGpu(tmp_path).view()
    assert view.stream_priorities == (0, -5)
    assert isinstance(view.busy, Unknown)
    assert "no device memory" in view.busy.reason


def test_a_context_that_cannot_be_opened_is_a_reason(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    trt.driver.failures["cuDevicePrimaryCtxRetain"] = OUT_OF_MEMORY
    view = LocalGpu(tmp_path).view()
    assert isinstance(view.free_bytes, Unknown)
    assert "CUDA_ERROR_OUT_OF_MEMORY" in view.free_bytes.reason
    assert not isinstance(view.properties, Unknown)


def test_scratch_memory_is_the_largest_of_the_engines(trt: FakeTensorRT, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path)
    (plan,) = bundle.manifest.plans
    assert LocalGpu().scratch_bytes(bundle, plan) == 3000
    broken = write_bundle(tmp_path / "b", contents=[b"{}}"] * 3)
    found = LocalGpu().scratch_bytes(broken, broken.manifest.plans[0])
    assert isinstance(found, Unknown)
    assert "TensorRT refused it" in found.reason


def test_a_run_is_told_of_other_processes_and_of_throttling(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    write_tree(tmp_path, {**QUIET_TREE, "proc/41/comm": "blender\n"})
    view = view_of(tmp_path)
    assert hazards(is_warm=False, view=view) == hazards(is_warm=True, view=view) == ()
    fake.values["ComputeRunningProcesses"] = [process(7), process(41)]  # 7 is this process
    fake.values["CurrentClocksEventReasons"] = 0x24
    assert hazards(is_warm=False, view=view) == (
        "other processes use the GPU, and bounds leave no room for them:"
        " blender (pid 41, compute, 300 MiB)",
    )
    assert hazards(is_warm=True, view=view) == (
        "the GPU's clocks are throttled (power cap, temperature):"
        " segments may take longer than measured",
    )


def test_what_cannot_be_told_is_no_hazard(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    fake.init_error = NVMLError(999)
    view = view_of(tmp_path)
    assert hazards(is_warm=False, view=view) == hazards(is_warm=True, view=view) == ()


def test_without_nvml_open_files_betray_other_users(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    fake.values = {}
    write_tree(tmp_path, {**QUIET_TREE, "proc/8/comm": "blender\n"})
    (tmp_path / "proc/8/fd").mkdir()
    (tmp_path / "proc/8/fd/3").symlink_to("/dev/nvhost-ctrl-gpu")
    (found,) = hazards(is_warm=False, view=view_of(tmp_path))
    assert found.endswith(": blender (pid 8)")


ODD: list[object] = [
    None,
    -1,
    10**400,
    float("nan"),
    "\x1b[31m",
    b"\xff",
    [],
    {},
    [None],
    TypeError("odd"),
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", sorted(H200))
def test_whatever_nvml_says_the_doctor_and_a_run_go_on(
    name: str, odd: object, trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    write_tree(tmp_path, QUIET_TREE)
    members = {
        "ComputeRunningProcesses": [types.SimpleNamespace(pid=odd, usedGpuMemory=odd)],
        "GraphicsRunningProcesses": [types.SimpleNamespace(pid=41, usedGpuMemory=odd)],
        "MemoryInfo": {MEMORY_V2: types.SimpleNamespace(used=odd)},
        "EccMode": [odd],
    }
    for value in (odd, members.get(name, odd)):
        fake.values[name] = value
        view = view_of(tmp_path)
        findings = doctor([], view=view, gpu=LocalGpu(tmp_path), pause=lambda _: None)
        assert findings
        LocalGpu(tmp_path).view()
        for is_warm in (False, True):
            hazards(is_warm=is_warm, view=view)


def test_names_of_processes_cannot_write_to_the_terminal(
    trt: FakeTensorRT, fake: FakeNvml, tmp_path: Path
) -> None:
    write_tree(tmp_path, {**QUIET_TREE, "proc/41/comm": "ev\x1b[31mil\nx"})
    fake.values["ComputeRunningProcesses"] = [process(41)]
    (hazard,) = hazards(is_warm=False, view=view_of(tmp_path))
    assert r"ev\x1b[31mil\nx (pid 41" in hazard
