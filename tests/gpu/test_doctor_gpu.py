"""The doctor on the GPU that is here: its lines are those of this machine."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from preempt_runtime import cli
from preempt_runtime.backends.gpu_clocks import clock_fields
from preempt_runtime.backends.gpu_hazards import hazards
from preempt_runtime.backends.gpu_probe import LocalGpu
from preempt_runtime.backends.tensorrt import local_fields
from preempt_runtime.doctor import Finding, doctor
from preempt_runtime.errors import DeviceError
from preempt_runtime.system_view import view_this_machine
from preempt_runtime.unknown import Unknown

pytestmark = pytest.mark.gpu
_NVML_LINES = ("GPU processes", "GPU clocks", "GPU throttling", "GPU memory errors")


@pytest.fixture(autouse=True)
def _gpu() -> None:
    try:
        local_fields()
    except DeviceError as err:
        pytest.skip(str(err))


def examine() -> dict[str, Finding]:
    findings = doctor([], view=view_this_machine(), pause=lambda _: None)
    return {finding.what: finding for finding in findings}


def test_the_lines_are_those_of_this_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_MAX_CONNECTIONS", raising=False)
    fields, findings = local_fields(), examine()
    for what, finding in findings.items():
        print(f"{finding.level:4}  {what}: {finding.found}  [{finding.advice}]")
    assert findings["GPU"].level == "ok"
    assert str(fields["gpu"]) in findings["GPU"].found
    assert f"{fields['num_sms']} SMs" in findings["GPU"].found
    assert findings["TensorRT"].found.startswith(str(fields["tensorrt"]))
    major, minor = divmod(int(fields["cuda_driver"]), 1000)
    assert f"CUDA {major}.{minor // 10}" in findings["GPU driver"].found
    assert findings["stream priorities"].level == "ok"
    match = re.match(r"(\d+) levels", findings["stream priorities"].found)
    assert match is not None
    assert int(match[1]) >= 2
    assert findings["GPU files"].level == "ok"
    assert findings["hardware queues"].level == "ok"
    assert findings["compute mode"].level == "ok"
    assert re.fullmatch(r"[\d.]+ [KMG]iB free", findings["GPU memory"].found)


def test_the_probe_sees_this_gpu() -> None:
    gpu = LocalGpu().view()
    assert isinstance(gpu.pci_bus_id, str)
    assert re.fullmatch(r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.0", gpu.pci_bus_id)
    assert not isinstance(gpu.properties, Unknown)
    assert isinstance(gpu.free_bytes, int)
    assert 0 < gpu.free_bytes <= gpu.properties.total_bytes
    assert isinstance(gpu.stream_priorities, tuple)
    assert gpu.stream_priorities[1] < gpu.stream_priorities[0]
    assert not isinstance(gpu.busy, Unknown)


def test_without_nvml_each_line_says_that_it_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preempt_runtime.backends.nvml.pynvml", None)
    gpu = LocalGpu().view()
    findings = examine()
    assert isinstance(gpu.processes, Unknown)
    assert gpu.processes.reason == "NVML is not asked: pip install nvidia-ml-py"
    if not gpu.is_integrated:
        for what in ("GPU clocks", "GPU throttling", "GPU memory errors"):
            assert (findings[what].level, findings[what].found) == (
                "warn",
                f"cannot tell: {gpu.processes.reason}",
            )
    assert findings["GPU"].level == "ok"


def test_nvml_tells_clocks_under_load() -> None:
    if importlib.util.find_spec("pynvml") is None:
        pytest.skip("nvidia-ml-py is not installed")
    gpu = LocalGpu().view()
    if gpu.is_integrated:
        pytest.skip("NVML tells little of an integrated GPU")
    assert not isinstance(gpu.busy, Unknown)
    busy, idle = gpu.busy.fields, gpu.idle.fields
    print("idle", dict(idle), "busy", dict(busy), "unknown", dict(gpu.busy.unknown))
    clock, highest = gpu.busy.mhz("gpu_sm_clock_mhz"), gpu.busy.mhz("gpu_max_sm_clock_mhz")
    assert clock is not None
    assert highest is not None
    assert 0 < clock <= highest
    assert set(clock_fields()) >= {"gpu_sm_clock_mhz", "gpu_memory_clock_mhz"}
    findings = examine()
    for what in _NVML_LINES:
        print(what, findings[what])
        assert "NVML is not asked" not in findings[what].found


def test_a_run_may_ask_at_any_time() -> None:
    for is_warm in (False, True):
        assert all(isinstance(text, str) for text in hazards(is_warm=is_warm))


def test_the_command_gives_a_document(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = cli.main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == (0 if document["ok"] else 1)
    names = [finding["what"] for finding in document["findings"]]
    assert {"GPU", "GPU driver", "TensorRT", "GPU memory"} <= set(names)
    assert len(names) == len(set(names))
