import dataclasses
import subprocess
import sys

import pytest

from preempt_runtime.errors import BundleError
from preempt_runtime.loading import (
    Backend,
    FindBackend,
    backend_name,
    open_backend,
    plan_to_load,
)
from preempt_runtime.manifest import Manifest
from tests.runtime.fake_bundles import FIELDS, FakeBackend, bundle_of, manifest_of


def two_backends() -> Manifest:
    """The plan `cut` for one backend, `whole` for another."""
    first, second = manifest_of(), manifest_of(fields={"backend": "other"})
    return dataclasses.replace(
        first, plans=(first.plans[0], second.plans[1]), keys={**first.keys, **second.keys}
    )


def machine_with(*names: str) -> FindBackend:
    """Knows the backends `fake` and `other`, of which plans of `names` fit."""

    def find_backend(name: str) -> Backend:
        fields = FIELDS if name == "fake" else {"backend": "other"}
        return FakeBackend(fields if name in names else {**fields, "cpu_model": "Lapsium 2"})

    return find_backend


def name_of(manifest: Manifest, plan_id: str | None, find_backend: FindBackend) -> str:
    return backend_name(bundle_of("a", manifest), plan_id, find_backend, None)


def test_a_bundle_names_its_backend() -> None:
    neither = machine_with()
    assert name_of(manifest_of(), None, neither) == "fake"
    assert name_of(two_backends(), "cut", neither) == "fake"
    assert name_of(two_backends(), "whole", neither) == "other"


def test_of_two_backends_the_first_plan_that_fits_decides() -> None:
    assert name_of(two_backends(), None, machine_with("fake", "other")) == "fake"
    assert name_of(two_backends(), None, machine_with("other")) == "other"
    with pytest.raises(BundleError) as caught:
        name_of(two_backends(), None, machine_with())
    message = str(caught.value)
    assert message.startswith("/bundles/a: none of its plans runs here; plan 'cut': ")
    assert "cpu_model: bundle has 'Testium 1', this machine 'Lapsium 2'" in message
    assert "; plan 'whole': " in message


def test_a_bundle_without_anything_built_says_so() -> None:
    manifest = manifest_of()
    bare = dataclasses.replace(
        manifest, plans=tuple(dataclasses.replace(plan, key=None) for plan in manifest.plans)
    )
    with pytest.raises(BundleError, match="nothing is built for it yet"):
        name_of(bare, None, machine_with())


def test_an_unknown_plan_is_refused() -> None:
    with pytest.raises(BundleError, match="no plan 'half', it holds 'cut', 'whole'"):
        name_of(manifest_of(), "half", machine_with())


def test_the_plan_is_the_first_one_that_fits() -> None:
    backend = FakeBackend(FIELDS)
    assert plan_to_load(bundle_of("a"), None, backend, None).id == "cut"
    assert plan_to_load(bundle_of("a"), "whole", backend, 2).id == "whole"
    with pytest.raises(BundleError, match="threads: bundle has 2, this machine 3"):
        plan_to_load(bundle_of("a"), None, backend, 3)


def test_threads_choose_only_among_plans_that_know_them() -> None:
    manifest = manifest_of()
    without = dataclasses.replace(manifest, keys={key: FIELDS for key in manifest.keys})
    assert plan_to_load(bundle_of("a", without), None, FakeBackend(FIELDS), 3).id == "cut"


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(BundleError, match="backend 'abacus' is not part of this preempt-runtime"):
        open_backend("abacus")


def test_onnx_runtime_is_a_backend() -> None:
    pytest.importorskip("onnxruntime")
    backend = open_backend("ort")
    assert backend.key_fields()["backend"] == "ort"
    device = backend.open_device()
    assert device.name == "cpu"
    device.close()


def test_no_backend_is_imported_before_a_bundle_asks() -> None:
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; import preempt_runtime.cli;"
        "print([m for m in sys.modules if m in ('onnxruntime', 'onnx', 'preemptc')"
        " or m.startswith('preempt_runtime.backends.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
