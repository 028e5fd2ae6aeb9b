"""Which driver calls do not return while a gate waits."""

import argparse
import threading
import time
from collections.abc import Callable
from typing import Any

from bench.gate_parts import Parts
from bench.gate_workshop import finish, open_board
from preempt_runtime.backends.cuda import (
    CudaContext,
    DeviceMemory,
    Event,
    PinnedMemory,
    Stream,
    open_cuda,
)
from preempt_runtime.backends.cuda_driver import call
from preempt_runtime.backends.cuda_graph import CudaGraph, capture_graph
from preempt_runtime.backends.cuda_module import Module
from preempt_runtime.backends.gate_board import PTX, GateBoard
from preempt_runtime.errors import PreemptError
from preempt_runtime.gate_keys import NUM_SLOTS, key_of

_WAITED_NS = 30_000_000  # of the 50 ms that the gate waits


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


def calls(options: argparse.Namespace, parts: Parts) -> None:
    """How long each call takes beside a gate that waits for 50 ms; near 50 ms: it waits too."""
    if (part := parts.open("calls")) is None:
        return
    rows: dict[str, Any] = {}
    with (
        part.keeping(),
        open_cuda() as context,
        open_board("exclusive") as board,
        Stream(priority="low") as stream,
        Stream(priority="high") as other,
        DeviceMemory(64) as memory,
        PinnedMemory(64) as pinned,
        capture_graph(other, lambda: board.clear_slot(NUM_SLOTS - 1, other)) as graph,
        graph.instantiate() as launched,
    ):
        dead, slot = board.take_slot(), board.take_slot()
        functions = _calls(other, memory, pinned, board, graph)
        functions["cuGraphLaunch"] = lambda: launched.launch(other)
        for name, function in functions.items():
            try:
                function()
                finish(other)
                board.raise_key(key_of("real-time", 0, dead), other)
                finish(other)
                board.gate.launch(stream, board.kernel_args(slot))
                time.sleep(0.005)
                rows[name] = _beside_a_gate(function, context)
            except PreemptError as err:  # this driver does not have it
                rows[name] = {"ms": None, "waits": False, "error": str(err)}
            finish(stream)
            board.give_ups()
            part.write({"rows": rows}, is_complete=len(rows) == len(functions))
            print(f"{name}: {rows[name]}", flush=True)


def _beside_a_gate(function: Callable[[], object], context: CudaContext) -> dict[str, Any]:
    """How long the call takes on a thread of its own, and whether that is as long as the gate.

    Raises:
        PreemptError: what the call raised.
    """
    found: list[int | Exception] = []

    def timed() -> None:
        try:
            context.make_current()
            start_ns = time.perf_counter_ns()
            function()
            found.append(time.perf_counter_ns() - start_ns)
        except Exception as err:
            found.append(err)

    thread = threading.Thread(target=timed, daemon=True)
    thread.start()
    thread.join(5)
    taken = found[0] if found else None
    if isinstance(taken, Exception):
        raise taken
    return {
        "ms": None if taken is None else taken / 1e6,
        "waits": taken is None or taken > _WAITED_NS,
    }
