"""The layout in which a boundary tensor is handed over: both neighbours build for the same one.

TensorRT takes inputs and outputs to be linear unless told otherwise, and puts a reformat layer
on either side of a boundary. What its kernels want instead depends on the precision.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from preempt_runtime.manifest import TensorSpec
from preemptc.model import TensorInfo

LINEAR = "LINEAR"
Layout = Mapping[str, str]  # TensorRT's format by dtype; a dtype that is absent stays linear
ALL_LINEAR: Layout = MappingProxyType({})

# By dtype, the likeliest winner first. Half precision: tensor cores take channels last in eights;
# pairs are for grouped convolutions. Single precision: TF32 kernels come for both orders, and int8
# convolutions hand over channels in 32s. int8: tensor cores take channels in 32s, the dot products
# of grouped convolutions in fours. Left out are what TensorRT allows but serves other hardware:
# CHW16 is for DLA, CHW32 in half precision for GPUs before Volta, HWC16 not for all of ours.
# Source: TensorRT developer guide, "Data Format Descriptions", and the texts of TensorFormat.
FORMATS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "float16": ("HWC8", LINEAR, "CHW2"),
        "float32": (LINEAR, "HWC", "CHW32"),
        "int8": ("CHW32", LINEAR, "CHW4"),
    }
)
LIKELIEST: Layout = MappingProxyType({dtype: formats[0] for dtype, formats in FORMATS.items()})
_FOR_GROUPED = {("float16", "CHW2"), ("int8", "CHW4")}
_FOR_QUANTIZED = {("float32", "CHW32")}
_VECTOR = {LINEAR: 1, "HWC": 1, "CHW2": 2, "CHW4": 4, "HWC8": 8, "CHW32": 32}
_CHANNELS_LAST = ("HWC", "HWC8")
_MAX_PADDING = 2  # times the dense size: beyond that a layout moves more than it saves


def layouts(
    tensors: Iterable[TensorInfo], *, is_grouped: bool = False, is_quantized: bool = False
) -> tuple[Layout, ...]:
    """What to try for these boundary tensors, the likeliest winner first.

    Each try builds every segment, so only one dtype's format is varied, that in which the most
    bytes cross; the others keep the likeliest. Formats that suit no tensor are left out.

    Args:
        tensors: what crosses the boundaries.
        is_grouped: the network has grouped convolutions, depth-wise ones among them.
        is_quantized: it has int8 layers.

    >>> half = TensorInfo(name="x", dtype="float16", shape=(1, 64, 8, 8))
    >>> [layout["float16"] for layout in layouts([half])]
    ['HWC8', 'LINEAR']
    >>> len(layouts([TensorInfo(name="x", dtype="float16", shape=(1, 128, 768))]))
    1
    """
    left_out = (set() if is_grouped else _FOR_GROUPED) | (set() if is_quantized else _FOR_QUANTIZED)
    num_bytes: dict[str, int] = {}
    suited: dict[str, set[str]] = {}
    for tensor in tensors:
        names = [
            name
            for name in FORMATS.get(tensor.dtype, ())
            if _suits(tensor, name) and (tensor.dtype, name) not in left_out
        ]
        if names:
            suited.setdefault(tensor.dtype, {LINEAR}).update(names)
            num_bytes[tensor.dtype] = num_bytes.get(tensor.dtype, 0) + tensor.num_bytes
    if not suited:
        return (LIKELIEST,)
    varied = max(num_bytes, key=lambda dtype: (num_bytes[dtype], dtype))
    tried = [name for name in FORMATS[varied] if name in suited[varied]]
    return tuple({**LIKELIEST, varied: name} for name in tried)


def boundary_formats(tensors: Iterable[TensorInfo], layout: Layout) -> dict[str, str]:
    """TensorRT's format of each tensor that the layout suits; all others stay linear."""
    return {
        tensor.name: layout[tensor.dtype]
        for tensor in tensors
        if tensor.dtype in layout and _suits(tensor, layout[tensor.dtype])
    }


def format_tag(tensors: Iterable[TensorInfo], formats: Mapping[str, str]) -> str:
    """A name for the formats of an engine's boundaries, part of a file name.

    >>> format_tag([TensorInfo(name="x", dtype="int8", shape=(1, 64, 8, 8))], {"x": "CHW32"})
    'int8-CHW32'
    """
    used = {
        f"{tensor.dtype}-{formats[tensor.name]}" for tensor in tensors if tensor.name in formats
    }
    return "+".join(sorted(used)) or "linear"


def stored_spec(tensor: TensorInfo, tensor_format: str | None) -> TensorSpec:
    """Dtype and shape as stored, with what a vectorised format pads the channels to.

    >>> image = TensorInfo(name="x", dtype="float16", shape=(1, 3, 4, 5))
    >>> [stored_spec(image, name).shape for name in ("HWC8", "CHW2")]
    [(1, 4, 5, 8), (1, 2, 4, 5, 2)]
    """
    shape = tensor.shape
    if tensor_format not in (None, LINEAR):
        batch, channels, *space = tensor.shape
        vector = _VECTOR[tensor_format]
        num_vectors = -(-channels // vector)
        if tensor_format in _CHANNELS_LAST:
            shape = (batch, *space, num_vectors * vector)
        else:
            shape = (batch, num_vectors, *space, vector)
    return TensorSpec(name=tensor.name, dtype=tensor.dtype, shape=shape)


def _suits(tensor: TensorInfo, name: str) -> bool:
    """Whether a tensor can have this format and might gain by it: images of several pixels."""
    if name == LINEAR or len(tensor.shape) != 4:
        return False
    _, channels, height, width = tensor.shape
    vector = _VECTOR[name]
    padded = -(-channels // vector) * vector
    return height * width > 1 and channels > 1 and padded <= _MAX_PADDING * channels
