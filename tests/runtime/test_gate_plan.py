"""Gate plans in a bundle: read strictly, ignored by whoever does not know them."""

from dataclasses import replace
from typing import Any

import pytest

from preempt_runtime.errors import BundleError
from preempt_runtime.gate_plan import EXTENSION, GatePlan, extension_from_plans, gate_plans
from preempt_runtime.manifest import KNOWN_FEATURES, MECHANISMS, Latency
from preempt_runtime.manifest_json import json_from_manifest, manifest_from_json
from tests.runtime.bundle_fixture import make_test_manifest

LATENCY = Latency(p50_ns=10, p99_ns=12, max_ns=15, num_samples=100)
PLAN = GatePlan(
    plan="whole",
    fingerprint="0123456789abcdef",
    num_nodes=105,
    cuts=(3, 50),
    bound_ns=50_000,
    bound_quantile="p99",
    gate_ns=850,
    stretches=(LATENCY,) * 3,
)


def test_a_gate_plan_passes_through_a_manifest() -> None:
    manifest = replace(make_test_manifest(), extensions={EXTENSION: extension_from_plans((PLAN,))})
    read = manifest_from_json(json_from_manifest(manifest), "manifest.json")
    assert gate_plans(read.extensions) == (PLAN,)
    assert gate_plans({}) == ()


def test_gates_are_no_mechanism_of_a_bundle_before_they_are_measured() -> None:
    assert "gates" not in MECHANISMS | KNOWN_FEATURES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuts": [50, 3]}, r"\.cuts: expected ascending positions between 1 and 104"),
        ({"cuts": [0, 3]}, r"\.cuts: expected ascending"),
        ({"cuts": [3, 105]}, r"\.cuts: expected ascending"),
        ({"cuts": [3]}, r"\.stretches: found 3, expected 2"),
        ({"fingerprint": "0123456789ABCDEF"}, r"\.fingerprint: expected 16 hexadecimal"),
        ({"bound_ns": 0}, r"\.bound_ns: found 0, at least 1"),
        ({"bound_quantile": "p42"}, r"\.bound_quantile: expected p50 or p99 or max"),
        ({"gate_ns": -1}, r"\.gate_ns: found -1"),
        ({"gate_ns": 0.5}, r"\.gate_ns: found 0.5, expected an integer"),
        ({"more": 1}, r"\.more: no such field"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: dict[str, Any], message: str) -> None:
    (value,) = extension_from_plans((PLAN,))
    with pytest.raises(BundleError, match=message):
        gate_plans({EXTENSION: [value | change]})


def test_an_unsound_latency_and_a_strange_type_are_refused() -> None:
    bad = replace(PLAN, stretches=(LATENCY, replace(LATENCY, p50_ns=13), LATENCY))
    with pytest.raises(BundleError, match=r"stretches\[1\]"):
        gate_plans({EXTENSION: extension_from_plans((bad,))})
    with pytest.raises(BundleError, match="expected an array"):
        gate_plans({EXTENSION: {}})
