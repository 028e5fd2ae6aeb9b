"""Layers of convolutional networks, added to a graph.

Image tensors are `[batch, channels, height, width]`. Each function takes the layer's name, names
its weights `<name>.weight` and so on, and returns the layer's output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from models.graph_builder import GraphBuilder, Tensor

Pair = tuple[int, int]


def conv(
    graph: GraphBuilder,
    x: Tensor,
    name: str,
    channels: int,
    kernel: int | Pair,
    *,
    stride: int = 1,
    padding: int | Pair = 0,
    groups: int = 1,
    has_bias: bool = False,
    gain: float = 2.0,
    weights: str | None = None,
) -> Tensor:
    """A convolution with He-normal weights.

    Args:
        graph: Where the layer goes.
        x: `[batch, in_channels, height, width]`.
        name: Of the layer.
        channels: Output channels.
        kernel: Height and width, or one number for both.
        stride: In both directions.
        padding: Above and left; the same below and right.
        groups: Of channels.
        has_bias: Whether a bias is added.
        gain: Variance of the weights times fan-in: 2 after a ReLU, 1 after a linear layer.
        weights: What the weights are named after, where several layers share them; None: `name`.
    """
    (kernel_h, kernel_w), (pad_h, pad_w) = _pair(kernel), _pair(padding)
    batch, in_channels, height, width = x.shape
    weight_shape = (channels, in_channels // groups, kernel_h, kernel_w)
    std = math.sqrt(gain / math.prod(weight_shape[1:]))
    weights = weights or name
    inputs: list[Tensor | str] = [x, graph.normal(f"{weights}.weight", weight_shape, std)]
    if has_bias:
        inputs.append(graph.uniform(f"{weights}.bias", (channels,), 0.0, 0.1))
    out_h = (height + 2 * pad_h - kernel_h) // stride + 1
    out_w = (width + 2 * pad_w - kernel_w) // stride + 1
    return graph.node(
        "Conv",
        inputs,
        name,
        (batch, channels, out_h, out_w),
        kernel_shape=(kernel_h, kernel_w),
        strides=(stride, stride),
        pads=(pad_h, pad_w, pad_h, pad_w),
        dilations=(1, 1),
        group=groups,
    )


def batch_norm(
    graph: GraphBuilder,
    x: Tensor,
    name: str,
    *,
    scale: float = 1.0,
    epsilon: float = 1e-5,
    is_learnable: bool = True,
) -> Tensor:
    """Batch normalisation in inference mode, left for the backend to fuse.

    Args:
        graph: Where the layer goes.
        x: `[batch, channels, height, width]`.
        name: Of the layer.
        scale: Centre of the scales; below 1 on a residual branch, or a deep sum overflows.
        epsilon: Added to the variance.
        is_learnable: False for a frozen layer, whose scale and shift are not counted.
    """
    shape = (x.shape[1],)
    inputs: list[Tensor | str] = [
        x,
        graph.uniform(f"{name}.weight", shape, scale, scale / 4, is_learnable=is_learnable),
        graph.uniform(f"{name}.bias", shape, 0.0, 0.1, is_learnable=is_learnable),
        graph.uniform(f"{name}.running_mean", shape, 0.0, 0.1, is_learnable=False),
        graph.uniform(f"{name}.running_var", shape, 1.0, 0.25, is_learnable=False),
    ]
    return graph.node("BatchNormalization", inputs, name, x.shape, epsilon=epsilon)


def relu(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    """The elementwise maximum with 0."""
    return graph.node("Relu", [x], name, x.shape)


def relu6(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    """Elementwise clipping to [0, 6]."""
    return graph.node("Clip", [x, graph.scalar(0.0), graph.scalar(6.0)], name, x.shape)


def add(graph: GraphBuilder, x: Tensor, y: Tensor | str, name: str) -> Tensor:
    """`x + y`, where `y` broadcasts to the shape of `x`."""
    return graph.node("Add", [x, y], name, x.shape)


def concat(graph: GraphBuilder, xs: Sequence[Tensor], name: str, *, axis: int = 1) -> Tensor:
    """The tensors joined along `axis`."""
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    return graph.node("Concat", xs, name, shape, axis=axis)


def max_pool(
    graph: GraphBuilder, x: Tensor, name: str, kernel: int, *, stride: int, padding: int = 0
) -> Tensor:
    """The maximum over windows of `kernel` x `kernel`."""
    return _pool(graph, "MaxPool", x, name, kernel, stride, padding)


def average_pool(
    graph: GraphBuilder, x: Tensor, name: str, kernel: int, *, stride: int, padding: int = 0
) -> Tensor:
    """The mean over windows of `kernel` x `kernel`, the padding counted as zeros."""
    return _pool(graph, "AveragePool", x, name, kernel, stride, padding, count_include_pad=1)


def _pool(
    graph: GraphBuilder,
    op_type: str,
    x: Tensor,
    name: str,
    kernel: int,
    stride: int,
    padding: int,
    **attributes: Any,
) -> Tensor:
    batch, channels, height, width = x.shape
    out_h = (height + 2 * padding - kernel) // stride + 1
    out_w = (width + 2 * padding - kernel) // stride + 1
    return graph.node(
        op_type,
        [x],
        name,
        (batch, channels, out_h, out_w),
        kernel_shape=(kernel, kernel),
        strides=(stride, stride),
        pads=(padding,) * 4,
        **attributes,
    )


def resize_nearest(graph: GraphBuilder, x: Tensor, name: str, height: int, width: int) -> Tensor:
    """`[batch, channels, height, width]`, every pixel that of the source it falls into."""
    shape = (*x.shape[:2], height, width)
    return graph.node(
        "Resize",
        [x, "", "", graph.ints(shape)],
        name,
        shape,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def resize_bilinear(graph: GraphBuilder, x: Tensor, name: str, height: int, width: int) -> Tensor:
    """`[batch, channels, height, width]`, interpolated between pixel centres."""
    shape = (*x.shape[:2], height, width)
    return graph.node(
        "Resize",
        [x, "", "", graph.ints(shape)],
        name,
        shape,
        mode="linear",
        coordinate_transformation_mode="pytorch_half_pixel",
    )


def global_average_pool(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    """The mean over height and width, `[batch, channels, 1, 1]`."""
    return graph.node("GlobalAveragePool", [x], name, (*x.shape[:2], 1, 1))


def flatten(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    """`[batch, everything else]`."""
    shape = (x.shape[0], math.prod(x.shape[1:]))
    return graph.node("Flatten", [x], name, shape, axis=1)


def gemm(graph: GraphBuilder, x: Tensor, name: str, features: int, *, gain: float = 1.0) -> Tensor:
    """A fully connected layer with bias, `[batch, in_features]` to `[batch, features]`."""
    batch, in_features = x.shape
    std = math.sqrt(gain / in_features)
    weight = graph.normal(f"{name}.weight", (features, in_features), std)
    bias = graph.uniform(f"{name}.bias", (features,), 0.0, 0.1)
    return graph.node("Gemm", [x, weight, bias], name, (batch, features), transB=1)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value
