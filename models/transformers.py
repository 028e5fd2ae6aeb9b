"""Published transformers with token sequences of fixed length."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from models.graph_builder import GraphBuilder, Tensor
from models.image_layers import add, conv, gemm
from models.network import Network
from models.token_layers import (
    attend,
    gelu,
    layer_norm,
    linear,
    reshape,
    select,
    split_heads,
    transpose,
)

FEATURES = 768
NUM_HEADS = 12
FEED_FORWARD_FEATURES = 3072
VOCABULARY = 30522
MAX_POSITIONS = 512
SEQUENCE_LENGTH = 128
BERT_EPSILON = 1e-12
VIT_EPSILON = 1e-6


def bert_base(*, batch: int = 1) -> Network:
    """BERT-base (uncased) with pooler, sequence length 128.

    `input_ids`, `attention_mask`, `token_type_ids`, all int64 `[batch, 128]`, to
    `last_hidden_state [batch, 128, 768]` and `pooler_output [batch, 768]`.
    """
    graph = GraphBuilder("bert_base")
    ids, mask = _text_inputs(graph, batch)
    types = graph.input("token_type_ids", ids.shape, TensorProto.INT64)
    x = add(
        graph,
        _embed(graph, ids, "embeddings.word", VOCABULARY),
        _embed(graph, types, "embeddings.token_type", 2),
        "embeddings.add_types",
    )
    x = _encode(graph, x, mask, num_layers=12)
    x = graph.output("last_hidden_state", x)
    pooled = gemm(graph, select(graph, x, "pooler.first", axis=1, idx=0), "pooler.dense", FEATURES)
    graph.output("pooler_output", graph.node("Tanh", [pooled], "pooler.tanh", pooled.shape))
    return graph.network()


def distilbert(*, batch: int = 1) -> Network:
    """DistilBERT-base (uncased), sequence length 128.

    `input_ids`, `attention_mask`, both int64 `[batch, 128]`, to `last_hidden_state
    [batch, 128, 768]`.
    """
    graph = GraphBuilder("distilbert")
    ids, mask = _text_inputs(graph, batch)
    x = _embed(graph, ids, "embeddings.word", VOCABULARY)
    graph.output("last_hidden_state", _encode(graph, x, mask, num_layers=6))
    return graph.network()


def _text_inputs(graph: GraphBuilder, batch: int) -> tuple[Tensor, Tensor]:
    """Token ids, and what to add to attention scores: 0 to keep, hugely negative to mask."""
    shape = (batch, SEQUENCE_LENGTH)
    ids = graph.input("input_ids", shape, TensorProto.INT64)
    mask = graph.input("attention_mask", shape, TensorProto.INT64)
    shape_4d = (batch, 1, 1, SEQUENCE_LENGTH)
    mask = graph.node(
        "Unsqueeze",
        [mask, graph.ints((1, 2))],
        "mask.unsqueeze",
        shape_4d,
        elem_type=TensorProto.INT64,
    )
    mask = graph.node("Cast", [mask], "mask.cast", shape_4d, to=TensorProto.FLOAT)
    mask = graph.node("Sub", [graph.scalar(1.0), mask], "mask.invert", shape_4d)
    lowest = graph.scalar(float(np.finfo(np.float32).min))
    return ids, graph.node("Mul", [mask, lowest], "mask.scale", shape_4d)


def _embed(graph: GraphBuilder, ids: Tensor | str, name: str, rows: int) -> Tensor:
    table = graph.normal(f"{name}.weight", (rows, FEATURES), 1.0)
    shape = (SEQUENCE_LENGTH,) if isinstance(ids, str) else ids.shape
    return graph.node("Gather", [table, ids], name, (*shape, FEATURES), axis=0)


def _encode(graph: GraphBuilder, x: Tensor, mask: Tensor, *, num_layers: int) -> Tensor:
    """Positions, then layers that normalise after each sum."""
    positions = graph.ints(range(SEQUENCE_LENGTH), name="position_ids")
    position = _embed(graph, positions, "embeddings.position", MAX_POSITIONS)
    x = add(graph, x, position, "embeddings.add_positions")
    x = layer_norm(graph, x, "embeddings.norm", epsilon=BERT_EPSILON)
    for idx in range(num_layers):
        name = f"layer{idx}"
        y = _self_attention(graph, x, f"{name}.attention", mask)
        x = add(graph, y, x, f"{name}.attention.residual")
        x = layer_norm(graph, x, f"{name}.attention.norm", epsilon=BERT_EPSILON)
        x = add(graph, _feed_forward(graph, x, name), x, f"{name}.residual")
        x = layer_norm(graph, x, f"{name}.norm", epsilon=BERT_EPSILON)
    return x


def _self_attention(graph: GraphBuilder, x: Tensor, name: str, mask: Tensor) -> Tensor:
    query, key, value = (
        split_heads(graph, linear(graph, x, part, FEATURES), part, NUM_HEADS)
        for part in (f"{name}.query", f"{name}.key", f"{name}.value")
    )
    mixed = attend(graph, query, key, value, name, mask=mask)
    return linear(graph, mixed, f"{name}.output", FEATURES)


def _feed_forward(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    x = linear(graph, x, f"{name}.intermediate", FEED_FORWARD_FEATURES)
    return linear(graph, gelu(graph, x, f"{name}.gelu"), f"{name}.output", FEATURES, gain=2.0)


def vit_b_16(*, batch: int = 1) -> Network:
    """ViT-B/16, `image [batch, 3, 224, 224]` to 1000 logits."""
    graph = GraphBuilder("vit_b_16")
    image = graph.input("image", (batch, 3, 224, 224))
    x = conv(graph, image, "patches", FEATURES, 16, stride=16, has_bias=True, gain=1.0)
    num_patches = x.shape[2] * x.shape[3]
    x = reshape(graph, x, "patches.flatten", (batch, FEATURES, num_patches))
    x = transpose(graph, x, "patches.transpose", (0, 2, 1))
    token_shape = (batch, 1, FEATURES)
    token = graph.node(
        "Expand",
        [graph.normal("class_token", (1, 1, FEATURES), 1.0), graph.ints(token_shape)],
        "class_token.expand",
        token_shape,
    )
    length = num_patches + 1
    x = graph.node("Concat", [token, x], "tokens", (batch, length, FEATURES), axis=1)
    x = add(graph, x, graph.normal("positions", (1, length, FEATURES), 0.5), "add_positions")
    for idx in range(12):
        name = f"layer{idx}"
        y = layer_norm(graph, x, f"{name}.norm1", epsilon=VIT_EPSILON)
        y = _packed_self_attention(graph, y, f"{name}.attention")
        x = add(graph, x, y, f"{name}.residual1")
        y = layer_norm(graph, x, f"{name}.norm2", epsilon=VIT_EPSILON)
        x = add(graph, x, _feed_forward(graph, y, name), f"{name}.residual2")
    x = layer_norm(graph, x, "norm", epsilon=VIT_EPSILON)
    graph.output("logits", gemm(graph, select(graph, x, "first", axis=1, idx=0), "head", 1000))
    return graph.network()


def _packed_self_attention(graph: GraphBuilder, x: Tensor, name: str) -> Tensor:
    """Self-attention whose query, key and value come from one matrix product."""
    batch, length, _ = x.shape
    packed = linear(graph, x, f"{name}.qkv", 3 * FEATURES)
    shape = (batch, length, 3, NUM_HEADS, FEATURES // NUM_HEADS)
    packed = reshape(graph, packed, f"{name}.qkv.split", shape)
    packed = transpose(graph, packed, f"{name}.qkv.transpose", (2, 0, 3, 1, 4))
    query, key, value = (
        select(graph, packed, f"{name}.{part}", axis=0, idx=idx)
        for idx, part in enumerate(("query", "key", "value"))
    )
    return linear(graph, attend(graph, query, key, value, name), f"{name}.output", FEATURES)
