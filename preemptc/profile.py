"""LatencyProfile: what each node and each boundary of an executed graph costs on a target."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from preempt_runtime.errors import InputError
from preempt_runtime.manifest import Latency

PROFILE_SCHEMA = "preemptc/profile"
PROFILE_VERSION = 1
MEASURED_AT = "measured_at"
"""In `machine`: when it was measured, UTC in ISO 8601; it is cached with the profile."""


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

    def __post_init__(self) -> None:
        if len(self.node_ns) != len(self.node_names):
            raise InputError(f"profile: {len(self.node_ns)} costs for {len(self.node_names)} nodes")
        if any(cost < 0 for cost in self.node_ns):
            raise InputError("profile: a node has a negative cost")

    @property
    def total_ns(self) -> int:
        """Predicted time of the whole network."""
        return sum(self.node_ns)

    @property
    def measured_at(self) -> str | None:
        """When it was measured; None for an estimate, and for a profile that does not tell."""
        found = self.machine.get(MEASURED_AT)
        return None if found is None or self.source != "measured" else str(found)


def json_from_profile(profile: LatencyProfile) -> str:
    """The profile as a JSON document, sorted keys."""
    document = {"schema": PROFILE_SCHEMA, "version": PROFILE_VERSION, **asdict(profile)}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"the node name {value!r} is no string")
    return value


def profile_from_json(text: str, where: str) -> LatencyProfile:
    """The profile of a JSON document.

    Raises:
        InputError: not a profile of this version; `where` names the file in the message.
    """
    try:
        document: dict[str, Any] = json.loads(text)
        schema, version = document.pop("schema"), document.pop("version")
        if (schema, version) != (PROFILE_SCHEMA, PROFILE_VERSION):
            raise InputError(
                f"{where}: {schema} version {version}, this preemptc reads {PROFILE_SCHEMA}"
                f" version {PROFILE_VERSION}; run `preemptc profile` again"
            )
        document["boundary"] = BoundaryCost(**document["boundary"])
        document["node_latency"] = tuple(Latency(**entry) for entry in document["node_latency"])
        document["whole"] = Latency(**document["whole"]) if document["whole"] else None
        document["node_names"] = tuple(map(_name, document["node_names"]))
        document["node_ns"] = tuple(int(cost) for cost in document["node_ns"])
        document["machine"] = dict(document["machine"])
        return LatencyProfile(**document)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
        raise InputError(
            f"{where}: not a latency profile ({err}); write one with `preemptc profile -o FILE`"
        ) from err
