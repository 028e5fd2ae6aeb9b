"""What a job computes on: seeded random inputs, or recorded ones from a `.npz` file."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from preempt_runtime.device import Array
from preempt_runtime.errors import InputError
from preempt_runtime.input_file import check_regular
from preempt_runtime.manifest import GraphSpec, TensorSpec
from preempt_runtime.memory import exceeds_memory
from preempt_runtime.units import fmt_bytes

MAX_INPUT_BYTES = 4 << 30
_DRAWN_BYTES = 8  # numpy draws float64 and int64, and converts


def random_inputs(graph: GraphSpec, *, seed: int, task: str) -> dict[str, Array]:
    """Seeded arrays for every input of the graph.

    Standard normal floats, integers 0 or 1, fair booleans: an integer input is often an index
    into a table of unknown length, or a mask, and both have room for 0 and 1.

    Raises:
        InputError: an input has a dtype that numpy lacks, or there is no memory.
    """
    rng = np.random.default_rng([seed, *task.encode()])
    return {spec.name: _random_array(rng, spec) for spec in graph.inputs}


def read_inputs(path: Path, graph: GraphSpec) -> tuple[dict[str, Array], ...]:
    """The samples of a `.npz` file, at least one, each with every input of the graph.

    An array of an input's own shape serves every sample; with one more dimension in front it
    holds the samples. The arrays of the samples are views.

    Raises:
        InputError: unreadable, damaged or pickled; a name, dtype, shape or number of samples that
            does not fit; NaN.
    """
    arrays = _load(path)
    specs = {spec.name: spec for spec in graph.inputs}
    if unknown := [name for name in arrays if name not in specs]:
        raise InputError(
            f"{path}: array {unknown[0]!r} is no input of the network, expected {', '.join(specs)}"
        )
    if missing := [name for name in specs if name not in arrays]:
        raise InputError(f"{path}: no array for input {missing[0]!r}, found {_listed(arrays)}")
    lengths = {name: _num_samples(path, specs[name], array) for name, array in arrays.items()}
    counted = {name: length for name, length in lengths.items() if length is not None}
    if len(set(counted.values())) > 1:
        found = ", ".join(f"{length} of {name!r}" for name, length in counted.items())
        raise InputError(f"{path}: inputs differ in their samples: {found}")
    return tuple(
        {name: array[idx] if name in counted else array for name, array in arrays.items()}
        for idx in range(next(iter(counted.values()), 1))
    )


def _random_array(rng: np.random.Generator, spec: TensorSpec) -> Array:
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as err:
        raise InputError(
            f"input {spec.name!r}: numpy has no {spec.dtype}, so it cannot be random"
        ) from err
    if exceeds_memory(spec.num_bytes + _DRAWN_BYTES * math.prod(spec.shape)):
        raise _no_memory(spec)
    try:
        if dtype.kind == "f":
            return rng.standard_normal(spec.shape).astype(dtype)
        return rng.integers(0, 2, spec.shape).astype(dtype)
    except (MemoryError, ValueError) as err:  # by how far it exceeds the memory
        raise _no_memory(spec) from err


def _no_memory(spec: TensorSpec) -> InputError:
    return InputError(
        f"input {spec.name!r}: no memory for random values of {fmt_bytes(spec.num_bytes)};"
        " use a machine with more memory, or a network with smaller inputs"
    )


def _load(path: Path) -> dict[str, Array]:
    check_regular(path, "the inputs")
    try:
        with zipfile.ZipFile(path) as archive:
            num_bytes = sum(entry.file_size for entry in archive.infolist())
        if num_bytes > MAX_INPUT_BYTES:
            raise InputError(
                f"{path}: {fmt_bytes(num_bytes)} of inputs, allowed {fmt_bytes(MAX_INPUT_BYTES)}"
            )
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, Any] = {name: archive[name] for name in archive.files}
    except InputError:
        raise
    except Exception as err:  # numpy parses headers as Python: damaged ones raise anything
        text = " ".join(str(err).split()) or type(err).__name__
        raise InputError(
            f"{path}: cannot read the inputs ({text}); write them with numpy.savez"
        ) from err
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy hands out raw bytes of what is no array
            raise InputError(f"{path}: {name!r} is not a numpy array; write with numpy.savez")
    return {name: _native(array) for name, array in arrays.items()}


def _native(array: Array) -> Array:
    """The same values in this machine's byte order: devices take the bytes as they are."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _num_samples(path: Path, spec: TensorSpec, array: Array) -> int | None:
    """How many samples the array holds; None if it is one for all."""
    is_stacked = array.ndim == len(spec.shape) + 1 and array.shape[1:] == spec.shape
    if array.dtype.name != spec.dtype or not (is_stacked or array.shape == spec.shape):
        raise InputError(
            f"{path}: input {spec.name!r}: found {array.dtype.name} {list(array.shape)},"
            f" expected {spec.dtype} {list(spec.shape)}, or samples of it"
        )
    if array.dtype.kind == "f" and (num_nan := int(np.isnan(array).sum())):
        raise InputError(
            f"{path}: input {spec.name!r}: {num_nan} of {array.size} values are NaN; record again"
        )
    if is_stacked and not len(array):
        raise InputError(f"{path}: input {spec.name!r}: no samples")
    return len(array) if is_stacked else None


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "none"
