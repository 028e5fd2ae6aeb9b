"""TensorRT with gates: whole jobs on the GPU, which decides at its gates who goes on.

EXPERIMENTAL: one kind of GPU has run this so far, the H200.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from preempt_runtime.backends.cuda import CudaContext, Stream, open_cuda
from preempt_runtime.backends.cuda_driver import pci_bus_id
from preempt_runtime.backends.cuda_wait import HangError, HangGuard, await_streams
from preempt_runtime.backends.device_lock import DeviceLock
from preempt_runtime.backends.gate_board import GateBoard, Mode
from preempt_runtime.backends.gate_canary import held_up
from preempt_runtime.backends.trt_context import Scratch
from preempt_runtime.backends.trt_engines import PlanEngines, load_engines, loaded_memory
from preempt_runtime.backends.trt_gated_buffers import GatedBuffers
from preempt_runtime.backends.trt_library import local_fields
from preempt_runtime.bundle import Bundle, choose_plan
from preempt_runtime.device import JobBuffers, check_open
from preempt_runtime.errors import DeviceError, GatesError
from preempt_runtime.gate_keys import GateRank, key_of
from preempt_runtime.gated_device import StretchTimes
from preempt_runtime.manifest import GATES_FIRST, SegmentSpec
from preempt_runtime.network_memory import NetworkMemory

_log = logging.getLogger("preempt_runtime.backends.gates")


class GatedNetwork:
    """A plan on a device with gates; its first buffers were made when it was loaded, as a trial."""

    def __init__(self, loaded: PlanEngines, device: "GatedTrtDevice") -> None:
        self.name = loaded.name
        self.graph = loaded.graph
        self.plan = loaded.plan
        self._loaded = loaded
        self._device = device
        self._first: GatedBuffers | None = device.make_buffers(loaded)

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        """The stretches between gates, in the order in which they run."""
        return self.plan.segments

    def new_buffers(self) -> GatedBuffers:
        """Buffers for one more job in flight; while they are made all gates are open.

        Raises:
            InputError: the network is closed.
            GatesError: no memory or no slot, or TensorRT or the driver refused.
        """
        check_open(self.name, self._loaded.engines)
        found, self._first = self._first, None
        return found or self._device.make_buffers(self._loaded)

    def memory(self) -> NetworkMemory:
        """What it takes, once and for each job, as TensorRT and the plan tell it."""
        scratch_bytes = Scratch.size_of(self._loaded.engines)
        memory = loaded_memory(
            self._loaded, scratch_bytes=scratch_bytes, zero_copy=self._device.is_zero_copy
        )
        return replace(memory, has_scratch_per_job=True)

    def close(self) -> None:
        """Release the engines, while all gates are open; buffers must be closed before."""
        if self._first is not None:
            self._first.close()
            self._first = None
        try:
            with self._device.opened():
                self._loaded = replace(self._loaded, engines=())
        except DeviceError as err:
            _log.warning("closing network %s: %s", self.name, err)
            if self._device.guard.is_hanging:
                self._device.guard.keep(self._loaded)
            self._loaded = replace(self._loaded, engines=())


class GatedTrtDevice:
    """The GPU: every job in flight has a stream, a slot and gates; one process at a time.

    Args:
        mode: `exclusive`: of all jobs one runs a stretch at a time. `overlap`: an urgent job starts
            while the stretch that runs comes to its end.
        zero_copy: as of `TrtDevice`.

    Raises:
        GatesError: another process has the device, or the driver refused the gates.
        DeviceError: no GPU.
    """

    max_depth = 1

    def __init__(self, *, mode: Mode = "exclusive", zero_copy: bool | None = None) -> None:
        self.mode = mode
        self._thread: int | None = None
        self._lock = threading.RLock()  # of the board's slots and of the buffers that there are
        self._buffers: list[GatedBuffers] = []
        self._retired: deque[GatedBuffers] = deque()  # closed, on any thread, but not released
        self._checked: set[int] = set()  # handles of streams that do not hold each other up
        self._is_open = False
        self._has_callables_work = False
        self._is_closed = False
        with ExitStack() as stack:
            self._context: CudaContext = stack.enter_context(open_cuda())
            stack.enter_context(DeviceLock(self._context.name, pci_bus_id()))
            integrated = self._context.is_integrated
            self.is_zero_copy = integrated if zero_copy is None else zero_copy
            with _gates_alone():
                self.board = stack.enter_context(GateBoard(mode=mode))
            self._urgent = stack.enter_context(Stream(priority="high"))
            self._other = stack.enter_context(Stream(priority="low"))
            self._stack = stack.pop_all()
        self.name = self._context.name
        self.guard = HangGuard(self.name)

    def load(self, bundle: Bundle, plan_id: str | None = None) -> GatedNetwork:
        """Load the plan of that id, or the first that fits here: of gates, else of segments.

        Raises:
            BundleError: no plan fits, or a file is damaged.
            GatesError: the captured graph is another than planned, or cannot have gates.
            DeviceError: TensorRT refused an engine, or there is no memory.
        """
        plan = choose_plan(bundle, local_fields(), plan_id=plan_id, mechanisms=GATES_FIRST)
        with self.opened():
            return GatedNetwork(load_engines(bundle, plan), self)

    def make_buffers(self, loaded: PlanEngines) -> GatedBuffers:
        """Buffers for one more job of a plan, made while all gates are open.

        Raises:
            GatesError: no memory or no slot, or the driver refused; segments need less.
        """
        with self.opened(), _gates_alone():
            buffers = GatedBuffers(
                loaded,
                self.board,
                self._lock,
                self.opened,
                self._retired.append,
                zero_copy=self.is_zero_copy,
            )
            self._buffers.append(buffers)
        return buffers

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let all gates pass while something happens that synchronises the context.

        Buffers that were closed are released first: a dispatcher that removes a task must not wait.

        Raises:
            DeviceError: a job failed, or none ends any more.
        """
        with self._lock:
            self.guard.check()
            self._context.make_current()
            if self._is_open:  # by a caller further up
                yield
                return
            streams = self._streams()
            self._buffers = [each for each in self._buffers if each.is_open]
            with self.guard.watching(), self.board.opened(streams):
                self._is_open = True
                try:
                    self._release_retired()
                    yield
                finally:
                    self._is_open = False

    def prepare(self) -> None:
        """Return if no job's stream holds another up while a gate waits in it; between runs.

        Raises:
            GatesError: some do: the GPU has fewer hardware queues than the jobs need.
            DeviceError: the driver's own text, or the GPU hangs.
        """
        self.guard.check()
        self._make_current()
        with self._lock, self.guard.watching():
            streams = [each.stream for each in self._buffers if each.stream is not None]
            handles = {stream.handle for stream in streams}
            if handles <= self._checked:
                return
            if pairs := held_up(self.board, streams, others=(self._urgent, self._other)):
                raise GatesError(
                    f"{self.name}: {len(pairs)} pairs of {len(streams) + 3} streams share a"
                    " hardware queue, so a job that waits at a gate would hold up another; set"
                    " CUDA_DEVICE_MAX_CONNECTIONS=32 before the process starts, give tasks fewer"
                    " buffers, or run with --mechanism segments"
                )
            self._checked = handles

    def start(self, buffers: JobBuffers, rank: GateRank, *, is_urgent: bool) -> None:
        """Let less urgent jobs wait from now on, and launch all of the job in `buffers`.

        Raises:
            DeviceError: the driver's own text.
        """
        assert isinstance(buffers, GatedBuffers)
        self.guard.check()
        self._make_current()
        buffers.use_stream(is_urgent=is_urgent)  # its task may be of another priority by now
        buffers.start(key_of(*rank, buffers.slot))

    def is_done(self, buffers: JobBuffers) -> bool:
        """Whether the job in `buffers` has ended and its outputs can be read.

        Raises:
            DeviceError: it failed; after most such errors CUDA needs a new process.
        """
        assert isinstance(buffers, GatedBuffers)
        self._make_current()  # the thread that closes an executor may be another than ran it
        return buffers.is_done()

    def times(self, buffers: JobBuffers) -> StretchTimes:
        """When the job that has ended was where, by the device's clock.

        Raises:
            DeviceError: it could not be copied to the host.
        """
        assert isinstance(buffers, GatedBuffers)
        return buffers.times()

    def cancel(self, buffers: JobBuffers) -> None:
        """Have the job go on as the least urgent, or take an announcement back.

        Raises:
            DeviceError: the driver's own text.
        """
        assert isinstance(buffers, GatedBuffers)
        self.guard.check()
        self._make_current()
        buffers.withdraw()

    def announce(self, buffers: JobBuffers, rank: GateRank) -> None:
        """Let less urgent jobs wait for one that is to be started soon.

        Raises:
            DeviceError: the driver's own text.
        """
        assert isinstance(buffers, GatedBuffers)
        self.guard.check()
        self._make_current()
        buffers.announce(key_of(*rank, buffers.slot))

    def give_ups(self) -> tuple[str, ...]:
        """What gates did since the last call that voids bounds; announcements may expire.

        Raises:
            DeviceError: the driver's own text, or the GPU hangs.
        """
        self.guard.check()
        self._make_current()
        with self.guard.watching():
            found = self.board.give_ups()
        return tuple(
            f"slot {each.slot} waited no longer for slot {each.holder}: {each.reason}"
            for each in found
            if not each.is_expiry
        )

    def stream(self, *, is_urgent: bool) -> Stream:
        """The stream that pre and post callables enqueue on; no gate holds it."""
        self._make_current()
        self._thread = None  # the callable may make another context current
        self._has_callables_work = True
        found: Stream = self._urgent if is_urgent else self._other
        return found

    def wait(self) -> None:
        """Return when what callables have put on their streams has completed.

        Raises:
            DeviceError: it failed, or does not end.
        """
        if self._has_callables_work:
            self._await((self._urgent, self._other), "work of pre and post")
            self._has_callables_work = False

    def wait_for_all(self) -> None:
        """Return when all jobs have ended, those too of which `start` did not return.

        Raises:
            DeviceError: something failed, or does not end.
        """
        with self._lock:
            streams = self._streams()
        self._await(streams, "jobs")
        self.wait()

    def abandon(self, stuck: str) -> DeviceError:
        """Take it that the GPU hangs, and keep all that it uses until the process ends."""
        return self.guard.found(stuck)

    def close(self) -> None:
        """Release board, streams and context; without effect the second time.

        Where the GPU hangs they are left to the end of the process.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self.wait_for_all()
        except DeviceError as err:
            _log.warning("closing %s: %s", self.name, err)
        if self.guard.is_hanging:
            self.guard.keep(self)
            return
        self._release_retired()
        self._stack.close()

    def _streams(self) -> list[Stream]:
        """Those of all jobs, closed buffers' that are not released, too."""
        every = {id(each): each for each in (*self._buffers, *self._retired)}.values()
        return [each.stream for each in every if each.stream is not None]

    def _await(self, streams: Sequence[Stream], what: str) -> None:
        self.guard.check()
        self._make_current()
        with self.guard.watching():
            await_streams(streams, limit_ns=self.board.patience_ns, what=what)

    def _release_retired(self) -> None:
        while self._retired:
            self._retired.popleft().release()

    def _make_current(self) -> None:
        if self._thread != (thread := threading.get_ident()):
            self._context.make_current()
            self._thread = thread


@contextmanager
def _gates_alone() -> Iterator[None]:
    """Say that jobs can still run by segments, which take no board and share scratch memory."""
    try:
        yield
    except (GatesError, HangError):  # where the GPU hangs, segments do not run either
        raise
    except DeviceError as err:
        raise GatesError(f"no gates: {err}; or run with --mechanism segments") from err
