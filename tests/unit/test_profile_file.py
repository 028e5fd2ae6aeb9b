"""Profiles from outside: what is wrong in one is told with its file and field."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from preempt_runtime.errors import InputError
from preempt_runtime.manifest import Latency
from preemptc.profile import BoundaryCost, LatencyProfile, json_from_profile, profile_from_json

LATENCY = Latency(p50_ns=10, p99_ns=20, max_ns=30, num_samples=5)
PROFILE = LatencyProfile(
    graph_digest="0" * 64,
    target="cpu",
    source="measured",
    node_names=("a", "b"),
    node_ns=(5, 6),
    node_latency=(LATENCY, LATENCY),
    whole=LATENCY,
    boundary=BoundaryCost(fixed_ns=100, ns_per_byte=0.5),
    machine={"threads": 2, "cpu_model": "X"},
)
Edit = Callable[[dict[str, Any]], object]


def edited(edit: Edit) -> str:
    document = json.loads(json_from_profile(PROFILE))
    edit(document)
    return json.dumps(document)


def refusal(text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        profile_from_json(text, "p.json")
    message = str(caught.value)
    assert message.startswith("p.json: ")
    assert message.endswith("; give one that `preemptc profile MODEL -o FILE` wrote")
    assert "\n" not in message
    return message.removeprefix("p.json: ")


def test_what_was_written_is_read_again() -> None:
    assert profile_from_json(json_from_profile(PROFILE), "p.json") == PROFILE
    assert profile_from_json(edited(lambda d: d["boundary"].update(ns_per_byte=1)), "p.json")
    without = edited(lambda d: d.update(node_latency=[], whole=None, source="estimated"))
    assert profile_from_json(without.encode(), "p.json").source == "estimated"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON in UTF-8"),
        (b"\xff", "not JSON in UTF-8"),
        ("[]", 'not a latency profile (no "schema": "preemptc/profile")'),
        ("{}", 'not a latency profile (no "schema": "preemptc/profile")'),
        ("[" * 100_000, "nested deeper than 64 levels"),
        (edited(lambda d: d.update(version=2)), "version: found 2, this preemptc reads version 1"),
        (edited(lambda d: d.update(version=True)), "version: found True"),
        (edited(lambda d: d.update(version=[1])), "version: found [1]"),
        (edited(lambda d: d.pop("target")), "target: this field is missing"),
        (edited(lambda d: d.update(extra=1)), "extra: no such field"),
        (edited(lambda d: d.update(source="guessed")), "source: found 'guessed', expected measur"),
        (edited(lambda d: d.update(source=["measured"])), "source: found ['measured'], expected"),
        (edited(lambda d: d.update(graph_digest=1)), "graph_digest: found 1, expected a string"),
        (edited(lambda d: d.update(node_names="ab")), "node_names: found 'ab', expected an array"),
        (edited(lambda d: d.update(node_names=["a", 1])), "node_names[1]: found 1, expected a str"),
        (edited(lambda d: d.update(node_ns=[1])), "node_ns: 1 entries for the 2 nodes"),
        (edited(lambda d: d.update(node_ns=[1, "2"])), "node_ns[1]: found '2', expected an int"),
        (edited(lambda d: d.update(node_ns=[1, True])), "node_ns[1]: found True, expected an int"),
        (edited(lambda d: d.update(node_ns=[1.5, 1])), "node_ns[0]: found 1.5, expected an integ"),
        (edited(lambda d: d.update(node_ns=[1, -1])), "node_ns[1]: found -1, allowed 0 to 10"),
        (edited(lambda d: d.update(node_ns=[10**18, 1])), "node_ns[0]: found 1000000000000000000"),
        (edited(lambda d: d.update(node_ns=[10**400, 1])), "integer of 1329 bits"),
        (edited(lambda d: d.update(node_ns=[1, float("nan")])), "NaN is not a JSON number"),
        (edited(lambda d: d.update(node_ns={"a": 1})), "node_ns: found {'a': 1}, expected an arr"),
        (edited(lambda d: d.update(node_latency=[None, None])), "node_latency[0]: found None"),
        (edited(lambda d: d["node_latency"].pop()), "node_latency: 1 entries for the 2 nodes"),
        (edited(lambda d: d["whole"].update(p50_ns=99)), "whole: found 99, 20, 30 ns, expected"),
        (edited(lambda d: d["whole"].update(num_samples=0)), "whole.num_samples: found 0"),
        (edited(lambda d: d.update(whole=[])), "whole: found [], expected an object"),
        (edited(lambda d: d.update(boundary=None)), "boundary: found None, expected an object"),
        (edited(lambda d: d["boundary"].pop("fixed_ns")), "boundary.fixed_ns: this field is miss"),
        (edited(lambda d: d["boundary"].update(fixed_ns=1.5)), "fixed_ns: found 1.5, exp"),
        (edited(lambda d: d["boundary"].update(fixed_ns=-1)), "boundary.fixed_ns: found -1, allow"),
        (edited(lambda d: d["boundary"].update(ns_per_byte="1")), "ns_per_byte: found '1'"),
        (edited(lambda d: d["boundary"].update(ns_per_byte=-0.1)), "ns_per_byte: found -0.1"),
        (edited(lambda d: d["boundary"].update(ns_per_byte=1e300)), "0 to 1000 ns per byte"),
        (edited(lambda d: d["boundary"].update(ns_per_byte=float("inf"))), "Infinity is not"),
        (edited(lambda d: d.update(machine={"a": []})), "machine.a: found [], expected a str"),
        (edited(lambda d: d.update(machine={"a": None})), "machine.a: found None, expected"),
    ],
)  # fmt: skip
def test_other_documents_are_refused(text: str | bytes, expected: str) -> None:
    assert expected in refusal(text)


def test_costs_that_do_not_add_up_in_64_bits_are_refused() -> None:
    num_nodes = 10_001
    text = edited(
        lambda d: d.update(
            node_names=[str(i) for i in range(num_nodes)],
            node_ns=[10**13] * num_nodes,
            node_latency=[],
        )
    )
    assert "node_ns: found 100010000000000000, allowed 0 to" in refusal(text)
