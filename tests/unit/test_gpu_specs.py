"""The published figures of GPUs: complete, plausible, and read strictly."""

import re
from importlib.resources import files

import pytest

from preempt_runtime.errors import InputError
from preemptc.gpu_specs import GpuSpec, VersionRange, gpu_spec_from_toml, gpu_specs

SPECS = {spec.name: spec for spec in gpu_specs()}
LANES = 128  # FP32 lanes of one SM of every GPU here, each two operations a cycle


def _text(name: str) -> str:
    return (files("preemptc") / "gpus" / f"{name}.toml").read_text("utf-8")


def test_every_gpu_that_was_promised_is_there() -> None:
    assert tuple(SPECS) == ("h100", "h200", "orin", "orin-32gb", "orin-nano", "orin-nx", "thor")


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_fp32_rate_follows_from_sms_and_clock(spec: GpuSpec) -> None:
    expected = spec.num_sms * LANES * 2 * spec.fp32.clock_hz
    assert spec.fp32.ops_per_s == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_tensor_core_rates_follow_from_the_generation(spec: GpuSpec) -> None:
    ops_per_cycle = {"9.0": 4096, "8.7": 2048, "11.0": 8192}[spec.compute_capability]
    expected = spec.num_sms * ops_per_cycle * spec.fp16.clock_hz
    assert spec.fp16.ops_per_s == pytest.approx(expected, rel=0.1)
    if spec.int8 is not None:
        assert spec.int8.ops_per_s == pytest.approx(2 * spec.fp16.ops_per_s, rel=0.01)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_figure_has_a_source(spec: GpuSpec) -> None:
    figures = {"compute_capability", "num_sms", "memory_bytes", "bandwidth_bytes_per_s", "fp32"}
    assert spec.sources.keys() >= figures | {"fp16", "tensorrt"}
    assert all(len(source) > 10 for source in spec.sources.values())
    assert spec.unconfirmed <= {"fp16", "int8"}


def test_versions_of_orin() -> None:
    orin = SPECS["orin"]
    assert orin.tensorrt.includes("8.6.2.3")
    assert not orin.tensorrt.includes("8.5.2.2")
    assert [dla.includes("10.3.0.30") for dla in orin.dla] == [True, False]
    assert not any(dla.includes("10.16.2.10") for dla in orin.dla)
    assert any(dla.includes("11.4.1") for dla in orin.dla)
    assert not any(dla.includes("11.4.0.106") for dla in orin.dla)
    assert SPECS["orin-nano"].dla == SPECS["thor"].dla == SPECS["h200"].dla == ()


def test_a_range_that_ends_before_it_starts() -> None:
    with pytest.raises(InputError, match="ends before it starts"):
        VersionRange(first="10.7", last="8.6")


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"\[num_sms\]", "[num_sms", "x.toml: not TOML"),
        (r'title = ".*"\n', "", r"x.toml: fields \['title'\] are missing"),
        (r"integrated = true", "integrated = 1", "integrated is 1, must be true or false"),
        (r"^", "colour = 'green'\n", r"unknown fields \['colour'\]"),
        (r"\[num_sms\]\nvalue = 16", "[num_sms]\nvalue = 0", "num_sms is 0, must be an integer"),
        (r"\[num_sms\]\nvalue = 16", "[num_sms]\nvalue = true", "num_sms is True, must be an int"),
        (
            r"\[num_sms\]\nvalue = 16\nsource = .*",
            "[num_sms]\nvalue = 16",
            "num_sms: fields .'source",
        ),
        (r"\[num_sms\]\nvalue = 16\nsource = .*", "", r"x.toml: fields \['num_sms'\] are"),
        (r"source = \"TensorRT .*\"", 'source = " "', "compute_capability.source is ' ', must be"),
        (r'value = "8.7"', 'value = "sm_87"', "compute_capability is 'sm_87', must look like"),
        (r'value = "8.7"', "value = 8.7", "compute_capability is 8.7, must be a text"),
        (r'name = "orin"', 'name = "Orin 64"', "name is 'Orin 64', must look like"),
        (r"clock_hz = 1_300_000_000", "", r"fp32: fields \['clock_hz'\] are missing"),
        (r"unconfirmed = true", "unconfirmed = 1", "fp16.unconfirmed is 1, must be true or"),
        (r'\["8.6", "11.4"\]', '["8.6"]', "tensorrt is .'8.6'., must be the first and the last"),
        (r'\["8.6", "11.4"\]', '"8.6"', "tensorrt is '8.6', must be a list"),
        (r'\["8.6", "11.4"\]', '["8.6", "new"]', "tensorrt is 'new', must look like"),
        (r'\["8.6", "11.4"\]', '["11.4", "8.6"]', "x.toml: version range 11.4-8.6: ends before"),
        (r'\[\["8.6", "10.7"\]', '[["8.6", 10]', "dla is 10, must be a text"),
    ],
)
def test_odd_files_are_refused(pattern: str, replacement: str, message: str) -> None:
    text, num_changed = re.subn(pattern, replacement, _text("orin"), count=1)
    assert num_changed == 1
    with pytest.raises(InputError, match=message):
        gpu_spec_from_toml(text, "x.toml")


def test_a_figure_must_be_a_table() -> None:
    text = "num_sms = 16\n" + _text("orin").replace("[num_sms]", "[colour]")
    with pytest.raises(InputError, match="unknown fields"):
        gpu_spec_from_toml(text, "x.toml")
    text = "num_sms = 16\n" + re.sub(r"\[num_sms\]\nvalue.*\nsource.*\n", "", _text("orin"))
    with pytest.raises(InputError, match="num_sms is no table with `value` and `source`"):
        gpu_spec_from_toml(text, "x.toml")
