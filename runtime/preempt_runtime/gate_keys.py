"""The keys by which gates decide who waits: 64 bits, smaller = more urgent.

From the highest bit: 2 of the tier, 56 of the rank within it, 1 that says the job is only
announced, 5 of the slot. The slot makes keys of jobs in flight different from each other, so they
are in a total order: of any two jobs exactly one waits for the other. A slot without a job holds
`EMPTY`, which no key equals. Where half of a key is written already, the other half is still all
ones: such a value is never smaller than the key, so nobody waits for more than he should.
"""

from typing import Literal

from preempt_runtime.errors import InputError

NUM_SLOTS = 32
EMPTY = (1 << 64) - 1
BARRIER = 1 << 6
"""Plus a slot: more urgent than every job. It holds all gates of a board, to try its streams."""

Tier = Literal["real-time", "best-effort"]
GateRank = tuple[Tier, int]
"""How urgent a job is, whichever slot it gets: real time before best effort, then the smaller."""

_TIERS: dict[Tier, int] = {"real-time": 1, "best-effort": 2}
_ANNOUNCED = 1 << 5
_RANK_BITS = 56
_ORDER_BITS = 32
_PERIOD_ORDER_BITS = 16
_PERIOD_STEP_NS = 1024
_MAX_PRIORITY = (1 << _RANK_BITS - _ORDER_BITS - 1) - 1


def key_of(tier: Tier, rank: int, slot: int) -> int:
    """The key of a job in that slot; `rank` by one of the functions below.

    Raises:
        InputError: rank or slot outside its bits.

    >>> hex(key_of("real-time", 0x2A, 3)), hex(key_of("best-effort", 0, 31))
    ('0x4000000000000a83', '0x800000000000001f')
    """
    if not 0 <= slot < NUM_SLOTS:
        raise InputError(f"gate slot {slot}: expected 0 to {NUM_SLOTS - 1}")
    if not 0 <= rank < 1 << _RANK_BITS:
        raise InputError(f"gate rank {rank}: expected 0 to 2**{_RANK_BITS} - 1")
    return _TIERS[tier] << 62 | rank << 6 | slot


def announced(key: int) -> int:
    """The key of a job that is to be released soon; expires, unlike the key itself."""
    return key | _ANNOUNCED


def slot_of(key: int) -> int:
    """The slot whose job has this key."""
    return key % NUM_SLOTS


def priority_rank(priority: int, order: int) -> int:
    """A larger priority comes first, among equals the smaller order: of release, say.

    `order` counts on without end; two jobs in flight are 2**31 apart at most in any real run.

    Raises:
        InputError: priority outside 24 bits with a sign.

    >>> priority_rank(5, 9) < priority_rank(5, 10) < priority_rank(4, 0)
    True
    """
    if abs(priority) > _MAX_PRIORITY:
        allowed = f"{-_MAX_PRIORITY} to {_MAX_PRIORITY}"
        raise InputError(f"priority {priority}, gates know {allowed}; give one of these")
    return (_MAX_PRIORITY - priority) << _ORDER_BITS | order % (1 << _ORDER_BITS)


def period_rank(period_ns: int, order: int) -> int:
    """A shorter period comes first, among equals the smaller order; steps of 1,024 ns.

    Longer ones than 13 days are as one. Of two jobs in flight that are 2**16 apart the later may
    come first.

    >>> period_rank(10_000, 9) < period_rank(10_000, 10) < period_rank(20_000, 0)
    True
    """
    num_steps = min(period_ns // _PERIOD_STEP_NS, (1 << _RANK_BITS - _PERIOD_ORDER_BITS) - 1)
    return num_steps << _PERIOD_ORDER_BITS | order % (1 << _PERIOD_ORDER_BITS)


def deadline_rank(deadline_ns: int) -> int:
    """The earlier absolute deadline comes first.

    Those later than two years after the clock began are as one, as are those before.

    >>> deadline_rank(1_000) < deadline_rank(1_001) < deadline_rank(10**18)
    True
    """
    return min(max(deadline_ns, 0), (1 << _RANK_BITS) - 1)
