"""Jobs on streams of one GPU, whose gates are the committed PTX, and every way they may interleave.

Actors are streams with a job each, and whatever else writes to the board. Each does what its
program says, one access to the board at a time. A `Moment` is one state of board, time and actors;
`explore` visits every moment that can be reached. One that was seen before is not followed again,
so a gate that polls makes a circle and no endless path.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import preempt_runtime
from preempt_runtime.gate_keys import EMPTY
from tests.runtime.ptx_machine import Warp, kernels

PTX = Path(preempt_runtime.__file__).parent / "backends/kernels/gate.ptx"
EARLY_PTX = PTX.with_name("gate_sm90.ptx")
KERNELS = kernels(PTX)
OWNER, IS_OPEN, ANNOUNCE, MAX_WAIT, LIMITS, NUM_RECORDS, RECORDS = 256, 260, 264, 268, 272, 400, 408
TICK_NS = 1024
_START_NS = 1 << 20


class BoardMemory:
    """The memory of a board at address 0; `values` has what differs from an idle one."""

    def __init__(self, values: dict[int, int], now_ns: int) -> None:
        self.values, self.now_ns = values, now_ns

    def read(self, address: int, num_bytes: int) -> int:
        assert num_bytes == (8 if address < OWNER else 4), f"{num_bytes} bytes at {address}"
        return self.values.get(address, EMPTY if address < OWNER else 0)

    def write(self, address: int, num_bytes: int, value: int) -> None:
        self.values[address] = value
        if value == (EMPTY if address < OWNER else 0):
            del self.values[address]


Board = tuple[tuple[int, int], ...]
KERNEL_STEPS = ("gate_exclusive_first", "gate_exclusive", "gate_overlap", "clear")


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of an actor's program: `what` and, for some, a value.

    raise, cancel: write to the slot. raise-high, raise-low: half of it. `KERNEL_STEPS`: kernels of
    the board. start, end: of a stretch of the network. tick: let time pass. open: let all pass.
    """

    what: str
    value: int = 0


def job(key: int, mode: str, num_stretches: int = 2) -> tuple[Step, ...]:
    """What is enqueued on a stream for one job: raise, a gate before each stretch, clear."""
    stretch = (Step(f"gate_{mode}"), Step("start"), Step("end"))
    first = (Step("gate_exclusive_first"), *stretch[1:]) if mode == "exclusive" else stretch
    return (Step("raise", key), *first, *stretch * (num_stretches - 1), Step("clear"))


class Actor:
    """A stream, or the host: the slot it acts on, what it has to do, and how far it has come."""

    def __init__(
        self, slot: int, program: tuple[Step, ...], at: int = 0, warp: Warp | None = None
    ) -> None:
        self.slot, self.program, self.at, self.warp = slot, program, at, warp
        self._key = (slot, program, at, warp and warp.key())
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Actor) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash

    @property
    def is_done(self) -> bool:
        return self.at == len(self.program)

    @property
    def is_running(self) -> bool:
        """Whether a stretch of its network runs now."""
        return self.at > 0 and self.program[self.at - 1].what == "start"

    @property
    def what(self) -> str:
        return "" if self.is_done else self.program[self.at].what


@dataclass(frozen=True, slots=True)
class Moment:
    """`late_starts[i]`: stretches of less urgent jobs that began since actor i was raised."""

    actors: tuple[Actor, ...]
    board: Board = ()
    now_ns: int = _START_NS
    late_starts: tuple[int, ...] = ()

    @property
    def is_done(self) -> bool:
        return all(actor.is_done for actor in self.actors)

    @property
    def num_running(self) -> int:
        return sum(actor.is_running for actor in self.actors)

    def read(self, address: int) -> int:
        default = EMPTY if address < OWNER else 0
        return dict(self.board).get(address, default)

    def held(self, slot: int) -> int:
        return self.read(8 * slot)

    def advanced(self, idx: int) -> "Moment":
        """The moment after one step of an actor: one access, or start or end of a stretch."""
        before = self.actors[idx]
        actor, board, now_ns = _advanced(before, self.board, self.now_ns)
        late = list(self.late_starts or (0,) * len(self.actors))
        if before.what == "start":
            own = self.held(before.slot)
            for other, each in enumerate(self.actors):
                late[other] += other != idx and self.held(each.slot) < own
        elif before.what in ("raise", "cancel"):
            late[idx] = 0
        actors = (*self.actors[:idx], actor, *self.actors[idx + 1 :])
        return Moment(actors, board, now_ns, tuple(late))


@cache
def _advanced(actor: Actor, board: Board, now_ns: int) -> tuple[Actor, Board, int]:
    memory = BoardMemory(dict(board), now_ns)
    step, warp = actor.program[actor.at], None
    if step.what in KERNEL_STEPS:
        warp = _launched(actor.slot, step.what) if actor.warp is None else actor.warp.copy()
        warp.step(memory)
    elif step.what not in ("start", "end"):
        _write(memory, actor.slot, step)
    is_through = warp is None or warp.is_done
    at = actor.at + is_through
    after = Actor(actor.slot, actor.program, at, None if is_through else warp)
    return after, tuple(sorted(memory.values.items())), memory.now_ns


def _launched(slot: int, what: str) -> Warp:
    lanes = 1 if what == "clear" else 32
    return Warp(KERNELS[f"preempt_{what}"], [0, slot, 0], num_lanes=lanes)


def _write(memory: BoardMemory, slot: int, step: Step) -> None:
    held = memory.read(8 * slot, 8)
    if step.what == "open":
        memory.write(IS_OPEN, 4, step.value)
    elif step.what == "tick":
        memory.now_ns += TICK_NS * step.value
    else:
        value = {
            "raise": step.value,
            "cancel": EMPTY,
            "raise-high": step.value >> 32 << 32 | held & 0xFFFFFFFF,
            "raise-low": held >> 32 << 32 | step.value & 0xFFFFFFFF,
        }[step.what]
        memory.write(8 * slot, 8, value)


@dataclass(frozen=True)
class Explored:
    """Every moment that can be reached, and which lead to which."""

    moments: tuple[Moment, ...]
    successors: tuple[tuple[int, ...], ...]

    def stuck(self) -> list[Moment]:
        """The moments from which the end of all programs cannot be reached any more."""
        before: list[list[int]] = [[] for _ in self.moments]
        for idx, nexts in enumerate(self.successors):
            for each in nexts:
                before[each].append(idx)
        open_ends = [idx for idx, moment in enumerate(self.moments) if moment.is_done]
        can_end = set(open_ends)
        while open_ends:
            for each in before[open_ends.pop()]:
                if each not in can_end:
                    can_end.add(each)
                    open_ends.append(each)
        return [moment for idx, moment in enumerate(self.moments) if idx not in can_end]

    @property
    def ends(self) -> list[Moment]:
        return [moment for moment in self.moments if moment.is_done]


def explore(first: Moment, limit: int = 300_000) -> Explored:
    """Every interleaving of the actors' steps."""
    moments = [first]
    successors: list[tuple[int, ...]] = []
    index = {first: 0}
    while len(successors) < len(moments):
        here = moments[len(successors)]
        nexts = []
        for idx, actor in enumerate(here.actors):
            if actor.is_done:
                continue
            after = here.advanced(idx)
            at = index.setdefault(after, len(moments))
            if at == len(moments):
                assert at < limit, "too many moments to visit"
                moments.append(after)
            nexts.append(at)
        successors.append(tuple(nexts))
    return Explored(tuple(moments), tuple(successors))


def wander(first: Moment, seed: int, max_steps: int = 20_000) -> list[Moment]:
    """The moments of one random interleaving, to its end; time passes between steps.

    An actor is taken for a random number of steps in a row, so that long delays happen too.
    """
    rng = Random(seed)
    path = [first]
    while not path[-1].is_done:
        idx = rng.choice([i for i, actor in enumerate(path[-1].actors) if not actor.is_done])
        for _ in range(rng.choice((1, 1, 2, 5, 20))):
            if path[-1].actors[idx].is_done:
                break
            path.append(path[-1].advanced(idx))
        path[-1] = replace(path[-1], now_ns=path[-1].now_ns + rng.randrange(3) * 32)
        assert len(path) < max_steps, f"seed {seed}: no end in {max_steps} steps"
    return path
