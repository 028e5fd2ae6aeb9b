"""The layout in which a boundary tensor is handed over: both neighbours build for the same one.

TensorRT takes inputs and outputs to be linear unless told otherwise, and puts a reformat layer
on either side of a boundary. In half precision its convolutions work on channels in eights.
"""

from collections.abc import Sequence

from preempt_runtime.manifest import TensorSpec
from preemptc.model import TensorInfo

FORMATS = ("HWC8", "LINEAR")  # tried in this order, the measured best is kept
_EIGHT = 8


def boundary_formats(tensors: Sequence[TensorInfo], wished: str) -> dict[str, str]:
    """The tensors that the wished format suits; all others stay linear."""
    if wished == "LINEAR":
        return {}
    return {
        tensor.name: wished
        for tensor in tensors
        if tensor.dtype == "float16" and len(tensor.shape) == 4
    }


def stored_spec(tensor: TensorInfo, tensor_format: str | None) -> TensorSpec:
    """Dtype and shape as stored: channels last and padded to eights for HWC8.

    >>> stored_spec(TensorInfo(name="x", dtype="float16", shape=(1, 3, 4, 5)), "HWC8").shape
    (1, 4, 5, 8)
    """
    shape = tensor.shape
    if tensor_format == "HWC8":
        batch, channels, *space = tensor.shape
        shape = (batch, *space, -(-channels // _EIGHT) * _EIGHT)
    return TensorSpec(name=tensor.name, dtype=tensor.dtype, shape=shape)
