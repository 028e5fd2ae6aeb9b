import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preempt_runtime import inputs
from preempt_runtime.device import check_array
from preempt_runtime.errors import InputError
from preempt_runtime.inputs import random_inputs, read_inputs
from preempt_runtime.manifest import GraphSpec, TensorSpec


def graph_of(**tensors: tuple[str, tuple[int, ...]]) -> GraphSpec:
    specs = tuple(
        TensorSpec(name=name, dtype=dtype, shape=shape) for name, (dtype, shape) in tensors.items()
    )
    return GraphSpec(id="main", variant="full", exit_of=None, inputs=specs, outputs=())


TEXT = graph_of(x=("float32", (2, 3)), mask=("bool", (4,)))


def test_random_inputs_fit_the_network_and_its_tables() -> None:
    graph = graph_of(
        x=("float32", (50, 60)), h=("float16", (3,)), ids=("int64", (9, 9)), m=("bool", (100,))
    )
    arrays = random_inputs(graph, seed=1, task="t")
    for spec in graph.inputs:
        check_array(spec.name, arrays[spec.name], dtype=spec.dtype, shape=spec.shape)
    assert abs(float(arrays["x"].mean())) < 0.05
    assert abs(float(arrays["x"].std()) - 1) < 0.05
    assert set(np.unique(arrays["ids"])) == {0, 1}
    assert 30 < int(arrays["m"].sum()) < 70


def test_random_inputs_replay_by_seed_and_task() -> None:
    first = random_inputs(TEXT, seed=1, task="a")
    again = random_inputs(TEXT, seed=1, task="a")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    for other in (random_inputs(TEXT, seed=2, task="a"), random_inputs(TEXT, seed=1, task="b")):
        assert not np.array_equal(first["x"], other["x"])


def test_a_dtype_without_numpy_is_refused() -> None:
    with pytest.raises(InputError, match=r"input 'x': numpy has no complex129, so it cannot be"):
        random_inputs(graph_of(x=("complex129", (1,))), seed=0, task="t")


def test_one_recorded_sample(tmp_path: Path) -> None:
    x, mask = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, bool)
    np.savez(tmp_path / "one.npz", x=x, mask=mask)
    (sample,) = read_inputs(tmp_path / "one.npz", TEXT)
    assert np.array_equal(sample["x"], x)
    assert np.array_equal(sample["mask"], mask)


def test_stacked_samples_share_what_is_not_stacked(tmp_path: Path) -> None:
    x, mask = np.arange(18, dtype=np.float32).reshape(3, 2, 3), np.ones(4, bool)
    np.savez_compressed(tmp_path / "three.npz", x=x, mask=mask)
    samples = read_inputs(tmp_path / "three.npz", TEXT)
    assert len(samples) == 3
    for idx, sample in enumerate(samples):
        assert np.array_equal(sample["x"], x[idx])
        assert np.array_equal(sample["mask"], mask)


GOOD: dict[str, Any] = {"x": np.zeros((2, 3), np.float32), "mask": np.ones(4, bool)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y": GOOD["x"]}, "array 'y' is no input of the network, expected x, mask"),
        ({"mask": None}, "no array for input 'mask', found x"),
        (
            {"x": np.zeros((2, 3))},
            "input 'x': found float64 [2, 3], expected float32 [2, 3], or samples of it",
        ),
        ({"x": np.zeros((3, 2), np.float32)}, "input 'x': found float32 [3, 2], expected"),
        ({"x": np.full((2, 3), np.nan, np.float32)}, "input 'x': 6 of 6 values are NaN; record"),
        ({"x": np.zeros((0, 2, 3), np.float32)}, "input 'x': no samples"),
        (
            {"x": np.zeros((3, 2, 3), np.float32), "mask": np.ones((2, 4), bool)},
            "inputs differ in their samples: 3 of 'x', 2 of 'mask'",
        ),
        ({"x": np.array([{}], dtype=object)}, "cannot read the inputs (Object arrays cannot be"),
    ],
)
def test_wrong_inputs_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "in.npz"
    arrays = {name: array for name, array in {**GOOD, **changes}.items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(InputError) as caught:
        read_inputs(path, TEXT)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


HEADERS = {
    "open bracket": b"{'descr': '<f4', 'fortran_order': False, 'shape': (((((4, }",
    "text shape": b"{'descr': '<f4', 'fortran_order': False, 'shape': ('a',), }",
    "huge shape": b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999999999999,), }",
    "list dtype": b"{'descr': [1], 'fortran_order': False, 'shape': (4,), }",
    "dict keys": b"{1: 2, 'fortran_order': False, 'shape': (4,), }",
}


def damaged(path: Path, kind: str) -> None:
    np.savez(path, **GOOD)
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        content[content.index(b"\x93NUMPY") + 140] ^= 0xFF
        path.write_bytes(content)
    elif kind == "huge header":
        with zipfile.ZipFile(path, "w") as archive:
            header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,), }"
            header = header.ljust(117) + b"\n"
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + bytes([118, 0]) + header)
    elif kind in HEADERS:
        with zipfile.ZipFile(path, "w") as archive:
            header = HEADERS[kind].ljust(117) + b"\n"
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + bytes([118, 0]) + header)
    elif kind == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif kind == "text":
        path.write_text("hello", encoding="utf-8")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(GOOD))
    elif kind == "bytes":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x", b"not an array")
    elif kind == "missing":
        path.unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "cannot read the inputs (File is not a zip file); write them with"),
        ("flipped", "cannot read the inputs (Bad CRC-32 for file"),
        ("huge header", "cannot read the inputs ("),
        *((kind, "cannot read the inputs (") for kind in HEADERS),
        ("fifo", "cannot read the inputs: it is a pipe or a device; give a regular file"),
        ("text", "cannot read the inputs (File is not a zip file); write them with numpy.savez"),
        ("pickle", "cannot read the inputs (File is not a zip file)"),
        ("bytes", "'x' is not a numpy array; write with numpy.savez"),
        ("missing", "cannot read the inputs: No such file or directory"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    path = tmp_path / "in.npz"
    damaged(path, kind)
    with pytest.raises(InputError) as caught:
        read_inputs(path, TEXT)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_of_another_byte_order_are_read(tmp_path: Path) -> None:
    values = np.arange(4, dtype=np.float32)
    for order in "<>":
        np.savez(tmp_path / "in.npz", x=values.astype(f"{order}f4"))
        (sample,) = read_inputs(tmp_path / "in.npz", graph_of(x=("float32", (4,))))
        assert sample["x"].dtype.isnative
        assert sample["x"].tobytes() == values.tobytes()


def test_more_random_values_than_memory_are_one_clear_line() -> None:
    huge = TensorSpec(name="x", dtype="float64", shape=(1 << 33,))
    graph = GraphSpec(id="g", variant="", exit_of=None, inputs=(huge,), outputs=())
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (32 << 30, limits[1]))
    try:
        with pytest.raises(InputError, match="input 'x': no memory for random values of 64 GiB"):
            random_inputs(graph, seed=0, task="t")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def test_too_much_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "in.npz", x=np.zeros(1 << 20, np.uint8))
    monkeypatch.setattr(inputs, "MAX_INPUT_BYTES", 1 << 20)
    with pytest.raises(InputError, match="1 MiB of inputs, allowed 1 MiB"):
        read_inputs(tmp_path / "in.npz", TEXT)
