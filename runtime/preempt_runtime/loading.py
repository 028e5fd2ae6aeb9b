"""From a bundle to the backend that runs it; a backend is imported only when a bundle asks."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from preempt_runtime.bundle import Bundle, choose_plan
from preempt_runtime.device import Device, Network
from preempt_runtime.errors import BundleError, DeviceError, GatesError
from preempt_runtime.gated_device import GatedDevice
from preempt_runtime.manifest import SEGMENTS, PlanSpec
from preempt_runtime.strict_json import brief

# NEW BACKEND: a module with `local_fields`, `hazards` and a device class, named here by the key's
# `backend`.
_BACKENDS = {
    "ort": ("preempt_runtime.backends.ort", "OrtDevice"),
    "tensorrt": ("preempt_runtime.backends.tensorrt", "TrtDevice"),
}
_GATED = {"tensorrt": ("preempt_runtime.backends.trt_gated", "GatedTrtDevice")}


class LoadingDevice(Device, Protocol):
    """A device that loads bundles."""

    def load(self, bundle: Bundle, plan_id: str | None = None) -> Network:
        """Load the plan of that id, or the first one that fits this machine.

        Raises:
            BundleError: no plan fits, or a file is damaged.
            DeviceError: the device or its library refused.
        """
        ...


class LoadingGatedDevice(GatedDevice, Protocol):
    """A device with gates that loads bundles; plans of segments get a gate before each."""

    def load(self, bundle: Bundle, plan_id: str | None = None) -> Network:
        """Load the plan of that id, or the first one that fits this machine.

        Raises:
            BundleError: no plan fits, or a file is damaged.
            GatesError: the network cannot have gates as planned.
            DeviceError: the device or its library refused.
        """
        ...


class Backend(Protocol):
    """What a module of `preempt_runtime.backends` offers."""

    def key_fields(self) -> Mapping[str, str | int]:
        """What a plan's key must match on this machine.

        Raises:
            DeviceError: the backend's library is missing or broken.
        """
        ...

    def open_device(self) -> LoadingDevice:
        """The device of this machine."""
        ...

    def open_gated_device(self, mode: str) -> LoadingGatedDevice:
        """The device of this machine with gates, `exclusive` or `overlap`.

        Raises:
            GatesError: there are none on this machine, or another process has it.
        """
        ...

    def hazards(self, *, is_warm: bool) -> tuple[str, ...]:
        """What would make a run's bounds false, as far as that is known at once.

        Asked before the device is opened, and again when every task has warmed up.
        """
        ...


FindBackend = Callable[[str], Backend]


class ModuleBackend:
    """A backend that is one module, with `local_fields`, `hazards` and a device class."""

    def __init__(self, name: str) -> None:
        self._name = name
        module_name, self._device_class = _BACKENDS[name]
        self._module = importlib.import_module(module_name)

    def key_fields(self) -> Mapping[str, str | int]:
        """What a plan's key must match on this machine."""
        fields: Mapping[str, str | int] = self._module.local_fields()
        return fields

    def open_device(self) -> LoadingDevice:
        """The device of this machine."""
        device: LoadingDevice = getattr(self._module, self._device_class)()
        return device

    def open_gated_device(self, mode: str) -> LoadingGatedDevice:
        """The device of this machine with gates."""
        if self._name not in _GATED:
            raise GatesError(
                f"gates need a GPU and TensorRT, and the bundles are for backend {self._name!r}:"
                " compile them for a GPU with --target, or run with --mechanism segments"
            )
        module_name, device_class = _GATED[self._name]
        open_device = getattr(importlib.import_module(module_name), device_class)
        device: LoadingGatedDevice = open_device(mode=mode)
        return device

    def hazards(self, *, is_warm: bool) -> tuple[str, ...]:
        """What would make a run's bounds false, as far as that is known at once."""
        found: tuple[str, ...] = self._module.hazards(is_warm=is_warm)
        return found


def open_backend(name: str) -> Backend:
    """The backend of that name.

    Raises:
        BundleError: this runtime has none of that name.
    """
    if name not in _BACKENDS:
        raise BundleError(
            f"backend {name!r} is not part of this preempt-runtime, it has {', '.join(_BACKENDS)};"
            " install a newer one"
        )
    return ModuleBackend(name)


def backend_name(
    bundle: Bundle,
    plan_id: str | None,
    find_backend: FindBackend = open_backend,
    threads: int | None = None,
) -> str:
    """The backend of the plan to load; of several, that of the first plan that fits here.

    Raises:
        BundleError: nothing is built, or none of what several backends built fits.
    """
    plans = {
        plan.id: str(bundle.manifest.keys[plan.key].get("backend"))
        for plan in bundle.manifest.plans
        if plan_id in (None, plan.id) and plan.key is not None
    }
    if not plans:
        choose_plan(bundle, {}, plan_id=plan_id)  # says which plans there are, and why none fits
    if len(names := set(plans.values())) == 1:
        return names.pop()
    reasons = []
    for each_id, name in plans.items():
        try:
            plan_to_load(bundle, each_id, find_backend(name), threads)
        except (BundleError, DeviceError) as err:
            reasons.append(f"plan {brief(each_id)}: {err}")
        else:
            return name
    raise BundleError(f"{bundle.root}: none of its plans runs here; {'; '.join(reasons)}")


def plan_to_load(
    bundle: Bundle,
    plan_id: str | None,
    backend: Backend,
    threads: int | None,
    mechanisms: Sequence[str] = (SEGMENTS,),
) -> PlanSpec:
    """The first plan, or the one named, that was built for this machine and so many threads.

    A plan whose key says nothing of threads is built for any number. Of several mechanisms a plan
    of the first is taken, if there is one.

    Raises:
        BundleError: none was; the message says what differs.
        DeviceError: the backend's library is missing or broken.
    """
    wished = {} if threads is None else {"threads": threads}
    return choose_plan(
        bundle,
        backend.key_fields(),
        plan_id=plan_id,
        wished_fields=wished,
        mechanisms=mechanisms,
    )
