"""Stage deliver: put a finished bundle in its place, whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from preempt_runtime.bundle import PARTIAL_PREFIX
from preempt_runtime.errors import BuildError, InputError, PreemptError
from preempt_runtime.input_file import read_regular
from preempt_runtime.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, SCHEMA, Manifest
from preempt_runtime.manifest_json import manifest_from_json
from preempt_runtime.output_file import bundle_around, lies_in
from preempt_runtime.write_refusal import access_refusal
from preemptc.cache import BuildCache, guard
from preemptc.locks import alone_in, at_work_in
from preemptc.swap import ASIDE_SUFFIX, swap_in

_ELSEWHERE_FILE = "elsewhere.json"
_FOLDER = "bundle"
_CHUNK_BYTES = 1 << 22
_MAX_READS = 8
_MAX_NAME_BYTES = 255  # of every file system that Linux commonly has
_RANDOM_NAME = f"-[a-z0-9_]{{8}}({re.escape(ASIDE_SUFFIX)})?"  # as tempfile ends its names


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltBundle:
    """A bundle in the cache: `files` maps each path in the bundle to the file it is copied from.

    The large ones, the weights, stand once in the cache, where their stage wrote them. No links:
    ONNX's checker refuses external data that has a second name.
    """

    manifest: Manifest
    files: Mapping[str, Path]


def save_built(entry: Path, folder: Path, elsewhere: Mapping[str, Path], root: Path) -> None:
    """Keep a bundle in the cache entry `entry`.

    Args:
        entry: where to.
        folder: the small files, laid out as in the bundle; moved.
        elsewhere: the other files of the cache, by their path in the bundle.
        root: of the cache; references are relative to it, so that it can be moved.
    """
    os.replace(folder, entry / _FOLDER)
    references = {
        name: Path(os.path.abspath(path)).relative_to(os.path.abspath(root)).as_posix()
        for name, path in elsewhere.items()
    }
    (entry / _ELSEWHERE_FILE).write_text(json.dumps(references))


def read_built(entry: Path, cache: BuildCache) -> BuiltBundle | None:
    """The bundle in an entry of the cache; None if any part of it was deleted or changed since."""
    folder = entry / _FOLDER
    try:
        text = (folder / MANIFEST_NAME).read_bytes()
        manifest = manifest_from_json(text, str(folder / MANIFEST_NAME))
        references = json.loads((entry / _ELSEWHERE_FILE).read_text())
        files = {MANIFEST_NAME: folder / MANIFEST_NAME}
        for artefact in manifest.artefacts:
            is_here = artefact.path not in references
            path = folder / artefact.path if is_here else cache.root / references[artefact.path]
            if path.stat().st_size != artefact.num_bytes:
                return None
            if not is_here and cache.file_digest(path) != artefact.sha256:
                return None
            files[artefact.path] = path
    except (OSError, ValueError, TypeError, PreemptError):
        return None
    return BuiltBundle(manifest=manifest, files=files)


def deliver(built: BuiltBundle, output: Path, cache: BuildCache) -> None:
    """Put a copy of the finished bundle at `output`, unless it already stands there unchanged.

    The copy is written beside its place and renamed. An older bundle at `output` is replaced,
    anything else is not. Of several processes that deliver to one place, one does it at a time;
    what a killed one left beside it is removed.

    Raises:
        BuildError: `output` is something else, or cannot be written; or a file in the cache is
            damaged.
    """
    place = output.parent.resolve() / output.name
    with guard(cache.root), cache.lock("output", {"output": str(place)}), guard(output):
        _sweep(output)
        if _is_same(built, output, cache):
            return
        check_place(output, cache)
        output.parent.mkdir(parents=True, exist_ok=True)
        with _partial(output) as partial:
            _copy_files(built, partial)
            for name, sha256 in _digests(built).items():  # another cache's process may soon follow
                cache.remember_digest(partial / name, sha256, place=output / name)
            swap_in(partial, output)


def check_place(output: Path, cache: BuildCache, *, option: str = "-o") -> None:
    """Return if a bundle can be put at `output`, as far as can be told without writing.

    Args:
        output: where the bundle is to stand.
        cache: where it is made.
        option: what messages call that by which the user chose the place.

    Raises:
        BuildError: something else stands there, or no directory can be made there; or the cache
            would be part of the bundle, or the bundle of the cache or another bundle.
    """
    if lies_in(cache.root, output):
        raise BuildError(
            f"{output}: the cache {cache.root} lies in it, which a bundle would replace; choose"
            f" another place with {option} or --cache"
        )
    if cache.holds(output):
        raise BuildError(
            f"{output}: lies in the cache {cache.root}, which may be deleted at any time; choose"
            f" another place with {option} or --cache"
        )
    if (bundle := bundle_around(output)) is not None:
        raise BuildError(
            f"{output}: lies in the bundle {bundle}, which holds nothing else; choose another"
            f" place with {option}"
        )
    if output.name in ("", ".."):
        raise BuildError(
            f"{output}: names no directory of its own, and a bundle replaces a whole one; give one"
            f" such as net.bundle with {option}"
        )
    _check_name(output, option)
    with guard(output, f"{option}, --cache"):
        if (foreign := _foreign(output)) is not None:
            raise BuildError(
                f"{output}: exists and {foreign}; remove it, or choose another place with {option}"
            )
        above = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(above))
        if not os.access(above, os.W_OK | os.X_OK):
            raise access_refusal(above)


def _check_name(output: Path, option: str) -> None:
    """Refuse a name that is too long for the directory that a bundle is first written into."""
    partial = f"{PARTIAL_PREFIX}{output.name}-{'x' * 8}{ASIDE_SUFFIX}"
    if (surplus := len(os.fsencode(partial)) - _MAX_NAME_BYTES) > 0:
        num_bytes = len(os.fsencode(output.name))
        raise BuildError(
            f"{output}: a name of {num_bytes} bytes, at most {num_bytes - surplus}; choose a"
            f" shorter one with {option}"
        )


def _foreign(output: Path) -> str | None:
    """What at `output` would be lost; None for nothing, an empty directory, or a whole bundle.

    A bundle may be damaged or of another version, but all that it holds must be its own. One that
    another process replaced while it was read is read again: manifest and files must be of one.
    """
    for _ in range(_MAX_READS):
        before = _state(output)
        with contextlib.suppress(FileNotFoundError):  # a folder of the older bundle, gone meanwhile
            found = _foreign_now(output)
            if found is None or _state(output) == before:
                return found
    return _foreign_now(output)


def _state(output: Path) -> tuple[int, int] | None:
    """What changes when the directory is replaced."""
    try:
        status = output.lstat()
    except (FileNotFoundError, NotADirectoryError):  # nothing stands there, nor could
        return None
    return status.st_ino, status.st_ctime_ns


def _foreign_now(output: Path) -> str | None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        return "is no bundle"
    if not output.exists() or not any(output.iterdir()):
        return None
    listed = _listed_files(output / MANIFEST_NAME)
    if listed is None:
        return "is no bundle"
    folders = {parent.as_posix() for name in listed for parent in PurePosixPath(name).parents}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if path.is_symlink() or name not in (folders if path.is_dir() else listed):
            return f"holds {name!r}, which is not part of the bundle"
    return None


def _listed_files(manifest: Path) -> set[str] | None:
    """The files that a manifest of any version names, itself included; None if it is none."""
    try:
        document = json.loads(_manifest_bytes(manifest))
        if document["schema"] != SCHEMA:
            return None
        return {MANIFEST_NAME, *(str(artefact["path"]) for artefact in document["artefacts"])}
    except (InputError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _manifest_bytes(path: Path) -> bytes:
    """What a user's folder holds under this name: a pipe there might never end."""
    return read_regular(path, "the manifest", max_bytes=MAX_MANIFEST_BYTES)


@contextlib.contextmanager
def _partial(output: Path) -> Iterator[Path]:
    """A fresh directory beside `output`, locked for as long as this process works in it."""
    partial = Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}{output.name}-", dir=output.parent))
    try:
        with at_work_in(partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _sweep(output: Path) -> None:
    """Remove what killed processes left beside `output`; a bundle moved aside goes back first."""
    pattern = re.compile(re.escape(f"{PARTIAL_PREFIX}{output.name}") + _RANDOM_NAME)
    if not output.parent.is_dir():
        return
    for left in [path for path in output.parent.iterdir() if pattern.fullmatch(path.name)]:
        if left.name.endswith(ASIDE_SUFFIX) and not os.path.lexists(output):
            os.replace(left, output)
        else:
            with alone_in(left) as is_alone:
                if is_alone:
                    shutil.rmtree(left, ignore_errors=True)


def _digests(built: BuiltBundle) -> dict[str, str]:
    """sha256 of each file that the manifest lists."""
    return {artefact.path: artefact.sha256 for artefact in built.manifest.artefacts}


def _copy_files(built: BuiltBundle, target: Path) -> None:
    """Copy file by file, readable for everybody; the first refusal ends it."""
    target.chmod(0o755)
    expected = _digests(built)
    for name, path in built.files.items():
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        found = _copy(path, copy)
        if found != expected.get(name, found):
            raise BuildError(
                f"{path}: sha256 {found}, expected {expected[name]}: the cache is damaged;"
                " delete it, or choose another with --cache"
            )
        copy.chmod(0o644)


def _copy(source: Path, target: Path) -> str:
    """Copy a file; the sha256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()


def _is_same(built: BuiltBundle, output: Path, cache: BuildCache) -> bool:
    """Whether `output` holds the same manifest, and the very files that it lists."""
    with contextlib.suppress(OSError, InputError):
        manifest = built.files[MANIFEST_NAME].read_bytes()
        return _manifest_bytes(output / MANIFEST_NAME) == manifest and all(
            stat.S_ISREG((output / artefact.path).lstat().st_mode)
            and (output / artefact.path).stat().st_size == artefact.num_bytes
            and cache.file_digest(output / artefact.path) == artefact.sha256
            for artefact in built.manifest.artefacts
        )
    return False
