"""Option values as people write them; what cannot be read is wrong usage, exit code 2."""

import difflib
import re

import click

from preempt_runtime.errors import InputError
from preempt_runtime.units import parse_duration_ns
from preemptc.targets import TARGETS

_FRACTION = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)", re.ASCII)
_SIZE = re.compile(r"(\d{1,18}(?:\.\d+)?)\s*(B|KiB|MiB|GiB)?", re.ASCII)
_SHAPE = re.compile(r"[1-9]\d{0,17}(?:x[1-9]\d{0,17})*")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_UNIT_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_MAX_FRAC = 100.0
_GPU_WORDS = frozenset(
    ("cuda", "cudaexecutionprovider", "gpu", "onnxruntime-gpu", "tensorrt", "trt")
)


def duration_ns(text: str) -> int:
    """Nanoseconds of `3ms`, `250us` or `1.5 s`; at least one.

    Raises:
        BadParameter: another text.
    """
    try:
        value_ns = parse_duration_ns(text)
    except InputError as err:
        raise click.BadParameter(str(err)) from err
    if value_ns < 1:
        raise click.BadParameter(f"{text!r} is less than a nanosecond; give more")
    return value_ns


def fraction(text: str) -> float:
    """A share from `3%` or `0.03`.

    Raises:
        BadParameter: another text, or a number from 1 on without a percent sign.

    >>> fraction("3%"), fraction("0.03")
    (0.03, 0.03)
    """
    match = _FRACTION.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a share; write one such as 3% or 0.03")
    number = float(match[1])
    if match[2]:
        number /= 100
    elif number >= 1:
        raise click.BadParameter(f"{text!r} is no share below 1; for percent write {match[1]}%")
    if number > _MAX_FRAC:
        raise click.BadParameter(f"{text!r} is over {_MAX_FRAC:.0%}; give less")
    return number


def size_bytes(text: str) -> int:
    """Bytes of `4MiB`, `512KiB` or `4096`.

    Raises:
        BadParameter: another text.

    >>> size_bytes("4MiB")
    4194304
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size; write a number and B, KiB, MiB or GiB")
    return round(float(match[1]) * _UNIT_BYTES[match[2] or "B"])


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and shape from `NAME=1x3x224x224`; the name may hold `=`.

    Raises:
        BadParameter: another text, or a dimension of zero.

    >>> named_shape("image:0=1x3")
    ('image:0', (1, 3))
    """
    name, _, shape = text.rpartition("=")
    if not name or not _SHAPE.fullmatch(shape):
        raise click.BadParameter(
            f"{text!r} is not NAME=SHAPE; write dimensions from 1 on, such as input=1x3x224x224"
        )
    return name, tuple(int(dim) for dim in shape.split("x"))


def target_name(text: str) -> str:
    """The name of a target that there is.

    Raises:
        BadParameter: there is none of that name.
    """
    if text not in TARGETS:
        known = ", ".join(TARGETS)
        if text.lower() in _GPU_WORDS:
            raise click.BadParameter(
                f"{text!r} is unknown; networks run on GPUs by TensorRT, for the one that is here"
                " write native (ONNX Runtime's CUDA provider is not used)"
            )
        close = difflib.get_close_matches(text.lower(), TARGETS, n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise click.BadParameter(
            f"{text!r} is unknown{meant}, there is {known}; see `preemptc targets`"
        )
    return text


def sha256_hex(text: str) -> str:
    """64 hexadecimal digits, in lower case.

    Raises:
        BadParameter: another text.
    """
    if not _SHA256.fullmatch(text):
        raise click.BadParameter(f"{text!r} is not a sha256 of 64 hexadecimal digits")
    return text.lower()
