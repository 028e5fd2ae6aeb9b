"""What tests/gpu/test_gates.py tries on a GPU, tried on the fake driver first."""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from bench.gate_trials import pass_idle, preempt, run_chain, run_many
from bench.gate_workshop import Hang, Sizes, Workshop, finish, open_board
from preempt_runtime.backends import cuda_driver
from preempt_runtime.backends.cuda import Stream, open_cuda
from preempt_runtime.backends.gate_board import Mode, Raising
from tests.runtime.fake_graphs import GraphDriver

SMALL = Sizes(count=32, block=32, duration_ns=20_000, num_long=30, num_short=4, num_jobs=12)
MODES: tuple[Mode, ...] = ("overlap", "exclusive")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphDriver]:
    fake = GraphDriver(seed=1)
    fake.step_ns = 500
    monkeypatch.setattr(cuda_driver, "driver", fake)
    monkeypatch.setattr(cuda_driver, "library", lambda: fake.library)
    with open_cuda():
        yield fake
    assert fake.open == {}


@pytest.fixture
def shop(driver: GraphDriver) -> Iterator[Workshop]:
    with closing(Workshop(SMALL)) as shop:
        yield shop


@pytest.mark.parametrize("mode", MODES)
def test_idle_gates_and_chains(mode: Mode, shop: Workshop) -> None:
    with open_board(mode) as board, Stream(priority="low") as stream:
        assert pass_idle(board, stream) >= 0
        for every in (1, 3):
            times, is_right = run_chain(shop, board, stream, every)
            assert is_right
            assert len(times.passed_ns) == (4 if every == 1 else 2)
        assert shop.timer_steps_ns(8)[0] >= 0


@pytest.mark.parametrize("raising", ["write", "copy", "kernel"])
@pytest.mark.parametrize("mode", MODES)
def test_preemptions(mode: Mode, raising: Raising, shop: Workshop) -> None:
    with (
        open_board(mode, raising) as board,
        Stream(priority="low") as low,
        Stream(priority="high") as high,
    ):
        for found in preempt(shop, board, low, high, num_rounds=2):
            assert found.is_right
            assert found.is_preemption
            assert found.urgent.end_ns < found.long.end_ns
            assert found.late_starts <= 1
            if mode == "exclusive":
                assert found.overlap_ns < 5_000
        assert board.give_ups() == ()


@pytest.mark.parametrize("mode", MODES)
def test_many_jobs(mode: Mode, shop: Workshop) -> None:
    with open_board(mode) as board, ExitStack() as stack:
        streams = [stack.enter_context(Stream(priority="low")) for _ in range(3)]
        assert run_many(shop, board, streams, seed=3) == SMALL.num_jobs
        assert board.give_ups() == ()


def test_a_stream_that_does_not_end_is_told(driver: GraphDriver) -> None:
    with open_board("overlap") as board, Stream(priority="low") as stream:
        board.raise_key(1 << 62 | 1, stream)
        board.gate.launch(stream, board.kernel_args(0))
        driver.step_ns = 0
        with pytest.raises(Hang, match=r"after 0\.2 s"):
            finish(stream, patience_s=0.2)
        driver.now_ns += 1_000_000_000
        finish(stream)
