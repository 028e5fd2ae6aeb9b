"""GatePlan: between which kernels of one engine's captured graph gates stand.

EXPERIMENTAL: nothing was measured with it on a GPU yet. A bundle keeps gate plans where readers of
version 1.0 ignore them, under `extensions["preemptc.gates"]`: an array of these, each for one plan
of mechanism `segments` that has one segment, whose engine is captured. So a bundle that has them
runs everywhere. Once gates are measured they get plans of their own with mechanism `gates`, and
`requires` names it.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from preempt_runtime.manifest import QUANTILES, Latency
from preempt_runtime.manifest_check import check_latency
from preempt_runtime.strict_json import Place
from preempt_runtime.typed_json import record_from_value

EXTENSION = "preemptc.gates"
_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePlan:
    """Gates before the first node and before those at `cuts`, in the graph's order.

    `plan` is the id of the plan of one segment whose engine it is, `fingerprint` that of the
    captured graph: another one at load means that other kernels run, and that the plan does not
    apply. `stretches` are the measured times between gates, `gate_ns` what a gate costs that
    nobody has to wait at; `bound_ns` is None where no bound was asked.
    """

    plan: str
    fingerprint: str
    num_nodes: int
    cuts: tuple[int, ...]
    bound_ns: int | None
    bound_quantile: str
    gate_ns: int
    stretches: tuple[Latency, ...]


def gate_plans(extensions: Mapping[str, Any]) -> tuple[GatePlan, ...]:
    """The gate plans that a manifest's extensions hold, checked.

    Raises:
        BundleError: one is not as it should be, and where.
    """
    value = extensions.get(EXTENSION, [])
    place = Place(where="manifest.json").field("extensions").field(EXTENSION)
    if not isinstance(value, list):
        raise place.refuse("expected an array")
    plans = []
    for idx, each in enumerate(value):
        at = place.item(idx)
        plans.append(record_from_value(each, GatePlan, at))
        _check(plans[-1], at)
    return tuple(plans)


def extension_from_plans(plans: tuple[GatePlan, ...]) -> list[dict[str, Any]]:
    """What `gate_plans` reads, as JSON values."""
    values: list[dict[str, Any]] = json.loads(json.dumps([asdict(plan) for plan in plans]))
    return values


def _check(plan: GatePlan, place: Place) -> None:
    if _FINGERPRINT.fullmatch(plan.fingerprint) is None:
        raise place.field("fingerprint").refuse("expected 16 hexadecimal digits in lower case")
    bounds = (0, *plan.cuts, plan.num_nodes)
    if any(start >= end for start, end in pairwise(bounds)):
        raise place.field("cuts").refuse(
            f"expected ascending positions between 1 and {plan.num_nodes - 1}"
        )
    if plan.bound_ns is not None and plan.bound_ns < 1:
        raise place.field("bound_ns").refuse(f"found {plan.bound_ns}, at least 1")
    if plan.bound_quantile not in QUANTILES:
        expected = " or ".join(QUANTILES)
        raise place.field("bound_quantile").refuse(f"expected {expected}")
    if plan.gate_ns < 0:
        raise place.field("gate_ns").refuse(f"found {plan.gate_ns}, at least 0")
    if len(plan.stretches) != len(bounds) - 1:
        found, expected_number = len(plan.stretches), len(bounds) - 1
        raise place.field("stretches").refuse(f"found {found}, expected {expected_number}")
    for idx, latency in enumerate(plan.stretches):
        check_latency(latency, place.field("stretches").item(idx))
