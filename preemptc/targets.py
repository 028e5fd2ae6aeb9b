"""What networks can be compiled for, and which of it this machine is."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from preempt_runtime.device import MAX_DEPTH
from preempt_runtime.errors import BundleError, DeviceError
from preempt_runtime.loading import open_backend
from preemptc.gpu_specs import GpuSpec, gpu_specs

KeyFields = Mapping[str, str | int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Something that executes networks, by the name that stands after `--target`.

    `backend` names the library behind it, as the KEY of device artefacts does; `compiler` is the
    module whose `open_backend` compiles for it, imported when a compile asks. `gpu` are the
    figures of a named GPU: without it on this machine, a network can still be planned for it.
    `max_depth` segments may be in flight on it.
    """

    name: str
    backend: str
    compiler: str
    description: str
    gpu: GpuSpec | None = None
    max_depth: int = MAX_DEPTH


_TENSORRT = "tensorrt"
_TENSORRT_COMPILER = "preemptc.backends.tensorrt.backend"
CPU = Target(
    name="cpu",
    backend="ort",
    compiler="preemptc.backends.ort.backend",
    description="the CPU of this machine, by ONNX Runtime",
    max_depth=1,
)
NATIVE = Target(
    name="native",
    backend=_TENSORRT,
    compiler=_TENSORRT_COMPILER,
    description="the GPU of this machine, by TensorRT",
)
_NAMED_GPUS = tuple(
    Target(
        name=spec.name,
        backend=_TENSORRT,
        compiler=_TENSORRT_COMPILER,
        description=f"{spec.title}, by TensorRT",
        gpu=spec,
    )
    for spec in gpu_specs()
)
# NEW TARGET: one more entry here, or one more file in gpus/; nothing else names targets.
TARGETS: Mapping[str, Target] = MappingProxyType(
    {target.name: target for target in (CPU, NATIVE, *_NAMED_GPUS)}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDevice:
    """What this machine is as a target: the KEY's fields and its cores, or why it is none.

    A machine whose GPU is another one than the target's has fields, too: those of its own GPU.
    """

    target: Target
    fields: KeyFields
    num_cores: int
    unavailable: str | None

    @property
    def is_available(self) -> bool:
        """Whether networks can be built and measured for it here."""
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
    return local_devices((target,))[0]


def local_devices(targets: Iterable[Target]) -> tuple[LocalDevice, ...]:
    """What this machine is as each of the targets; each library is asked once."""
    targets = tuple(targets)
    found = {backend: _ask(backend) for backend in {target.backend for target in targets}}
    num_cores = len(os.sched_getaffinity(0))
    devices = []
    for target in targets:
        fields, unavailable = found[target.backend]
        if unavailable is None and target.gpu is not None:
            unavailable = _difference(target.gpu, fields)
        devices.append(
            LocalDevice(target=target, fields=fields, num_cores=num_cores, unavailable=unavailable)
        )
    return tuple(devices)


def matching_gpus(fields: KeyFields, specs: Iterable[GpuSpec]) -> tuple[GpuSpec, ...]:
    """Those of the GPUs that the machine with these KEY fields may have.

    They have its compute capability and number of SMs. Of several, the driver's name decides; one
    that says nothing, as on Jetson, leaves several.
    """
    alike = tuple(
        spec
        for spec in specs
        if str(fields.get("compute_capability")) == spec.compute_capability
        and fields.get("num_sms") == spec.num_sms
    )
    words = re.findall(r"\w+", str(fields.get("gpu", "")))
    return tuple(spec for spec in alike if spec.device_name in words) or alike


def compare_key(bundle_fields: KeyFields, device: LocalDevice) -> tuple[FieldMatch, ...]:
    """Field by field, those that this machine must match to run what a bundle holds.

    Other fields of a KEY, such as the graph's digest, say what was built and not for what.
    """
    names = tuple(device.fields) or ("backend",)
    return tuple(
        FieldMatch(name=name, bundle=bundle_fields.get(name), here=device.fields.get(name))
        for name in names
    )


def _ask(backend: str) -> tuple[KeyFields, str | None]:
    """The KEY's fields on this machine, or none of them and the reason."""
    try:
        return open_backend(backend).key_fields(), None
    except (BundleError, DeviceError) as err:
        return {}, str(err)


def _difference(spec: GpuSpec, fields: KeyFields) -> str | None:
    """Why the GPU here is not the one of the spec; None if it is."""
    specs = [target.gpu for target in _NAMED_GPUS if target.gpu is not None]
    if spec in matching_gpus(fields, specs):
        return None
    return (
        f"the GPU here is {fields.get('gpu')} (compute capability"
        f" {fields.get('compute_capability')}, {fields.get('num_sms')} SMs), not {spec.title}"
        f" ({spec.compute_capability}, {spec.num_sms} SMs)"
    )
