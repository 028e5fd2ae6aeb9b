"""One small builder over onnx.helper: nodes with static shapes, weights not yet drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models.network import Network, Weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A value in the graph: its name, static shape and ONNX element type."""

    name: str
    shape: tuple[int, ...]
    elem_type: int = TensorProto.FLOAT


class GraphBuilder:
    """Collects nodes in execution order; `network()` freezes what was collected.

    Weights and constants are added by name; the name is what a node takes as its input. The layers
    are functions, in `image_layers` and `token_layers`.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._tensors: list[Tensor] = []
        self._nodes: list[NodeProto] = []
        self._weights: dict[str, Weight] = {}
        self._constants: dict[str, TensorProto] = {}

    def network(self) -> Network:
        """The network of what was added so far."""
        outputs = {tensor.name for tensor in self._outputs}
        inner = [tensor for tensor in self._tensors if tensor.name not in outputs]
        return Network(
            name=self._name,
            inputs=tuple(_value_info(tensor) for tensor in self._inputs),
            outputs=tuple(_value_info(tensor) for tensor in self._outputs),
            value_infos=tuple(_value_info(tensor) for tensor in inner),
            nodes=tuple(self._nodes),
            weights=tuple(self._weights.values()),
            constants=tuple(self._constants.values()),
        )

    def input(self, name: str, shape: Sequence[int], elem_type: int = TensorProto.FLOAT) -> Tensor:
        """A graph input."""
        tensor = Tensor(name=name, shape=tuple(shape), elem_type=elem_type)
        self._inputs.append(tensor)
        return tensor

    def output(self, name: str, x: Tensor) -> Tensor:
        """`x`, now a graph output called `name`; later layers must read what is returned here."""
        for node in self._nodes:
            _rename(node.input, x.name, name)
            _rename(node.output, x.name, name)
        self._tensors = [tensor for tensor in self._tensors if tensor.name != x.name]
        self._outputs.append(Tensor(name=name, shape=x.shape, elem_type=x.elem_type))
        return self._outputs[-1]

    def node(
        self,
        op_type: str,
        inputs: Sequence[Tensor | str],
        name: str,
        shape: Sequence[int],
        *,
        elem_type: int = TensorProto.FLOAT,
        **attributes: Any,
    ) -> Tensor:
        """The single output, of the given shape, of a new node."""
        names = [x if isinstance(x, str) else x.name for x in inputs]
        output = Tensor(name=f"{name}_out", shape=tuple(shape), elem_type=elem_type)
        self._nodes.append(helper.make_node(op_type, names, [output.name], name=name, **attributes))
        self._tensors.append(output)
        return output

    def normal(self, name: str, shape: Sequence[int], std: float) -> str:
        """The name of a learnable weight drawn from N(0, std^2)."""
        return self._add_weight(
            Weight(
                name=name,
                shape=tuple(shape),
                distribution="normal",
                center=0.0,
                spread=std,
                is_learnable=True,
            )
        )

    def uniform(
        self,
        name: str,
        shape: Sequence[int],
        center: float,
        spread: float,
        *,
        is_learnable: bool = True,
    ) -> str:
        """The name of a weight drawn from [center - spread, center + spread)."""
        return self._add_weight(
            Weight(
                name=name,
                shape=tuple(shape),
                distribution="uniform",
                center=center,
                spread=spread,
                is_learnable=is_learnable,
            )
        )

    def _add_weight(self, weight: Weight) -> str:
        # Layers may share weights, but only if they mean the same ones.
        if self._weights.setdefault(weight.name, weight) != weight:
            raise ValueError(f"{weight.name}: {weight} differs from {self._weights[weight.name]}")
        return weight.name

    def ints(self, values: Sequence[int], *, name: str | None = None) -> str:
        """The name of an int64 vector constant; equal vectors share one unless they are named."""
        if name is None:
            name = "ints_" + "_".join(str(value) for value in values)
        self._add_constant(name, np.array(values, dtype=np.int64))
        return name

    def index(self, value: int) -> str:
        """The name of an int64 scalar constant; equal scalars share one."""
        name = f"index_{value}"
        self._add_constant(name, np.array(value, dtype=np.int64))
        return name

    def scalar(self, value: float) -> str:
        """The name of a float32 scalar constant; equal scalars share one."""
        name = f"scalar_{value!r}"
        self._add_constant(name, np.array(value, dtype=np.float32))
        return name

    def _add_constant(self, name: str, values: npt.NDArray[Any]) -> None:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(values, name)


def _rename(names: Sequence[str], old: str, new: str) -> None:
    for idx, name in enumerate(names):
        if name == old:
            names[idx] = new  # type: ignore[index]


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, tensor.elem_type, tensor.shape)
