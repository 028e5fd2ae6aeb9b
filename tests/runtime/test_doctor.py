import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest

from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.doctor import AskedPlan, Finding, doctor
from preempt_runtime.doctor.bundles import file_and_tensor_bytes
from preempt_runtime.errors import DeviceError
from preempt_runtime.loading import Backend
from preempt_runtime.system_view import Interpreter, SystemView, view_this_machine
from tests.runtime.fake_bundles import FIELDS, FakeBackend, bundle_of, manifest_of, write_bundle

MIB = 1 << 20
QUIET_TREE = {
    "proc/stat": "cpu  1000 0 100 5000 0 0 0 10 0 0\ncpu0 500 0 50 2500 0 0 0 5 0 0\n",
    "proc/loadavg": "0.10 0.20 0.30 1/100 4242\n",
    "proc/meminfo": "MemTotal: 8192 kB\nMemAvailable: 4096 kB\n",
    "proc/self/status": "Name:\tpython\nCapEff:\t0000000000804000\n",
    "proc/self/cgroup": "0::/app/inner\n",
    "proc/sys/kernel/sched_rt_runtime_us": "950000\n",
    "proc/sys/kernel/sched_rt_period_us": "1000000\n",
    "proc/7/stat": "7 (python) R 1 7 7 0 -1 0 0 0 0 0 900 90 0 0 20 0 1 0 1 1 1\n",
    "proc/8/stat": "8 (a (b) c) S 1 8 8 0 -1 0 0 0 0 0 400 40 0 0 20 0 1 0 1 1 1\n",
    "sys/devices/system/cpu/smt/active": "0\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
}


def write_tree(root: Path, files: Mapping[str, str | None]) -> None:
    for relative, text in files.items():
        path = root / relative
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def view_of(root: Path, **changes: object) -> SystemView:
    view = SystemView(
        root=root,
        pids=frozenset({7}),
        usable_cores=frozenset({0, 1}),
        ticks_per_s=100,
        rtprio_limit=0,
        memlock_limit=8 * MIB,
        interpreter=Interpreter(
            version="3.11.7", switch_interval_s=0.005, wheels={"onnxruntime": "1.31.1"}
        ),
    )
    return dataclasses.replace(view, **changes)  # type: ignore[arg-type]


def on_disk(root: Path) -> Bundle:
    write_bundle(root, manifest_of((1000,) * 2))
    return open_bundle(root)


def examine(
    tmp_path: Path,
    *bundles: Bundle,
    before: Mapping[str, str | None] | None = None,
    meanwhile: Mapping[str, str | None] | None = None,
    threads: int | None = None,
    fields: Mapping[str, str | int] | DeviceError = FIELDS,
    **view_changes: object,
) -> dict[str, Finding]:
    write_tree(tmp_path, {**QUIET_TREE, **(before or {})})

    def find_backend(name: str) -> Backend:
        assert name == FIELDS["backend"]
        return FakeBackend(fields)

    findings = doctor(
        [AskedPlan(bundle=bundle) for bundle in bundles],
        view=view_of(tmp_path, **view_changes),
        find_backend=find_backend,
        threads=threads,
        pause=lambda _: write_tree(tmp_path, meanwhile or {}),
    )
    assert len({finding.what for finding in findings}) == len(findings)
    return {finding.what: finding for finding in findings}


def test_a_quiet_machine_is_well(tmp_path: Path) -> None:
    findings = examine(tmp_path, on_disk(tmp_path / "a"), threads=2)
    assert {(f.what, f.found) for f in findings.values()} == {
        ("steal time", "0.0% over 1 s"),
        ("other processes", "none takes 20% of a core"),
        ("cores", "2 usable, 2 threads asked"),
        ("load", "0.10 over a minute, 2 cores"),
        ("frequency governor", "performance"),
        ("shared cores", "SMT is off"),
        ("SCHED_FIFO", "permitted, at most 95% of each period"),
        ("locked memory", "permitted"),
        ("affinity", "permitted on cores 0,1"),
        ("Python", "3.11.7, switch interval 5 ms (lowered while tasks run)"),
        ("ONNX Runtime", "onnxruntime 1.31.1"),
        ("bundle a", "plan 'cut', 2 segments, estimated"),
        ("memory", "26 B of weights and buffers (estimated), 4 MiB available"),
    }
    assert {(f.level, f.advice) for f in findings.values()} == {("ok", "")}


@pytest.mark.parametrize(
    ("total", "steal", "level", "found"),
    [
        (1000, 4, "ok", "0.4% over 1 s"),
        (1000, 5, "warn", "0.5% over 1 s"),
        (1000, 99, "warn", "9.9% over 1 s"),
        (1000, 100, "fail", "10.0% over 1 s"),
    ],
)
def test_steal_is_measured_over_the_window(
    tmp_path: Path, total: int, steal: int, level: str, found: str
) -> None:
    after = f"cpu  {1000 + total - steal} 0 100 5000 0 0 0 {10 + steal} 0 0\n"
    finding = examine(tmp_path, meanwhile={"proc/stat": after})["steal time"]
    assert (finding.level, finding.found) == (level, found)
    assert bool(finding.advice) == (level != "ok")


def test_unreadable_steal_is_not_called_none(tmp_path: Path) -> None:
    finding = examine(tmp_path, before={"proc/stat": "intr 1 2 3\n"})["steal time"]
    assert (finding.level, finding.found) == ("warn", "/proc/stat cannot be read")


def test_busy_processes_are_named_worst_first_and_this_one_is_not(tmp_path: Path) -> None:
    def stat(pid: int, name: str, ticks: int) -> str:
        return f"{pid} ({name}) R 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0 1 0 1 1 1\n"

    meanwhile = {
        "proc/7/stat": stat(7, "python", 5000),
        "proc/8/stat": stat(8, "a (b) c", 440 + 30),
        "proc/9/stat": stat(9, "new", 95),
        "proc/10/stat": stat(10, "idle", 19),
    }
    finding = examine(tmp_path, meanwhile=meanwhile)["other processes"]
    assert (finding.level, finding.found, finding.advice) == (
        "warn",
        "new (pid 9) 95% of a core; a (b) c (pid 8) 30% of a core",
        "stop them, or keep the cores apart with --affinity",
    )


def test_a_process_that_ends_meanwhile_is_passed_over(tmp_path: Path) -> None:
    assert examine(tmp_path, meanwhile={"proc/8/stat": None})["other processes"].level == "ok"


def test_more_threads_than_cores_fail(tmp_path: Path) -> None:
    finding = examine(tmp_path, threads=3)["cores"]
    assert (finding.level, finding.found, finding.advice) == (
        "fail",
        "2 usable, 3 threads asked",
        "threads would wait for each other; lower `threads`",
    )


@pytest.mark.parametrize(
    ("files", "threads", "level", "found"),
    [
        ({"sys/fs/cgroup/app/cpu.max": "150000 100000"}, None, "fail", "1.5 cores' worth of time"),
        ({"sys/fs/cgroup/app/cpu.max": "150000 100000"}, 1, "ok", "1.5 cores' worth of time"),
        (
            {
                "sys/fs/cgroup/cpu.max": "400000 100000",
                "sys/fs/cgroup/app/inner/cpu.max": "200000 100000",
            },
            None,
            "ok",
            "2 cores' worth of time",
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/x\n1:name=systemd:/\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            1,
            "fail",
            "0.5 cores' worth of time",
        ),
    ],
)
def test_a_container_limit_is_found_in_both_versions(
    tmp_path: Path, files: dict[str, str | None], threads: int | None, level: str, found: str
) -> None:
    finding = examine(tmp_path, before=files, threads=threads)["container limit"]
    assert (finding.level, finding.found) == (level, found)
    assert bool(finding.advice) == (level == "fail")


@pytest.mark.parametrize("text", ["max 100000", "", "garbage"])
def test_no_container_limit_is_no_finding(tmp_path: Path, text: str) -> None:
    before = {"sys/fs/cgroup/app/cpu.max": text}
    assert "container limit" not in examine(tmp_path, before=before)


def test_load_governor_and_smt_warn(tmp_path: Path) -> None:
    before = {
        "proc/loadavg": "1.50 0.20 0.30 1/100 4242\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave\n",
        "sys/devices/system/cpu/smt/active": "1\n",
    }
    findings = examine(tmp_path, before=before)
    found = {what: (f.level, f.found) for what, f in findings.items() if f.level != "ok"}
    assert found == {
        "load": ("warn", "1.50 over a minute, 2 cores"),
        "frequency governor": ("warn", "performance, powersave"),
        "shared cores": ("warn", "SMT is on"),
    }
    assert all(findings[what].advice for what in found)


def test_what_is_hidden_is_said_to_be_hidden(tmp_path: Path) -> None:
    hidden = dict.fromkeys(QUIET_TREE, None)
    write_tree(tmp_path, QUIET_TREE)
    findings = examine(tmp_path, on_disk(tmp_path / "a"), meanwhile=hidden)
    assert findings["load"].found == "unknown"
    assert findings["frequency governor"].found == "not readable (virtual machine?)"
    assert findings["shared cores"].found == "SMT is not reported"
    assert findings["memory"].found.endswith("available: unknown")
    assert {f.level for f in findings.values()} == {"ok", "warn"}


def test_permissions_come_from_capabilities_or_limits(tmp_path: Path) -> None:
    bare = {"proc/self/status": "CapEff:\t0000000000000000\n"}
    findings = examine(tmp_path, before=bare)
    assert (findings["SCHED_FIFO"].level, findings["SCHED_FIFO"].advice) == (
        "warn",
        "--sched-fifo needs CAP_SYS_NICE, or rtprio in limits.conf",
    )
    assert (findings["locked memory"].level, findings["locked memory"].found) == (
        "warn",
        "limited to 8 MiB",
    )
    granted = examine(tmp_path, before=bare, rtprio_limit=50, memlock_limit=None)
    assert (granted["SCHED_FIFO"].level, granted["locked memory"].level) == ("ok", "ok")


@pytest.mark.parametrize(
    ("wheels", "level", "found"),
    [
        ({}, "warn", "not installed"),
        (
            {"onnxruntime": "1.2", "onnxruntime-gpu": "1.3"},
            "fail",
            "onnxruntime 1.2, onnxruntime-gpu 1.3",
        ),
    ],
)
def test_wheels_missing_or_doubled(
    tmp_path: Path, wheels: dict[str, str], level: str, found: str
) -> None:
    interpreter = Interpreter(version="3.11.7", switch_interval_s=0.005, wheels=wheels)
    finding = examine(tmp_path, interpreter=interpreter)["ONNX Runtime"]
    assert (finding.level, finding.found) == (level, found)
    assert finding.advice


def test_a_missing_wheel_fails_where_a_bundle_needs_it(tmp_path: Path) -> None:
    write_tree(tmp_path, QUIET_TREE)
    interpreter = Interpreter(version="3.11.7", switch_interval_s=0.005, wheels={})
    fields = {**FIELDS, "backend": "ort"}
    findings = doctor(
        [AskedPlan(bundle=bundle_of("a", manifest_of(fields=fields)))],
        view=view_of(tmp_path, interpreter=interpreter),
        find_backend=lambda _: FakeBackend(fields),
        pause=lambda _: None,
    )
    assert (
        Finding(
            level="fail",
            what="ONNX Runtime",
            found="not installed",
            advice="pip install 'preempt-runtime[cpu]'",
        )
        in findings
    )


def test_a_foreign_bundle_fails_naming_each_field(tmp_path: Path) -> None:
    other = {**FIELDS, "cpu_model": "Testium 2", "library": "1.9"}
    finding = examine(tmp_path, bundle_of("a", manifest_of(fields=other)))["bundle a"]
    assert finding.level == "fail"
    assert "cpu_model: bundle has 'Testium 2', this machine 'Testium 1'" in finding.found
    assert "library: bundle has '1.9', this machine '2.0'" in finding.found


def test_threads_of_bundle_task_set_and_machine_must_agree(tmp_path: Path) -> None:
    asked = examine(tmp_path, bundle_of("a", manifest_of(threads=2)), threads=1)["bundle a"]
    assert (asked.level, "threads: bundle has 2, this machine 1" in asked.found) == ("fail", True)
    finding = examine(tmp_path, bundle_of("a", manifest_of(threads=4)))["bundle a"]
    assert (finding.level, finding.found) == (
        "fail",
        "plan 'cut', 1 segment, estimated, made for 4 threads on 2 usable cores",
    )


@pytest.mark.parametrize("name", ["segment-001.onnx", "whole.onnx"])
def test_a_damaged_file_that_a_run_would_use_fails(tmp_path: Path, name: str) -> None:
    bundle = on_disk(tmp_path / "a")
    (path,) = bundle.root.glob(f"engines/*/{name}")
    path.write_bytes(b"segmenu")
    finding = examine(tmp_path, bundle)["bundle a"]
    assert finding.level == "fail"
    assert finding.found.startswith(f"{path}: sha256 ")
    assert finding.found.endswith("; damaged, compile the bundle again")
    path.unlink()
    assert examine(tmp_path, bundle)["bundle a"].found.startswith(f"{path}: missing")


def test_a_missing_library_fails_the_bundle_not_the_doctor(tmp_path: Path) -> None:
    error = DeviceError("ONNX Runtime is missing or broken; install it")
    finding = examine(tmp_path, bundle_of("a"), fields=error)["bundle a"]
    assert (finding.level, finding.found) == ("fail", str(error))


@pytest.mark.parametrize(
    ("sizes", "limit", "level"),
    [
        ((MIB,), None, "ok"),
        ((MIB, 2 * MIB), None, "warn"),
        ((3 * MIB, 2 * MIB), None, "fail"),
        ((MIB,), (4 * MIB, 2 * MIB), "warn"),
        ((MIB,), (3 * MIB, 3 * MIB), "fail"),
    ],
)
def test_memory_is_that_of_all_bundles_together(
    tmp_path: Path, sizes: tuple[int, ...], limit: tuple[int, int] | None, level: str
) -> None:
    before: dict[str, str | None] = {}
    if limit is not None:
        before["sys/fs/cgroup/app/memory.max"] = str(limit[0])
        before["sys/fs/cgroup/app/memory.current"] = str(limit[1])
    bundles = [bundle_of(f"b{idx}", manifest_of(num_bytes=size)) for idx, size in enumerate(sizes)]
    finding = examine(tmp_path, *bundles, before=before)["memory"]
    assert finding.level == level
    assert bool(finding.advice) == (level != "ok")


def test_damage_shows_before_anything_is_built(tmp_path: Path) -> None:
    """What a build would take is all that there is."""
    manifest = manifest_of()
    plans = tuple(dataclasses.replace(plan, key=None) for plan in manifest.plans)
    files = tuple(dataclasses.replace(file, key=None) for file in manifest.artefacts)
    root = tmp_path / "net"
    write_bundle(root, dataclasses.replace(manifest, plans=plans, artefacts=files))
    whole = examine(tmp_path, open_bundle(root))["bundle net"]
    assert whole.level == "fail"
    assert "nothing is built for it yet" in whole.found
    damaged = root / files[0].path
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    found = examine(tmp_path, open_bundle(root))["bundle net"].found
    assert found.startswith(whole.found)
    assert files[0].path in found[len(whole.found) :]


def test_a_bundle_of_two_tasks_is_counted_once(tmp_path: Path) -> None:
    write_tree(tmp_path, QUIET_TREE)
    bundle = bundle_of("a", manifest_of(num_bytes=3 * MIB))
    findings = doctor(
        [AskedPlan(bundle=bundle), AskedPlan(bundle=bundle, plan_id="cut")],
        view=view_of(tmp_path),
        find_backend=lambda _: FakeBackend(FIELDS),
        pause=lambda _: None,
    )
    assert findings[-1].found.startswith("3 MiB of weights and buffers (estimated)")


def test_every_task_has_buffers_of_its_own() -> None:
    bundle = bundle_of("a", manifest_of())
    plan = bundle.manifest.plans[0]

    def need_bytes(*buffers: int) -> int:
        asked = [AskedPlan(bundle=bundle, buffers=number) for number in buffers]
        return file_and_tensor_bytes([(each, plan) for each in asked])

    (graph,) = bundle.manifest.graphs
    tensors = (*graph.inputs, *graph.outputs, *plan.boundaries)
    num_bytes = sum(spec.num_bytes for spec in tensors)
    assert num_bytes > 0
    assert need_bytes(1, 3) - need_bytes(1) == 3 * num_bytes


def test_this_machine_can_be_viewed() -> None:
    view = view_this_machine()
    findings = doctor([], view=view, pause=lambda _: None)
    assert {"steal time", "cores", "Python"} <= {finding.what for finding in findings}
    assert view.usable_cores
    assert view.interpreter.version.startswith("3.")
