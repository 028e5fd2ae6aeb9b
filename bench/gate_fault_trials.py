"""Faults beside gates that one process can make."""

import json
import shutil
import tempfile
import threading
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.gate_child import run_tasks
from bench.gate_workshop import Sizes, Workshop, finish, open_board
from preempt_runtime.backends.cuda import DeviceMemory, PinnedMemory, Stream, copy_async, open_cuda
from preempt_runtime.backends.gate_board import GateBoard, GiveUp, Mode
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.backends.trt_gated import GatedTrtDevice
from preempt_runtime.bundle import open_bundle
from preempt_runtime.errors import GatesError
from preempt_runtime.gate_keys import EMPTY, key_of, priority_rank
from preempt_runtime.manifest import GATES_PLAN_ID, MANIFEST_NAME

SIZES = Sizes(num_long=4, num_short=3)
STALLED_NS = 120_000_000
_OWNER = 256  # where on the board it stands
_ALLOCATED_BYTES = 1 << 20
_OTHER = "0123456789abcdef"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What came of a trial, for people, and whether that was expected."""

    text: str
    is_expected: bool


def dead_client(mode: Mode) -> Found:
    """A key that is raised and whose job is never launched."""
    with (
        open_cuda(),
        open_board(mode) as board,
        Stream(priority="low") as low,
        Stream(priority="high") as high,
    ):
        dead, slot = board.take_slot(), board.take_slot()
        board.raise_key(key_of("real-time", 0, dead), high)
        finish(high)
        board.gate.launch(low, board.kernel_args(slot))
        board.clear_slot(slot, low)
        finish(low)
        found = board.give_ups()
        is_idle = board.slots() == (EMPTY,) * 32
    is_expected = [(each.slot, each.holder) for each in found] == [(slot, dead)] and is_idle
    return Found(text=_told(found), is_expected=is_expected)


def _told(found: tuple[GiveUp, ...]) -> str:
    reasons = sorted({each.reason for each in found})
    number = f"{len(found)} record{'' if len(found) == 1 else 's'}"
    return ": ".join([number, *(["; ".join(reasons)] if reasons else [])])


def lost_owner() -> Found:
    """An owner of the GPU that does not come to its next gate."""
    with (
        open_cuda(),
        closing(Workshop(SIZES)) as shop,
        open_board("exclusive") as board,
        Stream(priority="low") as low,
        Stream(priority="high") as high,
        shop.chain(range(1, 3), STALLED_NS) as slow,
        shop.chain(range(1, SIZES.num_short + 1)) as fast,
        PinnedMemory(4) as word,  # now: to allocate beside the slow job might wait for it
        ExitStack() as stack,
    ):
        graphs = [
            stack.enter_context(
                GatedGraph(chain.captured, chain.captured.shape().cuts(), board, slot, stream,
                           is_timed=True)
            )
            for chain, slot, stream in (
                (slow, board.take_slot(), low),
                (fast, board.take_slot(), high),
            )
        ]  # fmt: skip
        best_effort = key_of("best-effort", 0, graphs[0].slot)
        run_gated(graphs[0], board, best_effort, low, before=lambda: slow.write(1, low))
        _until_owned(board, word, high)
        real_time = key_of("real-time", 0, graphs[1].slot)
        run_gated(graphs[1], board, real_time, high, before=lambda: fast.write(2, high))
        finish(high, low)
        are_right = [
            bool(np.array_equal(chain.read(), chain.expected(seed)))
            for chain, seed in ((slow, 1), (fast, 2))
        ]
        found = board.give_ups()
        waited_ms = graphs[1].times().waited_ns[0] / 1e6
    lost = [each for each in found if each.holder == graphs[0].slot and each.slot == graphs[1].slot]
    text = f"{_told(found)}; the urgent job waited for {waited_ms:.0f} ms, right: {are_right}"
    return Found(text=text, is_expected=bool(lost) and all(are_right))


def _until_owned(board: GateBoard, word: PinnedMemory, stream: Stream) -> None:
    """Return when a job has passed its gate, so that it is the owner."""
    for _ in range(1000):
        copy_async(word.pointer, board.pointer + _OWNER, 4, stream)
        finish(stream)
        if word.array.view(np.uint32)[0]:
            return
    raise AssertionError("no job passed its gate")


def branches() -> Found:
    """Two chains on arrays of their own that a graph has side by side."""
    with (
        open_cuda(),
        closing(Workshop(SIZES)) as shop,
        open_board("exclusive") as board,
        Stream(priority="low") as stream,
        shop.chain(range(1, SIZES.num_long + 1)) as left,
        shop.chain(range(2, SIZES.num_long + 2)) as right,
        shop.side_by_side(left, right) as captured,
    ):
        shape = captured.shape()
        slot = board.take_slot()
        is_right = True
        with GatedGraph(captured, shape.cuts(), board, slot, stream) as graph:
            for seed in range(20):
                key = key_of("real-time", priority_rank(0, seed), slot)

                def copy_in(seed: int = seed) -> None:
                    left.write(seed, stream)
                    right.write(seed + 100, stream)

                run_gated(graph, board, key, stream, before=copy_in)
                finish(stream)
                is_right &= bool(np.array_equal(left.read(), left.expected(seed)))
                is_right &= bool(np.array_equal(right.read(), right.expected(seed + 100)))
        found = board.give_ups()
    text = f"{shape.summary()}; {graph.num_gates} gates; outputs right: {is_right}; {_told(found)}"
    return Found(text=text, is_expected=is_right and not shape.is_chain and not found)


def other_fingerprint(path: Path) -> Found:
    """A plan of gates that was made for another graph."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "other.bundle"
        shutil.copytree(path, copy)
        document = json.loads((copy / MANIFEST_NAME).read_text())
        for plan in document["plans"]:
            if plan.get("gates"):
                plan["gates"]["fingerprint"] = _OTHER
        (copy / MANIFEST_NAME).write_text(json.dumps(document))
        with closing(GatedTrtDevice()) as device:
            try:
                device.load(open_bundle(copy), GATES_PLAN_ID).close()
            except GatesError as err:
                return Found(text=f"refused: {err}", is_expected=_OTHER in str(err))
    return Found(text="it was loaded", is_expected=False)


def allocations(path: Path, seconds: float) -> Found:
    """A thread that allocates and frees all the time, beside two tasks."""
    is_over, counted = threading.Event(), [0]

    def allocate() -> None:
        with open_cuda():
            while not is_over.is_set():
                DeviceMemory(_ALLOCATED_BYTES).close()
                counted[0] += 1

    thread = threading.Thread(target=allocate, daemon=True)
    with open_cuda():
        try:
            run = run_tasks(path, seconds, is_running=thread.start)
        finally:
            is_over.set()
        if thread.ident is not None:
            thread.join(10)
    return Found(
        text=f"{counted[0]} allocations; {run.text}",
        is_expected=run.is_right and counted[0] > 0 and not thread.is_alive(),
    )
