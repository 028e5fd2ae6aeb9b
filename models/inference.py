"""One run of a model file in ONNX Runtime on random inputs: does it work, and does it compute?"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

Array = npt.NDArray[Any]


def random_inputs(path: Path, *, seed: int = 0) -> dict[str, Array]:
    """Values for every graph input, each a function of (seed, input name).

    Floats are from N(0, 1). Integers are 0 or 1, which token ids, token types and masks all take.
    """
    model = onnx.load_model(path, load_external_data=False)
    inputs: dict[str, Array] = {}
    for info in model.graph.input:
        rng = np.random.default_rng([seed, zlib.crc32(info.name.encode())])
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            inputs[info.name] = rng.standard_normal(shape, dtype=np.float32)
        else:
            inputs[info.name] = rng.integers(0, 2, size=shape, dtype=np.int64)
    return inputs


def run_once(path: Path, *, seed: int = 0) -> dict[str, Array]:
    """The outputs for `random_inputs(path, seed=seed)`, after the ONNX checker was content.

    Raises:
        onnx.checker.ValidationError: the file is not valid ONNX, or its shapes contradict.
    """
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, random_inputs(path, seed=seed)), strict=True))
