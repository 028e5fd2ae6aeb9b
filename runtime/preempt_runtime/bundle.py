"""A bundle on disk: its manifest, and its files only after each is what the manifest says.

A hash finds damage, not malice: who can change a file can change the manifest too, unless the
caller pins it with `manifest_sha256`. Load only what you would execute.
"""

import hashlib
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from preempt_runtime.bundle_files import (
    COMPILE_AGAIN,
    check_file,
    check_hash,
    check_size,
    chunks,
    files_below,
    lstat_inside,
    open_inside,
)
from preempt_runtime.errors import BundleError
from preempt_runtime.input_file import checked_path
from preempt_runtime.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    SEGMENTS,
    Artefact,
    Manifest,
    PlanSpec,
)
from preempt_runtime.manifest_json import manifest_from_json
from preempt_runtime.strict_json import brief
from preempt_runtime.units import fmt_bytes

PARTIAL_PREFIX = ".tmp-"
"""Begins the name of the directory that a compile writes into before it renames it."""

_NOTHING_BUILT = "nothing is built for it yet"
_CPU, _NATIVE = "cpu", "native"  # targets that are this machine, whichever it is
_log = logging.getLogger("preempt_runtime.bundle")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An opened bundle, as `open_bundle` makes it; `root` is absolute, without links.

    A file that was hashed is not hashed again while its size, time and inode stay the same.
    """

    root: Path
    manifest: Manifest
    manifest_sha256: str
    _hashed: set[tuple[str, int, int, int]] = field(
        default_factory=set, init=False, repr=False, compare=False
    )

    def artefacts_for(self, key: str | None) -> tuple[Artefact, ...]:
        """The files of one KEY; None names the portable ones."""
        return tuple(artefact for artefact in self.manifest.artefacts if artefact.key == key)

    def verified_path(self, artefact_path: str) -> Path:
        """Where a listed file stands, once it is what the manifest says.

        Raises:
            BundleError: not listed, missing, a link, no regular file, another size or hash.
        """
        artefact = self._listed(artefact_path)
        found = lstat_inside(self.root, artefact.path)
        identity = (artefact.path, found.st_size, found.st_mtime_ns, found.st_ino)
        if identity not in self._hashed:
            check_file(self.root, artefact)
            self._hashed.add(identity)
        return self.root / artefact.path

    def verify_artefacts(self, key: str | None) -> None:
        """Return when the files of one KEY (None: the portable ones) are what the manifest says.

        Raises:
            BundleError: as `verified_path`.
        """
        for artefact in self.artefacts_for(key):
            self.verified_path(artefact.path)

    def read_bytes(self, artefact_path: str) -> bytes:
        """The content of a listed file; the very bytes returned are the ones checked.

        Raises:
            BundleError: as `verified_path`.
        """
        artefact = self._listed(artefact_path)
        with open_inside(self.root, artefact.path) as descriptor:
            check_size(self.root, artefact, os.fstat(descriptor).st_size)
            content = b"".join(chunks(descriptor, artefact.num_bytes))
        check_size(self.root, artefact, len(content))
        check_hash(self.root, artefact, hashlib.sha256(content).hexdigest())
        return content

    def verify_files(self) -> None:
        """Return when every listed file was hashed anew and nothing else stands in the bundle.

        Raises:
            BundleError: a file differs from the manifest, or is not listed in it.
        """
        for artefact in self.manifest.artefacts:
            check_file(self.root, artefact)
        listed = {MANIFEST_NAME, *(artefact.path for artefact in self.manifest.artefacts)}
        if unlisted := sorted(set(files_below(self.root)) - listed):
            names = ", ".join(brief(name) for name in unlisted[:5])
            raise BundleError(
                f"{self.root}: {len(unlisted)} files are not part of the bundle: {names};"
                " remove them"
            )

    def _listed(self, artefact_path: str) -> Artefact:
        for artefact in self.manifest.artefacts:
            if artefact.path == artefact_path:
                return artefact
        raise BundleError(
            f"{self.root}: {brief(artefact_path)} is not listed in {MANIFEST_NAME}; {COMPILE_AGAIN}"
        )


def open_bundle(path: str | Path, *, manifest_sha256: str | None = None) -> Bundle:
    """The bundle in a directory, its manifest read and checked, no other file opened yet.

    Args:
        path: The directory; it may be a link, what stands in it may not.
        manifest_sha256: Refuse any other manifest than the one with this hash.

    Raises:
        InputError: `path` is no path, or empty.
        BundleError: no bundle, a damaged one, or not the pinned one.
    """
    root = _bundle_root(checked_path(path, "a bundle"))
    with open_inside(root, MANIFEST_NAME) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{root / MANIFEST_NAME}: {fmt_bytes(size)}, at most"
                f" {fmt_bytes(MAX_MANIFEST_BYTES)}; {COMPILE_AGAIN}"
            )
        text = b"".join(chunks(descriptor, size))
    found = hashlib.sha256(text).hexdigest()
    if manifest_sha256 is not None and found != manifest_sha256.lower():
        raise BundleError(
            f"{root / MANIFEST_NAME}: sha256 {found}, pinned {brief(manifest_sha256)};"
            " give the hash of the bundle that you trust, or restore that bundle"
        )
    manifest = manifest_from_json(text, str(root / MANIFEST_NAME))
    return Bundle(root=root, manifest=manifest, manifest_sha256=found)


def choose_plan(
    bundle: Bundle,
    local_fields: Mapping[str, str | int],
    *,
    plan_id: str | None = None,
    wished_fields: Mapping[str, str | int] | None = None,
    mechanisms: Sequence[str] = (SEGMENTS,),
) -> PlanSpec:
    """The first plan, or the named one, whose device artefacts were made for this machine.

    Args:
        bundle: An opened bundle.
        local_fields: What this machine is, in the names of the KEY's fields. Fields that it
            leaves out, such as the graph's digest, are not compared.
        plan_id: Consider no other plan than this one.
        wished_fields: Compared, too, but only with a KEY that has such a field.
        mechanisms: What the device can run, what it had better run first.

    Raises:
        BundleError: no plan matches, with what differs; or there is no plan of that name.
    """
    plans = [plan for plan in bundle.manifest.plans if plan_id in (None, plan.id)]
    if not plans:
        ids = ", ".join(brief(plan.id) for plan in bundle.manifest.plans) or "none"
        asked = "no plan" if plan_id is None else f"no plan {brief(plan_id)}"
        raise BundleError(f"{bundle.root}: {asked}, it holds {ids}; name one of these")
    left_out: list[tuple[PlanSpec, list[str]]] = []
    for plan in sorted(plans, key=lambda plan: _place_in(mechanisms, plan.mechanism)):
        differences = _differences(bundle.manifest, plan, local_fields, wished_fields or {})
        if plan.mechanism not in mechanisms:
            differences.append(f"a plan of {plan.mechanism}, asked for: {' or '.join(mechanisms)}")
        if not differences:
            return plan
        _log.info("%s: plan %s left out: %s", bundle.root, brief(plan.id), "; ".join(differences))
        left_out.append((plan, differences))
    closest, differences = min(left_out, key=lambda entry: (entry[0].key is None, len(entry[1])))
    if closest.key is None:
        raise BundleError(f"{bundle.root}: plan {brief(closest.id)} is {_unbuilt(bundle, closest)}")
    if len(differences) == 1 and closest.mechanism not in mechanisms:
        raise BundleError(
            f"{bundle.root}: plan {brief(closest.id)} is {differences[0]};"
            f" run with --mechanism {closest.mechanism}, or compile it with"
            f" --mechanism {mechanisms[0]}"
        )
    raise BundleError(
        f"{bundle.root}: no plan for this machine; the closest, {brief(closest.id)}:"
        f" {'; '.join(differences)}; compile it on this machine: preemptc compile"
        f" {shlex.quote(str(bundle.root / 'graph' / 'model.onnx'))}"
        f" --target {shlex.quote(closest.target)}"
    )


def _place_in(mechanisms: Sequence[str], mechanism: str) -> int:
    return mechanisms.index(mechanism) if mechanism in mechanisms else len(mechanisms)


def _unbuilt(bundle: Bundle, plan: PlanSpec) -> str:
    """What a plan without a key was made for, and the command that builds it, where."""
    option, where = {
        _CPU: (f" --target {_CPU}", "on this machine"),
        _NATIVE: ("", "on this machine"),
    }.get(plan.target, ("", "on the board or machine with that GPU"))
    command = f"preemptc build {shlex.quote(str(bundle.root))}{option}"
    return f"made for {plan.target}, {_NOTHING_BUILT}: `{command}` {where}"


def _differences(
    manifest: Manifest,
    plan: PlanSpec,
    local_fields: Mapping[str, str | int],
    wished_fields: Mapping[str, str | int],
) -> list[str]:
    if plan.key is None:
        return [_NOTHING_BUILT]
    key_fields = manifest.keys[plan.key]
    wished = {name: value for name, value in wished_fields.items() if name in key_fields}
    return [
        f"{name}: bundle has {brief(key_fields.get(name))}, this machine {brief(local)}"
        for name, local in sorted({**local_fields, **wished}.items())
        if key_fields.get(name) != local
    ]


def _bundle_root(path: Path) -> Path:
    try:
        root = path.resolve(strict=True)
    except FileNotFoundError as err:
        raise BundleError(f"{path}: no such bundle; write one with `preemptc compile`") from err
    except (OSError, RuntimeError, ValueError) as err:
        raise BundleError(f"{path}: cannot be opened ({err}); check the path") from err
    if not root.is_dir():
        raise BundleError(f"{root}: a bundle is a directory, this is a file; give its directory")
    if root.name.startswith(PARTIAL_PREFIX):
        raise BundleError(f"{root}: left half-written by a compile; remove it and compile again")
    if not os.path.lexists(root / MANIFEST_NAME):
        raise BundleError(
            f"{root}: no {MANIFEST_NAME}, so no bundle or a half-written one;"
            " give another directory, or remove it and compile again"
        )
    return root
