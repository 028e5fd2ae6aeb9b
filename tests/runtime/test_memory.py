"""What is refused before memory is asked for."""

from pathlib import Path

import pytest

from preempt_runtime import inputs, memory
from preempt_runtime.backends import ort
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.manifest import GraphSpec, TensorSpec

GIB = 1 << 30


def machine(root: Path, *, available: int, swap: int = 0, limit: str | None = None) -> Path:
    """Linux's files of a machine with so many GiB."""
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(
        f"MemTotal: 9 kB\nMemAvailable: {available << 20} kB\nSwapFree: {swap << 20} kB\n"
    )
    if limit is not None:
        (root / "sys/fs/cgroup").mkdir(parents=True)
        (root / "sys/fs/cgroup/memory.max").write_text(f"{limit}\n")
    return root


def test_free_memory_and_swap_count(tmp_path: Path) -> None:
    root = machine(tmp_path, available=4, swap=2, limit="max")
    assert not memory.exceeds_memory(6 * GIB, root)
    assert memory.exceeds_memory(6 * GIB + 1, root)


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    root = machine(tmp_path, available=4, limit=str(GIB))
    assert not memory.exceeds_memory(GIB, root)
    assert memory.exceeds_memory(GIB + 1, root)


def test_what_cannot_be_known_is_tried(tmp_path: Path) -> None:
    assert not memory.exceeds_memory(1 << 60, tmp_path)
    assert not memory.exceeds_memory(1 << 20, machine(tmp_path, available=0))


def test_inputs_and_tensors_that_do_not_fit_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def exceeds(num_bytes: int) -> bool:
        asked.append(num_bytes)
        return True

    monkeypatch.setattr(inputs, "exceeds_memory", exceeds)
    monkeypatch.setattr(ort, "exceeds_memory", exceeds)
    huge = TensorSpec(name="x", dtype="float32", shape=(1 << 34,))
    graph = GraphSpec(id="g", variant="", exit_of=None, inputs=(huge,), outputs=())
    with pytest.raises(InputError, match="input 'x': no memory for random values of 64 GiB; use"):
        inputs.random_inputs(graph, seed=0, task="t")
    with pytest.raises(DeviceError, match="tensor 'x': no memory for its 64 GiB; run fewer"):
        ort.bind((), (), graph, (), "net")
    assert asked == [(8 + 4) << 34, 4 << 34]
