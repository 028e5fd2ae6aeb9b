"""SegFormer-B0 with the head for the 150 classes of ADE20K."""

from __future__ import annotations

from dataclasses import dataclass

from models.graph_builder import GraphBuilder, Tensor
from models.image_layers import add, batch_norm, concat, conv, relu, resize_bilinear
from models.network import Network
from models.token_layers import (
    attend,
    gelu,
    layer_norm,
    linear,
    reshape,
    split_heads,
    transpose,
)

NUM_CLASSES = 150
DECODER_FEATURES = 256
BLOCKS_PER_STAGE = 2
# The patch embeddings, reductions and stage ends use the default of their framework, the blocks
# the model's own value.
DEFAULT_EPSILON = 1e-5
BLOCK_EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One resolution of the encoder; keys and values are reduced by `reduction` per side."""

    features: int
    num_heads: int
    reduction: int
    patch: int
    stride: int


STAGES = (
    Stage(features=32, num_heads=1, reduction=8, patch=7, stride=4),
    Stage(features=64, num_heads=2, reduction=4, patch=3, stride=2),
    Stage(features=160, num_heads=5, reduction=2, patch=3, stride=2),
    Stage(features=256, num_heads=8, reduction=1, patch=3, stride=2),
)


def segformer_b0(*, batch: int = 1) -> Network:
    """SegFormer-B0, `image [batch, 3, 512, 512]` to `logits [batch, 150, 128, 128]`."""
    graph = GraphBuilder("segformer_b0")
    x = graph.input("image", (batch, 3, 512, 512))
    features = []
    for idx, stage in enumerate(STAGES):
        x = _encode(graph, x, f"stage{idx}", stage)
        features.append(x)
    graph.output("logits", _decode(graph, features))
    return graph.network()


def _tokens(graph: GraphBuilder, image: Tensor, name: str) -> Tensor:
    batch, features, height, width = image.shape
    x = reshape(graph, image, f"{name}.flatten", (batch, features, height * width))
    return transpose(graph, x, f"{name}.to_tokens", (0, 2, 1))


def _image(graph: GraphBuilder, tokens: Tensor, name: str, height: int, width: int) -> Tensor:
    batch, _, features = tokens.shape
    x = transpose(graph, tokens, f"{name}.to_image", (0, 2, 1))
    return reshape(graph, x, f"{name}.unflatten", (batch, features, height, width))


def _encode(graph: GraphBuilder, image: Tensor, name: str, stage: Stage) -> Tensor:
    """`[batch, features, height / stride, width / stride]`."""
    x = conv(
        graph,
        image,
        f"{name}.patches",
        stage.features,
        stage.patch,
        stride=stage.stride,
        padding=stage.patch // 2,
        has_bias=True,
        gain=1.0,
    )
    height, width = x.shape[2:]
    x = _tokens(graph, x, f"{name}.patches")
    x = layer_norm(graph, x, f"{name}.patches.norm", epsilon=DEFAULT_EPSILON)
    for idx in range(BLOCKS_PER_STAGE):
        block = f"{name}.block{idx}"
        y = layer_norm(graph, x, f"{block}.norm1", epsilon=BLOCK_EPSILON)
        y = _attention(graph, y, f"{block}.attention", stage, height, width)
        x = add(graph, x, y, f"{block}.residual1")
        y = layer_norm(graph, x, f"{block}.norm2", epsilon=BLOCK_EPSILON)
        y = _mix_feed_forward(graph, y, f"{block}.mlp", height, width)
        x = add(graph, x, y, f"{block}.residual2")
    x = layer_norm(graph, x, f"{name}.norm", epsilon=DEFAULT_EPSILON)
    return _image(graph, x, f"{name}.output", height, width)


def _attention(
    graph: GraphBuilder, x: Tensor, name: str, stage: Stage, height: int, width: int
) -> Tensor:
    source = x
    if stage.reduction > 1:
        source = _image(graph, x, f"{name}.reduce", height, width)
        source = conv(
            graph,
            source,
            f"{name}.reduce",
            stage.features,
            stage.reduction,
            stride=stage.reduction,
            has_bias=True,
            gain=1.0,
        )
        source = _tokens(graph, source, f"{name}.reduce")
        source = layer_norm(graph, source, f"{name}.reduce.norm", epsilon=DEFAULT_EPSILON)
    query, key, value = (
        split_heads(graph, linear(graph, tokens, part, stage.features), part, stage.num_heads)
        for tokens, part in (
            (x, f"{name}.query"),
            (source, f"{name}.key"),
            (source, f"{name}.value"),
        )
    )
    mixed = attend(graph, query, key, value, name)
    return linear(graph, mixed, f"{name}.output", stage.features)


def _mix_feed_forward(graph: GraphBuilder, x: Tensor, name: str, height: int, width: int) -> Tensor:
    features = x.shape[2]
    x = linear(graph, x, f"{name}.fc1", 4 * features)
    x = _image(graph, x, f"{name}.depthwise", height, width)
    groups = 4 * features
    x = conv(
        graph,
        x,
        f"{name}.depthwise",
        groups,
        3,
        padding=1,
        groups=groups,
        has_bias=True,
        gain=1.0,
    )
    x = gelu(graph, _tokens(graph, x, f"{name}.depthwise"), f"{name}.gelu")
    return linear(graph, x, f"{name}.fc2", features, gain=2.0)


def _decode(graph: GraphBuilder, features: list[Tensor]) -> Tensor:
    """`[batch, classes, height, width]` of the first stage's features."""
    height, width = features[0].shape[2:]
    resized = []
    for idx, x in enumerate(features):
        name = f"decoder.linear{idx}"
        y = linear(graph, _tokens(graph, x, name), name, DECODER_FEATURES)
        y = _image(graph, y, name, *x.shape[2:])
        resized.append(resize_bilinear(graph, y, f"{name}.resize", height, width))
    y = concat(graph, resized[::-1], "decoder.concat")
    y = conv(graph, y, "decoder.fuse", DECODER_FEATURES, 1, gain=1.0)
    y = relu(graph, batch_norm(graph, y, "decoder.norm"), "decoder.relu")
    return conv(graph, y, "decoder.classifier", NUM_CLASSES, 1, has_bias=True)
