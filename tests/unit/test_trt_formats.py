"""Formats of boundary tensors: which are tried, what they store, how much room they need."""

import math

import pytest

from preemptc.backends.tensorrt.formats import (
    ALL_LINEAR,
    FORMATS,
    LIKELIEST,
    boundary_formats,
    format_tag,
    layouts,
    stored_spec,
)
from preemptc.model import TensorInfo


def image(dtype: str, channels: int = 64, side: int = 8, name: str = "x") -> TensorInfo:
    return TensorInfo(name=name, dtype=dtype, shape=(2, channels, side, side))


@pytest.mark.parametrize(
    ("dtype", "traits", "expected"),
    [
        ("float16", {}, ["HWC8", "LINEAR"]),
        ("float16", {"is_grouped": True}, ["HWC8", "LINEAR", "CHW2"]),
        ("float32", {}, ["LINEAR", "HWC"]),
        ("float32", {"is_quantized": True}, ["LINEAR", "HWC", "CHW32"]),
        ("int8", {"is_quantized": True}, ["CHW32", "LINEAR"]),
        ("int8", {"is_grouped": True}, ["CHW32", "LINEAR", "CHW4"]),
    ],
)
def test_the_precision_says_what_is_tried(
    dtype: str, traits: dict[str, bool], expected: list[str]
) -> None:
    assert [layout[dtype] for layout in layouts([image(dtype)], **traits)] == expected


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        [TensorInfo(name="tokens", dtype="float16", shape=(1, 128, 768))],
        [TensorInfo(name="video", dtype="float16", shape=(1, 64, 4, 8, 8))],
        [image("float16", side=1)],
        [image("float16", channels=3)],
        [image("int64"), image("bool")],
    ],
)
def test_what_no_format_suits_is_built_once(tensors: list[TensorInfo]) -> None:
    assert layouts(tensors, is_quantized=True) == (LIKELIEST,)
    assert boundary_formats(tensors, LIKELIEST) == {}


def test_the_format_in_which_most_bytes_cross_is_varied() -> None:
    small, large = image("float32", side=2, name="a"), image("int8", side=64, name="b")
    tried = layouts([small, large], is_quantized=True)
    assert [(layout["float32"], layout["int8"]) for layout in tried] == [
        ("LINEAR", "CHW32"),
        ("LINEAR", "LINEAR"),
    ]
    large = image("float32", side=64, name="a")
    tried = layouts([large, image("int8", side=64, name="b")], is_quantized=True)
    assert [(layout["float32"], layout["int8"]) for layout in tried] == [
        ("LINEAR", "CHW32"),
        ("HWC", "CHW32"),
        ("CHW32", "CHW32"),
    ]


def test_only_what_a_format_suits_gets_it() -> None:
    tensors = [
        image("int8", name="a"),
        image("int8", channels=8, name="b"),
        image("int32", name="c"),
    ]
    formats = boundary_formats(tensors, LIKELIEST)
    assert formats == {"a": "CHW32"}
    assert format_tag(tensors, formats) == "int8-CHW32"
    assert format_tag(tensors, boundary_formats(tensors, ALL_LINEAR)) == "linear"
    mixed = [image("int8", name="a"), image("float16", name="b")]
    assert format_tag(mixed, boundary_formats(mixed, LIKELIEST)) == "float16-HWC8+int8-CHW32"


@pytest.mark.parametrize(
    ("name", "channels", "shape"),
    [
        ("LINEAR", 12, (2, 12, 8, 8)),
        ("HWC", 12, (2, 8, 8, 12)),
        ("HWC8", 12, (2, 8, 8, 16)),
        ("HWC8", 16, (2, 8, 8, 16)),
        ("CHW2", 13, (2, 7, 8, 8, 2)),
        ("CHW4", 13, (2, 4, 8, 8, 4)),
        ("CHW32", 33, (2, 2, 8, 8, 32)),
        ("CHW32", 64, (2, 2, 8, 8, 32)),
    ],
)
def test_stored_shapes_hold_the_padding(name: str, channels: int, shape: tuple[int, ...]) -> None:
    spec = stored_spec(image("int8", channels=channels), name)
    assert spec.shape == shape
    assert spec.num_bytes == math.prod(shape)


def test_every_format_that_is_tried_has_a_size() -> None:
    for dtype, names in FORMATS.items():
        for name in names:
            assert stored_spec(image(dtype), name).num_bytes == image(dtype).num_bytes
