"""Precision lives in the graph: the same network with half-precision weights and tensors."""

import onnx

from preempt_runtime.errors import BuildError
from preemptc.onnx_io.files import one_line


def half_precision(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The network in fp16, inputs and outputs as they were, casts where they meet.

    Weights must be in memory. Operators that need fp32 stay so, between casts.

    Raises:
        BuildError: the converter is missing, or refuses the network.
    """
    try:
        from onnxruntime.transformers.float16 import convert_float_to_float16
    except ImportError as err:
        raise BuildError(
            "fp16 needs the converter of ONNX Runtime; install it with `pip install onnxruntime`,"
            " or keep --precision fp32"
        ) from err
    try:
        converted: onnx.ModelProto = convert_float_to_float16(
            proto, keep_io_types=True, disable_shape_infer=True
        )
    except Exception as err:  # it raises what its many helpers raise
        raise BuildError(
            f"{name}: cannot be converted to fp16 ({one_line(err)}); keep --precision fp32"
        ) from err
    return converted
