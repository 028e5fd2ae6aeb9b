"""Chains of kernels whose outputs tell the order in which they ran; waiting for them with a limit.

Every board here lets its gates pass after a fifth of a second, and whatever is waited for on the
host has seconds.
"""

import faulthandler
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from preempt_runtime.backends.cuda import DeviceMemory, Event, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.cuda_graph import CudaGraph, capture_graph
from preempt_runtime.backends.cuda_module import Kernel, Module, pointer_arg, uint32_arg
from preempt_runtime.backends.gate_board import GateBoard, Mode, Raising
from preempt_runtime.device import Array

PTX = Path(__file__).parent / "kernels" / "work.ptx"
MAX_WAIT_NS = 200_000_000
PATIENCE_S = 5.0


@dataclass
class Sizes:
    """How much a trial does: on the fake, every access takes a while."""

    count: int = 4096
    block: int = 128
    duration_ns: int = 50_000
    num_long: int = 100
    num_short: int = 8
    num_jobs: int = 200


class Hang(AssertionError):
    """Something was not done in seconds: the process should end, and the GPU with it.

    What is closed on the way out may wait for that GPU for ever, so where `ends_after_s` is set
    the process ends so long after the first hang.
    """

    ends_after_s: ClassVar[float | None] = None

    def __init__(self, text: str) -> None:
        super().__init__(text)
        if self.ends_after_s is not None:
            print(f"{text}; this process ends in {self.ends_after_s:g} s", flush=True)
            faulthandler.dump_traceback_later(self.ends_after_s, exit=True)


def finish(*streams: Stream, patience_s: float = PATIENCE_S) -> None:
    """Return when the streams have completed, by polling; never wait in the driver."""
    for stream in streams:
        with Event(timing=False) as event:
            event.record(stream)
            until = time.monotonic() + patience_s
            while not event.is_done():
                if time.monotonic() > until:
                    raise Hang(f"a stream was not done after {patience_s:g} s")


@contextmanager
def open_board(mode: Mode, raising: Raising | None = None) -> Iterator[GateBoard]:
    """A board whose gates wait for no longer than a fifth of a second."""
    with GateBoard(mode=mode, raising=raising, max_wait_ns=MAX_WAIT_NS) as board:
        yield board


class Workshop:
    """The kernels of work.cu, and arrays on which they leave what order they ran in."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self._stack = ExitStack()
        module = self._stack.enter_context(Module(PTX))
        self._long: Kernel = module.kernel("long_step")
        self._stamp: Kernel = module.kernel("stamp")
        self._stream = self._stack.enter_context(Stream(priority="low"))

    def close(self) -> None:
        """Release it, after its chains."""
        self._stack.close()

    def chain(self, numbers: Sequence[int], duration_ns: int = 0) -> "Chain":
        """A chain of its own array, which the caller closes; every step takes that long."""
        return Chain(self, numbers, duration_ns)

    def side_by_side(self, left: "Chain", right: "Chain") -> CudaGraph:
        """Both chains as the two branches of one graph, which the caller closes."""

        def enqueue() -> None:
            for chain in (left, right):
                chain.enqueue()

        captured: CudaGraph = capture_graph(self._stream, enqueue)
        num_left = len(left.numbers)
        captured.remove_edges(lambda start, end: start < num_left <= end)
        return captured

    def stamp(self, address: int, stream: Stream) -> None:
        """Enqueue that the device's time is written there; it takes a place on an SM."""
        self._stamp.launch(stream, [pointer_arg(address)], block=1)

    def stamp_params(self, address: int) -> Any:
        """The same as a node of a graph."""
        return self._stamp.node_params([pointer_arg(address)], block=1)

    def timer_steps_ns(self, number: int = 64) -> list[int]:
        """Differences of the device's clock between kernels, ascending."""
        with DeviceMemory(8 * number) as memory, PinnedMemory(8 * number) as host:
            for idx in range(number):
                self._stamp.launch(self._stream, [pointer_arg(memory.pointer + 8 * idx)], block=1)
            copy_async(host.pointer, memory.pointer, 8 * number, self._stream)
            finish(self._stream)
            times = host.array.view(np.uint64).astype(np.int64).copy()
        return sorted(int(each) for each in np.diff(times))


class Chain:
    """Steps that run one after another on an array; another order gives other numbers."""

    def __init__(self, shop: Workshop, numbers: Sequence[int], duration_ns: int) -> None:
        sizes = shop.sizes
        self.shop, self.numbers = shop, tuple(numbers)
        self._expected: dict[int, Array] = {}
        self._stream = shop._stream
        self._duration_ns = duration_ns
        self._num_bytes = 4 * sizes.count
        with ExitStack() as stack:
            self._memory = stack.enter_context(DeviceMemory(self._num_bytes))
            self._host = stack.enter_context(PinnedMemory(self._num_bytes))
            self.enqueue()  # the first launch of a kernel loads it, which cannot be captured
            finish(shop._stream)
            self.captured: CudaGraph = stack.enter_context(
                capture_graph(shop._stream, self.enqueue)
            )
            self._stack = stack.pop_all()

    def enqueue(self) -> None:
        """Put all steps on the workshop's stream."""
        sizes = self.shop.sizes
        for number in self.numbers:
            args = [
                pointer_arg(self._memory.pointer),
                uint32_arg(sizes.count),
                uint32_arg(number),
                pointer_arg(self._duration_ns),
            ]
            grid = -(-sizes.count // sizes.block)
            self.shop._long.launch(self._stream, args, grid=grid, block=sizes.block)

    def write(self, seed: int, stream: Stream) -> None:
        """Make an input, and enqueue its copy."""
        self._host.array.view(np.uint32)[:] = self.input(seed)
        copy_async(self._memory.pointer, self._host.pointer, self._num_bytes, stream)

    def read(self) -> Array:
        """The array as it is now."""
        copy_async(self._host.pointer, self._memory.pointer, self._num_bytes, self._stream)
        finish(self._stream)
        found: Array = self._host.array.view(np.uint32).copy()
        return found

    def input(self, seed: int) -> Array:
        """Random numbers that a seed chooses."""
        rng = np.random.default_rng(seed)
        return rng.integers(0, 1 << 32, self._num_bytes // 4, dtype=np.uint32)

    def expected(self, seed: int) -> Array:
        """What the steps make of the input, by numpy."""
        if seed not in self._expected:
            value: Array = self.input(seed)
            for number in self.numbers:
                value = value * np.uint32(3) + np.uint32(number)
            self._expected = {seed: value}  # the last one is asked for again and again
        return self._expected[seed]

    def close(self) -> None:
        """Release it; no job may be in it."""
        self._stack.close()

    def __enter__(self) -> "Chain":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
