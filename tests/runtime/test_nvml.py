"""NVML and a Jetson's files: values where there are any, reasons where there are none."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preempt_runtime.backends import gpu_clocks, nvml
from preempt_runtime.backends.gpu_clocks import clock_fields, clocks_now
from preempt_runtime.backends.nvml import Nvml, open_nvml
from preempt_runtime.gpu_view import GpuClocks
from preempt_runtime.tegra import is_tegra, over_current_events
from preempt_runtime.unknown import Unknown
from tests.runtime.fake_nvml import (
    FUNCTION_NOT_FOUND,
    LIBRARY_NOT_FOUND,
    FakeNvml,
    NVMLError,
    NVMLLibraryMismatchError,
)
from tests.runtime.tensorrt_world import install
from tests.runtime.test_doctor import write_tree

ADDRESS = "0000:18:00.0"
ORIN = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic\n",
    "etc/nvpmodel.conf": "# x\n< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n"
    "< POWER_MODEL ID=2 NAME=MODE_30W >\n",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:cool\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "729600000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "612000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "612000000\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "3\n",
    "sys/class/thermal/cooling_device8/type": "gpu-throttle-alert\n",
    "sys/class/thermal/cooling_device8/cur_state": "0\n",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "0\n",
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    fake = FakeNvml()
    monkeypatch.setattr(nvml, "pynvml", fake)
    yield fake
    assert fake.num_open == 0


def opened(address: str | Unknown = ADDRESS) -> Nvml | Unknown:
    with open_nvml(address) as found:
        return found


def clocks_of(root: Path) -> GpuClocks:
    with open_nvml(ADDRESS) as found:
        return clocks_now(found, root)


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "pynvml", None)
    assert opened() == Unknown("NVML is not asked: pip install nvidia-ml-py")


def test_nvml_is_asked_for_the_gpu_that_cuda_uses(fake: FakeNvml) -> None:
    assert isinstance(opened(), Nvml)
    assert fake.asked_for == [ADDRESS]
    assert opened(Unknown("no GPU")) == Unknown("no GPU")


def test_a_missing_driver_is_a_reason(fake: FakeNvml) -> None:
    fake.init_error = NVMLError(LIBRARY_NOT_FOUND)
    assert opened() == Unknown("nvmlInit: NVML Shared Library Not Found")


def test_each_refusal_is_a_reason(fake: FakeNvml) -> None:
    errors = (
        (NVMLError(FUNCTION_NOT_FOUND), "Function Not Found"),
        (NVMLLibraryMismatchError("too old"), "too old"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "'utf-8' codec can't decode"),
        (OSError("gone"), "gone"),
        (TypeError("odd"), "odd"),
        (MemoryError(), "MemoryError"),
        (None, "nothing"),
    )
    with open_nvml(ADDRESS) as found:
        assert isinstance(found, Nvml)
        for error, text in errors:
            fake.values["EccMode"] = error
            answer = found.ask("EccMode")
            assert isinstance(answer, Unknown)
            assert answer.reason.startswith(f"nvmlDeviceGetEccMode: {text}")
        fake.driver = NVMLError(FUNCTION_NOT_FOUND)
        assert isinstance(found.driver(), Unknown)


def test_an_older_name_serves_where_the_newer_is_missing(fake: FakeNvml, tmp_path: Path) -> None:
    fake.values["CurrentClocksThrottleReasons"] = 0x44
    del fake.values["CurrentClocksEventReasons"]
    assert clocks_of(tmp_path).throttling == "power cap, temperature (hardware)"


def test_clocks_of_a_discrete_gpu(fake: FakeNvml, tmp_path: Path) -> None:
    found = clocks_of(tmp_path)
    assert found.fields == {
        "gpu_sm_clock_mhz": 345,
        "gpu_memory_clock_mhz": 2619,
        "gpu_max_sm_clock_mhz": 1980,
        "gpu_max_memory_clock_mhz": 3201,
        "gpu_power_limit_mw": 700_000,
        "gpu_persistence": "on",
        "gpu_throttling": "none",
    }
    assert found.unknown == {}


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0x0, "none"),
        (0x1 | 0x2, "none"),
        (0x4, "power cap"),
        (0x20 | 0x80, "temperature, power brake"),
        (0x8 | 0x40, "hardware slowdown, temperature (hardware)"),
    ],
)
def test_idle_and_chosen_clocks_are_no_throttling(
    fake: FakeNvml, tmp_path: Path, bits: int, text: str
) -> None:
    fake.values["CurrentClocksEventReasons"] = bits
    assert clocks_of(tmp_path).throttling == text


def test_what_nvml_does_not_support_is_left_out_with_its_reason(
    fake: FakeNvml, tmp_path: Path
) -> None:
    fake.values = {"PersistenceMode": 0}
    found = clocks_of(tmp_path)
    assert found.fields == {"gpu_persistence": "off"}
    assert found.unknown["gpu_sm_clock_mhz"] == "nvmlDeviceGetClockInfo: Not Supported"
    assert found.throttling == Unknown("nvmlDeviceGetCurrentClocksThrottleReasons: Not Supported")


def test_a_jetson_tells_its_clocks_by_files(fake: FakeNvml, tmp_path: Path) -> None:
    fake.values = {}
    write_tree(tmp_path, ORIN)
    found = clocks_of(tmp_path)
    assert found.fields == {
        "gpu_sm_clock_mhz": 612,
        "gpu_lowest_clock_mhz": 306,
        "gpu_highest_clock_mhz": 612,
        "power_mode": "2 (MODE_30W)",
        "gpu_throttling": "none",
    }
    assert (
        "bpmp/debug/clk/emc/rate cannot be read; try as root"
        in (found.unknown["gpu_memory_clock_mhz"])
    )


def test_a_jetsons_memory_clock_mode_without_name_and_alerts(tmp_path: Path) -> None:
    more: dict[str, str | None] = {
        **ORIN,
        "etc/nvpmodel.conf": "",
        "sys/kernel/debug/bpmp/debug/clk/emc/rate": "3199000000\n",
        "sys/class/thermal/cooling_device8/cur_state": "1\n",
        "sys/class/hwmon/hwmon3/oc3_event_cnt": "37\n",
    }
    write_tree(tmp_path, more)
    fields = clocks_now(Unknown("no NVML"), tmp_path).fields
    assert fields["gpu_memory_clock_mhz"] == 3199
    assert fields["power_mode"] == "2"
    assert fields["gpu_throttling"] == "gpu-throttle-alert"
    assert over_current_events(tmp_path) == {"oc1": 0, "oc3": 37}


def test_a_thor_has_its_own_names(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000\n",
            "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000\n",
            "sys/class/devfreq/bwmgr/cur_freq": "4266000000\n",
        },
    )
    assert is_tegra(tmp_path)
    fields = clocks_now(Unknown("no NVML"), tmp_path).fields
    assert fields == {"gpu_sm_clock_mhz": 1575, "gpu_memory_clock_mhz": 4266}


def test_a_jetson_without_its_files_gives_reasons(tmp_path: Path) -> None:
    write_tree(tmp_path, {"etc/nv_tegra_release": "# R36\n"})
    found = clocks_now(Unknown("no NVML"), tmp_path)
    assert found.fields == {}
    assert found.unknown["gpu_sm_clock_mhz"] == "no GPU below /sys/class/devfreq"
    assert "`nvpmodel -q`" in found.unknown["power_mode"]
    assert found.throttling == Unknown("no throttle alerts below /sys/class/thermal")


def test_garbage_in_files_is_unknown(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            **dict.fromkeys(ORIN, "garbage\n"),
            "sys/class/thermal/cooling_device8/type": "gpu-throttle-alert\n",
        },
    )
    found = clocks_now(Unknown("no NVML"), tmp_path)
    assert found.fields == {}
    assert over_current_events(tmp_path) == {}


def test_a_profile_records_what_is_known(
    fake: FakeNvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = install(monkeypatch)
    assert clock_fields(tmp_path)["gpu_sm_clock_mhz"] == 345
    trt.driver.failures["cuInit"] = 100
    assert clock_fields(tmp_path) == {}


def test_every_function_that_is_asked_for_exists_in_nvidia_ml_py() -> None:
    pynvml: Any = pytest.importorskip("pynvml", reason="needs nvidia-ml-py")
    folder = Path(gpu_clocks.__file__).parent
    names = {"nvmlInit", "nvmlShutdown", "nvmlSystemGetDriverVersion"}
    for path in (folder / "gpu_clocks.py", folder / "gpu_probe.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) in ("ask", "_ask", "number"):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                names |= {f"nvmlDeviceGet{text}" for text in texts if isinstance(text, str)}
    names |= {
        f"nvmlDeviceGet{kind}RunningProcesses{suffix}"
        for kind in ("Compute", "Graphics", "MPSCompute")
        for suffix in ("", "_v2")
    }
    assert len(names) > 18
    assert [name for name in sorted(names) if not hasattr(pynvml, name)] == []
    assert (nvml.SM_DOMAIN, nvml.MEMORY_DOMAIN) == (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM)
    assert hasattr(pynvml, "nvmlMemory_v2")
    idle, chosen = pynvml.nvmlClocksEventReasonGpuIdle, 0x2
    every = sum(gpu_clocks._REASONS)
    assert every | idle | chosen == pynvml.nvmlClocksEventReasonAll


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


@pytest.mark.parametrize("odd", [None, -1, 10**400, float("nan"), "x", b"", [], TypeError("odd")])
def test_odd_values_are_unknown(fake: FakeNvml, tmp_path: Path, odd: Any) -> None:
    for name in ("ClockInfo", "MaxClockInfo"):
        fake.values[name] = odd if isinstance(odd, Exception) else {1: odd, 2: odd}
    for name in ("EnforcedPowerLimit", "PersistenceMode", "CurrentClocksEventReasons"):
        fake.values[name] = odd
    assert not clocks_of(tmp_path).fields.keys() - {"gpu_persistence"}


@pytest.mark.parametrize("odd", ["", "-5", "nan", "9" * 400, "9" * 5000, "\u0663", "\u00b2", "1 2"])
def test_odd_files_of_a_jetson_are_unknown(tmp_path: Path, odd: str) -> None:
    names = [name for name in ORIN if name.startswith("sys/") and not name.endswith("type")]
    names.append("sys/kernel/debug/bpmp/debug/clk/emc/rate")
    mode = {"var/lib/nvpmodel/status": f"pmode:{odd}"}
    write_tree(tmp_path, {**ORIN, **dict.fromkeys(names, odd), **mode})
    numbers = {name for name in clocks_of(tmp_path).fields if name.endswith("_mhz")}
    assert not numbers & {"gpu_lowest_clock_mhz", "gpu_highest_clock_mhz"}
    assert over_current_events(tmp_path) == {}
