"""The board on a fake driver: slots, limits, records, and streams that hold each other up."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from preempt_runtime.backends import cuda_driver, gate_board
from preempt_runtime.backends.cuda import CudaContext, Stream, open_cuda
from preempt_runtime.backends.cuda_module import Module
from preempt_runtime.backends.gate_board import BOARD_BYTES, GateBoard, Mode
from preempt_runtime.backends.gate_canary import held_up
from preempt_runtime.errors import DeviceError, InputError
from preempt_runtime.gate_keys import (
    EMPTY,
    announced,
    deadline_rank,
    key_of,
    priority_rank,
    slot_of,
)
from tests.runtime.fake_graphs import HANG, UNSUPPORTED_PTX, GraphDriver

Opened = tuple[GraphDriver, CudaContext]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphDriver]:
    fake = GraphDriver()
    monkeypatch.setattr(cuda_driver, "driver", fake)
    context = open_cuda()
    yield fake
    context.close()
    assert fake.open == {}, "something was not given back"


def waiting_gate(board: GateBoard, stream: Stream, driver: GraphDriver) -> tuple[int, int]:
    """A dead job's slot, and that of a gate which waits for it."""
    dead, slot = board.take_slot(), board.take_slot()
    board.raise_key(key_of("real-time", 0, dead), stream)
    stream.synchronize()
    board.gate.launch(stream, board.kernel_args(slot))
    driver.advance(50)
    return dead, slot


def test_keys_are_ordered_by_tier_then_rank_then_slot() -> None:
    keys = [
        key_of("real-time", priority_rank(9, 7), 31),
        key_of("real-time", priority_rank(9, 8), 2),
        key_of("real-time", priority_rank(-9, 0), 0),
        key_of("best-effort", 0, 4),
        key_of("best-effort", 0, 5),
        announced(key_of("best-effort", 0, 5)),
        key_of("best-effort", deadline_rank(1), 0),
    ]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)
    assert max(keys) < 3 << 62
    assert [slot_of(key) for key in keys] == [31, 2, 0, 4, 5, 5, 0]
    assert [key for key in keys if announced(key) == key] == keys[5:6]


@pytest.mark.parametrize(("rank", "slot"), [(-1, 0), (1 << 56, 0), (0, 32), (0, -1)])
def test_a_key_outside_its_bits_is_refused(rank: int, slot: int) -> None:
    with pytest.raises(InputError, match="expected 0 to"):
        key_of("real-time", rank, slot)


@pytest.mark.parametrize("priority", [1 << 23, -(1 << 23)])
def test_a_priority_outside_its_bits_is_refused(priority: int) -> None:
    with pytest.raises(InputError, match="gates know -8388607 to 8388607"):
        priority_rank(priority, 0)


def test_there_are_32_slots_and_the_33rd_job_is_told_so(driver: GraphDriver) -> None:
    with GateBoard(mode="overlap") as board:
        assert board.slots() == (EMPTY,) * 32
        assert sorted(board.take_slot() for _ in range(32)) == list(range(32))
        with pytest.raises(DeviceError, match="32 jobs may be in flight"):
            board.take_slot()
        board.return_slot(7)
        assert board.take_slot() == 7
        assert board.pointer % 256 == 0


def test_gates_are_loaded_with_at_most_32_registers(driver: GraphDriver) -> None:
    with GateBoard(mode="overlap"):
        assert [(option.name, value) for option, value in driver.jit_options] == [
            ("CU_JIT_MAX_REGISTERS", 32)
        ]


def test_a_driver_that_is_too_old_is_named(driver: GraphDriver) -> None:
    driver.failures["cuModuleLoadDataEx"] = UNSUPPORTED_PTX
    with pytest.raises(DeviceError, match=r"gate.ptx: the driver refused it .*222.*update"):
        GateBoard(mode="overlap")


def test_a_missing_file_and_a_missing_kernel_are_named(
    driver: GraphDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Module(gate_board.PTX) as module, pytest.raises(DeviceError, match="kernel 'nothing'"):
        module.kernel("nothing")
    monkeypatch.setattr(gate_board, "PTX", tmp_path / "gate.ptx")
    with pytest.raises(DeviceError, match="install preempt-runtime again"):
        GateBoard(mode="overlap")


@pytest.mark.parametrize("function", ["cuModuleGetFunction", "cuMemHostAlloc", "cuMemAlloc"])
def test_a_board_that_cannot_be_made_leaves_nothing(driver: GraphDriver, function: str) -> None:
    driver.failures_at[function, 1] = 2
    with pytest.raises(DeviceError):
        GateBoard(mode="exclusive")


def test_a_job_that_died_is_given_up_at_its_limit_and_told(driver: GraphDriver) -> None:
    with GateBoard(mode="overlap") as board, Stream(priority="low") as stream:
        dead, slot = waiting_gate(board, stream, driver)
        assert board.give_ups() == ()
        driver.now_ns += 51_000_000
        stream.synchronize()
        (found,) = board.give_ups()
        assert (found.slot, found.holder, found.is_expiry) == (slot, dead, False)
        assert found.reason == "the holder of a key did nothing"
        assert 0 <= driver.now_ns - found.time_ns < 1_000_000
        assert board.give_ups() == ()
        assert board.slots() == (EMPTY,) * 32


def test_a_long_job_has_ten_times_its_cost(driver: GraphDriver) -> None:
    with GateBoard(mode="overlap") as board, Stream(priority="low") as stream:
        board.set_limit(0, cost_ns=20_000_000)
        waiting_gate(board, stream, driver)
        driver.now_ns += 190_000_000
        driver.advance(100)
        assert board.give_ups() == ()
        driver.now_ns += 11_000_000
        stream.synchronize()
        assert len(board.give_ups()) == 1


def test_an_announcement_expires_without_being_a_fault(driver: GraphDriver) -> None:
    with GateBoard(mode="exclusive") as board, Stream(priority="low") as stream:
        dead, slot = board.take_slot(), board.take_slot()
        board.raise_key(announced(key_of("real-time", 0, dead)), stream)
        board.gate.launch(stream, board.kernel_args(slot))
        driver.advance(60)
        driver.now_ns += 2_100_000
        stream.synchronize()
        assert [found.is_expiry for found in board.give_ups()] == [True]


def test_a_gpu_that_limits_kernels_is_not_waited_on_for_longer(driver: GraphDriver) -> None:
    driver.attributes[17] = 1
    with GateBoard(mode="overlap") as board, Stream(priority="low") as stream:
        board.set_limit(0, cost_ns=10**10)
        waiting_gate(board, stream, driver)
        driver.now_ns += 499_000_000
        driver.advance(100)
        assert board.give_ups() == ()
        driver.now_ns += 2_000_000
        stream.synchronize()
        assert [found.reason for found in board.give_ups()] == ["it waited as long as a gate may"]


def test_the_last_16_records_are_kept_and_the_loss_is_told(
    driver: GraphDriver, caplog: pytest.LogCaptureFixture
) -> None:
    with GateBoard(mode="overlap") as board, Stream(priority="low") as stream:
        for _ in range(20):
            dead, slot = waiting_gate(board, stream, driver)
            driver.now_ns += 51_000_000
            stream.synchronize()
            for each in (dead, slot):
                board.return_slot(each)
        times = [found.time_ns for found in board.give_ups()]
    assert len(times) == 16
    assert times == sorted(times)
    assert "4 records were overwritten" in caplog.text


def test_gates_are_opened_for_what_would_wait_for_them(driver: GraphDriver) -> None:
    """A call that waits for the context does not return while a gate waits, except in there."""
    driver.patience = 3_000
    with GateBoard(mode="overlap") as board, Stream(priority="low") as stream:
        dead, _ = waiting_gate(board, stream, driver)
        assert driver.cuCtxSynchronize() == (HANG,)
        with board.opened([stream]):
            assert driver.cuCtxSynchronize() == (0,)
        board.clear_slot(dead, stream)
        stream.synchronize()
        slot = board.take_slot()
        board.raise_key(key_of("real-time", 0, dead), stream)
        board.gate.launch(stream, board.kernel_args(slot))
        driver.advance(200)
        assert driver.cuCtxSynchronize() == (HANG,), "they are closed again"
        board.clear_slot(dead, other := Stream(priority="high"))
        stream.synchronize()
        other.close()
        assert board.give_ups() == ()


def test_without_64_bit_memory_operations_a_copy_raises(driver: GraphDriver) -> None:
    driver.attributes[122] = 0
    with GateBoard(mode="overlap") as board, Stream(priority="low") as stream:
        key = key_of("real-time", 5, 3)
        board.raise_key(key, stream)
        stream.synchronize()
        assert board.raising == "copy"
        assert board.slots()[3] == key


@pytest.mark.parametrize(
    ("queues", "control", "expected"),
    [
        ((0, 1, 2, 3), 4, set()),
        ((0, 1, 2, 1), 4, {(1, 3), (3, 1)}),
        ((0, 1, 2, 0), 0, {(0, 3), (3, 0), (0, 4), (3, 4)}),  # what ends the wait is, too
    ],
)
def test_streams_that_share_a_queue_are_found(
    driver: GraphDriver, queues: tuple[int, ...], control: int, expected: set[tuple[int, int]]
) -> None:
    driver.num_queues, driver.step_ns = 5, 5_000
    with GateBoard(mode="exclusive") as board:
        streams = [Stream(priority="low") for _ in queues]
        handles = [stream.handle for stream in streams]
        driver.queue_of |= dict(zip(handles, queues, strict=True))
        driver.queue_of[board.control.handle] = control
        found = held_up(board, streams, timeout_ns=5_000_000, now_ns=lambda: driver.now_ns)
        for stream in streams:
            stream.close()
        assert set(found) == expected
        assert board.slots() == (EMPTY,) * 32
        assert board.give_ups() == ()


@pytest.mark.parametrize("mode", ["overlap", "exclusive"])
def test_the_kernels_of_graphs_are_loaded_before_a_gate_waits(
    driver: GraphDriver, mode: Mode
) -> None:
    """A first launch may load a kernel, for which the driver waits for all that runs."""
    with GateBoard(mode=mode) as board, Stream(priority="low") as stream:
        driver.log.clear()
        held_up(board, [stream], now_ns=lambda: driver.now_ns)
        what = [line.partition(": ")[2] for line in driver.log]
        first_raise = next(at for at, each in enumerate(what) if each.startswith("write"))
        kernels = {board.first_gate.name, board.gate.name, board.clear.name}
        assert kernels <= set(what[:first_raise])


def test_what_no_gate_holds_is_tried_beside_all_jobs(driver: GraphDriver) -> None:
    """As many jobs as there are slots, and a stream of callables that shares a queue with one."""
    driver.num_queues, driver.step_ns = 5, 5_000
    with GateBoard(mode="exclusive") as board, ExitStack() as stack:
        slots = [board.take_slot() for _ in range(32)]
        streams = [stack.enter_context(Stream(priority="low")) for _ in range(3)]
        for queue, stream in enumerate([*streams[:2], board.control]):
            driver.queue_of[stream.handle] = queue
        driver.queue_of[streams[2].handle] = 1
        board.set_limit(slots[0], cost_ns=10**12)
        found = held_up(
            board, streams[:2], others=streams[2:], timeout_ns=5_000_000,
            now_ns=lambda: driver.now_ns,
        )  # fmt: skip
        assert found == ((1, 2),)
        board.raise_key(key_of("real-time", 0, 0), board.control)
        board.gate.launch(streams[0], board.kernel_args(1))
        driver.now_ns += 10**12
        driver.advance(500)
        assert board.give_ups() == (), "its limit is its own again"
        board.clear_slot(0, board.control)
        streams[0].synchronize()


def test_a_job_that_waits_for_a_long_stretch_keeps_its_key(driver: GraphDriver) -> None:
    """The running job's stretch is long: for it the urgent one waits, and for that the third."""
    with GateBoard(mode="exclusive") as board, ExitStack() as stack:
        streams = [stack.enter_context(Stream(priority="low")) for _ in range(3)]
        running, urgent, third = (board.take_slot() for _ in range(3))
        board.set_limit(running, cost_ns=500_000_000, stretch_ns=400_000_000)
        board.set_limit(urgent, cost_ns=400_000, stretch_ns=50_000)
        board.set_limit(third, cost_ns=500_000_000, stretch_ns=400_000_000)
        keys = [
            key_of("best-effort", 0, running),
            key_of("real-time", 0, urgent),
            key_of("best-effort", 1, third),
        ]
        for key, stream in zip(keys, streams, strict=True):
            board.raise_key(key, stream)
            board.gate.launch(stream, board.kernel_args(slot_of(key)))
            driver.advance(100)
        for _ in range(4):  # the running job's kernel takes its time
            driver.now_ns += 100_000_000
            driver.advance(100)
        assert board.slots()[:3] == tuple(keys)
        assert board.give_ups() == ()
        for key, stream in zip(keys, streams, strict=True):
            board.clear_slot(slot_of(key), stream)
        for stream in streams:
            stream.synchronize()


def test_the_board_has_room_for_all_that_the_kernels_write() -> None:
    assert BOARD_BYTES >= 408 + 16 * 24
