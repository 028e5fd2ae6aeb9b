"""LatencyProfile: what each node and each boundary of an executed graph costs on a target."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from preempt_runtime.errors import InputError
from preempt_runtime.input_file import read_regular
from preempt_runtime.manifest import MAX_PROFILE_BYTES, Latency
from preempt_runtime.manifest_check import check_latency
from preempt_runtime.strict_json import Place, brief, document_from_json
from preempt_runtime.typed_json import record_from_value

PROFILE_SCHEMA = "preemptc/profile"
PROFILE_VERSION = 1
MEASURED_AT = "measured_at"
"""In `machine`: when it was measured, UTC in ISO 8601; it is cached with the profile."""
_TODO = "give one that `preemptc profile MODEL -o FILE` wrote"
_MAX_NODE_NS = 10**13  # almost three hours
_MAX_TOTAL_NS = 10**17
_MAX_NS_PER_BYTE = 1000  # a boundary that moves a megabyte a second


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryCost:
    """What one more segment costs: `fixed_ns` for the launch, `ns_per_byte` for what crosses.

    Fitted to measurements on the target; `estimated` profiles use a stated default.
    """

    fixed_ns: int
    ns_per_byte: float

    def at(self, live_bytes: int) -> int:
        """Cost of a boundary across which `live_bytes` live.

        >>> BoundaryCost(fixed_ns=1000, ns_per_byte=0.5).at(4000)
        3000
        """
        return self.fixed_ns + round(self.ns_per_byte * live_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProfile:
    """Costs of the executed graph's nodes in its order, and of its boundaries.

    `node_ns[i]` is the median of node i, scaled so that the sum is the whole network's median;
    `node_latency` holds the unscaled distributions (empty when estimated). `machine` is the
    device's fingerprint and clocks, and when it was measured.
    """

    graph_digest: str
    target: str
    source: Literal["measured", "estimated"]
    node_names: tuple[str, ...]
    node_ns: tuple[int, ...]
    node_latency: tuple[Latency, ...]
    whole: Latency | None
    boundary: BoundaryCost
    machine: Mapping[str, str | int | float]

    @property
    def total_ns(self) -> int:
        """Predicted time of the whole network."""
        return sum(self.node_ns)

    @property
    def measured_at(self) -> str | None:
        """When it was measured; None for an estimate, and for a profile that does not tell."""
        found = self.machine.get(MEASURED_AT)
        return None if found is None or self.source != "measured" else str(found)


def read_profile(path: Path) -> LatencyProfile:
    """The profile in a file.

    Raises:
        InputError: missing, or no profile of this version.
    """
    text = read_regular(path, "the profile", max_bytes=MAX_PROFILE_BYTES)
    return profile_from_json(text, str(path))


def json_from_profile(profile: LatencyProfile) -> str:
    """The profile as a JSON document, sorted keys."""
    document = {"schema": PROFILE_SCHEMA, "version": PROFILE_VERSION, **asdict(profile)}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def profile_from_json(text: str | bytes, where: str) -> LatencyProfile:
    """The profile of a JSON document, read strictly.

    Raises:
        InputError: not a profile of this version; `where` names the file in the message.
    """
    place = Place(where=where, todo=_TODO, error=InputError)
    document = document_from_json(text, place, max_bytes=MAX_PROFILE_BYTES)
    if not isinstance(document, dict) or document.pop("schema", None) != PROFILE_SCHEMA:
        raise place.refuse(f'not a latency profile (no "schema": "{PROFILE_SCHEMA}")')
    if (version := document.pop("version", None)) != PROFILE_VERSION or type(version) is not int:
        what = f"found {brief(version)}, this preemptc reads version {PROFILE_VERSION}"
        raise place.field("version").refuse(what)
    profile = record_from_value(document, LatencyProfile, place)
    _check(profile, place)
    return profile


def _check(profile: LatencyProfile, place: Place) -> None:
    """Refuse values that nothing takes: plans add them up in 64 bits."""
    num_nodes = len(profile.node_names)
    for name, found in (("node_ns", profile.node_ns), ("node_latency", profile.node_latency)):
        if len(found) != num_nodes and (found or name == "node_ns"):
            what = f"{len(found)} entries for the {num_nodes} nodes of node_names"
            raise place.field(name).refuse(what)
    for idx, cost in enumerate(profile.node_ns):
        _check_within(cost, _MAX_NODE_NS, "ns", place.field("node_ns").item(idx))
    _check_within(profile.total_ns, _MAX_TOTAL_NS, "ns in all", place.field("node_ns"))
    at = place.field("boundary")
    _check_within(profile.boundary.fixed_ns, _MAX_NODE_NS, "ns", at.field("fixed_ns"))
    _check_within(
        profile.boundary.ns_per_byte, _MAX_NS_PER_BYTE, "ns per byte", at.field("ns_per_byte")
    )
    for idx, latency in enumerate(profile.node_latency):
        check_latency(latency, place.field("node_latency").item(idx))
    check_latency(profile.whole, place.field("whole"))


def _check_within(found: float, most: int, unit: str, place: Place) -> None:
    if not 0 <= found <= most:
        raise place.refuse(f"found {found}, allowed 0 to {most} {unit}")
