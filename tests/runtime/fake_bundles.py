"""Bundles without networks in them, and a backend that runs them on a fake device."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from preempt_runtime.bundle import Bundle, choose_plan
from preempt_runtime.clock import VirtualClock
from preempt_runtime.device import JobBuffers, Network
from preempt_runtime.errors import DeviceError, GatesError
from preempt_runtime.loading import LoadingDevice, LoadingGatedDevice
from preempt_runtime.manifest import (
    MANIFEST_NAME,
    Artefact,
    Manifest,
    PlanSpec,
    SegmentSpec,
    TensorSpec,
    hash_key,
)
from preempt_runtime.manifest_json import json_from_manifest
from preempt_runtime.testing import FakeDevice, FakeNetwork, graph_spec, segment_specs

FIELDS: dict[str, str | int] = {"backend": "fake", "cpu_model": "Testium 1", "library": "2.0"}
CONTENT = b"segment"


class FakeBackend:
    """This machine has `fields`; `make_device` is called once.

    `hazards` are those before the device is opened, and those when it is warm.
    """

    def __init__(
        self,
        fields: Mapping[str, str | int] | DeviceError = FIELDS,
        make_device: Callable[[], LoadingDevice] | None = None,
        hazards: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
        make_gated_device: Callable[[str], LoadingGatedDevice] | None = None,
    ) -> None:
        self._make_gated_device = make_gated_device
        self._fields = fields
        self._hazards = hazards
        self._make_device = make_device

    def key_fields(self) -> Mapping[str, str | int]:
        if isinstance(self._fields, DeviceError):
            raise self._fields
        return self._fields

    def open_device(self) -> LoadingDevice:
        assert self._make_device is not None, "nothing may open a device here"
        return self._make_device()

    def open_gated_device(self, mode: str) -> LoadingGatedDevice:
        if self._make_gated_device is None:
            raise GatesError("no gates here")
        return self._make_gated_device(mode)

    def hazards(self, *, is_warm: bool) -> tuple[str, ...]:
        return self._hazards[is_warm]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadedNetwork(FakeNetwork):
    """Its segments say what the plan says; notes in its device's `events` that it was closed."""

    events: list[str]
    plan_segments: tuple[SegmentSpec, ...]

    @property
    def segments(self) -> tuple[SegmentSpec, ...]:
        return self.plan_segments

    def close(self) -> None:
        self.events.append(f"close {self.name}")


class LoadingFakeDevice(FakeDevice):
    """Loads the bundles of this module: a segment takes the time that its plan predicts.

    `on_launch` is called with the number of launches so far.
    """

    def __init__(
        self,
        clock: VirtualClock,
        failures: Iterable[tuple[str, int]] = (),
        on_launch: Callable[[int], object] = lambda _: None,
    ) -> None:
        super().__init__(clock, failures)
        self.events: list[str] = []
        self._on_launch = on_launch

    def load(self, bundle: Bundle, plan_id: str | None = None) -> Network:
        plan = choose_plan(bundle, FIELDS, plan_id=plan_id)
        for segment in plan.segments:
            bundle.verified_path(segment.path)
        name = f"{bundle.root.name}:{plan.id}"
        self.events.append(f"load {name}")
        costs = tuple(segment.predicted_ns for segment in plan.segments)
        return LoadedNetwork(
            name=name,
            segment_ns=costs,
            graph=bundle.manifest.graphs[0],
            events=self.events,
            plan_segments=plan.segments,
        )

    def launch(self, buffers: JobBuffers, segment_idx: int, *, is_urgent: bool) -> None:
        super().launch(buffers, segment_idx, is_urgent=is_urgent)
        self._on_launch(len(self.launches))

    def close(self) -> None:
        self.events.append("close device")


def manifest_of(
    segment_ns: Sequence[int] = (1000,),
    *,
    fields: Mapping[str, str | int] = FIELDS,
    threads: int = 2,
    num_bytes: int = len(CONTENT),
) -> Manifest:
    """One network from float32 `x` to `y`; a plan `cut` of these segments and a plan `whole`."""
    key_fields = {**fields, "threads": threads}
    key = hash_key(key_fields)
    cut = tuple(
        dataclasses.replace(segment, path=f"engines/{key}/{segment.path.rpartition('/')[2]}")
        for segment in segment_specs(segment_ns)
    )
    whole = dataclasses.replace(
        cut[0],
        path=f"engines/{key}/whole.onnx",
        range=(0, len(cut)),
        source_range=(0, len(cut)),
        outputs=("y",),
        live_bytes=0,
        predicted_ns=sum(segment_ns),
    )
    handed_over = tuple(
        TensorSpec(name=f"b{idx}", dtype="float32", shape=(1,)) for idx in range(1, len(cut))
    )
    plan = PlanSpec(
        id="cut",
        graph="net",
        target="cpu",
        key=key,
        mechanism="segments",
        bound_ns=None,
        bound_quantile="p50",
        margin_frac=0.0,
        source="estimated",
        boundaries=handed_over,
        segments=cut,
        chained=None,
    )
    plans = (plan, dataclasses.replace(plan, id="whole", boundaries=(), segments=(whole,)))
    return Manifest(
        requires=("segments",),
        graphs=(graph_spec(),),
        plans=plans,
        keys={key: key_fields},
        artefacts=tuple(
            Artefact(
                path=segment.path,
                num_bytes=num_bytes,
                sha256=hashlib.sha256(CONTENT).hexdigest(),
                key=key,
            )
            for segment in (*cut, whole)
        ),
        check=None,
        toolchain={},
    )


def bundle_of(name: str, manifest: Manifest | None = None) -> Bundle:
    """A bundle that is nowhere on disk."""
    return Bundle(
        root=Path("/bundles") / name, manifest=manifest or manifest_of(), manifest_sha256="0" * 64
    )


def write_bundle(root: Path, manifest: Manifest | None = None) -> str:
    """Write the bundle; the hash of its manifest."""
    manifest = manifest or manifest_of()
    for artefact in manifest.artefacts:
        (root / artefact.path).parent.mkdir(parents=True, exist_ok=True)
        (root / artefact.path).write_bytes(CONTENT)
    text = json_from_manifest(manifest)
    (root / MANIFEST_NAME).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()
