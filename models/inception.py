"""Inception-v3 as torchvision has it at inference: no auxiliary classifier, 299x299 input."""

from __future__ import annotations

from models.graph_builder import GraphBuilder, Tensor
from models.image_layers import (
    Pair,
    average_pool,
    batch_norm,
    concat,
    conv,
    flatten,
    gemm,
    global_average_pool,
    max_pool,
    relu,
)
from models.network import Network

# Channels, kernel, stride, padding of one convolution of a branch.
Layer = tuple[int, int | Pair, int, int | Pair]


def inception_v3(*, batch: int = 1) -> Network:
    """Inception-v3, input `[batch, 3, 299, 299]`, 1000 logits."""
    graph = GraphBuilder("inception_v3")
    x = graph.input("image", (batch, 3, 299, 299))
    x = _chain(graph, x, "stem.a", [(32, 3, 2, 0), (32, 3, 1, 0), (64, 3, 1, 1)])
    x = max_pool(graph, x, "maxpool1", 3, stride=2)
    x = _chain(graph, x, "stem.b", [(80, 1, 1, 0), (192, 3, 1, 0)])
    x = max_pool(graph, x, "maxpool2", 3, stride=2)
    for name, pool_channels in (("5b", 32), ("5c", 64), ("5d", 64)):
        x = _block_35(graph, x, f"mixed_{name}", pool_channels)
    x = _reduce_to_17(graph, x, "mixed_6a")
    for name, channels in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        x = _block_17(graph, x, f"mixed_{name}", channels)
    x = _reduce_to_8(graph, x, "mixed_7a")
    for name in ("7b", "7c"):
        x = _block_8(graph, x, f"mixed_{name}")
    x = flatten(graph, global_average_pool(graph, x, "avgpool"), "flatten")
    graph.output("logits", gemm(graph, x, "fc", 1000))
    return graph.network()


def _chain(graph: GraphBuilder, x: Tensor, name: str, layers: list[Layer]) -> Tensor:
    for idx, (channels, kernel, stride, padding) in enumerate(layers):
        layer = f"{name}.{idx}"
        x = conv(graph, x, f"{layer}.conv", channels, kernel, stride=stride, padding=padding)
        x = relu(graph, batch_norm(graph, x, f"{layer}.bn", epsilon=1e-3), f"{layer}.relu")
    return x


def _pooled(graph: GraphBuilder, x: Tensor, name: str, channels: int) -> Tensor:
    x = average_pool(graph, x, f"{name}.avgpool", 3, stride=1, padding=1)
    return _chain(graph, x, name, [(channels, 1, 1, 0)])


def _block_35(graph: GraphBuilder, x: Tensor, name: str, pool_channels: int) -> Tensor:
    branches = [
        _chain(graph, x, f"{name}.1x1", [(64, 1, 1, 0)]),
        _chain(graph, x, f"{name}.5x5", [(48, 1, 1, 0), (64, 5, 1, 2)]),
        _chain(graph, x, f"{name}.3x3dbl", [(64, 1, 1, 0), (96, 3, 1, 1), (96, 3, 1, 1)]),
        _pooled(graph, x, f"{name}.pool", pool_channels),
    ]
    return concat(graph, branches, f"{name}.concat")


def _reduce_to_17(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    branches = [
        _chain(graph, x, f"{name}.3x3", [(384, 3, 2, 0)]),
        _chain(graph, x, f"{name}.3x3dbl", [(64, 1, 1, 0), (96, 3, 1, 1), (96, 3, 2, 0)]),
        max_pool(graph, x, f"{name}.pool", 3, stride=2),
    ]
    return concat(graph, branches, f"{name}.concat")


def _wide(channels: int) -> Layer:
    return (channels, (1, 7), 1, (0, 3))


def _tall(channels: int) -> Layer:
    return (channels, (7, 1), 1, (3, 0))


def _block_17(graph: GraphBuilder, x: Tensor, name: str, c: int) -> Tensor:
    double = [(c, 1, 1, 0), _tall(c), _wide(c), _tall(c), _wide(192)]
    branches = [
        _chain(graph, x, f"{name}.1x1", [(192, 1, 1, 0)]),
        _chain(graph, x, f"{name}.7x7", [(c, 1, 1, 0), _wide(c), _tall(192)]),
        _chain(graph, x, f"{name}.7x7dbl", double),
        _pooled(graph, x, f"{name}.pool", 192),
    ]
    return concat(graph, branches, f"{name}.concat")


def _reduce_to_8(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    deep = [(192, 1, 1, 0), _wide(192), _tall(192), (192, 3, 2, 0)]
    branches = [
        _chain(graph, x, f"{name}.3x3", [(192, 1, 1, 0), (320, 3, 2, 0)]),
        _chain(graph, x, f"{name}.7x7x3", deep),
        max_pool(graph, x, f"{name}.pool", 3, stride=2),
    ]
    return concat(graph, branches, f"{name}.concat")


def _block_8(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    single = _chain(graph, x, f"{name}.3x3", [(384, 1, 1, 0)])
    double = _chain(graph, x, f"{name}.3x3dbl", [(448, 1, 1, 0), (384, 3, 1, 1)])
    branches = [
        _chain(graph, x, f"{name}.1x1", [(320, 1, 1, 0)]),
        _split_3x3(graph, single, f"{name}.3x3"),
        _split_3x3(graph, double, f"{name}.3x3dbl"),
        _pooled(graph, x, f"{name}.pool", 192),
    ]
    return concat(graph, branches, f"{name}.concat")


def _split_3x3(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    branches = [
        _chain(graph, x, f"{name}.wide", [(384, (1, 3), 1, (0, 1))]),
        _chain(graph, x, f"{name}.tall", [(384, (3, 1), 1, (1, 0))]),
    ]
    return concat(graph, branches, f"{name}.concat")
