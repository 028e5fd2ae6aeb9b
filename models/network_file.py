"""Networks written as ONNX files, large weights beside them as external data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto, helper

from models.network import Network, Weight

OPSET_VERSION = 17
# The IR version that came with opset 17: the oldest readers of that opset take it.
IR_VERSION = 8
EXTERNAL_DATA_FROM_BYTES = 64 * 1024 * 1024
# Smaller weights stay in the graph, where shape inference and constant folding can see them.
EXTERNAL_WEIGHT_FROM_BYTES = 4096
# The ONNX specification asks for page-aligned offsets so that readers can map the file.
PAGE_BYTES = 4096


def write_network(
    network: Network, path: Path, *, seed: int = 0, external_data: bool | None = None
) -> Path:
    """`path`, where the network now is; its weights may be in `<path>.data`.

    Each file is written beside its final name and renamed, so that no half file is ever seen.

    Args:
        network: What to write.
        path: Name of the ONNX file; its folder is made if missing.
        seed: Chooses the weights, 0 or more.
        external_data: Whether large weights go to `<path>.data`; None: if all weights together
            exceed 64 MiB.
    """
    if external_data is None:
        external_data = network.weight_bytes > EXTERNAL_DATA_FROM_BYTES
    path.parent.mkdir(parents=True, exist_ok=True)
    if external_data:
        data_path = path.with_name(path.name + ".data")
        tensors: list[TensorProto] = []
        # The data first: an ONNX file must never point to weights that are not there yet.
        _replace(data_path, lambda file: _write_weights(file, network, seed, data_path, tensors))
    else:
        tensors = [_inline_tensor(weight, seed, network.name) for weight in network.weights]
    model = _model_proto(network, tensors)
    _replace(path, lambda file: file.write(model.SerializeToString(deterministic=True)))
    return path


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _model_proto(network: Network, weights: list[TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(network.nodes),
        network.name,
        list(network.inputs),
        list(network.outputs),
        initializer=[*weights, *network.constants],
        value_info=list(network.value_infos),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET_VERSION)])
    model.ir_version = IR_VERSION
    model.producer_name = "preemptc-models"
    return model


def _inline_tensor(weight: Weight, seed: int, network: str) -> TensorProto:
    tensor = TensorProto(name=weight.name, data_type=TensorProto.FLOAT, dims=weight.shape)
    tensor.raw_data = weight.draw(seed, network).astype("<f4", copy=False).tobytes()
    return tensor


def _write_weights(
    file: BinaryIO, network: Network, seed: int, data_path: Path, tensors: list[TensorProto]
) -> None:
    for weight in network.weights:
        if weight.num_bytes < EXTERNAL_WEIGHT_FROM_BYTES:
            tensors.append(_inline_tensor(weight, seed, network.name))
            continue
        file.write(b"\0" * (-file.tell() % PAGE_BYTES))
        tensors.append(_external_tensor(weight, data_path.name, file.tell()))
        values = weight.draw(seed, network.name).astype("<f4", copy=False)
        file.write(values.data)


def _external_tensor(weight: Weight, location: str, offset_bytes: int) -> TensorProto:
    tensor = TensorProto(name=weight.name, data_type=TensorProto.FLOAT, dims=weight.shape)
    tensor.data_location = TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset_bytes, "length": weight.num_bytes}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
