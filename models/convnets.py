"""Published convolutional classifiers, 1000 classes, logits out (no softmax)."""

from __future__ import annotations

from collections.abc import Sequence

from models.graph_builder import GraphBuilder, Tensor
from models.image_layers import (
    add,
    average_pool,
    batch_norm,
    concat,
    conv,
    flatten,
    gemm,
    global_average_pool,
    max_pool,
    relu,
    relu6,
)
from models.network import Network

NUM_CLASSES = 1000
# Scale of the last normalisation of a residual branch: 50 branches of full scale would double the
# variance 50 times.
RESIDUAL_SCALE = 0.3


def resnet50(*, batch: int = 1) -> Network:
    """ResNet-50 with the stride in the 3x3 convolution, input `[batch, 3, 224, 224]`."""
    return _resnet("resnet50", (3, 4, 6, 3), batch)


def resnet152(*, batch: int = 1) -> Network:
    """ResNet-152, otherwise as ResNet-50."""
    return _resnet("resnet152", (3, 8, 36, 3), batch)


def _resnet(name: str, depths: Sequence[int], batch: int) -> Network:
    graph = GraphBuilder(name)
    image = graph.input("image", (batch, 3, 224, 224))
    *_, last = resnet_stages(graph, image, depths, is_learnable=True)
    _classify(graph, last, "fc")
    return graph.network()


def resnet_stages(
    graph: GraphBuilder, image: Tensor, depths: Sequence[int], *, is_learnable: bool
) -> list[Tensor]:
    """The outputs of the four stages of a bottleneck ResNet, strides 4, 8, 16 and 32.

    Args:
        graph: Where the layers go.
        image: `[batch, 3, height, width]`.
        depths: Blocks per stage.
        is_learnable: False where the batch normalisations are frozen, as in detectors.
    """
    x = conv(graph, image, "conv1", 64, 7, stride=2, padding=3)
    x = relu(graph, batch_norm(graph, x, "bn1", is_learnable=is_learnable), "relu1")
    x = max_pool(graph, x, "maxpool", 3, stride=2, padding=1)
    outputs = []
    for stage_idx, depth in enumerate(depths):
        for block_idx in range(depth):
            stride = 2 if stage_idx > 0 and block_idx == 0 else 1
            name = f"layer{stage_idx + 1}.{block_idx}"
            x = _bottleneck(graph, x, name, 64 << stage_idx, stride, is_learnable)
        outputs.append(x)
    return outputs


def _bottleneck(
    graph: GraphBuilder, x: Tensor, name: str, width: int, stride: int, is_learnable: bool
) -> Tensor:
    y = conv(graph, x, f"{name}.conv1", width, 1)
    y = relu(graph, batch_norm(graph, y, f"{name}.bn1", is_learnable=is_learnable), f"{name}.relu1")
    y = conv(graph, y, f"{name}.conv2", width, 3, stride=stride, padding=1)
    y = relu(graph, batch_norm(graph, y, f"{name}.bn2", is_learnable=is_learnable), f"{name}.relu2")
    y = conv(graph, y, f"{name}.conv3", 4 * width, 1)
    y = batch_norm(graph, y, f"{name}.bn3", scale=RESIDUAL_SCALE, is_learnable=is_learnable)
    if x.shape != y.shape:
        x = conv(graph, x, f"{name}.downsample.0", 4 * width, 1, stride=stride, gain=1.0)
        x = batch_norm(graph, x, f"{name}.downsample.1", is_learnable=is_learnable)
    return relu(graph, add(graph, y, x, f"{name}.add"), f"{name}.relu3")


def mobilenet_v2(*, batch: int = 1) -> Network:
    """MobileNetV2 of width 1.0, input `[batch, 3, 224, 224]`."""
    graph = GraphBuilder("mobilenet_v2")
    x = graph.input("image", (batch, 3, 224, 224))
    x = _conv_bn_relu6(graph, x, "features.0", 32, 3, stride=2)
    # Expansion, channels, repeats, first stride: table 2 of the MobileNetV2 paper.
    table = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    idx = 1
    for expansion, channels, repeats, first_stride in table:
        for repeat_idx in range(repeats):
            stride = first_stride if repeat_idx == 0 else 1
            x = _inverted_residual(graph, x, f"features.{idx}", expansion, channels, stride)
            idx += 1
    x = _conv_bn_relu6(graph, x, f"features.{idx}", 1280, 1, gain=1.0)
    _classify(graph, x, "classifier")
    return graph.network()


def _inverted_residual(
    graph: GraphBuilder, x: Tensor, name: str, expansion: int, channels: int, stride: int
) -> Tensor:
    y, hidden = x, expansion * x.shape[1]
    if expansion > 1:
        y = _conv_bn_relu6(graph, y, f"{name}.expand", hidden, 1, gain=1.0)
    y = _conv_bn_relu6(graph, y, f"{name}.depthwise", hidden, 3, stride=stride, groups=hidden)
    y = batch_norm(graph, conv(graph, y, f"{name}.project", channels, 1), f"{name}.project_bn")
    return add(graph, x, y, f"{name}.add") if x.shape == y.shape else y


def _conv_bn_relu6(
    graph: GraphBuilder,
    x: Tensor,
    name: str,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    gain: float = 2.0,
) -> Tensor:
    x = conv(
        graph,
        x,
        f"{name}.conv",
        channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        gain=gain,
    )
    return relu6(graph, batch_norm(graph, x, f"{name}.bn"), f"{name}.relu6")


def vgg19(*, batch: int = 1) -> Network:
    """VGG-19 without batch normalisation, input `[batch, 3, 224, 224]`."""
    graph = GraphBuilder("vgg19")
    x = graph.input("image", (batch, 3, 224, 224))
    for block_idx, (channels, repeats) in enumerate(
        ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
    ):
        for conv_idx in range(repeats):
            name = f"features.{block_idx}.{conv_idx}"
            x = conv(graph, x, f"{name}.conv", channels, 3, padding=1, has_bias=True)
            x = relu(graph, x, f"{name}.relu")
        x = max_pool(graph, x, f"features.{block_idx}.pool", 2, stride=2)
    x = flatten(graph, x, "flatten")
    for idx in range(2):
        x = relu(
            graph, gemm(graph, x, f"classifier.{idx}", 4096, gain=2.0), f"classifier.relu{idx}"
        )
    graph.output("logits", gemm(graph, x, "classifier.2", NUM_CLASSES))
    return graph.network()


def densenet201(*, batch: int = 1) -> Network:
    """DenseNet-201, growth rate 32, input `[batch, 3, 224, 224]`."""
    graph = GraphBuilder("densenet201")
    x = graph.input("image", (batch, 3, 224, 224))
    x = conv(graph, x, "conv0", 64, 7, stride=2, padding=3)
    x = relu(graph, batch_norm(graph, x, "norm0"), "relu0")
    x = max_pool(graph, x, "pool0", 3, stride=2, padding=1)
    depths = (6, 12, 48, 32)
    for block_idx, depth in enumerate(depths, start=1):
        x = _dense_block(graph, x, f"denseblock{block_idx}", depth)
        if block_idx < len(depths):
            name = f"transition{block_idx}"
            x = relu(graph, batch_norm(graph, x, f"{name}.norm"), f"{name}.relu")
            x = conv(graph, x, f"{name}.conv", x.shape[1] // 2, 1)
            x = average_pool(graph, x, f"{name}.pool", 2, stride=2)
    x = relu(graph, batch_norm(graph, x, "norm5"), "relu5")
    _classify(graph, x, "classifier")
    return graph.network()


def _dense_block(graph: GraphBuilder, x: Tensor, name: str, depth: int) -> Tensor:
    growth, bottleneck_factor = 32, 4
    features = [x]
    for layer_idx in range(depth):
        layer = f"{name}.denselayer{layer_idx}"
        # Every layer joins all features anew, as published implementations export it.
        y = concat(graph, features, f"{layer}.concat") if layer_idx else x
        y = relu(graph, batch_norm(graph, y, f"{layer}.norm1"), f"{layer}.relu1")
        y = conv(graph, y, f"{layer}.conv1", bottleneck_factor * growth, 1)
        y = relu(graph, batch_norm(graph, y, f"{layer}.norm2"), f"{layer}.relu2")
        features.append(conv(graph, y, f"{layer}.conv2", growth, 3, padding=1))
    return concat(graph, features, f"{name}.concat")


def _classify(graph: GraphBuilder, x: Tensor, name: str) -> None:
    x = flatten(graph, global_average_pool(graph, x, "avgpool"), "flatten")
    graph.output("logits", gemm(graph, x, name, NUM_CLASSES))
