"""A warp that executes PTX: the committed kernels themselves run in tests, without a GPU.

It knows the instructions that the gates use and refuses others. A register holds one int where
all lanes agree, else a tuple of 32. Lanes that diverge go on from the lowest address, and a
`.sync` instruction waits for all of them. `Warp.step` makes one access to global memory or to the
timer, so that a test decides what happens between two of them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Protocol

LANES = 32
ALL = (1 << LANES) - 1
_WITHOUT_RESULT = ("st", "bra", "ret", "bar", "nanosleep", "griddepcontrol")
Value = int | tuple[int, ...]


class Memory(Protocol):
    """Global memory and the timer."""

    now_ns: int

    def read(self, address: int, num_bytes: int) -> int: ...

    def write(self, address: int, num_bytes: int, value: int) -> None: ...


@dataclass(frozen=True)
class Instruction:
    guard: str  # a predicate register, `!` before it negates, or nothing
    name: str
    operands: tuple[str, ...]

    @property
    def is_access(self) -> bool:
        is_global = self.name.split(".")[0] in ("ld", "st", "atom") and ".global" in self.name
        return is_global or "%globaltimer" in self.operands


@dataclass(frozen=True)
class Kernel:
    """An entry point; `live[pc]` are the registers that are still read from there on."""

    name: str
    params: tuple[str, ...]
    code: tuple[Instruction, ...]
    labels: dict[str, int] = field(hash=False)
    live: tuple[frozenset[str], ...] = field(hash=False)


@cache
def kernels(path: Path) -> dict[str, Kernel]:
    """The entry points of a PTX file."""
    text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
    entries = re.findall(r"\.visible \.entry (\w+)\((.*?)\)[^{]*\{(.*?)\n\}", text, re.DOTALL)
    return {name: _kernel(name, params, body) for name, params, body in entries}


def _kernel(name: str, params: str, body: str) -> Kernel:
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in re.split(r"[;\n]\s*", re.sub(r"\{([^}\n]*)\}", _braced, body)):
        words = line.strip()
        while match := re.match(r"(\$\w+):\s*", words):
            labels[match[1]] = len(code)
            words = words[match.end() :]
        if words and not words.startswith("."):
            code.append(_instruction(words))
    return Kernel(
        name=name,
        params=tuple(re.findall(r"\.param \.\w+ (\w+)", params)),
        code=tuple(code),
        labels=labels,
        live=tuple(each - _pauses(code) for each in _liveness(code, labels)),
    )


def _braced(match: re.Match[str]) -> str:
    return "{" + match[1].replace(",", "|").replace(" ", "") + "}"


def _instruction(words: str) -> Instruction:
    guard, rest = "", words
    if words.startswith("@"):
        guard, rest = words[1:].split(None, 1)
    name, _, operands = rest.partition(" ") if "\t" not in rest else rest.partition("\t")
    parts = tuple(part.strip() for part in operands.split(",") if part.strip())
    return Instruction(guard, name.strip(), parts)


def _registers(text: str) -> set[str]:
    return set(re.findall(r"%(?:p|r|rd)\d+", text))


def _pauses(code: Sequence[Instruction]) -> set[str]:
    """Registers that say how long to sleep: they change when, not what."""
    return {each.operands[0] for each in code if each.name.startswith("nanosleep")}


def _liveness(code: Sequence[Instruction], labels: dict[str, int]) -> tuple[frozenset[str], ...]:
    live: list[set[str]] = [set() for _ in range(len(code) + 1)]
    is_changed = True
    while is_changed:
        is_changed = False
        for pc in range(len(code) - 1, -1, -1):
            each = code[pc]
            after: set[str] = set()
            if each.name.startswith("bra"):
                after |= live[labels[each.operands[0]]]
            if each.name != "ret" and (each.guard or not each.name.startswith("bra")):
                after |= live[pc + 1]
            writes = each.name.split(".")[0] not in _WITHOUT_RESULT
            written = _registers(each.operands[0]) if writes and not each.guard else set()
            reads = {reg for operand in each.operands[int(writes) :] for reg in _registers(operand)}
            found = (after - written) | reads | _registers(each.guard)
            if found != live[pc]:
                live[pc], is_changed = found, True
    return tuple(frozenset(each) for each in live)


class Warp:
    """32 lanes in one kernel; `is_done` once all have returned.

    `is_alone` says whether the nodes before its own have ended, for which a warp can wait.
    """

    def __init__(
        self,
        kernel: Kernel,
        args: Sequence[int],
        *,
        num_lanes: int = LANES,
        is_alone: Callable[[], bool] = lambda: True,
    ) -> None:
        assert len(args) == len(kernel.params)
        self.kernel = kernel
        self.is_alone = is_alone
        self.args = tuple(args)
        self.registers: dict[str, Value] = {}
        self.at: dict[int, int] = {0: (1 << num_lanes) - 1}  # address -> mask of the lanes there
        self.lanes = self.at[0]

    @property
    def is_done(self) -> bool:
        return not self.at

    def copy(self) -> "Warp":
        other = Warp.__new__(Warp)
        other.kernel, other.args, other.lanes = self.kernel, self.args, self.lanes
        other.is_alone = self.is_alone
        other.registers, other.at = dict(self.registers), dict(self.at)
        return other

    def key(self) -> object:
        """Equal where two warps of one kernel cannot be told apart any more."""
        live = frozenset().union(*(self.kernel.live[pc] for pc in self.at))
        values = tuple((name, self.registers.get(name, 0)) for name in sorted(live))
        return tuple(sorted(self.at.items())), values

    def step(self, memory: Memory) -> str:
        """Make the next access and go on until before the one after it, or to the end.

        Returns:
            the instruction's name, empty if none was left.
        """
        made = ""
        while self.at:
            pc, mask = self._next()
            instruction = self.kernel.code[pc]
            if instruction.name == "griddepcontrol.wait" and not self.is_alone():
                break
            if instruction.is_access and self._active(instruction, mask):
                if made:
                    break
                made = instruction.name
            self._execute(instruction, pc, mask, memory)
        return made

    def _next(self) -> tuple[int, int]:
        for pc in sorted(self.at):
            is_sync = ".sync" in self.kernel.code[pc].name
            if not is_sync or self.at[pc] == self._alive():
                return pc, self.at[pc]
        raise AssertionError(f"{self.kernel.name}: lanes wait for each other at {self.at}")

    def _alive(self) -> int:
        mask = 0
        for each in self.at.values():
            mask |= each
        return mask

    def _active(self, instruction: Instruction, mask: int) -> int:
        if not instruction.guard:
            return mask
        negates = instruction.guard.startswith("!")
        values = _spread(self.registers[instruction.guard.lstrip("!")])
        chosen = sum(1 << lane for lane in range(LANES) if bool(values[lane]) != negates)
        return mask & chosen

    def _execute(self, instruction: Instruction, pc: int, mask: int, memory: Memory) -> None:
        del self.at[pc]
        active = self._active(instruction, mask)
        kind = instruction.name.split(".")[0]
        if kind == "ret":
            self._go(pc + 1, mask & ~active)
            return
        if kind == "bra":
            self._go(self.kernel.labels[instruction.operands[0]], active)
            self._go(pc + 1, mask & ~active)
            return
        if active:
            _HANDLERS[kind](self, instruction, active, memory)
        self._go(pc + 1, mask)

    def _go(self, pc: int, mask: int) -> None:
        if mask:
            self.at[pc] = self.at.get(pc, 0) | mask

    def get(self, operand: str) -> Value:
        if operand == "%tid.x":
            return tuple(range(LANES))
        if operand == "%ctaid.x":
            return 0  # one block is all there is
        if operand == "%ntid.x":
            return self.lanes.bit_count()
        if operand.startswith("%"):
            return self.registers.get(operand, 0)
        return int(operand, 0)

    def put(self, register: str, value: Value, mask: int) -> None:
        if mask != self.lanes:
            old, new = _spread(self.registers.get(register, 0)), _spread(value)
            value = _gathered([new[i] if mask >> i & 1 else old[i] for i in range(LANES)])
        self.registers[register] = value

    def address(self, operand: str) -> Value:
        match = re.fullmatch(r"\[(%\w+)(?:\+(\d+))?\]", operand)
        assert match is not None, operand
        offset = int(match[2] or 0)
        return _apply(lambda base: base + offset, self.get(match[1]))


def _spread(value: Value) -> tuple[int, ...]:
    return (value,) * LANES if isinstance(value, int) else value


def _gathered(values: Sequence[int]) -> Value:
    return values[0] if all(value == values[0] for value in values) else tuple(values)


def _apply(function: Callable[..., int], *values: Value) -> Value:
    if all(isinstance(value, int) for value in values):
        return function(*values)
    return _gathered([function(*each) for each in zip(*map(_spread, values), strict=True)])


def _bits(name: str) -> int:
    return 1 if name.endswith("pred") else int(name[-2:])


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "gt": lambda a, b: a > b,
    "le": lambda a, b: a <= b,
    "ge": lambda a, b: a >= b,
}
_ARITHMETIC: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "min": min,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "not": lambda a: ~a,
    "mul": lambda a, b: a * b,
    "mad": lambda a, b, c: a * b + c,
    "cvt": lambda a: a,
    "cvta": lambda a: a,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
    "selp": lambda a, b, chosen: a if chosen else b,
}


def _arithmetic(warp: Warp, instruction: Instruction, mask: int, memory: Memory) -> None:
    parts = instruction.name.split(".")
    bits = 64 if "wide" in parts else _bits(parts[1] if parts[0] == "cvt" else parts[-1])
    source = _bits(parts[-1])
    assert parts[-1][0] != "s" or parts[0] in ("add", "sub", "mad"), instruction
    function, wrap, inside = _ARITHMETIC[parts[0]], (1 << bits) - 1, (1 << source) - 1
    values = [_apply(lambda each: each & inside, warp.get(o)) for o in instruction.operands[1:]]
    warp.put(instruction.operands[0], _apply(lambda *v: function(*v) & wrap, *values), mask)


def _setp(warp: Warp, instruction: Instruction, mask: int, memory: Memory) -> None:
    _, relation, kind = instruction.name.split(".")
    bits, is_signed = _bits(kind), kind[0] == "s"
    compare = _COMPARE[relation]

    def compared(a: int, b: int) -> int:
        if is_signed:
            return int(compare(_signed(a, bits), _signed(b, bits)))
        return int(compare(a & ((1 << bits) - 1), b & ((1 << bits) - 1)))

    register, *operands = instruction.operands
    warp.put(register, _apply(compared, *map(warp.get, operands)), mask)


def _mov(warp: Warp, instruction: Instruction, mask: int, memory: Memory) -> None:
    target, source = instruction.operands
    if source == "%globaltimer":
        warp.put(target, memory.now_ns, mask)
    elif target.startswith("{"):
        low, high = target.strip("{}").split("|")
        value = warp.get(source)
        warp.put(low, _apply(lambda each: each & 0xFFFFFFFF, value), mask)
        warp.put(high, _apply(lambda each: each >> 32, value), mask)
    elif source.startswith("{"):
        halves = [warp.get(each) for each in source.strip("{}").split("|")]
        warp.put(target, _apply(lambda a, b: a | b << 32, *halves), mask)
    else:
        wrap = (1 << _bits(instruction.name)) - 1
        warp.put(target, _apply(lambda each: each & wrap, warp.get(source)), mask)


def _shfl(warp: Warp, instruction: Instruction, mask: int, memory: Memory) -> None:
    assert mask == warp.lanes == ALL
    target, source, lane, clamp, members = instruction.operands
    assert (warp.get(clamp), _signed(int(_spread(warp.get(members))[0]), 32)) == (31, -1)
    values, lanes = _spread(warp.get(source)), _spread(warp.get(lane))
    is_butterfly = instruction.name.split(".")[2] == "bfly"
    sources = [i ^ lanes[i] if is_butterfly else lanes[i] for i in range(LANES)]
    warp.put(target.split("|")[0], _gathered([values[each] for each in sources]), mask)


def _vote(warp: Warp, instruction: Instruction, mask: int, memory: Memory) -> None:
    assert mask == warp.lanes == ALL
    assert instruction.name == "vote.sync.ballot.b32"
    votes = _spread(warp.get(instruction.operands[1]))
    warp.put(instruction.operands[0], sum(bool(v) << i for i, v in enumerate(votes)), mask)


def _ld(warp: Warp, instruction: Instruction, mask: int, memory: Memory) -> None:
    register, operand = instruction.operands
    if ".param" in instruction.name:
        warp.put(register, warp.args[warp.kernel.params.index(operand.strip("[]"))], mask)
        return
    is_gate = warp.kernel.name.startswith("preempt_")
    assert not is_gate or ".volatile." in instruction.name, "a gate must not read a cached value"
    size, address = _bits(instruction.name) // 8, warp.address(operand)
    if isinstance(address, int):
        warp.put(register, memory.read(address, size), mask)
        return
    values = [memory.read(a, size) if mask >> i & 1 else 0 for i, a in enumerate(address)]
    warp.put(register, _gathered(values), mask)


def _one_lane(mask: int) -> int:
    assert mask.bit_count() == 1, "more than one lane writes"
    return mask.bit_length() - 1


def _st(warp: Warp, instruction: Instruction, mask: int, memory: Memory) -> None:
    operand, source = instruction.operands
    size, addresses = _bits(instruction.name) // 8, _spread(warp.address(operand))
    lanes = [lane for lane in range(LANES) if mask >> lane & 1]
    assert len({addresses[lane] for lane in lanes}) == len(lanes), "two lanes write one word"
    for idx, each in enumerate(source.strip("{}").split("|")):
        values = _spread(warp.get(each))
        for lane in lanes:
            word = values[lane] & ((1 << 8 * size) - 1)
            memory.write(addresses[lane] + idx * size, size, word)


def _atom(warp: Warp, instruction: Instruction, mask: int, memory: Memory) -> None:
    _, _, action, kind = instruction.name.split(".")
    lane, size = _one_lane(mask), _bits(kind) // 8
    target, operand, *sources = instruction.operands
    wrap = (1 << 8 * size) - 1
    address = _spread(warp.address(operand))[lane]
    values = [_spread(warp.get(each))[lane] & wrap for each in sources]
    before = memory.read(address, size)
    if action == "add":
        memory.write(address, size, (before + values[0]) & wrap)
    elif before == values[0]:
        assert action == "cas"
        memory.write(address, size, values[1])
    warp.put(target, before, mask)


def _nothing(warp: Warp, instruction: Instruction, mask: int, memory: Memory) -> None:
    assert instruction.name in ("bar.warp.sync", "nanosleep.u32", "griddepcontrol.wait")


_HANDLERS: dict[str, Callable[[Warp, Instruction, int, Memory], None]] = {
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    "setp": _setp,
    "mov": _mov,
    "shfl": _shfl,
    "vote": _vote,
    "ld": _ld,
    "st": _st,
    "atom": _atom,
    "bar": _nothing,
    "griddepcontrol": _nothing,
    "nanosleep": _nothing,
}
