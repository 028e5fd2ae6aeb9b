"""What gates cost and gain on the GPU of this machine: `python -m bench.gpu_gates STEP`.

EXPERIMENTAL: written where there is no GPU. Run `pytest -x tests/gpu/test_gates.py` first; then the
steps in this order, each in a process of its own, for a step that hangs ends its process:

    cost     what one gate costs in a chain of kernels, by mode, timed or not
    preempt  how long an urgent job waits, by mode and way of raising
    calls    which driver calls do not return while a gate waits
    engine   overhead of gates in a bundle's engine, by number and by measured times; outputs
    pair     an urgent network beside a long one: response times and what the long one keeps

Results are JSON on stdout; nothing goes to docs/results.
"""

import argparse
import faulthandler
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

from bench.gate_trials import Sizes, Workshop, finish, open_board, preempt
from bench.intervals import quantiles_of
from preempt_runtime.backends.cuda import (
    DeviceMemory,
    Event,
    GraphExec,
    PinnedMemory,
    Stream,
    open_cuda,
)
from preempt_runtime.backends.cuda_driver import call
from preempt_runtime.backends.cuda_graph import CudaGraph, capture_graph
from preempt_runtime.backends.cuda_module import Module
from preempt_runtime.backends.gate_board import PTX, GateBoard, Mode, Raising
from preempt_runtime.backends.gates import GatedGraph
from preempt_runtime.gate_keys import key_of

MODES: tuple[Mode, ...] = ("overlap", "exclusive")
RAISING: tuple[Raising, ...] = ("write", "copy", "kernel")
_LIMIT_S = 540
_COST_SIZES = Sizes(duration_ns=20_000, num_long=64)
_FULL_SIZES = Sizes(count=1 << 19, block=256, duration_ns=20_000, num_long=60)
"""Kernels that fill the GPU: an H200 holds half of their blocks at a time."""


def paired_ns(graphs: Sequence[GraphExec], stream: Stream, num_rounds: int) -> list[list[int]]:
    """Device time of each graph, launched in turn, alone on the device."""
    times: list[list[int]] = [[] for _ in graphs]
    with Event(timing=True) as start, Event(timing=True) as end:
        for number in range(num_rounds + 3):
            for idx, graph in enumerate(graphs):
                graphs[0].launch(stream)  # the device is busy while the host enqueues the other
                start.record(stream)
                graph.launch(stream)
                end.record(stream)
                finish(stream)
                if number >= 3:
                    times[idx].append(end.elapsed_ns(start))
    return times


def cost(options: argparse.Namespace) -> Any:
    """One gate's cost: a chain of 64 steps of 20 us without gates, and with 8 to 64, in turn."""
    rows = []
    with (
        open_cuda(),
        closing(Workshop(_COST_SIZES)) as shop,
        Stream(priority="low") as stream,
        shop.chain(range(1, _COST_SIZES.num_long + 1), _COST_SIZES.duration_ns) as chain,
    ):
        steps = shop.timer_steps_ns()
        cuts = chain.captured.shape().cuts()
        for mode in MODES:
            for is_timed in (False, True):
                with open_board(mode) as board, ExitStack() as stack:
                    slot = board.take_slot()
                    graphs = [stack.enter_context(chain.captured.instantiate())]
                    numbers = []
                    for every in (8, 4, 2, 1):
                        gated = GatedGraph(
                            chain.captured, cuts[every - 1 :: every], board, slot, stream,
                            is_timed=is_timed,
                        )  # fmt: skip
                        graphs.append(stack.enter_context(gated).graph)
                        numbers.append(gated.num_gates)
                    times = paired_ns(graphs, stream, options.rounds)
                    alone_ns = median(times[0])
                    per_gate = {
                        number: round((median(taken) - alone_ns) / number)
                        for number, taken in zip(numbers, times[1:], strict=True)
                    }
                rows.append({"mode": mode, "timed": is_timed, "ns_per_gate": per_gate})
    return {"timer_steps_ns": [steps[0], median(steps), steps[-1]], "rows": rows}


def preempted(options: argparse.Namespace) -> Any:
    """How long an urgent job stands at its first gate beside kernels that fill the GPU."""
    rows = []
    with (
        open_cuda(),
        closing(Workshop(_FULL_SIZES)) as shop,
        Stream(priority="low") as low,
        Stream(priority="high") as high,
    ):
        for mode in MODES:
            for raising in RAISING:
                with open_board(mode, raising) as board:
                    found = preempt(shop, board, low, high, options.rounds)
                    waits = quantiles_of([each.urgent.waited_ns[0] for each in found])
                    rows.append(
                        {
                            "mode": mode,
                            "raising": raising,
                            "right": sum(each.is_right for each in found),
                            "preemptions": sum(each.is_preemption for each in found),
                            "first_wait_ns": [waits.p50_ns, waits.p99_ns, waits.max_ns],
                            "longest_stretch_ns": max(max(each.long.stretch_ns) for each in found),
                            "late_starts": max(each.late_starts for each in found),
                            "overlap_ns": max(each.overlap_ns for each in found),
                            "give_ups": len(board.give_ups()),
                        }
                    )
    return rows


def _calls(
    other: Stream, memory: DeviceMemory, pinned: PinnedMemory, board: GateBoard, graph: CudaGraph
) -> dict[str, Callable[[], object]]:
    """Driver calls that a process may make while gates wait, each undone at once."""
    slot = board.take_slot()

    def made(kind: Callable[[], Any]) -> Callable[[], object]:
        return lambda: kind().close()

    def copied() -> None:
        call("cuMemcpyAsync", memory.pointer, pinned.pointer, 64, other._raw)
        other.synchronize()

    def instantiated() -> None:
        with graph.instantiate() as made:
            made.upload(other)
            other.synchronize()

    def raised() -> None:
        with Event(timing=False) as event:
            board.raise_key(key_of("best-effort", 0, slot), other)
            event.record(other)
            event.is_done()
            board.clear_slot(slot, other)

    return {
        "cuStreamWriteValue64, cuEventRecord, cuEventQuery, cuLaunchKernel": raised,
        "cuGraphInstantiate, cuGraphUpload, cuGraphExecDestroy": instantiated,
        "cuStreamBeginCapture, cuStreamEndCapture": made(
            lambda: capture_graph(other, lambda: board.clear_slot(slot, other))
        ),
        "cuMemAlloc, cuMemFree": made(lambda: DeviceMemory(1 << 20)),
        "cuMemHostAlloc, cuMemFreeHost": made(lambda: PinnedMemory(1 << 20)),
        "cuStreamCreate, cuStreamDestroy": made(lambda: Stream(priority="low")),
        "cuEventCreate, cuEventDestroy": made(lambda: Event(timing=False)),
        "cuModuleLoadDataEx, cuModuleUnload": made(lambda: Module(PTX)),
        "cuMemcpyAsync, cuStreamSynchronize": copied,
        "cuMemcpyHtoD": lambda: call("cuMemcpyHtoD", memory.pointer, pinned.array, 64),
        "cuMemsetD8 (legacy stream)": lambda: memory.fill(0),
        "cuMemGetInfo": lambda: call("cuMemGetInfo"),
        "cuCtxSynchronize": lambda: call("cuCtxSynchronize"),
    }


def calls(options: argparse.Namespace) -> Any:
    """How long each call takes beside a gate that waits for 50 ms; near 50 ms: it waits too."""
    rows = {}
    with (
        open_cuda() as context,
        open_board("exclusive") as board,
        Stream(priority="low") as stream,
        Stream(priority="high") as other,
        DeviceMemory(64) as memory,
        PinnedMemory(64) as pinned,
        capture_graph(other, lambda: board.clear_slot(31, other)) as graph,
        graph.instantiate() as launched,
    ):
        dead, slot = board.take_slot(), board.take_slot()
        functions = _calls(other, memory, pinned, board, graph)
        functions["cuGraphLaunch"] = lambda: launched.launch(other)
        for name, function in functions.items():
            function()
            finish(other)
            board.raise_key(key_of("real-time", 0, dead), other)
            finish(other)
            board.gate.launch(stream, board.kernel_args(slot))
            time.sleep(0.005)
            taken: list[int] = []

            def timed(run: Callable[[], object] = function, taken: list[int] = taken) -> None:
                context.make_current()
                start_ns = time.perf_counter_ns()
                run()
                taken.append(time.perf_counter_ns() - start_ns)

            thread = threading.Thread(target=timed, daemon=True)
            thread.start()
            thread.join(5)
            finish(stream)
            rows[name] = {
                "ms": taken[0] / 1e6 if taken else None,
                "waits": not taken or taken[0] > 30_000_000,
            }
            board.give_ups()
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step."""
    from bench.gpu_gate_engines import engine, pair  # TensorRT is not needed by the others

    steps = {"cost": cost, "preempt": preempted, "calls": calls, "engine": engine, "pair": pair}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=sorted(steps))
    parser.add_argument("--rounds", type=int, default=200, help="repetitions (default 200)")
    parser.add_argument("--bundle", type=Path, help="engine, pair: a bundle with a plan `whole`")
    parser.add_argument("--urgent", type=Path, help="pair: the urgent network's bundle")
    parser.add_argument("--inputs", type=int, default=100, help="engine: random inputs (100)")
    parser.add_argument("--stretch-us", type=int, default=50, help="bound of stretches (50)")
    parser.add_argument("--period-us", type=int, default=4000, help="pair: mean period (4000)")
    parser.add_argument("--seconds", type=float, default=10, help="pair: length of a run (10)")
    options = parser.parse_args(arguments)
    faulthandler.dump_traceback_later(_LIMIT_S, exit=True)
    json.dump(steps[options.step](options), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
