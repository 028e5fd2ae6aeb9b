"""Gates on a GPU, in steps of rising risk: run this file first of all, alone, with `-x`.

EXPERIMENTAL: an H200 alone has run it so far. What can hang, hangs for a fifth of a second:
see gate_trials. If a step fails, do not go on to the next.
"""

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from bench.gate_fault_trials import Found, branches, dead_client, lost_owner
from bench.gate_trials import pass_idle, preempt, run_chain, run_many
from bench.gate_workshop import Sizes, Workshop, finish, open_board
from preempt_runtime.backends.cuda import CudaContext, Stream, open_cuda
from preempt_runtime.backends.cuda_graph import capture_graph
from preempt_runtime.backends.gate_board import GateBoard, Mode, Raising
from preempt_runtime.backends.gate_canary import held_up
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.backends.tensorrt import TrtDevice, local_fields
from preempt_runtime.backends.trt_buffers import execute
from preempt_runtime.errors import DeviceError
from preempt_runtime.gate_keys import EMPTY, announced, key_of
from tests.gpu.test_trt_runtime import check, engines_of, random_x, write_bundle, written

pytestmark = pytest.mark.gpu
MODES: tuple[Mode, ...] = ("overlap", "exclusive")


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    try:
        local_fields()
    except DeviceError as err:
        pytest.skip(str(err))
    faulthandler.dump_traceback_later(90, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def context() -> Iterator[CudaContext]:
    with open_cuda() as context:
        yield context


@pytest.fixture
def shop(context: CudaContext) -> Iterator[Workshop]:
    with closing(Workshop(Sizes())) as shop:
        yield shop


@pytest.fixture
def low(context: CudaContext) -> Iterator[Stream]:
    with Stream(priority="low") as stream:
        yield stream


@pytest.fixture
def high(context: CudaContext) -> Iterator[Stream]:
    with Stream(priority="high") as stream:
        yield stream


@pytest.mark.parametrize("mode", MODES)
def test_a_the_kernels_load_and_a_gate_passes_an_idle_board(mode: Mode, low: Stream) -> None:
    with open_board(mode) as board:
        for kernel in (board.first_gate, board.gate, board.clear):
            assert kernel.num_registers <= 32
            assert kernel.local_bytes == 0
        assert board.slots() == (EMPTY,) * 32
        taken = sorted(pass_idle(board, low) for _ in range(50))
        assert taken[25] < 20_000
        assert board.give_ups() == ()


@pytest.mark.parametrize("raising", ["write", "copy", "kernel"])
def test_a_a_raise_arrives_and_a_clear_takes_it_back(raising: Raising, high: Stream) -> None:
    with open_board("overlap", raising) as board:
        for slot in (0, 5, 31):
            key = key_of("real-time", 1 << 40, slot)
            board.raise_key(key, high)
            finish(high)
            assert board.slots()[slot] == key
            board.clear_slot(slot, high)
            finish(high)
            assert board.slots() == (EMPTY,) * 32


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("every", [1, 3, 8])
def test_b_a_chain_with_gates_is_bit_identical(
    mode: Mode, every: int, shop: Workshop, low: Stream
) -> None:
    with open_board(mode) as board:
        times, is_right = run_chain(shop, board, low, every)
        assert is_right
        moments = [*sum(zip(times.arrived_ns, times.passed_ns, strict=True), ()), times.end_ns]
        assert moments == sorted(moments)
        assert board.give_ups() == ()
        assert board.slots() == (EMPTY,) * 32


def test_b_the_captured_chain_is_one(shop: Workshop) -> None:
    with shop.chain(range(4)) as chain:
        shape = chain.captured.shape()
    assert shape.summary() == "4 kernels, a plain chain"
    assert shape.cuts() == (1, 2, 3)
    assert {node.name for node in shape.nodes} <= {"long_step", None}


@pytest.mark.parametrize("raising", ["write", "copy", "kernel"])
@pytest.mark.parametrize("mode", MODES)
def test_c_an_urgent_job_gets_between_the_stretches_of_a_long_one(
    mode: Mode, raising: Raising, shop: Workshop, low: Stream, high: Stream
) -> None:
    with open_board(mode, raising) as board:
        for found in preempt(shop, board, low, high, num_rounds=20):
            assert found.is_right
            assert found.is_preemption
            assert found.urgent.end_ns < found.long.end_ns
            assert found.late_starts <= 1
            if mode == "exclusive":
                assert found.overlap_ns < 5_000  # of stretches of 50 us
        assert board.give_ups() == ()


@pytest.mark.parametrize("mode", MODES)
def test_c_a_client_that_died_costs_its_limit(mode: Mode) -> None:
    found = dead_client(mode)
    assert found.is_expected, found.text


@pytest.mark.parametrize("trial", [lost_owner, branches])
def test_c_a_stalled_owner_loses_the_gpu_and_branches_are_joined(
    trial: Callable[[], Found],
) -> None:
    found = trial()
    assert found.is_expected, found.text


def test_c_an_announcement_expires(low: Stream, high: Stream) -> None:
    with open_board("exclusive") as board:
        client, slot = board.take_slot(), board.take_slot()
        board.raise_key(announced(key_of("real-time", 0, client)), high)
        finish(high)
        board.gate.launch(low, board.kernel_args(slot))
        board.clear_slot(slot, low)
        finish(low)
        assert [found.is_expiry for found in board.give_ups()] == [True]


@pytest.mark.parametrize("mode", MODES)
def test_c_jobs_of_random_urgency_on_six_streams(mode: Mode, shop: Workshop) -> None:
    with open_board(mode) as board, ExitStack() as stack:
        streams = [
            stack.enter_context(Stream(priority="high" if idx < 3 else "low")) for idx in range(6)
        ]
        for seed in range(3):
            assert run_many(shop, board, streams, seed) == shop.sizes.num_jobs
        assert board.give_ups() == ()
        assert board.slots() == (EMPTY,) * 32


def test_c_no_stream_of_eight_holds_up_another(context: CudaContext) -> None:
    """Needs CUDA_DEVICE_MAX_CONNECTIONS=32, which is set before the first context."""
    with open_board("exclusive") as board, ExitStack() as stack:
        streams = [stack.enter_context(Stream(priority="low")) for _ in range(8)]
        assert held_up(board, streams) == ()


@pytest.mark.parametrize("mode", MODES)
def test_d_an_engine_with_gates_is_bit_identical(mode: Mode, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny.bundle", engines_of(is_hwc8=False))
    with (
        closing(TrtDevice(zero_copy=False)) as device,
        closing(device.load(bundle)) as network,
        network.new_buffers() as buffers,
        Stream(priority="low") as stream,
        GateBoard(mode=mode, max_wait_ns=200_000_000) as board,
    ):

        def enqueue() -> None:
            for context in buffers.contexts:
                execute(context, "tiny", stream)

        with capture_graph(stream, enqueue) as captured:
            shape = captured.shape()
            print(f"\n{shape.summary()}; cuts {shape.cuts()}; {shape.fingerprint()}")
            print([node.name for node in shape.nodes])
            assert shape.unfit() is None
            slot = board.take_slot()
            with GatedGraph(captured, shape.cuts(), board, slot, stream, is_timed=True) as graph:
                for seed in range(20):
                    x = random_x(seed)
                    written(buffers, x)
                    for idx in range(len(buffers.contexts)):
                        buffers.launch(idx, stream)
                    finish(stream)
                    alone = buffers.read_outputs()
                    check(alone, x)
                    key = key_of("real-time", seed, slot)
                    run_gated(
                        graph,
                        board,
                        key,
                        stream,
                        before=lambda: buffers.copy_inputs(stream),
                        after=lambda: buffers.copy_outputs(stream),
                    )
                    finish(stream)
                    gated = buffers.read_outputs()
                    assert all(np.array_equal(gated[name], alone[name]) for name in alone)
                print(graph.times())
        assert board.give_ups() == ()
