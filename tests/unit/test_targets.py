"""Which GPU this machine is: none, one that has a name, one of two alike, or a stranger."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from models.make import make
from preempt_runtime.errors import BundleError, DeviceError
from preemptc import targets
from preemptc.cli import main
from preemptc.commands.targets import command, document_of, tables_of
from preemptc.gpu_specs import gpu_specs
from preemptc.report import plain_text
from preemptc.targets import CPU, NATIVE, TARGETS, compare_key, local_device, local_devices
from tests.unit import onnx_models

Gpu = Mapping[str, str | int]
H200: Gpu = {"gpu": "NVIDIA H200", "num_sms": 132, "compute_capability": "9.0"}
ORIN: Gpu = {"gpu": "Orin", "num_sms": 16, "compute_capability": "8.7"}


class FakeBackend:
    """A library that knows its fields, or why it has none; counts how often it was asked."""

    def __init__(self, fields: Gpu | Exception) -> None:
        self.fields = fields
        self.num_asked = 0

    def key_fields(self) -> Gpu:
        self.num_asked += 1
        if isinstance(self.fields, Exception):
            raise self.fields
        return self.fields


def _pretend(monkeypatch: pytest.MonkeyPatch, gpu: Gpu | Exception) -> FakeBackend:
    tensorrt = FakeBackend(gpu if isinstance(gpu, Exception) else _fields(gpu))
    backends = {"ort": FakeBackend({"backend": "ort"}), "tensorrt": tensorrt}
    monkeypatch.setattr(targets, "open_backend", backends.__getitem__)
    return tensorrt


def _fields(gpu: Gpu) -> Gpu:
    return {"backend": "tensorrt", "tensorrt": "10.3.0", "cuda_driver": "12.6", **gpu}


def _here() -> list[str]:
    return [d.target.name for d in local_devices(TARGETS.values()) if d.is_available]


def test_named_targets_have_figures_and_the_others_none() -> None:
    assert (CPU.gpu, NATIVE.gpu) == (None, None)
    assert list(TARGETS)[:2] == ["cpu", "native"]
    for spec in gpu_specs():
        target = TARGETS[spec.name]
        assert target.gpu == spec
        assert (target.backend, target.compiler) == (NATIVE.backend, NATIVE.compiler)


@pytest.mark.parametrize(
    ("gpu", "names"),
    [
        (H200, ["h200"]),
        ({**H200, "gpu": "NVIDIA H100 80GB HBM3"}, ["h100"]),
        ({**H200, "gpu": "NVIDIA GH200 480GB"}, ["h100", "h200"]),  # neither, as far as is known
        ({**H200, "num_sms": 114, "gpu": "NVIDIA H100 PCIe"}, []),
        (ORIN, ["orin"]),
        ({**ORIN, "gpu": "Graphics Device"}, ["orin"]),
        ({**ORIN, "num_sms": 14}, ["orin-32gb"]),
        ({**ORIN, "num_sms": 8}, ["orin-nano", "orin-nx"]),  # the driver names both Orin
        ({"gpu": "NVIDIA Thor", "num_sms": 20, "compute_capability": "11.0"}, ["thor"]),
        ({"gpu": "NVIDIA L4", "num_sms": 58, "compute_capability": "8.9"}, []),
        ({}, []),
    ],
)
def test_a_gpu_is_known_by_what_the_driver_tells(
    gpu: Gpu, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _pretend(monkeypatch, gpu)
    assert _here() == ["cpu", "native", *names]


@pytest.mark.parametrize("err", [DeviceError("no GPU here"), BundleError("no such backend")])
def test_without_a_gpu_every_gpu_target_says_why(
    err: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt = _pretend(monkeypatch, err)
    devices = local_devices(TARGETS.values())
    assert tensorrt.num_asked == 1
    assert [d.target.name for d in devices if d.is_available] == ["cpu"]
    assert {d.unavailable for d in devices[1:]} == {str(err)}
    assert all(d.fields == {} for d in devices[1:])


def test_another_gpu_is_named_and_its_key_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, H200)
    device = local_device(TARGETS["orin"])
    assert device.unavailable == (
        "the GPU here is NVIDIA H200 (compute capability 9.0, 132 SMs), not Jetson AGX Orin 64GB"
        " (8.7, 16 SMs)"
    )
    differing = [m.name for m in compare_key(_fields(ORIN), device) if not m.is_same]
    assert differing == ["gpu", "num_sms", "compute_capability"]


def test_what_targets_tells_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, ORIN)
    document = json.loads(json.dumps(document_of(local_devices(TARGETS.values()))))
    assert document["this_machine"] == ["cpu", "native", "orin"]
    entries = {entry["name"]: entry for entry in document["targets"]}
    assert entries["cpu"]["gpu"] is None
    assert entries["native"]["machine"]["gpu"] == "Orin"
    assert (entries["h100"]["available"], entries["h100"]["machine"]) == (False, {})
    gpu = entries["orin"]["gpu"]
    assert gpu["num_sms"] == 16
    assert gpu["int8"] == {"ops_per_s": 85 * 10**12, "clock_hz": 1_300_000_000}
    assert gpu["unconfirmed"] == ["fp16"]
    assert "DS-10662-001" in gpu["sources"]["bandwidth_bytes_per_s"]
    assert gpu["dla"] == [{"first": "8.6", "last": "10.7"}, {"first": "11.4.1", "last": "11.4.1"}]


def test_what_targets_tells_people(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, H200)
    lines = plain_text(tables_of(local_devices(TARGETS.values()))).splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert rows["h200"][-1] == "yes"
    assert rows["orin"][-1] == "no"
    assert "~42.5" in rows["orin"]
    assert rows["thor"][-5:-3] == ["~258.8", "-"]
    assert max(map(len, lines)) <= 100


def test_the_command_runs_without_a_gpu() -> None:
    done = CliRunner().invoke(command, [])
    assert done.exit_code == 0
    assert "orin-nano  Jetson Orin Nano 8GB" in done.stdout


@pytest.mark.parametrize(("target", "options", "message"), [
    ("cpu", ("--precision", "fp16"),
     "--precision and --opt-level are for GPU targets; leave them out for cpu"),
    ("cpu", ("--opt-level", "3"),
     "--precision and --opt-level are for GPU targets; leave them out for cpu"),
    ("cpu", ("--engines", "skip"),
     "--engines skip is for GPU targets; a bundle for cpu needs its graphs"),
    ("orin", ("--threads", "2"), "--threads is for the target cpu; leave it out for a GPU"),
])  # fmt: skip
def test_an_option_that_a_target_does_not_know_is_refused_before_any_work(
    target: str, options: Sequence[str], message: str, tmp_path: Path
) -> None:
    """Exit code 1: the line is well written, and a task set or Python gets the same answer."""
    model, cache = onnx_models.save(onnx_models.chain(), tmp_path / "net.onnx"), tmp_path / "cache"
    arguments = ["compile", str(model), "--target", target, "--cache", str(cache), *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (1, f"preemptc: error: {message}\n")
    assert not cache.exists()


def test_a_bundle_for_another_target_is_not_replaced_without_a_word(tmp_path: Path) -> None:
    model, output = onnx_models.save(onnx_models.chain(), tmp_path / "net.onnx"), tmp_path / "b"
    arguments = ["compile", str(model), "--segments", "1", "-o", str(output)]
    arguments += ["--cache", str(tmp_path / "cache")]

    def compiled(*more: str) -> str:
        result = CliRunner().invoke(main, [*arguments, *more], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return " ".join(result.stdout.split())

    assert "replaces" not in compiled("--target", "orin")
    note = f"replaces {output}, which was compiled for orin; another -o keeps both"
    assert note in compiled()
    assert "replaces" not in compiled()


def test_the_readme_shows_what_a_compile_for_a_gpu_elsewhere_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (command_line,) = re.findall(r"^ {4}preemptc (compile .* --target orin .*?) *#", readme, re.M)
    (shown,) = re.findall(r"^ {4}compiled for orin\n(?: {4}.*\n)*", readme, re.M)
    make("mobilenet_v2", tmp_path / "detector.onnx")
    words = [*command_line.split(), "--cache", "cache"]
    monkeypatch.chdir(tmp_path)
    printed = CliRunner().invoke(main, words, catch_exceptions=False).stdout
    assert textwrap.dedent(shown) in printed
