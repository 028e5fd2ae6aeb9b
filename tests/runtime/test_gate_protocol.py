"""The committed gate kernels, executed in every order of accesses that small cases can have."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from random import Random

import pytest

from preempt_runtime.gate_keys import announced, key_of, priority_rank
from tests.runtime.gate_world import (
    ANNOUNCE,
    IS_OPEN,
    LIMITS,
    MAX_WAIT,
    NUM_RECORDS,
    OWNER,
    RECORDS,
    Actor,
    Board,
    Moment,
    Step,
    explore,
    job,
    wander,
)

MODES = ("overlap", "exclusive")
URGENT, LATER = key_of("real-time", 1, 0), key_of("best-effort", 1, 1)
HOLDER_LOST, ANNOUNCEMENT_EXPIRED, OWNER_LOST, WAITED_TOO_LONG = 1, 2, 3, 4
IDLE: Board = ()
TICKS = (Step("tick", 2),) * 3


def moment(*actors: Actor, **board: int) -> Moment:
    return Moment(actors, _board(**board), late_starts=(0,) * len(actors))


def _board(limit: int = 0, announce: int = 0, max_wait: int = 0, owner: int = 0) -> Board:
    values = dict.fromkeys(range(LIMITS, NUM_RECORDS, 4), limit)
    values |= {ANNOUNCE: announce, MAX_WAIT: max_wait, OWNER: owner}
    return tuple(sorted((address, value) for address, value in values.items() if value))


def records(moment: Moment) -> list[tuple[int, int]]:
    """Kind and slot of the gate that gave up."""
    number = min(moment.read(NUM_RECORDS), 16)
    places = [RECORDS + 24 * idx for idx in range(number)]
    return [(moment.read(place + 16), moment.read(place + 20)) for place in places]


def three_jobs(mode: str) -> Moment:
    keys = [key_of("real-time", 1, 0), key_of("real-time", 2, 1), key_of("best-effort", 0, 2)]
    return moment(*(Actor(i, job(key, mode, 1)) for i, key in enumerate(keys)))


def two_jobs(mode: str) -> Moment:
    return moment(Actor(0, job(URGENT, mode)), Actor(1, job(LATER, mode)))


@pytest.mark.parametrize("start", [two_jobs, three_jobs])
@pytest.mark.parametrize("mode", MODES)
def test_no_two_jobs_wait_for_each_other_and_each_board_is_left_idle(
    mode: str, start: Callable[[str], Moment]
) -> None:
    explored = explore(start(mode))
    assert explored.stuck() == []
    assert {(end.board, records(end) == []) for end in explored.ends} == {(IDLE, True)}


def test_exclusive_lets_one_job_run_and_overlap_does_not_hold_the_urgent_one_back() -> None:
    for start in (two_jobs, three_jobs):
        explored = explore(start("exclusive"))
        assert max(each.num_running for each in explored.moments) == 1
    explored = explore(two_jobs("overlap"))
    assert max(each.num_running for each in explored.moments) == 2


@pytest.mark.parametrize(("mode", "most"), [("exclusive", 1), ("overlap", 2)])
def test_after_a_raise_one_stretch_may_begin_of_each_job_that_is_past_its_gate(
    mode: str, most: int
) -> None:
    """Of all less urgent jobs together in `exclusive`, of each of the two in `overlap`."""
    explored = explore(three_jobs(mode))
    assert max(each.late_starts[0] for each in explored.moments) == most


def test_a_job_that_lost_the_gpu_takes_it_again_at_its_next_gate() -> None:
    """As after a limit or an opening: another owns it while this one is past its first gate."""
    both = Actor(0, job(URGENT, "exclusive"), at=4), Actor(1, job(LATER, "exclusive", 1), at=2)
    board = tuple(sorted({0: URGENT, 8: LATER, OWNER: 2}.items()))
    explored = explore(Moment(both, board))
    assert explored.stuck() == []
    assert max(each.num_running for each in explored.moments) == 1
    assert {end.board for end in explored.ends} == {IDLE}


@pytest.mark.parametrize("mode", MODES)
def test_the_most_urgent_job_passes_without_any_other_going_on(mode: str) -> None:
    """In `exclusive`: unless another is past its gate."""
    num_tried = 0
    for here in explore(two_jobs(mode)).moments:
        is_free = mode == "overlap" or here.read(OWNER) in (0, 1)
        if "gate" in here.actors[0].what and here.held(0) == URGENT and is_free:
            after, place = here, here.actors[0].at
            for _ in range(16):
                if after.actors[0].at == place:
                    after = after.advanced(0)
            assert after.actors[0].at == place + 1
            num_tried += 1
    assert num_tried > 50


@pytest.mark.parametrize("mode", MODES)
def test_a_less_urgent_job_does_not_pass_a_raised_one(mode: str) -> None:
    waiting = moment(Actor(0, (Step("raise", URGENT),)), Actor(1, job(LATER, mode))).advanced(0)
    explored = explore(waiting)
    assert len(explored.stuck()) == len(explored.moments)  # without a limit it waits for ever
    assert all(each.num_running == 0 for each in explored.moments)


@pytest.mark.parametrize(("mode", "victim"), list(product(MODES, [0, 1])))
def test_a_cancelled_job_holds_nobody_back_and_gets_to_its_end(mode: str, victim: int) -> None:
    start = two_jobs(mode)
    actors = (*start.actors, Actor(victim, (Step("cancel"),)))
    explored = explore(moment(*actors))
    assert explored.stuck() == []
    assert {end.board for end in explored.ends} == {IDLE}
    if mode == "exclusive":
        assert max(each.num_running for each in explored.moments) == 1


def test_two_cancelled_jobs_do_not_wait_for_each_other() -> None:
    for mode in MODES:
        programs = (job(URGENT, mode, 1)[1:], job(LATER, mode, 1)[1:])  # without a raise
        explored = explore(moment(*(Actor(i, each) for i, each in enumerate(programs))))
        assert explored.stuck() == []
        assert {end.board for end in explored.ends} == {IDLE}


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_died_after_its_raise_costs_its_limit(mode: str) -> None:
    dead, other = Actor(0, (Step("raise", URGENT),)), Actor(1, job(LATER, mode, 1))
    explored = explore(moment(dead, other, Actor(2, TICKS), limit=1))
    done = [each for each in explored.moments if each.actors[1].is_done]
    assert done, "the other job gets to its end"
    found = {tuple(records(each)) for each in done}
    assert found == {(), ((HOLDER_LOST, 1),)}  # without a record where the raise came too late
    assert all(each.held(0) != URGENT for each in done if records(each))
    assert not [each for each in explored.stuck() if not each.actors[2].is_done], (
        "as long as time passes, nobody is stuck"
    )


@pytest.mark.parametrize(("is_same", "expected"), [(False, []), (True, [(HOLDER_LOST, 1)])])
def test_waiting_long_is_no_fault_while_the_holders_change(
    is_same: bool, expected: list[tuple[int, int]]
) -> None:
    """Four times the limit; a holder that stays the same as long is one."""
    waiting = moment(Actor(1, job(LATER, "exclusive", 1)), limit=2).advanced(0)
    found: list[tuple[int, int]] = []
    for idx in range(8):
        board = dict(waiting.board)
        if not found:
            board[0] = URGENT + (0 if is_same else idx << 6)
        now_ns = waiting.now_ns + 1024
        waiting = replace(waiting, board=tuple(sorted(board.items())), now_ns=now_ns)
        for _ in range(20):
            waiting = waiting if waiting.is_done else waiting.advanced(0)
        found = records(waiting)
    assert found == expected
    assert waiting.is_done == is_same


def test_an_owner_that_died_costs_its_limit_too() -> None:
    explored = explore(
        moment(Actor(0, job(URGENT, "exclusive", 1)), Actor(2, TICKS), limit=1, owner=6)
    )
    (found,) = {tuple(records(end)) for end in explored.ends}
    assert found == ((OWNER_LOST, 0),)
    assert {end.read(OWNER) for end in explored.ends} == {0}


@pytest.mark.parametrize("mode", MODES)
def test_an_announcement_holds_others_back_and_expires_by_itself(mode: str) -> None:
    client = Actor(0, (Step("raise", announced(URGENT)),))
    start = moment(client, Actor(1, job(LATER, mode, 1)), announce=3, limit=1).advanced(0)
    for _ in range(30):
        start = start.advanced(1)
    assert "gate" in start.actors[1].what
    explored = explore(Moment((*start.actors, Actor(2, (Step("tick", 4),))), start.board))
    done = [each for each in explored.moments if each.actors[1].is_done]
    assert {tuple(records(each)) for each in done} == {((ANNOUNCEMENT_EXPIRED, 1),)}


@pytest.mark.parametrize("mode", MODES)
def test_an_announcement_that_expires_never_takes_the_raise_with_it(mode: str) -> None:
    """At every moment between its raise and its end the job holds its key."""
    program = (Step("raise", announced(URGENT)), *job(URGENT, mode, 1))
    start = moment(
        Actor(0, program), Actor(1, job(LATER, mode, 1)), Actor(2, TICKS[:2]), announce=1
    )
    explored = explore(start)
    assert not [each for each in explored.stuck() if not each.actors[2].is_done]
    assert any(records(each) for each in explored.moments)
    for each in explored.moments:
        assert each.held(0) == URGENT or not 2 <= each.actors[0].at < len(program) - 1


@pytest.mark.parametrize("mode", MODES)
def test_where_kernels_have_a_time_limit_a_gate_waits_for_less(mode: str) -> None:
    dead = Actor(0, (Step("raise", URGENT),))
    start = moment(dead, Actor(1, job(LATER, mode, 1)), max_wait=1).advanced(0)
    explored = explore(Moment((*start.actors, Actor(2, TICKS)), start.board))
    done = [each for each in explored.moments if each.actors[1].is_done]
    assert {tuple(records(each)) for each in done} == {((WAITED_TOO_LONG, 1),)}
    assert all(each.held(0) == URGENT for each in done)


@pytest.mark.parametrize("mode", MODES)
def test_open_gates_let_everybody_pass_whoever_holds_a_key(mode: str) -> None:
    dead = Actor(0, (Step("raise", URGENT),))
    others = [Actor(i, job(key_of("best-effort", i, i), mode, 1)) for i in (1, 2)]
    start = moment(dead, *others, Actor(31, (Step("open", 1),))).advanced(0)
    explored = explore(start)
    assert explored.stuck() == []
    assert {end.board for end in explored.ends} == {((0, URGENT), (IS_OPEN, 1))}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("halves", [("raise-high", "raise-low"), ("raise-low", "raise-high")])
def test_a_raise_that_is_seen_by_halves_does_no_harm(halves: tuple[str, str], mode: str) -> None:
    program = (*(Step(half, URGENT) for half in halves), *job(URGENT, mode, 1)[1:])
    explored = explore(moment(Actor(0, program), Actor(1, job(LATER, mode))))
    assert explored.stuck() == []
    assert {end.board for end in explored.ends} == {IDLE}
    assert all(each.held(0) >= URGENT for each in explored.moments)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(40))
def test_many_jobs_in_random_order_reach_their_ends(mode: str, seed: int) -> None:
    """Up to eight, some of them cancelled, some several times in a row on their stream."""
    rng = Random(seed)
    actors: list[Actor] = []
    for slot in rng.sample(range(32), rng.randint(2, 8)):
        program: tuple[Step, ...] = ()
        for order in range(rng.randint(1, 3)):
            tier = rng.choice(("real-time", "best-effort"))
            rank = priority_rank(rng.randint(0, 2), order)
            program += job(key_of(tier, rank, slot), mode, rng.randint(1, 4))  # type: ignore[arg-type]
        actors.append(Actor(slot, program))
        if rng.random() < 0.3:
            actors.append(Actor(slot, (Step("cancel"),)))
    path = wander(moment(*actors, limit=1 << 20), seed)
    assert path[-1].board == _board(limit=1 << 20)
    if mode == "exclusive":
        assert max(each.num_running for each in path) == 1
