"""Networks of well under a millisecond, for tests and demonstrations."""

from __future__ import annotations

from models.graph_builder import GraphBuilder, Tensor
from models.image_layers import (
    add,
    batch_norm,
    concat,
    conv,
    flatten,
    gemm,
    global_average_pool,
    relu,
    resize_nearest,
)
from models.network import Network


def tiny_cnn(*, batch: int = 1) -> Network:
    """A chain of three convolutions, `image [batch, 3, 32, 32]` to `logits [batch, 128]`."""
    graph = GraphBuilder("tiny_cnn")
    x = graph.input("image", (batch, 3, 32, 32))
    for idx, channels in enumerate((8, 16, 32)):
        x = _conv_bn_relu(graph, x, f"block{idx}", channels, stride=2 if idx else 1)
    x = flatten(graph, global_average_pool(graph, x, "avgpool"), "flatten")
    graph.output("logits", gemm(graph, x, "fc", 128))
    return graph.network()


def tiny_branchy(*, batch: int = 1) -> Network:
    """A net with two skip connections and two heads.

    `image [batch, 3, 32, 32]` to `mask [batch, 4, 32, 32]` and `logits [batch, 128]`. After the
    first block no single tensor separates the graph: the mask head reads that block's output.
    """
    graph = GraphBuilder("tiny_branchy")
    x = graph.input("image", (batch, 3, 32, 32))
    stem = _conv_bn_relu(graph, x, "stem", 8)
    y = _conv_bn_relu(graph, stem, "block0.a", 8)
    y = conv(graph, y, "block0.b.conv", 8, 3, padding=1)
    skip = relu(graph, add(graph, y, stem, "block0.add"), "block0.relu")
    down = _conv_bn_relu(graph, skip, "down", 16, stride=2)
    y = _conv_bn_relu(graph, down, "block1.a", 16)
    y = conv(graph, y, "block1.b.conv", 16, 3, padding=1)
    deep = relu(graph, add(graph, y, down, "block1.add"), "block1.relu")
    up = resize_nearest(graph, deep, "up", 32, 32)
    joined = concat(graph, [up, skip], "join")
    pooled = flatten(graph, global_average_pool(graph, deep, "avgpool"), "flatten")
    graph.output("mask", conv(graph, joined, "mask_head", 4, 1, has_bias=True))
    graph.output("logits", gemm(graph, pooled, "fc", 128))
    return graph.network()


def _conv_bn_relu(
    graph: GraphBuilder, x: Tensor, name: str, channels: int, *, stride: int = 1
) -> Tensor:
    x = conv(graph, x, f"{name}.conv", channels, 3, stride=stride, padding=1)
    return relu(graph, batch_norm(graph, x, f"{name}.bn"), f"{name}.relu")
