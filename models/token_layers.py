"""Layers of transformers, added to a graph; tokens are `[batch, length, features]`.

As in `image_layers`, each function takes the layer's name and returns the layer's output. Matrix
products of tokens are MatMul and Add, GELU is spelt with Erf: so exporters write opset 17.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from models.graph_builder import GraphBuilder, Tensor
from models.image_layers import add


def reshape(graph: GraphBuilder, x: Tensor, name: str, shape: Sequence[int]) -> Tensor:
    """The same elements in another shape."""
    return graph.node("Reshape", [x, graph.ints(shape)], name, shape)


def transpose(graph: GraphBuilder, x: Tensor, name: str, perm: Sequence[int]) -> Tensor:
    """Dimension `i` of the result is dimension `perm[i]` of `x`."""
    return graph.node("Transpose", [x], name, [x.shape[idx] for idx in perm], perm=tuple(perm))


def select(graph: GraphBuilder, x: Tensor, name: str, *, axis: int, idx: int) -> Tensor:
    """Entry `idx` of dimension `axis`, which is dropped."""
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return graph.node("Gather", [x, graph.index(idx)], name, shape, axis=axis)


def linear(
    graph: GraphBuilder, x: Tensor, name: str, features: int, *, gain: float = 1.0
) -> Tensor:
    """A fully connected layer with bias over the last dimension."""
    std = math.sqrt(gain / x.shape[-1])
    weight = graph.normal(f"{name}.weight", (x.shape[-1], features), std)
    y = graph.node("MatMul", [x, weight], f"{name}.matmul", (*x.shape[:-1], features))
    return add(graph, y, graph.uniform(f"{name}.bias", (features,), 0.0, 0.1), f"{name}.add")


def layer_norm(graph: GraphBuilder, x: Tensor, name: str, *, epsilon: float) -> Tensor:
    """Normalisation over the last dimension, scaled and shifted."""
    scale = graph.uniform(f"{name}.weight", x.shape[-1:], 1.0, 0.25)
    shift = graph.uniform(f"{name}.bias", x.shape[-1:], 0.0, 0.1)
    return graph.node(
        "LayerNormalization", [x, scale, shift], name, x.shape, axis=-1, epsilon=epsilon
    )


def gelu(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    """`x / 2 * (1 + erf(x / sqrt(2)))`."""
    y = graph.node("Div", [x, graph.scalar(math.sqrt(2))], f"{name}.div", x.shape)
    y = graph.node("Erf", [y], f"{name}.erf", x.shape)
    y = graph.node("Add", [y, graph.scalar(1.0)], f"{name}.add", x.shape)
    y = graph.node("Mul", [x, y], f"{name}.mul", x.shape)
    return graph.node("Mul", [y, graph.scalar(0.5)], f"{name}.half", x.shape)


def split_heads(graph: GraphBuilder, x: Tensor, name: str, num_heads: int) -> Tensor:
    """`[batch, heads, length, features / heads]`."""
    batch, length, features = x.shape
    shape = (batch, length, num_heads, features // num_heads)
    return transpose(graph, reshape(graph, x, f"{name}.heads", shape), f"{name}.t", (0, 2, 1, 3))


def attend(
    graph: GraphBuilder,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    name: str,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention, its heads joined: `[batch, length, heads * head_features]`.

    Args:
        graph: Where the layer goes.
        query: `[batch, heads, length, head_features]`.
        key: `[batch, heads, source_length, head_features]`.
        value: The shape of `key`.
        name: Of the layer.
        mask: Added to the scores, broadcasts to `[batch, heads, length, source_length]`.
    """
    batch, heads, length, head_features = query.shape
    key_t = transpose(graph, key, f"{name}.key_t", (0, 1, 3, 2))
    shape = (batch, heads, length, key.shape[2])
    scores = graph.node("MatMul", [query, key_t], f"{name}.scores", shape)
    scale = graph.scalar(math.sqrt(head_features))
    scores = graph.node("Div", [scores, scale], f"{name}.scale", shape)
    if mask is not None:
        scores = add(graph, scores, mask, f"{name}.mask")
    weights = graph.node("Softmax", [scores], f"{name}.softmax", shape, axis=-1)
    mixed = graph.node("MatMul", [weights, value], f"{name}.mix", query.shape)
    mixed = transpose(graph, mixed, f"{name}.join_t", (0, 2, 1, 3))
    return reshape(graph, mixed, f"{name}.join", (batch, length, heads * head_features))
