"""What networks can be compiled for, and which of it this machine is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from preempt_runtime.errors import DeviceError
from preempt_runtime.loading import open_backend

KeyFields = Mapping[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something that executes networks, by the name that stands after `--target`.

    `backend` names the library behind it, as the KEY of device artefacts does; `compiler` is the
    module whose `open_backend(threads)` compiles for it, imported when a compile asks.
    """

    name: str
    backend: str
    compiler: str
    description: str


CPU = Target(
    name="cpu",
    backend="ort",
    compiler="preemptc.backends.ort.backend",
    description="the CPU of this machine, by ONNX Runtime",
)
# NEW TARGET: one more entry here; nothing else names targets.
TARGETS: Mapping[str, Target] = MappingProxyType({target.name: target for target in (CPU,)})


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDevice:
    """What this machine is as a target: the KEY's fields and its cores, or why it is none."""

    target: Target
    fields: KeyFields
    num_cores: int
    unavailable: str | None

    @property
    def is_available(self) -> bool:
        """Whether networks can be compiled for it here."""
        return self.unavailable is None


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMatch:
    """One field of a KEY: what a bundle was built for, and what is here (None: not known)."""

    name: str
    bundle: str | int | None
    here: str | int | None

    @property
    def is_same(self) -> bool:
        """Whether the two are equal."""
        return self.bundle == self.here


def local_device(target: Target) -> LocalDevice:
    """What this machine is as that target."""
    fields: KeyFields
    unavailable: str | None
    try:
        fields, unavailable = open_backend(target.backend).key_fields(), None
    except DeviceError as err:
        fields, unavailable = {}, str(err)
    num_cores = len(os.sched_getaffinity(0))
    return LocalDevice(target=target, fields=fields, num_cores=num_cores, unavailable=unavailable)


def compare_key(bundle_fields: KeyFields, device: LocalDevice) -> tuple[FieldMatch, ...]:
    """Field by field, those that this machine must match to run what a bundle holds.

    Other fields of a KEY, such as the graph's digest, say what was built and not for what.
    """
    names = tuple(device.fields) or ("backend",)
    return tuple(
        FieldMatch(name=name, bundle=bundle_fields.get(name), here=device.fields.get(name))
        for name in names
    )
