"""A compile at another speed than the profile's, or with a chain too fast to be true, says so."""

from dataclasses import replace

import pytest

from preempt_runtime.manifest import Latency
from preemptc.machine_speed import machine_speed, renewal_notes, speed_notes
from preemptc.profile import BoundaryCost, LatencyProfile

PROFILE = LatencyProfile(
    graph_digest="d",
    target="cpu",
    source="measured",
    node_names=("a",),
    node_ns=(26,),
    node_latency=(),
    whole=Latency(p50_ns=26, p99_ns=30, max_ns=40, num_samples=9),
    boundary=BoundaryCost(fixed_ns=0, ns_per_byte=0.0),
    machine={},
)


def test_speed_is_the_profile_s_time_over_the_time_now() -> None:
    assert machine_speed(PROFILE, 100) == 0.26
    assert machine_speed(PROFILE, 13) == 2.0
    assert machine_speed(replace(PROFILE, source="estimated", whole=None), 100) is None


def test_a_plan_for_a_slower_speed_than_the_cached_profile_s_is_noted() -> None:
    slow = replace(PROFILE, node_ns=(100,))
    (note,) = renewal_notes(PROFILE, slow)
    assert "the machine ran at 0.26 of the speed of the one in the cache" in note
    assert renewal_notes(None, slow) == renewal_notes(PROFILE, PROFILE) == ()
    assert renewal_notes(PROFILE, replace(PROFILE, node_ns=(10,))) == (), "it is idle now"


@pytest.mark.parametrize(
    ("speed", "ratio", "found"),
    [
        (0.26, 1.0, ["the machine ran at 0.26 of the profile's speed; measure again when it is"]),
        (1.3, 1.0, ["the machine ran at 1.3 of the profile's speed; measure again when it is"]),
        (0.9, 0.949, ["the chain took 0.949 of the whole network's time"]),
        (0.5, 0.8, ["the machine ran at 0.5 of", "the chain took 0.800 of"]),
        (0.9, 0.951, []),
        (None, None, []),
    ],
)
def test_notes_name_what_was_odd(
    speed: float | None, ratio: float | None, found: list[str]
) -> None:
    notes = speed_notes(speed, ratio)
    assert len(notes) == len(found)
    assert all(note.startswith(text) for note, text in zip(notes, found, strict=True))
    assert all(note.endswith(", with --remeasure: the cache keeps this result") for note in notes)
