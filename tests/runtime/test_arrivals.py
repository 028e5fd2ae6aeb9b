import json
import os
import statistics
from itertools import combinations_with_replacement, islice, pairwise, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preempt_runtime import arrivals
from preempt_runtime.arrivals import (
    ClosedLoop,
    OpenArrival,
    Periodic,
    Poisson,
    Recorded,
    Sporadic,
    first_too_early,
    read_trace,
    release_offsets,
)
from preempt_runtime.errors import InputError

MS = 1_000_000


def take(arrival: OpenArrival, num: int, *, seed: int = 0, task: str = "t") -> list[int]:
    return list(islice(release_offsets(arrival, seed=seed, task=task), num))


durations = st.integers(min_value=1, max_value=10**12)
arrivals_strategy: st.SearchStrategy[OpenArrival] = st.one_of(
    st.builds(
        Periodic,
        period_ns=durations,
        offset_ns=st.integers(0, 10**12),
        jitter_ns=st.integers(0, 10**13),
    ),
    st.builds(
        lambda least, extra: Sporadic(min_interval_ns=least, mean_interval_ns=least + extra),
        durations,
        st.integers(0, 10**12),
    ),
    st.builds(Poisson, rate_per_s=st.floats(min_value=1e-3, max_value=1e6)),
    st.builds(
        lambda gaps: Recorded(offsets_ns=tuple(sum(gaps[: i + 1]) for i in range(len(gaps)))),
        st.lists(st.integers(0, 10**9), max_size=20),
    ),
)


@given(arrival=arrivals_strategy, seed=st.integers(), task=st.text(max_size=5))
def test_offsets_are_non_negative_non_decreasing_and_replayable(
    arrival: OpenArrival, seed: int, task: str
) -> None:
    offsets = take(arrival, 50, seed=seed, task=task)
    assert all(isinstance(offset, int) and offset >= 0 for offset in offsets)
    assert offsets == sorted(offsets)
    assert offsets == take(arrival, 50, seed=seed, task=task)


@given(
    period=durations,
    offset=st.integers(0, 10**12),
    jitter=st.integers(0, 10**9),
    seed=st.integers(0, 100),
)
def test_a_periodic_release_is_late_by_at_most_the_jitter(
    period: int, offset: int, jitter: int, seed: int
) -> None:
    arrival = Periodic(period_ns=period, offset_ns=offset, jitter_ns=jitter)
    for idx, release in enumerate(take(arrival, 30, seed=seed)):
        # Beyond its own jitter a release waits only for one that it would overtake, and that
        # one is itself at most one jitter after an earlier nominal time.
        assert 0 <= release - (offset + idx * period) <= jitter


@given(least=durations, extra=st.integers(0, 10**12), seed=st.integers(0, 100))
def test_sporadic_gaps_keep_their_minimum(least: int, extra: int, seed: int) -> None:
    offsets = take(Sporadic(min_interval_ns=least, mean_interval_ns=least + extra), 30, seed=seed)
    assert min(b - a for a, b in pairwise(offsets)) >= least


def test_means_are_those_asked_for() -> None:
    poisson = take(Poisson(rate_per_s=200.0), 20_000)
    assert poisson[-1] / 20_000 == pytest.approx(5 * MS, rel=0.03)
    sporadic = take(Sporadic(min_interval_ns=2 * MS, mean_interval_ns=5 * MS), 20_000)
    assert sporadic[-1] / 20_000 == pytest.approx(5 * MS, rel=0.03)
    jittered = take(Periodic(period_ns=10 * MS, jitter_ns=4 * MS), 20_000)
    late = [release - idx * 10 * MS for idx, release in enumerate(jittered)]
    assert statistics.fmean(late) == pytest.approx(2 * MS, rel=0.03)
    assert (min(late) < 0.01 * MS, max(late) > 3.99 * MS) == (True, True)


def test_streams_differ_by_seed_and_by_task() -> None:
    arrival = Poisson(rate_per_s=10.0)
    assert take(arrival, 5, seed=1) != take(arrival, 5, seed=2)
    assert take(arrival, 5, task="a") != take(arrival, 5, task="b")


def test_a_stream_is_the_same_on_every_machine() -> None:
    jittered = Periodic(period_ns=1000, jitter_ns=999)
    assert take(jittered, 4, seed=7, task="camera") == [542, 1970, 2391, 3081]


def test_an_unjittered_period_is_exact() -> None:
    assert take(Periodic(period_ns=20, offset_ns=3), 4) == [3, 23, 43, 63]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Periodic(period_ns=0), "period is 0 ns, allowed 1 ns to 1000000000000000000 ns"),
        (lambda: Periodic(period_ns=5, jitter_ns=-1), "jitter is -1 ns, allowed 0 ns to"),
        (lambda: Periodic(period_ns=5, offset_ns=-4), "offset is -4 ns, allowed 0 ns to"),
        (
            lambda: Sporadic(min_interval_ns=9, mean_interval_ns=8),
            "mean_interval is 8 ns, allowed 9 ns to",
        ),
        (lambda: Poisson(rate_per_s=0.0), "rate is 0 per second, allowed 1e-9"),
        (lambda: Poisson(rate_per_s=float("nan")), "rate is nan per second"),
        (lambda: ClosedLoop(think_ns=-1), "think is -1 ns, allowed 0 ns to"),
        (lambda: Recorded(offsets_ns=(5, 4)), "release 1 is at 4 ns, allowed 5"),
        (lambda: Recorded(offsets_ns=(-1,)), "release 0 is at -1 ns, allowed 0"),
    ],
)
def test_impossible_arrivals_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "0\n1500000\n1.5 ms  # together\n\n# nothing\n2ms\n",
        "0\r\n1500000\r\n1.5ms\r\n2000us\r\n",
        json.dumps([0, 1_500_000, "1.5ms", "2ms"]),
    ],
)
def test_a_trace_is_lines_or_a_json_list(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8", newline="")
    expected = (0, 1_500_000, 1_500_000, 2_000_000)
    assert read_trace(path) == Recorded(offsets_ns=expected)
    assert tuple(take(read_trace(path), 9)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no releases; write one a line, such as 12.5ms"),
        (b"1\n2\nsoon\n", "line 3: 'soon' is not a release; write whole ns, or 12.5ms"),
        (b"1.5\n", "line 1: '1.5' is not a release; write whole ns, or 12.5ms"),
        (b"3ms\n2ms\n", "release 1 is at 2000000 ns, allowed 3000000 (the release before it"),
        (b"-3\n", "release 0 is at -3 ns, allowed 0 (the release before it, or the start)"),
        (b"[1, 2.5]", "release 1: '2.5' is not a release; write whole ns, or 12.5ms"),
        (b"[1, true]", "release 1: 'True' is not a release"),
        (b"[1, ", "not a JSON list of releases ("),
        (b"[" * 100_000, "not a JSON list of releases ("),
        (b"\xff\xfe1\n", "not a text file (invalid start byte at byte 0)"),
        (b"9" * 5000, "is not a release"),
        (b"9" * 30, "allowed 0 (the release before it, or the start) to 1000000000000000000"),
    ],
)
def test_a_bad_trace_is_named_with_its_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "trace.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_trace(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_a_missing_or_oversized_trace_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(InputError, match="it is a pipe or a device; give a regular file"):
            read_trace(path)
    with pytest.raises(InputError, match="cannot read the trace: No such file or directory"):
        read_trace(tmp_path / "none")
    path = tmp_path / "trace"
    path.write_text("1\n2\n", encoding="utf-8")
    monkeypatch.setattr(arrivals, "MAX_TRACE_BYTES", 3)
    with pytest.raises(InputError, match="4 bytes, the trace has at most 3"):
        read_trace(path)


def is_allowed(offsets_ns: tuple[int, ...], period_ns: int, jitter_ns: int) -> bool:
    """By trying all nominal releases."""
    ranges = [range(offset_ns - jitter_ns, offset_ns + 1) for offset_ns in offsets_ns]
    return any(
        all(later - nominal >= period_ns for nominal, later in pairwise(nominals))
        for nominals in product(*ranges)
    )


def test_releases_keep_a_period_if_nominal_ones_do() -> None:
    for offsets_ns in combinations_with_replacement(range(8), 4):
        for period_ns, jitter_ns in product((1, 2, 3), (0, 1, 3)):
            found = first_too_early(offsets_ns, period_ns=period_ns, jitter_ns=jitter_ns)
            first = next(
                (n for n in range(4) if not is_allowed(offsets_ns[: n + 1], period_ns, jitter_ns)),
                None,
            )
            assert found == first, (offsets_ns, period_ns, jitter_ns)
