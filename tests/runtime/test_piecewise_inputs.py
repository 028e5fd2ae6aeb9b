"""Large inputs are copied a piece a turn, so that an urgent job does not wait for all of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from preempt_runtime.backends import trt_tensors
from preempt_runtime.backends.trt_tensors import HostTensor
from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import Array
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.manifest import TensorSpec
from preempt_runtime.records import JobState
from preempt_runtime.task import Task
from preempt_runtime.testing import FakeBuffers, FakeNetwork
from tests.runtime.executor_world import World, task

X = {"x": np.ones(1, np.float32)}
_PIECE_NS = 100


class PiecewiseBuffers(FakeBuffers):
    """Takes `num_pieces` pieces, 100 ns each."""

    network: "PiecewiseNetwork"

    def input_pieces(self, inputs: Mapping[str, Array]) -> Iterator[None]:
        for idx in range(self.network.num_pieces):
            if idx:
                yield
            if idx == self.network.bad_piece:
                raise InputError("a bad piece")
            self.network.clock.advance(_PIECE_NS)
        self.write_inputs(inputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class PiecewiseNetwork(FakeNetwork):
    clock: VirtualClock
    num_pieces: int = 5
    bad_piece: int | None = None

    def new_buffers(self) -> PiecewiseBuffers:
        return PiecewiseBuffers(self)


def world_of(*, depth: int = 1, **values: Any) -> World:
    world = World(task("urgent", 10, priority=9), depth=depth)
    network = PiecewiseNetwork(name="long", segment_ns=(50, 50), clock=world.clock, **values)
    world.executor.add_task(Task(name="long", network=network))
    return world


@pytest.mark.parametrize("depth", [1, 2])
def test_an_urgent_job_waits_for_one_piece(depth: int) -> None:
    world = world_of(depth=depth)
    long = world.executor.submit("long", X)
    world.clock.call_at(250, lambda: world.executor.submit("urgent", X))
    world.executor.run()
    starts = {(s.task, s.segment_idx): s.start_ns for s in world.recording.segments}
    assert starts["urgent", 0] == 300
    assert starts["long", 0] >= 400  # with the last of its pieces
    (output,) = long.result().values()
    assert output == [3.0]
    assert long.record.num_preemptions == 1
    world.executor.check_integrity()


def test_without_anybody_else_pieces_follow_each_other() -> None:
    world = world_of(num_pieces=3)
    world.executor.submit("long", X)
    world.executor.run()
    assert [segment.end_ns for segment in world.recording.segments] == [350, 400]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_job_can_be_cancelled_between_pieces(depth: int) -> None:
    world = world_of(depth=depth)
    first, second = (world.executor.submit("long", X) for _ in range(2))
    world.clock.call_at(150, first.cancel)
    world.executor.run()
    assert first.record.state is JobState.CANCELLED
    (output,) = second.result().values()
    assert output == [3.0]
    world.executor.check_integrity()


@pytest.mark.parametrize("bad_piece", [0, 2, 4])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_piece_that_fails_fails_its_job_alone(bad_piece: int, depth: int) -> None:
    world = world_of(bad_piece=bad_piece, depth=depth)
    long, urgent = world.executor.submit("long", X), world.executor.submit("urgent", X)
    world.executor.run()
    with pytest.raises(InputError, match="a bad piece"):
        long.result()
    assert urgent.record.state is JobState.FINISHED
    world.executor.check_integrity()


def test_a_warm_up_copies_everything() -> None:
    world = world_of()
    world.executor.warm_up("long", X, num_runs=2)
    assert world.clock.now_ns() == 2 * (5 * _PIECE_NS + 100)


# A tensor of TensorRT's


def host_tensor(dtype: str, shape: tuple[int, ...], stored: str | None = None) -> HostTensor:
    array = np.zeros(shape, stored or dtype)
    spec = TensorSpec(name="x", dtype=dtype, shape=shape)
    held = TensorSpec(name="x", dtype=stored or dtype, shape=shape)
    tensor = SimpleNamespace(spec=spec, stored=held, memory=None)
    return HostTensor(tensor=tensor, pinned=SimpleNamespace(), array=array)  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "num_pieces"), [(0, 1), (1, 1), (64, 1), (65, 2), (1000, 16)])
def test_pieces_have_a_size(length: int, num_pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_tensors, "PIECE_BYTES", 64 * 4)
    host = host_tensor("float32", (length, 1))
    values = np.random.default_rng(length).normal(size=(length, 1)).astype(np.float32)
    copied = [int(np.count_nonzero(host.array)) for _ in host.pieces(values)]
    assert len(copied) == num_pieces - 1
    assert copied == [64 * (idx + 1) for idx in range(num_pieces - 1)]
    assert np.array_equal(host.array, values)


def test_what_is_not_contiguous_or_is_converted_is_one_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trt_tensors, "PIECE_BYTES", 8)
    host = host_tensor("float32", (4, 6))
    values = np.arange(24, dtype=np.float32).reshape(6, 4).T
    assert list(host.pieces(values)) == []
    assert np.array_equal(host.array, values)
    host = host_tensor("int64", (40,), "int32")
    assert list(host.pieces(np.arange(40))) == []
    assert np.array_equal(host.array, np.arange(40))
    with pytest.raises(InputError, match="holds int64 as int32"):
        list(host.pieces(np.full(40, 2**40)))


def test_a_device_that_fails_between_pieces_is_told_to_the_job() -> None:
    world = world_of(depth=2)
    world.device.failures.add(("urgent", 0))
    long = world.executor.submit("long", X)
    urgent: list[Any] = []
    world.clock.call_at(250, lambda: urgent.append(world.executor.submit("urgent", X)))
    world.executor.run()
    with pytest.raises(DeviceError):
        urgent[0].result()
    assert long.record.state is JobState.FINISHED
    world.executor.check_integrity()
