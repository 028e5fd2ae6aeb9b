"""Simplify a graph: static shapes, no local functions, no constant computed at run time."""

from collections.abc import Mapping, Set
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper
from onnx_graphsurgeon.logger import G_LOGGER

from preempt_runtime.errors import ModelError
from preempt_runtime.units import fmt_bytes
from preemptc.onnx_io.files import (
    INLINE_MAX_BYTES,
    OnnxFile,
    all_graphs,
    all_initializers,
    external_range,
    name_uniquely,
    one_line,
    tensor_bytes,
)
from preemptc.onnx_io.graphs import captured_names
from preemptc.onnx_io.order import move_constants_to_readers
from preemptc.onnx_io.versions import folding_version

MAX_TENSOR_BYTES = 64 << 30
MAX_FOLD_BYTES = 256 << 20  # larger weights stay in their file, and what reads them runs each time
_NEVER_FOLDED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_MAX_FOLDS = 10
_IR_VERSION = 10  # the newest that ONNX Runtime 1.20 reads

Shapes = Mapping[str, tuple[int, ...]]


def simplify(source: OnnxFile, shapes: Shapes, name: str) -> OnnxFile:
    """The same network with static shapes, local functions inlined and constants folded.

    What is still computed from weights alone stands right before its first reader.

    Args:
        shapes: a static shape for each input that has dynamic dimensions.
        name: what error messages call the model.

    Raises:
        ModelError: the checker refuses it, a shape is missing or contradicts the model, or an
            operator is unknown.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(source.proto)
    _inline_weights_to_fold(proto, source.folder)
    _set_input_shapes(proto, shapes, name)
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    _type_constants(proto)
    _check_operators(proto, name)
    _check_types(proto, name)
    simple = _infer_shapes(proto, name)
    for _ in range(_MAX_FOLDS):  # a folded shape lets inference find the next one
        num_nodes = len(simple.graph.node)
        simple = _infer_shapes(_fold_constants(simple, name), name)
        if len(simple.graph.node) == num_nodes:
            break
    _check_folded(simple, name)
    if not simple.graph.node:
        raise ModelError(f"{name}: every output is a constant or an input, nothing is computed")
    move_constants_to_readers(simple.graph)
    name_uniquely(simple)
    return OnnxFile(proto=simple, folder=source.folder)


def _check_folded(proto: onnx.ModelProto, name: str) -> None:
    """Return if there is no constant left to fold, or nothing more can be done about it."""
    unread = {tensor.name for tensor in _external_weights(proto)}
    left = [node for node in _nodes_to_fold(proto.graph, unread) if node.op_type != "Constant"]
    if left and folding_version() is None:
        raise ModelError(
            f"{name}: node {left[0].name or left[0].output[0]!r} computes a constant, which ONNX"
            " Runtime folds, and that is missing; install it with `pip install onnxruntime`"
        )


def _inline_weights_to_fold(proto: onnx.ModelProto, folder: Path) -> None:
    """Load the small external weights, and those from which a constant can be computed."""
    unread = {tensor.name for tensor in _external_weights(proto) if _is_too_large(tensor)}
    nodes = _nodes_to_fold(proto.graph, unread)
    foldable = {name for node in nodes for name in (*node.input, *captured_names(node))}
    for tensor in all_initializers(proto.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        location, offset, length = external_range(tensor)
        if length <= INLINE_MAX_BYTES or tensor.name in foldable:
            with (folder / location).open("rb") as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(length)
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _external_weights(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    weights = all_initializers(proto.graph)
    return [tensor for tensor in weights if tensor.data_location == TensorProto.EXTERNAL]


def _is_too_large(tensor: onnx.TensorProto) -> bool:
    return external_range(tensor)[2] > MAX_FOLD_BYTES


def _nodes_to_fold(graph: onnx.GraphProto, unread: Set[str]) -> list[onnx.NodeProto]:
    """The nodes that compute a constant from weights, those in `unread` left out."""
    constant = {tensor.name for tensor in graph.initializer} - unread
    nodes = []
    for node in graph.node:
        read_names = {name for name in (*node.input, *captured_names(node)) if name}
        if read_names <= constant and node.op_type not in _NEVER_FOLDED:
            nodes.append(node)
            constant.update(node.output)
    return nodes


def _set_input_shapes(proto: onnx.ModelProto, shapes: Shapes, name: str) -> None:
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = {value.name: value for value in proto.graph.input if value.name not in weights}
    for given in shapes:
        if given not in inputs:
            raise ModelError(
                f"{name}: --shape names {given!r}, the inputs are {', '.join(inputs)}; correct it"
            )
    for value in inputs.values():
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            raise ModelError(
                f"{name}: input {value.name!r} is a {kind}, only tensors are supported"
            )
        _set_shape(value, shapes.get(value.name), name)


def _example_shape(declared: list[int | str]) -> str:
    """Sizes to begin with: a batch of one, images of 224 pixels."""
    guesses = [1, 3, 224, 224]
    return (
        "x".join(
            str(dim if isinstance(dim, int) else guesses[min(idx, 3)])
            for idx, dim in enumerate(declared)
        )
        or "1x3x224x224"
    )


def _set_shape(value: onnx.ValueInfoProto, given: tuple[int, ...] | None, name: str) -> None:
    tensor_type = value.type.tensor_type
    declared = [
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or "?")
        for dim in tensor_type.shape.dim
    ]
    has_shape = tensor_type.HasField("shape")
    if given is None:
        if not has_shape or any(isinstance(dim, str) for dim in declared):
            raise ModelError(
                f"{name}: input {value.name!r} has the dynamic shape"
                f" [{', '.join(map(str, declared)) if has_shape else 'unknown rank'}];"
                f" give a static one, such as --shape {value.name}={_example_shape(declared)}"
            )
        given = tuple(dim for dim in declared if isinstance(dim, int))
    clash = has_shape and any(
        isinstance(dim, int) and dim != wanted for dim, wanted in zip(declared, given, strict=False)
    )
    if has_shape and len(given) != len(declared):
        raise ModelError(
            f"{name}: --shape {value.name}={'x'.join(map(str, given))} has {len(given)} dimensions,"
            f" the model's [{', '.join(map(str, declared))}] has {len(declared)}; give them all"
        )
    if clash:
        raise ModelError(
            f"{name}: --shape {value.name}={'x'.join(map(str, given))} contradicts the model's"
            f" [{', '.join(map(str, declared))}]; only dynamic dimensions can be chosen"
        )
    num_bytes = tensor_bytes(TensorProto(dims=given, data_type=tensor_type.elem_type))
    if any(dim < 1 for dim in given) or not 0 <= num_bytes <= MAX_TENSOR_BYTES:
        raise ModelError(
            f"{name}: input {value.name!r} of shape {'x'.join(map(str, given))} is impossible or"
            f" larger than {fmt_bytes(MAX_TENSOR_BYTES)}; correct the shape"
        )
    del tensor_type.shape.dim[:]
    for dim in given:
        tensor_type.shape.dim.add().dim_value = dim


def _check_types(proto: onnx.ModelProto, name: str) -> None:
    for graph in all_graphs(proto.graph):
        if graph.sparse_initializer:
            weight = graph.sparse_initializer[0].values.name
            raise ModelError(f"{name}: weight {weight!r} is sparse; export it as a dense tensor")
    outputs = [value.name for value in proto.graph.output]
    if twice := [output for output in outputs if outputs.count(output) > 1]:
        raise ModelError(
            f"{name}: {twice[0]!r} is listed {outputs.count(twice[0])} times among the outputs;"
            " list it once"
        )
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.STRING:
            raise ModelError(
                f"{name}: {value.name!r} holds strings, only numbers are supported;"
                " cut the text part off the network"
            )


def _check_operators(proto: onnx.ModelProto, name: str) -> None:
    domains = {entry.domain: entry.version for entry in proto.opset_import}
    for graph in all_graphs(proto.graph):
        for node in graph.node:
            if node.domain in ("", "ai.onnx") and not onnx.defs.has(
                node.op_type, max_inclusive_version=domains.get(node.domain, domains.get("", 1))
            ):
                raise ModelError(
                    f"{name}: node {node.name or node.output[0]!r} has the unknown operator"
                    f" {node.op_type!r} (opset {domains.get('', '?')}); export with a known one"
                )


def _type_constants(proto: onnx.ModelProto) -> None:
    """Let Constants be tensors of their type: graphsurgeon makes float64 of Python's floats."""
    for graph in all_graphs(proto.graph):
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name in ("value_float", "value_floats"):
                    values = np.array(helper.get_attribute_value(attribute), np.float32)
                    tensor = numpy_helper.from_array(values)
                    attribute.CopyFrom(helper.make_attribute("value", tensor))


def _fold_constants(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    try:
        kept = _outputs_of_readers(proto, {tensor.name for tensor in _external_weights(proto)})
        G_LOGGER.severity = G_LOGGER.ERROR  # it prints notes on standard output otherwise
        graph = gs.import_onnx(proto)
        graph.fold_constants(
            fold_shapes=True,
            error_ok=True,
            should_exclude_node=lambda node: any(output.name in kept for output in node.outputs),
        ).cleanup().toposort()
        _give_pass_through_outputs_a_node(graph)
        folded: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    except ModelError as err:
        raise ModelError(f"{name}: {err}") from err
    except Exception as err:  # graphsurgeon raises whatever its parts raise
        raise ModelError(
            f"{name}: cannot be simplified ({one_line(err)}); check the model"
        ) from err
    folded.ir_version = max(8, min(_IR_VERSION, proto.ir_version))
    return folded


def _outputs_of_readers(proto: onnx.ModelProto, weights: Set[str]) -> set[str]:
    """What is computed straight from one of these weights."""
    return {
        name
        for graph in all_graphs(proto.graph)
        for node in graph.node
        if not weights.isdisjoint((*node.input, *captured_names(node)))
        for name in node.output
    }


def _give_pass_through_outputs_a_node(graph: gs.Graph) -> None:
    inputs = {id(tensor) for tensor in graph.inputs}
    for idx, tensor in enumerate(graph.outputs):
        if isinstance(tensor, gs.Constant):
            raise ModelError(
                f"output {tensor.name!r} is a constant, which no node computes;"
                " remove it from the outputs"
            )
        if id(tensor) in inputs:
            output = gs.Variable(f"{tensor.name}_output", tensor.dtype, tensor.shape)
            graph.nodes.append(gs.Node("Identity", inputs=[tensor], outputs=[output]))
            graph.outputs[idx] = output


def _infer_shapes(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as err:
        raise ModelError(f"{name}: shape inference failed ({one_line(err)})") from err
