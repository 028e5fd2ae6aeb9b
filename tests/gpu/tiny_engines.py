"""A tiny network in two segments, built by TensorRT's own network API, and the same in numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from preempt_runtime.backends.tensorrt import EngineLogger, library
from preempt_runtime.device import Array
from preempt_runtime.manifest import GraphSpec, TensorSpec

CHANNELS, SIDE = 12, 32  # 12 is no multiple of 8, so HWC8 pads it
SHAPE = (1, CHANNELS, SIDE, SIDE)
GRAPH = GraphSpec(
    id="tiny",
    variant="full",
    exit_of=None,
    inputs=(TensorSpec(name="x", dtype="float32", shape=SHAPE),),
    outputs=(
        TensorSpec(name="early", dtype="float32", shape=(1, CHANNELS, 1, 1)),
        TensorSpec(name="y", dtype="float32", shape=SHAPE),
    ),
)
LINEAR = (TensorSpec(name="b", dtype="float32", shape=SHAPE),)
HWC8 = (TensorSpec(name="b", dtype="float16", shape=(1, SIDE, SIDE, 16)),)
SEGMENTS = ((("x",), ("b", "early")), (("b", "x"), ("y",)))
"""The second segment reads a graph input, the first one writes a graph output."""

_rng = np.random.default_rng(3)
_WEIGHTS = [_rng.normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32) for _ in range(2)]
_BIAS = _rng.normal(0, 0.1, CHANNELS).astype(np.float32)


def reference(x: Array) -> dict[str, Array]:
    """What the network makes of `x`, by numpy."""
    b = np.maximum(_convolve(x, _WEIGHTS[0]), 0)
    return {
        "early": b.mean(axis=(2, 3), keepdims=True),
        "y": np.maximum(_convolve(b, _WEIGHTS[1]) + x, 0),
    }


def _convolve(x: Array, weights: Array) -> Array:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    summed: Array = np.einsum("bchwij,ocij->bohw", windows, weights)
    return summed + _BIAS[:, None, None]


def build_engines(*, is_hwc8: bool) -> list[bytes]:
    """Both segments, the boundary in half precision and HWC8 or in single precision and linear."""
    return [_build(_first, is_hwc8=is_hwc8), _build(_second, is_hwc8=is_hwc8)]


def _first(trt: Any, network: Any) -> list[Any]:
    x = network.add_input("x", trt.float32, SHAPE)
    b = _relu(trt, network, _conv(network, x, 0))
    b.name = "b"
    mean = network.add_reduce(b, trt.ReduceOperation.AVG, 0b1100, True).get_output(0)
    mean.name = "early"
    network.mark_output(b)
    network.mark_output(mean)
    return [b]


def _second(trt: Any, network: Any) -> list[Any]:
    b = network.add_input("b", trt.float32, SHAPE)
    x = network.add_input("x", trt.float32, SHAPE)
    total = network.add_elementwise(_conv(network, b, 1), x, trt.ElementWiseOperation.SUM)
    y = _relu(trt, network, total.get_output(0))
    y.name = "y"
    network.mark_output(y)
    return [b]


def _conv(network: Any, tensor: Any, idx: int) -> Any:
    layer = network.add_convolution_nd(tensor, CHANNELS, (3, 3), _WEIGHTS[idx], _BIAS)
    layer.padding_nd = (1, 1)
    return layer.get_output(0)


def _relu(trt: Any, network: Any, tensor: Any) -> Any:
    return network.add_activation(tensor, trt.ActivationType.RELU).get_output(0)


def _build(define: Callable[[Any, Any], list[Any]], *, is_hwc8: bool) -> bytes:
    trt = library()
    builder = trt.Builder(EngineLogger())
    flags = trt.NetworkDefinitionCreationFlag
    is_old = int(trt.__version__.split(".")[0]) < 10
    network = builder.create_network(1 << int(flags.EXPLICIT_BATCH) if is_old else 0)
    config = builder.create_builder_config()
    config.max_aux_streams = 0
    config.builder_optimization_level = 1
    sources = [getattr(trt.TacticSource, name, None) for name in _TACTIC_SOURCES]
    config.set_tactic_sources(sum(1 << int(source) for source in sources if source is not None))
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    boundaries = define(trt, network)
    if is_hwc8:
        config.set_flag(trt.BuilderFlag.FP16)
        for tensor in boundaries:
            tensor.dtype = trt.float16
            tensor.allowed_formats = 1 << int(trt.TensorFormat.HWC8)
    blob = builder.build_serialized_network(network, config)
    assert blob is not None, EngineLogger().last_error
    return bytes(blob)


_TACTIC_SOURCES = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")  # without cuBLAS and cuDNN
