"""The board: the device memory by which gates decide who waits. docs/gates.md has the protocol.

What the host does to it goes over a stream of the board's own, so that it never stands behind
a gate that waits; only raising and clearing are in the order of the job's stream.
"""

import logging
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from preempt_runtime.backends.cuda import DeviceMemory, PinnedMemory, Stream, copy_async
from preempt_runtime.backends.cuda_driver import attribute, call
from preempt_runtime.backends.cuda_graph import has_early_starts
from preempt_runtime.backends.cuda_module import Kernel, Module, pointer_arg, uint32_arg
from preempt_runtime.backends.cuda_wait import await_streams
from preempt_runtime.errors import GatesError
from preempt_runtime.gate_keys import EMPTY, NUM_SLOTS, announced, slot_of
from preempt_runtime.gate_limits import ANNOUNCED_NS, COST_FACTOR, PATIENCE_NS

Mode = Literal["overlap", "exclusive"]
Raising = Literal["write", "copy", "kernel"]

PTX = Path(__file__).parent / "kernels" / "gate.ptx"
EARLY_PTX = PTX.with_name("gate_sm90.ptx")
"""The same kernels, which wait themselves for the nodes before them: those may still run."""

MAX_REGISTERS = 32
BOARD_BYTES = 1024
DEFAULT_LIMIT_NS = 50_000_000
_TICK_NS = 1024
_IS_OPEN, _ANNOUNCE, _LIMITS, _NUM_RECORDS, _RECORDS = 260, 264, 272, 400, 408
_MAX_RECORDS = 16
_RECORD = struct.Struct("<QQII")
_TIMED_WAIT_NS = 500_000_000  # drivers that limit kernels stop them after two seconds or more
_KINDS = {
    1: "the holder of a key did nothing",
    2: "an announcement expired",
    3: "the owner of the GPU did nothing",
    4: "it waited as long as a gate may",
}

_log = logging.getLogger("preempt_runtime.backends.gates")


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """A gate that waited no longer; it voids the bounds of both jobs unless announced only.

    `slot` is whose gate it was, `holder` the slot that it waited for; `time_ns` by the device.
    """

    reason: str
    slot: int
    holder: int
    time_ns: int
    is_expiry: bool


class GateBoard:
    """32 slots on the device, the kernels that look at them, and one mode for all of them.

    A job's graph begins with `first_gate`, has `gate` before every later stretch and ends with
    `clear`. Where `starts_early` says so, the last two may start while the kernel in front of them
    ends: they wait for it themselves, which hides the way from one kernel to the next.

    Args:
        mode: `exclusive`: one job at a time is past its gate. `overlap`: an urgent job starts
            while the stretch that runs comes to its end.
        raising: how a key is written in the order of a stream; None: by a memory operation,
            which needs no SM, or by a copy where the GPU has none of 64 bits.
        announce_ns: how long an announcement holds others back.
        max_wait_ns: after which a gate lets its job pass whatever it waits for; 0: never; None:
            half a second where the GPU limits how long a kernel may run, as with a display.

    Raises:
        DeviceError: no memory, or the driver refused the kernels.
    """

    def __init__(
        self,
        *,
        mode: Mode,
        raising: Raising | None = None,
        announce_ns: int = ANNOUNCED_NS,
        max_wait_ns: int | None = None,
    ) -> None:
        self.mode = mode
        device = call("cuCtxGetDevice")
        has_write = attribute("CAN_USE_64_BIT_STREAM_MEM_OPS", device)
        self.raising: Raising = raising or ("write" if has_write else "copy")
        self.starts_early = has_early_starts(device)
        if max_wait_ns is None:
            max_wait_ns = _TIMED_WAIT_NS if attribute("KERNEL_EXEC_TIMEOUT", device) else 0
        self._free = list(range(NUM_SLOTS))
        self._costs: dict[int, tuple[int, int]] = {}  # a job's and its longest stretch's, by slot
        self._num_read = 0
        self._lock = threading.Lock()  # of what the host and the board hand to each other
        with ExitStack() as stack:
            ptx = EARLY_PTX if self.starts_early else PTX
            module = stack.enter_context(Module(ptx, max_registers=MAX_REGISTERS))
            self.gate = _kernel(module, f"preempt_gate_{mode}")
            self.first_gate = self.gate
            if mode == "exclusive":
                self.first_gate = _kernel(module, "preempt_gate_exclusive_first")
            self.clear = _kernel(module, "preempt_clear")
            self._raise = _kernel(module, "preempt_raise")
            self.control: Stream = stack.enter_context(Stream(priority="high"))
            self._memory = stack.enter_context(DeviceMemory(BOARD_BYTES))
            self._image = stack.enter_context(PinnedMemory(BOARD_BYTES))
            self._keys = stack.enter_context(PinnedMemory(8 * NUM_SLOTS))
            self._words = stack.enter_context(PinnedMemory(4 * NUM_SLOTS))
            self._write_image(announce_ns, max_wait_ns)
            self._stack = stack.pop_all()

    @property
    def pointer(self) -> int:
        """Its address on the device."""
        address: int = self._memory.pointer
        return address

    def kernel_args(self, slot: int, stamps: int = 0) -> list[tuple[int, type]]:
        """Arguments of a gate or a clear of that slot; `stamps` is where it writes the time."""
        return [pointer_arg(self.pointer), uint32_arg(slot), pointer_arg(stamps)]

    def take_slot(self) -> int:
        """A slot that nobody has, for one job in flight at a time.

        Raises:
            GatesError: all are taken.
        """
        if not self._free:
            raise GatesError(
                f"gates: {NUM_SLOTS} jobs may be in flight on one GPU, all slots are taken; run"
                " fewer tasks, lower their `buffers`, or run with --mechanism segments"
            )
        return self._free.pop(0)

    def return_slot(self, slot: int) -> None:
        """Let another have it; its last job must have ended."""
        self._free.append(slot)
        self._costs.pop(slot, None)

    def set_limit(self, slot: int, cost_ns: int, *, stretch_ns: int = 0) -> None:
        """Let others take a key from that slot that stays for ten times its job's cost.

        At least 50 ms: best effort may rightly wait for a long time, but for one job. While a job
        waits at its first gate for the stretch that runs, its key stays, too: the cost counts with
        the longest stretch (`stretch_ns`, of a job in this slot) of all jobs there are.
        """
        self._costs[slot] = cost_ns, stretch_ns
        self._write_limits()

    @property
    def patience_ns(self) -> int:
        """After which work on the GPU may be taken to hang: longer than all gates together wait.

        Ten times what the jobs of all slots take, as their plans have it, and ten seconds.
        """
        costs_ns = sum(cost_ns for cost_ns, _ in tuple(self._costs.values()))
        return PATIENCE_NS + COST_FACTOR * costs_ns

    def raise_key(self, key: int, stream: Stream, *, stamp: int = 0) -> None:
        """Enqueue that others wait for this job from now on.

        Nothing that the stream has still to wait for may itself be behind a gate: others would
        wait for this job while it waits for them.

        Args:
            key: of the job.
            stream: the job's.
            stamp: an address where the device's time is to be written right after, to measure
                with; for raising by a kernel alone.

        Raises:
            DeviceError: the driver's own text.
        """
        assert not stamp or self.raising == "kernel", "nothing else has a clock"
        self._write(slot_of(key), key, stream, stamp)

    def announce(self, key: int, stream: Stream | None = None) -> None:
        """Let others wait for a job that comes soon, in the order of a stream or of the board's.

        Raises:
            DeviceError: the driver's own text.
        """
        self.raise_key(announced(key), stream or self.control)

    def withdraw(self, slot: int, stream: Stream | None = None) -> None:
        """Let the job of that slot go on as the least urgent; a stretch that runs goes on.

        Unlike a clear it leaves ownership alone, so that no other stretch begins beside this one.
        In the order of a stream, or of the board's, in no order then with the job's own.

        Raises:
            DeviceError: the driver's own text.
        """
        self._write(slot, EMPTY, stream or self.control)

    def clear_slot(self, slot: int, stream: Stream) -> None:
        """Enqueue the end of a job whose graph was not launched: others wait no longer."""
        self.clear.launch(stream, self.kernel_args(slot), block=1)

    @contextmanager
    def opened(self, streams: Sequence[Stream]) -> Iterator[None]:
        """Let every gate pass, wait for all work, and hold them again when the block ends.

        Whatever synchronises the context belongs in here: to load, allocate, capture.

        Raises:
            HangError: it does not come to its end.
            DeviceError: work on one of the streams failed.
        """
        self._set_words(_IS_OPEN, [1])
        try:
            await_streams(streams, limit_ns=self.patience_ns, what="jobs, all gates being open")
            yield
        finally:
            self._set_words(_IS_OPEN, [0])

    @contextmanager
    def short_limits(self) -> Iterator[None]:
        """Let every key and ownership be taken after 50 ms, whatever jobs cost; none may run."""
        self._set_words(_LIMITS, [DEFAULT_LIMIT_NS // _TICK_NS] * NUM_SLOTS)
        try:
            yield
        finally:
            self._write_limits()

    def slots(self) -> tuple[int, ...]:
        """The keys that the slots hold now, and `EMPTY` where there is no job."""
        return struct.unpack_from(f"<{NUM_SLOTS}Q", self._read_image())

    def give_ups(self) -> tuple[GiveUp, ...]:
        """What gates recorded since the last call; at most the last 16, the others are counted."""
        image = self._read_image()
        (number,) = struct.unpack_from("<I", image, _NUM_RECORDS)
        first = max(self._num_read, number - _MAX_RECORDS)
        if first > self._num_read:
            _log.warning("gates: %d records were overwritten", first - self._num_read)
        self._num_read = number
        return tuple(_give_up(image, idx % _MAX_RECORDS) for idx in range(first, number))

    def close(self) -> None:
        """Release memory and kernels; no gate may run any more."""
        self._stack.close()

    def __enter__(self) -> "GateBoard":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, slot: int, value: int, stream: Stream, stamp: int = 0) -> None:
        address = self.pointer + 8 * slot
        if self.raising == "write":
            call("cuStreamWriteValue64", stream._raw, address, value, 0)
        elif self.raising == "copy":
            self._keys.array.view(np.uint64)[slot] = value  # the last copy was done long ago
            copy_async(address, self._keys.pointer + 8 * slot, 8, stream)
        else:
            args = [*self.kernel_args(slot)[:2], pointer_arg(value), pointer_arg(stamp)]
            self._raise.launch(stream, args, block=1)

    def _write_image(self, announce_ns: int, max_wait_ns: int) -> None:
        image = bytearray(BOARD_BYTES)
        struct.pack_into(f"<{NUM_SLOTS}Q", image, 0, *[EMPTY] * NUM_SLOTS)
        ticks = [each // _TICK_NS for each in (announce_ns, max_wait_ns)]
        struct.pack_into("<II", image, _ANNOUNCE, *ticks)
        limits = [DEFAULT_LIMIT_NS // _TICK_NS] * NUM_SLOTS
        struct.pack_into(f"<{NUM_SLOTS}I", image, _LIMITS, *limits)
        self._image.array[:] = np.frombuffer(bytes(image), np.uint8)
        copy_async(self.pointer, self._image.pointer, BOARD_BYTES, self.control)
        self.control.synchronize()

    def _read_image(self) -> bytes:
        with self._lock:
            copy_async(self._image.pointer, self.pointer, BOARD_BYTES, self.control)
            self._finish()
            return bytes(self._image.array)

    def _write_limits(self) -> None:
        longest_ns = max((stretch_ns for _, stretch_ns in self._costs.values()), default=0)
        costs_ns = [self._costs.get(slot, (0, 0))[0] for slot in range(NUM_SLOTS)]
        limits_ns = [
            max(COST_FACTOR * (cost_ns + longest_ns), DEFAULT_LIMIT_NS) for cost_ns in costs_ns
        ]
        self._set_words(_LIMITS, [limit_ns // _TICK_NS for limit_ns in limits_ns])

    def _set_words(self, offset: int, values: Sequence[int]) -> None:
        with self._lock:
            words = self._words.array.view(np.uint32)
            words[: len(values)] = np.minimum(values, 0xFFFFFFFF)
            copy_async(self.pointer + offset, self._words.pointer, 4 * len(values), self.control)
            self._finish()

    def _finish(self) -> None:
        await_streams([self.control], limit_ns=self.patience_ns, what="a copy of the gates' board")


def _kernel(module: Module, name: str) -> Kernel:
    kernel = module.kernel(name)
    kernel.prefer_shared_memory()
    return kernel


def _give_up(image: bytes, idx: int) -> GiveUp:
    time_ns, cause, kind, slot = _RECORD.unpack_from(image, _RECORDS + idx * _RECORD.size)
    return GiveUp(
        reason=_KINDS[kind],
        slot=slot,
        holder=slot_of(cause),
        time_ns=time_ns,
        is_expiry=kind == 2,
    )
