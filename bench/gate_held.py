"""What gates that wait take away from what runs: with 0, 1 and 5 of them held.

A waiting gate is one warp on one SM. A network should not notice. A kernel of which one block takes
all of an SM has no room beside it: that block runs when another one has ended.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.gate_bundles import gated_bundle
from bench.gate_engine import gated_engine
from bench.gate_networks import CASES, QUICK_CASES
from bench.gate_parts import PartFile, Parts, error_text
from bench.gate_workshop import PATIENCE_S, PTX, Hang, finish
from bench.intervals import quantiles_of
from preempt_runtime.backends.cuda import DeviceMemory, Event, Stream, open_cuda
from preempt_runtime.backends.cuda_driver import attribute, call, constant, new_struct
from preempt_runtime.backends.cuda_module import Module, pointer_arg, uint32_arg
from preempt_runtime.backends.gate_board import GateBoard
from preempt_runtime.gate_keys import BARRIER

NUM_HELD = (0, 1, 5)
NETWORK_GOAL = 1.01
_HOLDER_COST_NS = 100_000_000  # gates wait for ten times that, a second
_MAX_WAIT_NS = 2_000_000_000
_RUNS = 20  # while gates are held once
_SETTLE_S = 200e-6
_FILLER_NS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filler:
    """A kernel of which one block on each SM takes all there is of something."""

    name: str
    text: str
    kernel: str = "long_step"
    block: int = 1024
    blocks_per_sm: int = 1
    has_shared: bool = False
    cluster: int = 1


Measure = Callable[[GateBoard, int], dict[str, Any]]
FILLERS = (
    Filler(name="registers", text="a kernel that takes all registers", kernel="full_registers"),
    Filler(name="shared", text="a kernel that takes all shared memory", has_shared=True),
    Filler(name="threads", text="a kernel that takes all threads", blocks_per_sm=2),
    Filler(name="clusters", text="a kernel in clusters of 8 blocks", cluster=8),
)


class HeldGates:
    """Streams in which gates can be made to wait, for a second at most."""

    def __init__(self, board: GateBoard, stack: ExitStack) -> None:
        self._board = board
        self._control = stack.enter_context(Stream(priority="high"))
        self._streams = [stack.enter_context(Stream(priority="low")) for _ in range(max(NUM_HELD))]
        self._holder, *self._slots = (_slot(board, stack) for _ in range(max(NUM_HELD) + 1))
        board.set_limit(self._holder, _HOLDER_COST_NS)

    @contextmanager
    def held(self, number: int) -> Iterator[None]:
        """So many gates wait meanwhile."""
        board = self._board
        board.raise_key(BARRIER | self._holder, self._control)
        finish(self._control)
        try:
            for stream, slot in list(zip(self._streams, self._slots, strict=True))[:number]:
                board.gate.launch(stream, board.kernel_args(slot))
                board.clear_slot(slot, stream)
            time.sleep(_SETTLE_S)
            yield
        finally:
            board.clear_slot(self._holder, self._control)
            finish(self._control, *self._streams)


def _slot(board: GateBoard, stack: ExitStack) -> int:
    slot = board.take_slot()
    stack.callback(board.return_slot, slot)
    return slot


def add_held_options(parser: argparse.ArgumentParser) -> None:
    """How often gates are held."""
    parser.add_argument("--rounds", type=int, default=25, help=f"of {_RUNS} runs each (25)")


def held(options: argparse.Namespace, parts: Parts) -> None:
    """A row for the network and one for each kernel that fills SMs."""
    if (part := parts.open("held")) is not None:
        with part.keeping():
            _held(options, part)


def _held(options: argparse.Namespace, part: PartFile) -> None:
    rows: list[dict[str, Any]] = []
    case = QUICK_CASES[0] if options.quick else CASES[0]
    path, _ = gated_bundle(case, options)
    measures: list[tuple[str, str, Measure]] = [("network", case.network, partial(_network, path))]
    measures += [(each.name, each.text, partial(_filler, each)) for each in FILLERS]
    for name, text, measure in measures:
        row: dict[str, Any] = {"name": name, "text": text}
        try:
            with open_cuda(), GateBoard(mode="exclusive", max_wait_ns=_MAX_WAIT_NS) as board:
                row |= measure(board, options.rounds)
                row["give_ups"] = len(board.give_ups())
        except Hang:
            raise
        except Exception as err:  # also what these bindings lack
            row["error"] = error_text(err)
        rows.append(row)
        part.write({"rows": rows}, is_complete=len(rows) == len(measures))
        print(row, flush=True)


def _network(path: Path, board: GateBoard, num_rounds: int) -> dict[str, Any]:
    with gated_engine(path, board, priority="high") as engine, ExitStack() as stack:
        gates = HeldGates(board, stack)
        stream = engine.stream
        return times_beside(gates, lambda: engine.alone.launch(stream), stream, num_rounds)


def _filler(filler: Filler, board: GateBoard, num_rounds: int) -> dict[str, Any]:
    with ExitStack() as stack:
        gates = HeldGates(board, stack)
        stream = stack.enter_context(Stream(priority="high"))
        launch, num_registers = filler_launch(filler, stream, stack)
        found = times_beside(gates, launch, stream, num_rounds)
    return {**found, "registers": num_registers}


def filler_launch(
    filler: Filler, stream: Stream, stack: ExitStack
) -> tuple[Callable[[], None], int]:
    """What launches it once, and how many registers a thread of it has.

    Raises:
        DeviceError: this GPU has no such launch.
    """
    device = call("cuCtxGetDevice")
    kernel = stack.enter_context(Module(PTX)).kernel(filler.kernel)
    grid = attribute("MULTIPROCESSOR_COUNT", device) * filler.blocks_per_sm
    grid = max(grid // filler.cluster, 1) * filler.cluster
    count = grid * filler.block
    memory = stack.enter_context(DeviceMemory(4 * count))
    args = [
        pointer_arg(memory.pointer),
        uint32_arg(count),
        uint32_arg(1),
        pointer_arg(_FILLER_NS),
    ]
    shared_bytes = 0
    if filler.has_shared:
        shared_bytes = attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", device)
        most = constant("CUfunction_attribute", "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES")
        call("cuFuncSetAttribute", kernel.raw, most, shared_bytes)
    packed = tuple(value for value, _ in args), tuple(kind for _, kind in args)
    shape = (grid, 1, 1, filler.block, 1, 1, shared_bytes)

    def launch() -> None:
        if filler.cluster == 1:
            call("cuLaunchKernel", kernel.raw, *shape, stream._raw, packed, 0)
        else:
            call(
                "cuLaunchKernelEx", _clustered(shape, filler.cluster, stream), kernel.raw, packed, 0
            )

    return launch, kernel.num_registers


def _clustered(shape: tuple[int, ...], size: int, stream: Stream) -> Any:
    config, cluster = new_struct("CUlaunchConfig"), new_struct("CUlaunchAttribute")
    cluster.id = constant("CUlaunchAttributeID", "CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION")
    cluster.value.clusterDim.x = size
    cluster.value.clusterDim.y = cluster.value.clusterDim.z = 1
    config.gridDimX, config.gridDimY, config.gridDimZ = shape[:3]
    config.blockDimX, config.blockDimY, config.blockDimZ = shape[3:6]
    config.sharedMemBytes, config.hStream = shape[6], stream._raw
    config.attrs, config.numAttrs = [cluster], 1
    return config


def _await(event: Event) -> None:
    """Return when it is done, without any call that might wait for the gates that are held."""
    until = time.monotonic() + PATIENCE_S
    while not event.is_done():
        if time.monotonic() > until:
            raise Hang(f"what ran beside held gates was not done after {PATIENCE_S:g} s")


def times_beside(
    gates: HeldGates, launch: Callable[[], None], stream: Stream, num_rounds: int
) -> dict[str, Any]:
    """Device times of something with so many gates held, in turn, and their ratios to none."""
    times: dict[int, list[int]] = {number: [] for number in NUM_HELD}
    with Event(timing=True) as start, Event(timing=True) as end:
        for _ in range(num_rounds):
            for number in NUM_HELD:
                with gates.held(number):
                    for _ in range(_RUNS):
                        launch()  # hides the launch of what is measured
                        start.record(stream)
                        launch()
                        end.record(stream)
                        _await(end)
                        times[number].append(end.elapsed_ns(start))
    found = {number: quantiles_of(each) for number, each in times.items()}
    none = found[0]
    return {
        "runs": none.num_samples,
        "held": {
            str(number): {
                "p50_ns": each.p50_ns,
                "p99_ns": each.p99_ns,
                "p50_ratio": round(each.p50_ns / none.p50_ns, 4),
                "p99_ratio": round(each.p99_ns / none.p99_ns, 4),
            }
            for number, each in found.items()
        },
    }
