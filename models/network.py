"""A network's graph with its weights described, not drawn: cheap to build, count and compare."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx

FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A float32 initialiser: `center + spread * draw`, drawn only when it is needed.

    A draw is from N(0, 1) or from U(-1, 1). `is_learnable` is False for the running statistics of
    a batch normalisation, which published parameter counts leave out.
    """

    name: str
    shape: tuple[int, ...]
    distribution: Literal["normal", "uniform"]
    center: float
    spread: float
    is_learnable: bool

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """The size of the raw data in bytes."""
        return FLOAT_BYTES * self.size

    def draw(self, seed: int, network: str) -> npt.NDArray[np.float32]:
        """Values of shape `shape`, a function of (seed, network, name) alone.

        Raises:
            ValueError: `seed` is negative.
        """
        if seed < 0:
            raise ValueError(f"seed {seed} is negative; give 0 or more")
        digest = hashlib.sha256(f"{network}/{self.name}".encode()).digest()
        words: list[int] = np.frombuffer(digest, dtype="<u4").tolist()
        rng = np.random.default_rng([seed, *words])
        if self.distribution == "normal":
            values = rng.standard_normal(self.size, dtype=np.float32)
        else:
            values = 2 * rng.random(self.size, dtype=np.float32) - np.float32(1)
        # In place: the classifier of VGG-19 alone is 411 MB.
        values *= np.float32(self.spread)
        if self.center != 0:
            values += np.float32(self.center)
        return values.reshape(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """An ONNX graph (opset 17, every shape static) whose float weights are descriptions."""

    name: str
    inputs: tuple[onnx.ValueInfoProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]
    value_infos: tuple[onnx.ValueInfoProto, ...]
    nodes: tuple[onnx.NodeProto, ...]
    weights: tuple[Weight, ...]
    constants: tuple[onnx.TensorProto, ...]

    def __post_init__(self) -> None:
        """Check that no two initialisers share a name.

        Raises:
            ValueError: two of them do.
        """
        names = [weight.name for weight in self.weights] + [c.name for c in self.constants]
        if len(names) != len(set(names)):
            doubles = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"{self.name}: initialiser names used twice: {', '.join(doubles)}")

    @property
    def num_parameters(self) -> int:
        """The number of learnable parameters, as published counts have it."""
        return sum(weight.size for weight in self.weights if weight.is_learnable)

    @property
    def weight_bytes(self) -> int:
        """The raw size of all weights in bytes."""
        return sum(weight.num_bytes for weight in self.weights)
