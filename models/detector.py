"""A one-stage detector: ResNet-50, feature pyramid, class and box heads shared by five levels."""

from __future__ import annotations

from models.convnets import resnet_stages
from models.graph_builder import GraphBuilder, Tensor
from models.image_layers import add, conv, relu, resize_nearest
from models.network import Network
from models.token_layers import reshape, transpose

NUM_CLASSES = 91
NUM_ANCHORS = 9
PYRAMID_CHANNELS = 256


def retinanet(*, batch: int = 1) -> Network:
    """RetinaNet on ResNet-50-FPN up to, not including, anchors and box suppression.

    `image [batch, 3, 320, 320]` to, for each level P3 to P7 of `cells` = 1600, 400, 100, 25, 9,
    `scores_p<level> [batch, 9 * cells, 91]` in (0, 1) and `boxes_p<level> [batch, 9 * cells, 4]`.
    """
    graph = GraphBuilder("retinanet")
    image = graph.input("image", (batch, 3, 320, 320))
    # Detectors freeze the backbone's batch normalisation, and published counts leave it out.
    _, *stages = resnet_stages(graph, image, (3, 4, 6, 3), is_learnable=False)
    levels = list(enumerate(_pyramid(graph, stages), start=3))
    classes = [_head(graph, x, "cls", level, NUM_CLASSES) for level, x in levels]
    boxes = [_head(graph, x, "box", level, 4) for level, x in levels]
    for (level, _), logits, box in zip(levels, classes, boxes, strict=True):
        scores = graph.node("Sigmoid", [logits], f"cls.p{level}.sigmoid", logits.shape)
        graph.output(f"scores_p{level}", scores)
        graph.output(f"boxes_p{level}", box)
    return graph.network()


def _pyramid(graph: GraphBuilder, stages: list[Tensor]) -> list[Tensor]:
    """P3 to P7 from the backbone's stages of strides 8, 16 and 32."""
    laterals = [
        conv(graph, stage, f"fpn.inner{idx}", PYRAMID_CHANNELS, 1, has_bias=True, gain=1.0)
        for idx, stage in enumerate(stages)
    ]
    for idx in range(len(laterals) - 2, -1, -1):
        lateral = laterals[idx]
        up = resize_nearest(graph, laterals[idx + 1], f"fpn.up{idx}", *lateral.shape[2:])
        laterals[idx] = add(graph, lateral, up, f"fpn.add{idx}")
    levels = [
        conv(graph, x, f"fpn.layer{idx}", PYRAMID_CHANNELS, 3, padding=1, has_bias=True, gain=1.0)
        for idx, x in enumerate(laterals)
    ]
    p6 = _downsample(graph, levels[-1], "fpn.p6", gain=1.0)
    p7 = _downsample(graph, relu(graph, p6, "fpn.p6.relu"), "fpn.p7", gain=2.0)
    return [*levels, p6, p7]


def _downsample(graph: GraphBuilder, x: Tensor, name: str, *, gain: float) -> Tensor:
    return conv(graph, x, name, PYRAMID_CHANNELS, 3, stride=2, padding=1, has_bias=True, gain=gain)


def _head(graph: GraphBuilder, x: Tensor, name: str, level: int, values: int) -> Tensor:
    """`[batch, anchors * height * width, values]`, by weights that all levels share."""
    batch, _, height, width = x.shape
    layer = f"{name}.p{level}"
    for idx in range(4):
        x = conv(
            graph,
            x,
            f"{layer}.conv{idx}",
            PYRAMID_CHANNELS,
            3,
            padding=1,
            has_bias=True,
            gain=2.0 if idx else 1.0,
            weights=f"{name}.conv{idx}",
        )
        x = relu(graph, x, f"{layer}.relu{idx}")
    channels = NUM_ANCHORS * values
    x = conv(
        graph,
        x,
        f"{layer}.out",
        channels,
        3,
        padding=1,
        has_bias=True,
        weights=f"{name}.out",
    )
    x = reshape(graph, x, f"{layer}.split", (batch, NUM_ANCHORS, values, height, width))
    x = transpose(graph, x, f"{layer}.transpose", (0, 3, 4, 1, 2))
    return reshape(graph, x, f"{layer}.join", (batch, height * width * NUM_ANCHORS, values))
