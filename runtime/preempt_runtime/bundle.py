"""A bundle on disk: its manifest, and its files only after each is what the manifest says.

A hash finds damage, not malice: who can change a file can change the manifest too, unless the
caller pins it with `manifest_sha256`. Load only what you would execute.
"""

import hashlib
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from preempt_runtime.errors import BundleError
from preempt_runtime.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    Artefact,
    Manifest,
    PlanSpec,
)
from preempt_runtime.manifest_json import manifest_from_json
from preempt_runtime.strict_json import brief
from preempt_runtime.units import fmt_bytes

PARTIAL_PREFIX = ".tmp-"
"""Begins the name of the directory that a compile writes into before it renames it."""

_COMPILE_AGAIN = "compile the bundle again"
_CHUNK_BYTES = 1 << 20
_OPEN_FLAGS = os.O_RDONLY
for _flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):  # not every system has each
    _OPEN_FLAGS |= getattr(os, _flag, 0)
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
        found = _lstat_inside(self.root, artefact.path)
        identity = (artefact.path, found.st_size, found.st_mtime_ns, found.st_ino)
        if identity not in self._hashed:
            _check_file(self.root, artefact)
            self._hashed.add(identity)
        return self.root / artefact.path

    def read_bytes(self, artefact_path: str) -> bytes:
        """The content of a listed file; the very bytes returned are the ones checked.

        Raises:
            BundleError: as `verified_path`.
        """
        artefact = self._listed(artefact_path)
        with _open_inside(self.root, artefact.path) as descriptor:
            _check_size(self.root, artefact, os.fstat(descriptor).st_size)
            content = b"".join(_chunks(descriptor, artefact.num_bytes))
        _check_size(self.root, artefact, len(content))
        _check_hash(self.root, artefact, hashlib.sha256(content).hexdigest())
        return content

    def verify_files(self) -> None:
        """Return when every listed file was hashed anew and nothing else stands in the bundle.

        Raises:
            BundleError: a file differs from the manifest, or is not listed in it.
        """
        for artefact in self.manifest.artefacts:
            _check_file(self.root, artefact)
        listed = {MANIFEST_NAME, *(artefact.path for artefact in self.manifest.artefacts)}
        if unlisted := sorted(set(_files_below(self.root)) - listed):
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
            f"{self.root}: {brief(artefact_path)} is not listed in {MANIFEST_NAME};"
            f" {_COMPILE_AGAIN}"
        )


def open_bundle(path: str | Path, *, manifest_sha256: str | None = None) -> Bundle:
    """The bundle in a directory, its manifest read and checked, no other file opened yet.

    Args:
        path: The directory; it may be a link, what stands in it may not.
        manifest_sha256: Refuse any other manifest than the one with this hash.

    Raises:
        BundleError: no bundle, a damaged one, or not the pinned one.
    """
    root = _bundle_root(path)
    with _open_inside(root, MANIFEST_NAME) as descriptor:
        size = os.fstat(descriptor).st_size
        if size > MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{root / MANIFEST_NAME}: {fmt_bytes(size)}, at most"
                f" {fmt_bytes(MAX_MANIFEST_BYTES)}; {_COMPILE_AGAIN}"
            )
        text = b"".join(_chunks(descriptor, size))
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
) -> PlanSpec:
    """The first plan, or the named one, whose device artefacts were made for this machine.

    Args:
        bundle: An opened bundle.
        local_fields: What this machine is, in the names of the KEY's fields. Fields that it
            leaves out, such as the graph's digest, are not compared.
        plan_id: Consider no other plan than this one.
        wished_fields: Compared, too, but only with a KEY that has such a field.

    Raises:
        BundleError: no plan matches, with what differs; or there is no plan of that name.
    """
    plans = [plan for plan in bundle.manifest.plans if plan_id in (None, plan.id)]
    if not plans:
        ids = ", ".join(brief(plan.id) for plan in bundle.manifest.plans) or "none"
        asked = "no plan" if plan_id is None else f"no plan {brief(plan_id)}"
        raise BundleError(f"{bundle.root}: {asked}, it holds {ids}; name one of these")
    left_out: list[tuple[PlanSpec, list[str]]] = []
    for plan in plans:
        differences = _differences(bundle.manifest, plan, local_fields, wished_fields or {})
        if not differences:
            return plan
        _log.info("%s: plan %s left out: %s", bundle.root, brief(plan.id), "; ".join(differences))
        left_out.append((plan, differences))
    closest, differences = min(left_out, key=lambda entry: (entry[0].key is None, len(entry[1])))
    advice = (
        f"build it on this machine: preemptc build {bundle.root}"
        if closest.key is None
        else f"compile it on this machine: preemptc compile"
        f" {bundle.root / 'graph' / 'model.onnx'} --target {closest.target}"
    )
    raise BundleError(
        f"{bundle.root}: no plan for this machine; the closest, {brief(closest.id)}:"
        f" {'; '.join(differences)}; {advice}"
    )


def _differences(
    manifest: Manifest,
    plan: PlanSpec,
    local_fields: Mapping[str, str | int],
    wished_fields: Mapping[str, str | int],
) -> list[str]:
    if plan.key is None:
        return ["nothing is built for it yet"]
    key_fields = manifest.keys[plan.key]
    wished = {name: value for name, value in wished_fields.items() if name in key_fields}
    return [
        f"{name}: bundle has {brief(key_fields.get(name))}, this machine {brief(local)}"
        for name, local in sorted({**local_fields, **wished}.items())
        if key_fields.get(name) != local
    ]


def _bundle_root(path: str | Path) -> Path:
    try:
        root = Path(path).resolve(strict=True)
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


def _lstat_inside(root: Path, relative: str) -> os.stat_result:
    """State of a regular file below `root` that is reached through directories only."""
    path = root
    *folders, _ = components = relative.split("/")
    try:
        for idx, component in enumerate(components):
            path = path / component
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                raise BundleError(f"{path}: a link, a bundle holds none; {_COMPILE_AGAIN}")
            is_right = stat.S_ISDIR if idx < len(folders) else stat.S_ISREG
            if not is_right(found.st_mode):
                expected = "a directory" if idx < len(folders) else "a regular file"
                raise BundleError(f"{path}: not {expected}; {_COMPILE_AGAIN}")
        if not path.resolve(strict=True).is_relative_to(root):  # mounts and junctions are no links
            raise BundleError(f"{path}: outside the bundle {root}; {_COMPILE_AGAIN}")
    except (FileNotFoundError, NotADirectoryError) as err:
        raise BundleError(f"{path}: missing, the manifest lists it; {_COMPILE_AGAIN}") from err
    except (OSError, ValueError) as err:
        raise BundleError(f"{path}: cannot be read ({err}); check permissions and path") from err
    return found


@contextmanager
def _open_inside(root: Path, relative: str) -> Iterator[int]:
    """A descriptor of the very file that `_lstat_inside` found."""
    before = _lstat_inside(root, relative)
    path = root / relative
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
    except OSError as err:
        raise BundleError(f"{path}: cannot be read ({err}); check permissions") from err
    try:
        if not os.path.samestat(before, os.fstat(descriptor)):
            raise BundleError(f"{path}: replaced while it was opened; try again")
        yield descriptor
    except OSError as err:
        raise BundleError(f"{path}: cannot be read ({err}); check the disk") from err
    finally:
        os.close(descriptor)


def _chunks(descriptor: int, num_bytes: int) -> Iterator[bytes]:
    """The file's content, at most one byte more than `num_bytes`."""
    left = num_bytes + 1
    while left > 0 and (chunk := os.read(descriptor, min(left, _CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk


def _check_file(root: Path, artefact: Artefact) -> None:
    digest, num_bytes = hashlib.sha256(), 0
    with _open_inside(root, artefact.path) as descriptor:
        _check_size(root, artefact, os.fstat(descriptor).st_size)
        for chunk in _chunks(descriptor, artefact.num_bytes):
            digest.update(chunk)
            num_bytes += len(chunk)
    _check_size(root, artefact, num_bytes)
    _check_hash(root, artefact, digest.hexdigest())


def _check_size(root: Path, artefact: Artefact, num_bytes: int) -> None:
    if num_bytes != artefact.num_bytes:
        raise BundleError(
            f"{root / artefact.path}: {num_bytes} bytes, the manifest says"
            f" {artefact.num_bytes}; {_COMPILE_AGAIN}"
        )


def _check_hash(root: Path, artefact: Artefact, sha256: str) -> None:
    if sha256 != artefact.sha256:
        raise BundleError(
            f"{root / artefact.path}: sha256 {sha256}, the manifest says {artefact.sha256};"
            f" damaged, {_COMPILE_AGAIN}"
        )


def _files_below(root: Path) -> Iterator[str]:
    """Everything below `root` that is no directory, links to directories included."""

    def refuse(err: OSError) -> None:
        raise BundleError(f"{err.filename}: cannot be read ({err.strerror}); check permissions")

    for folder, folders, files in os.walk(root, onerror=refuse):
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            yield Path(folder, name).relative_to(root).as_posix()
