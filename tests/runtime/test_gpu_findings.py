"""What the doctor makes of a GPU: every line in a good state, in a bad one, and untold."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from preempt_runtime.backends.cuda_driver import GpuProperties
from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.doctor import AskedPlan, Finding, doctor
from preempt_runtime.errors import DeviceError
from preempt_runtime.gpu_view import GpuClocks, GpuProcess, GpuView, MemoryHealth
from preempt_runtime.manifest import MANIFEST_NAME, Artefact, PlanSpec
from preempt_runtime.manifest_json import json_from_manifest
from preempt_runtime.unknown import Unknown
from tests.runtime.fake_bundles import FakeBackend, bundle_of, manifest_of
from tests.runtime.tensorrt_world import FIELDS, write_bundle
from tests.runtime.test_doctor import QUIET_TREE, view_of, write_tree

MIB = 1 << 20
UNTOLD = Unknown("it does not say")
HEALTHY = MemoryHealth(ecc=True, pending_ecc=True, is_remap_pending=False, has_remap_failed=False)
BUSY: dict[str, str | int] = {
    "gpu_sm_clock_mhz": 1980,
    "gpu_memory_clock_mhz": 3201,
    "gpu_power_limit_mw": 700_000,
    "gpu_persistence": "on",
    "gpu_throttling": "none",
}
GOOD = GpuView(
    properties=GpuProperties(
        name="Testium 9000",
        num_sms=14,
        compute_capability="8.7",
        total_bytes=8192 * MIB,
        is_integrated=False,
    ),
    pci_bus_id="0000:18:00.0",
    driver="580.159.04",
    cuda_version=13000,
    bindings="13.0.3",
    tensorrt="8.6.1",
    compute_mode=0,
    can_preempt_compute=True,
    has_kernel_timeout=False,
    is_display_active=False,
    is_mig=False,
    health=HEALTHY,
    processes=(),
    mps_processes=(),
    unseen_bytes=MIB,
    stream_priorities=(0, -5),
    free_bytes=8000 * MIB,
    idle=GpuClocks(fields=BUSY),
    busy=GpuClocks(fields=BUSY),
)
JETSON: dict[str, str | int] = {
    "gpu_sm_clock_mhz": 612,
    "gpu_lowest_clock_mhz": 612,
    "gpu_highest_clock_mhz": 612,
    "power_mode": "2 (MODE_30W)",
    "gpu_throttling": "none",
}
DEVICE_FILES = {"dev/nvidiactl": "", "dev/nvidia0": ""}


@dataclasses.dataclass
class FakeProbe:
    gpu: GpuView
    scratch: int | Unknown = 3000
    num_loaded: int = 0

    def view(self) -> GpuView:
        return self.gpu

    def scratch_bytes(self, bundle: Bundle, plan: PlanSpec) -> int | Unknown:
        self.num_loaded += 1
        return self.scratch


def with_profile(root: Path, machine: object) -> Bundle:
    """A bundle whose profile says what the machine was."""
    bundle = write_bundle(root)
    content = json.dumps({"schema": "preemptc/profile", "machine": machine}).encode()
    (root / "profile.json").write_bytes(content)
    artefact = Artefact(
        path="profile.json",
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        key=None,
    )
    manifest = dataclasses.replace(
        bundle.manifest, artefacts=(*bundle.manifest.artefacts, artefact)
    )
    (root / MANIFEST_NAME).write_text(json_from_manifest(manifest), encoding="utf-8")
    return open_bundle(root)


def examine(
    tmp_path: Path,
    gpu: GpuView = GOOD,
    *bundles: Bundle,
    files: Mapping[str, str | None] = {},
    probe: FakeProbe | None = None,
    fields: Mapping[str, str | int] | DeviceError = FIELDS,
    **view_changes: Any,
) -> dict[str, Finding]:
    write_tree(tmp_path, {**QUIET_TREE, **DEVICE_FILES, **files})
    findings = doctor(
        [AskedPlan(bundle=bundle) for bundle in bundles],
        view=view_of(tmp_path, **view_changes),
        find_backend=lambda _: FakeBackend(fields),
        gpu=probe or FakeProbe(gpu),
        pause=lambda _: None,
    )
    assert len({finding.what for finding in findings}) == len(findings)
    return {finding.what: finding for finding in findings}


def changed(**changes: Any) -> GpuView:
    return dataclasses.replace(GOOD, **changes)


def test_a_quiet_gpu_is_well(tmp_path: Path) -> None:
    bundle = with_profile(tmp_path / "net", {**BUSY, "gpu": "Testium 9000"})
    findings = examine(tmp_path, GOOD, bundle)
    names = list(findings)
    gpu = {what: findings[what].found for what in names[names.index("GPU") :]}
    assert gpu == {
        "GPU": "Testium 9000, 14 SMs, compute capability 8.7, 8 GiB of memory of its own",
        "GPU driver": "580.159.04, CUDA 13.0, cuda-bindings 13.0.3",
        "TensorRT": "8.6.1, made for 8.6 to 11.*",
        "GPU files": "2 may be opened",
        "CUDA variables": "modules load by CUDA's default",
        "debuggers and profilers": "none",
        "GPU processes": "no other",
        "MPS": "does not run",
        "compute mode": "default, any process may open a context",
        "MIG": "off",
        "display": "none on this GPU",
        "GPU clocks": "SM 1980 MHz under load, 1980 idle",
        "GPU throttling": "none at the moment",
        "clocks of net": "no lower than when it was measured: SM clock, memory clock,"
        " power limit, persistence mode",
        "stream priorities": "6 levels, 2 needed",
        "hardware queues": "CUDA_DEVICE_MAX_CONNECTIONS is not set, the runtime sets 32; 2 streams",
        "compute preemption": "supported",
        "GPU memory errors": "ECC on",
        "GPU memory": gpu["GPU memory"],
        "bundle net": "plan 'cut', 3 segments, estimated",
    }
    assert gpu["GPU memory"].endswith(" of engines, scratch and buffers (estimated), 7.81 GiB free")
    assert {(f.level, f.advice) for f in findings.values()} == {("ok", "")}


def test_a_gpu_is_not_looked_at_where_only_the_cpu_is_asked_for(tmp_path: Path) -> None:
    fake = bundle_of("a", manifest_of())
    findings = examine(tmp_path, GOOD, fake, fields={"backend": "fake"})
    assert "GPU" not in findings
    assert "memory" in findings


def test_without_a_bundle_a_gpu_is_looked_at_where_one_is(tmp_path: Path) -> None:
    assert "GPU" in examine(tmp_path)
    (tmp_path / "dev/nvidiactl").unlink()
    write_tree(tmp_path, QUIET_TREE)
    findings = doctor([], view=view_of(tmp_path), gpu=FakeProbe(GOOD), pause=lambda _: None)
    assert "GPU" not in {finding.what for finding in findings}


def on_the_cpu() -> Bundle:
    return bundle_of("a", manifest_of(fields={"backend": "ort"}))


def unbuilt(root: Path, target: str = "orin") -> Bundle:
    bundle = write_bundle(root)
    (plan,) = bundle.manifest.plans
    plans = (dataclasses.replace(plan, key=None, target=target),)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, plans=plans))


def test_a_gpu_bundle_needs_no_onnx_runtime_and_no_room_on_the_host(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "net")
    interpreter = dataclasses.replace(view_of(tmp_path).interpreter, wheels={})
    findings = examine(tmp_path, GOOD, bundle, interpreter=interpreter)
    assert not {"ONNX Runtime", "memory"} & findings.keys()
    both = examine(tmp_path, GOOD, bundle, on_the_cpu(), interpreter=interpreter)
    assert both["ONNX Runtime"].level == "fail", "the other one runs on the CPU"


NOTHING = changed(
    properties=Unknown("no usable NVIDIA GPU: cuInit failed"),
    cuda_version=UNTOLD,
    bindings=UNTOLD,
    tensorrt=Unknown("TensorRT cannot be imported"),
)


@pytest.mark.parametrize("is_needed", [True, False])
def test_no_gpu_and_no_library_fail_where_a_bundle_needs_them(
    tmp_path: Path, is_needed: bool
) -> None:
    bundles = (write_bundle(tmp_path / "net"),) if is_needed else ()
    findings = examine(tmp_path, NOTHING, *bundles)
    level = "fail" if is_needed else "warn"
    assert (findings["GPU"].level, findings["TensorRT"].level) == (level, level)
    assert findings["GPU"].found == "no usable NVIDIA GPU: cuInit failed"
    assert findings["GPU driver"].found == "cannot tell: it does not say"
    assert "GPU clocks" not in findings, "what needs a GPU is not asked of none"


def test_a_bundle_that_is_not_built_brings_the_lines_of_its_target(tmp_path: Path) -> None:
    findings = examine(tmp_path, NOTHING, unbuilt(tmp_path / "net"))
    assert [findings[what].level for what in ("GPU", "TensorRT", "bundle net")] == ["fail"] * 3
    assert "GPU driver" in findings
    assert "is made for orin, nothing is built for it yet" in findings["bundle net"].found
    assert not {"ONNX Runtime", "memory"} & findings.keys()


def test_a_bundle_to_build_on_this_gpu_needs_no_memory_yet(tmp_path: Path) -> None:
    findings = examine(tmp_path, GOOD, unbuilt(tmp_path / "net"))
    assert {findings[what].level for what in ("GPU", "GPU driver", "TensorRT")} == {"ok"}
    assert findings["GPU memory"].found == "7.81 GiB free"
    assert findings["bundle net"].level == "fail"


def test_a_cpu_bundle_that_is_not_built_asks_for_no_gpu(tmp_path: Path) -> None:
    findings = examine(tmp_path, NOTHING, unbuilt(tmp_path / "net", "cpu"))
    assert "GPU" not in findings
    assert {"ONNX Runtime", "memory"} <= findings.keys()


@pytest.mark.parametrize(
    ("what", "changes", "level", "found", "advice"),
    [
        (
            "GPU driver",
            {"cuda_version": 12060, "driver": UNTOLD},
            "warn",
            "version unknown, CUDA 12.6, cuda-bindings 13.0.3, at most 12.* is the driver's",
            "pip install 'cuda-bindings==12.*'",
        ),
        (
            "GPU driver",
            {"bindings": "12.9.1"},
            "ok",
            "580.159.04, CUDA 13.0, cuda-bindings 12.9.1",
            "",
        ),
        ("TensorRT", {"tensorrt": "12.0.1"}, "warn", "12.0.1, made for 8.6 to 11.*", "newer"),
        ("compute mode", {"compute_mode": 2}, "fail", "prohibited", "sudo nvidia-smi -c DEFAULT"),
        ("compute mode", {"compute_mode": 3}, "ok", "exclusive to one process", ""),
        ("compute mode", {"compute_mode": UNTOLD}, "warn", "cannot tell: it does not say", ""),
        ("MIG", {"is_mig": True}, "ok", "on, this is an instance or what is left of it", ""),
        ("display", {"is_display_active": True}, "warn", "attached", "multi-user.target"),
        (
            "display",
            {"has_kernel_timeout": True},
            "warn",
            "none; the driver ends kernels that run too long",
            "multi-user.target",
        ),
        ("display", {"is_display_active": UNTOLD}, "warn", "cannot tell: it does not say", ""),
        (
            "stream priorities",
            {"stream_priorities": (0, 0)},
            "warn",
            "1 levels, 2 needed",
            "only preemption points order them",
        ),
        ("stream priorities", {"stream_priorities": UNTOLD}, "warn", "cannot tell", ""),
        ("compute preemption", {"can_preempt_compute": False}, "ok", "not supported", "debugger"),
        ("compute preemption", {"can_preempt_compute": UNTOLD}, "warn", "cannot tell", ""),
        (
            "GPU memory errors",
            {"health": dataclasses.replace(HEALTHY, pending_ecc=False)},
            "warn",
            "ECC on, off after the next reboot",
            "reboot and measure again",
        ),
        (
            "GPU memory errors",
            {"health": dataclasses.replace(HEALTHY, is_remap_pending=True)},
            "warn",
            "ECC on, a defective row waits to be replaced",
            "sudo nvidia-smi --gpu-reset",
        ),
        (
            "GPU memory errors",
            {"health": dataclasses.replace(HEALTHY, has_remap_failed=True)},
            "warn",
            "ECC on, a defective row could not be replaced",
            "have the GPU exchanged",
        ),
        (
            "GPU memory errors",
            {
                "health": MemoryHealth(
                    ecc=UNTOLD,
                    pending_ecc=UNTOLD,
                    is_remap_pending=UNTOLD,
                    has_remap_failed=UNTOLD,
                )
            },
            "warn",
            "cannot tell: it does not say",
            "",
        ),
        ("GPU memory", {"free_bytes": UNTOLD}, "warn", "cannot tell: it does not say", ""),
        ("GPU memory", {}, "ok", "7.81 GiB free", ""),
    ],
)
def test_one_line_for_each_state(
    tmp_path: Path, what: str, changes: dict[str, Any], level: str, found: str, advice: str
) -> None:
    finding = examine(tmp_path, changed(**changes))[what]
    assert (finding.level, finding.found[: len(found)]) == (level, found)
    assert advice in finding.advice
    assert bool(finding.advice) == bool(advice)


def test_other_processes_are_named_and_this_one_is_not(tmp_path: Path) -> None:
    processes = (
        GpuProcess(pid=7, kind="compute", num_bytes=MIB),
        GpuProcess(pid=8, kind="compute", num_bytes=300 * MIB),
        GpuProcess(pid=99, kind="graphics", num_bytes=None),
    )
    files = {"proc/8/comm": "blender\n"}
    finding = examine(tmp_path, changed(processes=processes), files=files)["GPU processes"]
    assert (finding.level, finding.found) == (
        "warn",
        "blender (pid 8, compute, 300 MiB); not seen from here (pid 99, graphics)",
    )
    assert finding.advice.endswith("stop it while tasks run")
    own = examine(tmp_path, changed(processes=processes[:1]))["GPU processes"]
    assert (own.level, own.found) == ("ok", "no other")


def test_memory_that_no_process_accounts_for_is_someone_outside(tmp_path: Path) -> None:
    finding = examine(tmp_path, changed(unseen_bytes=900 * MIB))["GPU processes"]
    assert (finding.level, finding.found) == (
        "warn",
        "none seen, but 900 MiB of its memory are in use",
    )
    assert "`nvidia-smi` on the host" in finding.advice


def test_without_nvml_open_files_tell(tmp_path: Path) -> None:
    gpu = changed(processes=UNTOLD)
    files = {"proc/8/comm": "blender\n", "proc/9/comm": "nvidia-persiste\n", **stat_of(9)}
    write_tree(tmp_path, {**QUIET_TREE, **files})
    for pid in (8, 9):
        (tmp_path / f"proc/{pid}/fd").mkdir()
        (tmp_path / f"proc/{pid}/fd/0").symlink_to("/dev/null")
    quiet = examine(tmp_path, gpu, files=files)["GPU processes"]
    assert (quiet.level, quiet.found) == (
        "ok",
        "no other has its files open (it does not say)",
    )
    for pid in (8, 9):
        (tmp_path / f"proc/{pid}/fd/5").symlink_to("/dev/nvgpu/igpu0/ctrl")
    finding = examine(tmp_path, gpu, files=files)["GPU processes"]
    assert (finding.level, finding.found) == ("warn", "have its files open: blender (pid 8)")


def stat_of(pid: int) -> dict[str, str]:
    return {f"proc/{pid}/stat": f"{pid} (x) S 1 1 1 0 -1 0 0 0 0 0 1 0 0 0 20 0 1 0 1 1 1\n"}


def test_processes_that_this_user_may_not_look_into_leave_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> Any:
        if self.name == "fd":
            raise PermissionError(13, "Permission denied")
        return iterdir(self)

    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", refuse)
    finding = examine(tmp_path, changed(processes=UNTOLD))["GPU processes"]
    assert (finding.level, finding.found) == (
        "warn",
        "cannot tell: it does not say; /proc shows none, but 1 processes are closed to this user",
    )
    assert finding.advice == "run the doctor as root"


def test_mps_is_seen_by_its_server_or_its_clients(tmp_path: Path) -> None:
    stat = {"proc/8/stat": "8 (nvidia-cuda-mps) S 1 1 1 0 -1 0 0 0 0 0 1 0 0 0 20 0 1 0 1 1 1\n"}
    server = examine(tmp_path, files=stat)["MPS"]
    assert (server.level, server.found) == ("warn", "runs, pid 8")
    clients = (GpuProcess(pid=50, kind="MPS", num_bytes=None),)
    both = examine(tmp_path, changed(mps_processes=clients), files=stat)["MPS"]
    assert both.found == "runs, pid 8, 50"
    assert "nvidia-cuda-mps-control" in both.advice


def test_a_screen_on_a_jetson_is_seen_by_its_connector(tmp_path: Path) -> None:
    gpu = changed(
        properties=dataclasses.replace(_properties(), is_integrated=True), is_display_active=UNTOLD
    )
    assert examine(tmp_path, gpu)["display"].level == "ok"
    files = {
        "sys/class/drm/card0-DP-1/status": "connected\n",
        "sys/class/drm/card0-DP-1/enabled": "enabled\n",
        "sys/class/drm/card0-DP-2/status": "disconnected\n",
        "sys/class/drm/card0-DP-2/enabled": "enabled\n",
    }
    finding = examine(tmp_path, gpu, files=files)["display"]
    assert (finding.level, finding.found) == ("warn", "attached: card0-DP-1")


def _properties() -> GpuProperties:
    assert not isinstance(GOOD.properties, Unknown)
    return GOOD.properties


def clocks(**changes: object) -> GpuClocks:
    fields: dict[str, Any] = {**BUSY, **changes}
    return GpuClocks(fields={name: value for name, value in fields.items() if value is not None})


def test_clocks_that_follow_load_are_not_locked(tmp_path: Path) -> None:
    gpu = changed(idle=clocks(gpu_sm_clock_mhz=345))
    finding = examine(tmp_path, gpu)["GPU clocks"]
    assert (finding.level, finding.found) == ("warn", "SM 1980 MHz under load, 345 idle")
    assert finding.advice.endswith("lock them: sudo nvidia-smi -i 0000:18:00.0 -lgc 1980,1980")
    bundle = with_profile(tmp_path / "net", {**BUSY, "gpu_sm_clock_mhz": 1755})
    assert examine(tmp_path, gpu, bundle)["GPU clocks"].advice.endswith("-lgc 1755,1755")


def test_a_jetsons_clocks_are_locked_where_their_limits_meet(tmp_path: Path) -> None:
    locked = GpuClocks(fields=JETSON)
    finding = examine(tmp_path, changed(idle=locked, busy=locked))["GPU clocks"]
    assert (finding.level, finding.found) == (
        "ok",
        "locked at 612 MHz, power mode 2 (MODE_30W)",
    )
    free = GpuClocks(fields={**JETSON, "gpu_lowest_clock_mhz": 306})
    finding = examine(tmp_path, changed(idle=free, busy=free))["GPU clocks"]
    assert (finding.level, finding.found) == (
        "warn",
        "between 306 and 612 MHz, 612 under load, power mode 2 (MODE_30W)",
    )
    assert finding.advice.endswith("sudo jetson_clocks")


@pytest.mark.parametrize(
    ("busy", "reason"),
    [
        (UNTOLD, "it does not say"),
        (
            GpuClocks(fields={}, unknown={"gpu_sm_clock_mhz": "Not Supported"}),
            "Not Supported",
        ),
    ],
)
def test_clocks_that_nothing_tells(tmp_path: Path, busy: GpuClocks | Unknown, reason: str) -> None:
    idle = GpuClocks(fields={}, unknown={"gpu_throttling": "Not Supported"})
    bundle = with_profile(tmp_path / "net", BUSY)
    findings = examine(tmp_path, changed(idle=idle, busy=busy), bundle)
    assert (findings["GPU clocks"].level, findings["GPU clocks"].found) == (
        "warn",
        f"cannot tell: {reason}",
    )
    assert findings["GPU throttling"].found == "cannot tell: Not Supported"
    assert findings["clocks of net"].found.startswith("cannot tell: ")


def test_throttling_now_or_under_load_is_told(tmp_path: Path) -> None:
    gpu = changed(idle=clocks(gpu_throttling="temperature"), busy=clocks(gpu_throttling="none"))
    finding = examine(tmp_path, gpu)["GPU throttling"]
    assert (finding.level, finding.found) == ("warn", "temperature")
    assert "nvidia-smi -lgc" in finding.advice
    jetson = {"etc/nv_tegra_release": "# R36\n", "sys/class/hwmon/hwmon3/oc3_event_cnt": "37\n"}
    finding = examine(tmp_path, gpu, files=jetson)["GPU throttling"]
    assert finding.found == "temperature; over-current events since boot: oc3 37"
    assert "nvpmodel" in finding.advice
    finding = examine(tmp_path, GOOD, files=jetson)["GPU throttling"]
    assert (finding.level, finding.found) == ("warn", "over-current events since boot: oc3 37")


@pytest.mark.parametrize(
    ("then", "level", "found"),
    [
        ({**BUSY, "gpu_sm_clock_mhz": 1700}, "ok", "no lower than when it was measured: SM clock"),
        ({**BUSY, "gpu_sm_clock_mhz": 2010}, "ok", "no lower than when it was measured: SM clock"),
        (
            {**BUSY, "gpu_sm_clock_mhz": 2100, "gpu_power_limit_mw": 750_000},
            "warn",
            "SM clock 1980 MHz, measured at 2100 MHz; power limit 700 W, measured at 750 W",
        ),
        (
            {"gpu_persistence": "off"},
            "warn",
            "persistence mode on, measured with off",
        ),
        ({"power_mode": "0 (MAXN)"}, "warn", "cannot tell: none that the bundle holds can be"),
        ({"gpu": "Testium"}, "warn", "cannot tell: its profile holds no clocks; measure it again"),
        ("garbage", "warn", "cannot tell: its profile holds no clocks"),
    ],
)
def test_clocks_of_a_bundle_against_those_of_now(
    tmp_path: Path, then: object, level: str, found: str
) -> None:
    finding = examine(tmp_path, GOOD, with_profile(tmp_path / "net", then))["clocks of net"]
    assert (finding.level, finding.found[: len(found)]) == (level, found)
    assert bool(finding.advice) == (level == "warn" and not found.startswith("cannot"))


def test_another_power_mode_is_told(tmp_path: Path) -> None:
    now = GpuClocks(fields=JETSON)
    bundle = with_profile(tmp_path / "net", {**JETSON, "power_mode": "0 (MAXN)"})
    finding = examine(tmp_path, changed(idle=now, busy=now), bundle)["clocks of net"]
    assert (finding.level, finding.found) == (
        "warn",
        "power mode 2 (MODE_30W), measured with 0 (MAXN)",
    )


def test_a_profile_that_is_missing_or_damaged_cannot_tell(tmp_path: Path) -> None:
    finding = examine(tmp_path, GOOD, write_bundle(tmp_path / "a"))["clocks of a"]
    assert finding.found == "cannot tell: the bundle holds no profile"
    bundle = with_profile(tmp_path / "b", BUSY)
    (bundle.root / "profile.json").write_text("{}")
    finding = examine(tmp_path, GOOD, bundle)["clocks of b"]
    assert finding.level == "warn"
    assert "bytes, the manifest says" in finding.found


@pytest.mark.parametrize(
    ("environment", "what", "found", "advice"),
    [
        (
            {"CUDA_LAUNCH_BLOCKING": "1"},
            "CUDA variables",
            "CUDA_LAUNCH_BLOCKING=1, modules load by CUDA's default",
            "unset CUDA_LAUNCH_BLOCKING",
        ),
        (
            {"CUDA_MODULE_LOADING": "SOON"},
            "CUDA variables",
            "CUDA_MODULE_LOADING=SOON",
            "LAZY or EAGER",
        ),
        (
            {"NSYS_PROFILING_SESSION_ID": "12"},
            "debuggers and profilers",
            "NSYS_PROFILING_SESSION_ID=12",
            "measure without",
        ),
        (
            {"CUDA_INJECTION64_PATH": "/x/lib.so", "LD_PRELOAD": "/opt/nsys/libx.so"},
            "debuggers and profilers",
            "CUDA_INJECTION64_PATH=/x/lib.so, LD_PRELOAD=/opt/nsys/libx.so",
            "measure without",
        ),
        (
            {"CUDA_DEVICE_MAX_CONNECTIONS": "1"},
            "hardware queues",
            "CUDA_DEVICE_MAX_CONNECTIONS=1, at least 2 streams",
            "unset CUDA_DEVICE_MAX_CONNECTIONS",
        ),
        (
            {"CUDA_DEVICE_MAX_CONNECTIONS": "many"},
            "hardware queues",
            "CUDA_DEVICE_MAX_CONNECTIONS=many, at least 2 streams",
            "unset CUDA_DEVICE_MAX_CONNECTIONS",
        ),
    ],
)
def test_variables_that_intervene_warn(
    tmp_path: Path, environment: dict[str, str], what: str, found: str, advice: str
) -> None:
    finding = examine(tmp_path, environment=environment)[what]
    assert (finding.level, finding.found) == ("warn", found)
    assert advice in finding.advice


def test_variables_that_do_no_harm_are_told(tmp_path: Path) -> None:
    environment = {
        "CUDA_LAUNCH_BLOCKING": "0",
        "CUDA_MODULE_LOADING": "LAZY",
        "CUDA_VISIBLE_DEVICES": "2",
        "CUDA_DEVICE_MAX_CONNECTIONS": "8",
        "LD_PRELOAD": "/usr/lib/libjemalloc.so",
    }
    findings = examine(tmp_path, environment=environment)
    assert findings["CUDA variables"].found == "CUDA_MODULE_LOADING=LAZY, CUDA_VISIBLE_DEVICES=2"
    assert findings["hardware queues"].found == "CUDA_DEVICE_MAX_CONNECTIONS=8, at least 2 streams"
    whats = ("CUDA variables", "hardware queues", "debuggers and profilers")
    assert {findings[what].level for what in whats} == {"ok"}


def test_a_debugger_that_traces_is_seen(tmp_path: Path) -> None:
    files = {"proc/self/status": "Name:\tpython\nTracerPid:\t31\nCapEff:\t0000000000804000\n"}
    finding = examine(tmp_path, files=files)["debuggers and profilers"]
    assert (finding.level, finding.found) == ("warn", "traced by pid 31")


def test_device_files_that_may_not_be_opened_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: not str(path).endswith("nvidia0") and access(path, mode),
    )
    finding = examine(tmp_path)["GPU files"]
    assert (finding.level, finding.found) == ("fail", "may not be opened: /dev/nvidia0")
    assert "usermod -aG video,render" in finding.advice


def test_missing_device_files_warn(tmp_path: Path) -> None:
    write_tree(tmp_path, QUIET_TREE)
    findings = doctor(
        [AskedPlan(bundle=write_bundle(tmp_path / "net"))],
        view=view_of(tmp_path),
        find_backend=lambda _: FakeBackend(FIELDS),
        gpu=FakeProbe(GOOD),
        pause=lambda _: None,
    )
    (finding,) = [finding for finding in findings if finding.what == "GPU files"]
    assert finding.level == "warn"
    assert finding.found.startswith("none of /dev/nvidiactl, ")


def need_bytes(bundle: Bundle, scratch: int) -> int:
    engines = sum(artefact.num_bytes for artefact in bundle.manifest.artefacts)
    tensors = 6 * 4 + 4 + 2 * 4 + 4 + 4 * 2 + 2  # x, scale, early, y, b1, b2
    return engines + tensors + scratch


@pytest.mark.parametrize(
    ("spare", "level", "advice"),
    [
        (-1, "fail", "run fewer or smaller networks, or free what others hold"),
        (0, "warn", "CUDA needs some for itself; try it, or run fewer networks"),
        (10_000, "ok", ""),
    ],
)
def test_memory_is_engines_scratch_and_tensors(
    tmp_path: Path, spare: int, level: str, advice: str
) -> None:
    bundle = write_bundle(tmp_path / "net")
    need = need_bytes(bundle, scratch=3000)
    probe = FakeProbe(changed(free_bytes=need + spare))
    finding = examine(tmp_path, GOOD, bundle, probe=probe)["GPU memory"]
    assert (finding.level, finding.advice) == (level, advice)
    assert finding.found.startswith(f"{need / 1024:.3g} KiB of engines, scratch and buffers (est")


def test_engines_that_do_not_fit_are_not_loaded(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "net")
    probe = FakeProbe(changed(free_bytes=need_bytes(bundle, scratch=0) - 1))
    finding = examine(tmp_path, GOOD, bundle, probe=probe)["GPU memory"]
    assert (finding.level, probe.num_loaded) == ("fail", 0)
    assert "engines and buffers, without scratch memory (estimated)" in finding.found


def test_scratch_that_cannot_be_told_is_said_to_be_left_out(tmp_path: Path) -> None:
    probe = FakeProbe(GOOD, scratch=UNTOLD)
    finding = examine(tmp_path, GOOD, write_bundle(tmp_path / "net"), probe=probe)["GPU memory"]
    assert "engines and buffers, without scratch memory (estimated)" in finding.found


def test_an_engine_of_another_machine_is_not_loaded_and_each_field_is_named(
    tmp_path: Path,
) -> None:
    bundle = write_bundle(tmp_path / "net")
    probe = FakeProbe(GOOD)
    here = {**FIELDS, "tensorrt": "10.3.0", "num_sms": 16}
    findings = examine(tmp_path, GOOD, bundle, probe=probe, fields=here)
    assert probe.num_loaded == 0
    assert findings["bundle net"].level == "fail"
    assert "num_sms: bundle has 14, this machine 16" in findings["bundle net"].found
    assert "tensorrt: bundle has '8.6.1', this machine '10.3.0'" in findings["bundle net"].found


def test_a_damaged_engine_is_not_loaded(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "net")
    path = bundle.root / bundle.manifest.plans[0].segments[1].path
    path.write_bytes(b"x" * path.stat().st_size)
    probe = FakeProbe(GOOD)
    findings = examine(tmp_path, GOOD, bundle, probe=probe)
    assert probe.num_loaded == 0
    assert "damaged" in findings["bundle net"].found


def test_isolated_cores_are_told(tmp_path: Path) -> None:
    files = {"sys/devices/system/cpu/isolated": "2-3\n"}
    finding = examine(tmp_path, files=files)["affinity"]
    assert finding.found == "permitted on cores 0,1; isolated: 2-3"
