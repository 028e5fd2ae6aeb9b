"""What is published about each GPU that is a target: the files of `gpus/`, read strictly."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from preempt_runtime.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_CAPABILITY = re.compile(r"\d+\.\d")
_VERSION = re.compile(r"\d+(?:\.\d+){1,3}")
_TEXTS = ("name", "title", "device_name")
_FIGURES = ("compute_capability", "num_sms", "memory_bytes", "bandwidth_bytes_per_s")
_RATES = ("fp32", "fp16", "int8")
_OPTIONAL = ("int8", "dla")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakRate:
    """The highest rate of dense operations, a multiply-add counted as two, and its clock."""

    ops_per_s: int
    clock_hz: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRange:
    """Versions from `first` to `last`, both included with every patch of theirs.

    >>> VersionRange(first="8.6", last="10.7").includes("10.7.0.23")
    True
    >>> VersionRange(first="8.6", last="10.7").includes("8.5.2")
    False
    """

    first: str
    last: str

    def __post_init__(self) -> None:
        if _numbers(self.first) > _numbers(self.last):
            raise InputError(f"version range {self}: ends before it starts")

    def includes(self, version: str) -> bool:
        """Whether a version lies in the range."""
        numbers, last = _numbers(version), _numbers(self.last)
        return _numbers(self.first) <= numbers and numbers[: len(last)] <= last

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """Published figures of one GPU, at its highest clocks; nothing here was measured.

    `device_name` is the word that tells it in the driver's name of the GPU. `fp16` and `int8` are
    the tensor cores' rates, `fp32` is that of the CUDA cores; `int8` is None where no figure was
    found. `dla` are the TensorRT versions that use its deep learning accelerators, none if it has
    none. `sources` says where each figure is from, `unconfirmed` names those that no document was
    found to print.
    """

    name: str
    title: str
    device_name: str
    is_integrated: bool
    compute_capability: str
    num_sms: int
    memory_bytes: int
    bandwidth_bytes_per_s: int
    fp32: PeakRate
    fp16: PeakRate
    int8: PeakRate | None
    tensorrt: VersionRange
    dla: tuple[VersionRange, ...]
    sources: Mapping[str, str]
    unconfirmed: frozenset[str]


def gpu_specs() -> tuple[GpuSpec, ...]:
    """The specs of every file in `gpus/`, by name.

    Raises:
        InputError: a file of this installation is damaged.
    """
    entries = [e for e in (files("preemptc") / "gpus").iterdir() if e.name.endswith(".toml")]
    specs = [gpu_spec_from_toml(entry.read_text("utf-8"), entry.name) for entry in entries]
    for spec, entry in zip(specs, entries, strict=True):
        if entry.name != f"{spec.name}.toml":
            raise InputError(f"{entry.name}: names itself {spec.name!r}; the two must be equal")
    return tuple(sorted(specs, key=lambda spec: spec.name))


def gpu_spec_from_toml(text: str, where: str) -> GpuSpec:
    """The spec in a TOML document.

    Raises:
        InputError: not TOML, a field is missing, unknown or of another kind; `where` names the
            document in the message.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise InputError(f"{where}: not TOML ({err})") from err
    _check_fields(document, {*_TEXTS, "integrated", *_FIGURES, *_RATES, "tensorrt", "dla"}, where)
    tables = {name: document[name] for name in document if name not in (*_TEXTS, "integrated")}
    for name, table in tables.items():
        _check_figure(name, table, where)
    ranges = tables.get("dla", {"value": []})["value"]
    try:
        return GpuSpec(
            name=_matching(document["name"], _NAME, f"{where}: name"),
            title=_text(document["title"], f"{where}: title"),
            device_name=_text(document["device_name"], f"{where}: device_name"),
            is_integrated=_flag(document["integrated"], f"{where}: integrated"),
            compute_capability=_matching(
                tables["compute_capability"]["value"], _CAPABILITY, f"{where}: compute_capability"
            ),
            num_sms=_count(tables["num_sms"]["value"], f"{where}: num_sms"),
            memory_bytes=_count(tables["memory_bytes"]["value"], f"{where}: memory_bytes"),
            bandwidth_bytes_per_s=_count(
                tables["bandwidth_bytes_per_s"]["value"], f"{where}: bandwidth_bytes_per_s"
            ),
            fp32=_rate(tables["fp32"], f"{where}: fp32"),
            fp16=_rate(tables["fp16"], f"{where}: fp16"),
            int8=_rate(tables["int8"], f"{where}: int8") if "int8" in tables else None,
            tensorrt=_range(tables["tensorrt"]["value"], f"{where}: tensorrt"),
            dla=tuple(_range(pair, f"{where}: dla") for pair in _list(ranges, f"{where}: dla")),
            sources={name: table["source"] for name, table in tables.items()},
            unconfirmed=frozenset(n for n, table in tables.items() if table.get("unconfirmed")),
        )
    except InputError as err:
        raise InputError(str(err) if str(err).startswith(where) else f"{where}: {err}") from err


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _check_fields(document: Mapping[str, object], known: set[str], where: str) -> None:
    if unknown := sorted(set(document) - known):
        raise InputError(f"{where}: unknown fields {unknown}, known are {sorted(known)}")
    if missing := sorted(known - set(document) - set(_OPTIONAL) - {"unconfirmed"}):
        raise InputError(f"{where}: fields {missing} are missing")


def _check_figure(name: str, table: object, where: str) -> None:
    if not isinstance(table, dict):
        raise InputError(f"{where}: {name} is no table with `value` and `source`")
    known = {"value", "source", "unconfirmed"} | ({"clock_hz"} if name in _RATES else set())
    _check_fields(table, known, f"{where}: {name}")
    _text(table["source"], f"{where}: {name}.source")
    _flag(table.get("unconfirmed", False), f"{where}: {name}.unconfirmed")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where} is {value!r}, must be a text")
    return value


def _matching(value: object, pattern: re.Pattern[str], where: str) -> str:
    text = _text(value, where)
    if not pattern.fullmatch(text):
        raise InputError(f"{where} is {text!r}, must look like {pattern.pattern}")
    return text


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{where} is {value!r}, must be true or false")
    return value


def _count(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{where} is {value!r}, must be an integer from 1 on")
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where} is {value!r}, must be a list")
    return value


def _rate(table: Mapping[str, object], where: str) -> PeakRate:
    return PeakRate(
        ops_per_s=_count(table["value"], f"{where}.value"),
        clock_hz=_count(table["clock_hz"], f"{where}.clock_hz"),
    )


def _range(value: object, where: str) -> VersionRange:
    pair = _list(value, where)
    if len(pair) != 2:
        raise InputError(f"{where} is {pair!r}, must be the first and the last version")
    first, last = (_matching(version, _VERSION, where) for version in pair)
    return VersionRange(first=first, last=last)
