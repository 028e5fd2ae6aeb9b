"""The build cache: what a stage computed, under the hash of all that it depends on.

An entry is a directory that appears at once and never changes, but that pieces cut from a lowered
graph gather beside it. It may be deleted at any time.
Two processes that want the same entry: one computes it, the other waits for it.
"""

import contextlib
import hashlib
import json
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from preempt_runtime.errors import BuildError, InputError
from preempt_runtime.input_file import lost_working_directory, read_regular
from preempt_runtime.output_file import bundle_around, lies_in, write_output
from preempt_runtime.write_refusal import refusal_text
from preemptc.leftovers import TEMPORARY, sweep
from preemptc.locks import at_work_in, locked
from preemptc.swap import swap_in

_FILES = "files.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[0-9a-f]{20}")
_MAX_FILES_BYTES = 64 << 20
_MAX_DIGEST_BYTES = 1 << 10
_SMALL_BYTES = 1 << 20  # hashed in about a millisecond: sooner than its digest is looked up


FOLDERS = frozenset({"load", "lower", "profile", "bundle", "timing", "digests", "locks"})
"""What a cache keeps, below its root; whatever else is there is a user's."""

MEASURED_STAGES = frozenset({"profile", "bundle"})
"""Stages whose entries depend on how fast the machine was when they were made."""


class BuildCache:
    """Directories below `root`, one per stage and key. `hits` counts what was found.

    Entries of the stages in `anew` count only if this object made them: each is made again once.
    """

    def __init__(self, root: Path, anew: Collection[str] = ()) -> None:
        self.root = root
        self.hits = 0
        self._anew = frozenset(anew)
        self._made: set[Path] = set()

    def folder(self, name: str) -> Path:
        """One of the `FOLDERS`, whether it is there yet or not."""
        assert name in FOLDERS, name
        return self.root / name

    def holds(self, path: Path) -> bool:
        """Whether the path leads into what the cache keeps; a user may put his own beside that."""
        return any(lies_in(path, self.folder(name)) for name in FOLDERS)

    def bundle_around(self) -> Path | None:
        """The finished bundle into which something that the cache keeps would be written."""
        places = (self.folder(name) / "entry" for name in FOLDERS)
        return next(filter(None, map(bundle_around, places)), None)

    def entry(
        self,
        stage: str,
        fields: Mapping[str, Any],
        make: Callable[[Path], None],
        is_sound: Callable[[Path], bool] = Path.is_dir,
    ) -> Path:
        """The directory of this stage for these inputs, computed by `make` if it is not there.

        `make` writes into an empty directory; what it raises leaves nothing behind. An entry that
        is not sound (a file was deleted or damaged, a measurement is out of date) is made again
        beside the old one and put in its place: readers find one of the two. Of several processes
        that find it unsound, one makes it; the others look again when that one is done.

        Raises:
            BuildError: the cache cannot be written (full disk, permissions).
        """
        path = self._path(stage, fields)
        if self.find(stage, fields, is_sound) is not None:
            self.hits += 1
            return path
        with guard(self.root), self.lock(stage, fields):
            if self.find(stage, fields, is_sound) is not None:
                self.hits += 1
                return path
            with self._temporary(path) as folder:
                make(folder)
                files = _list_files(folder)
                swap_in(folder, path)
            self._made.add(path)
            for name, (size, digest) in files.items():
                if size > _SMALL_BYTES:
                    self.remember_digest(path / name, digest)
        return path

    def find(
        self, stage: str, fields: Mapping[str, Any], is_sound: Callable[[Path], bool] = Path.is_dir
    ) -> Path | None:
        """The directory of this stage for these inputs, if it is there and sound; no hit."""
        path = self._path(stage, fields)
        if stage in self._anew and path not in self._made:
            return None
        return path if self._is_whole(path) and is_sound(path) else None

    def _path(self, stage: str, fields: Mapping[str, Any]) -> Path:
        return self.folder(stage) / digest_of(fields)

    def _is_whole(self, entry: Path) -> bool:
        """Whether every file that was made is there, and holds what was written."""
        try:
            content = read_regular(entry / _FILES, "the list", max_bytes=_MAX_FILES_BYTES)
            files = json.loads(content)
            return all(self._holds(entry / name, *found) for name, found in files.items())
        except (InputError, OSError, ValueError, TypeError, AttributeError, RecursionError):
            return False

    def _holds(self, path: Path, size: int, digest: str) -> bool:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        if size <= _SMALL_BYTES:
            return sha256_of(path) == digest
        with contextlib.suppress(InputError, BuildError):
            return self.file_digest(path) == digest
        return sha256_of(path) == digest  # a cache on a full or read-only disk is still of use

    def file_digest(self, path: Path) -> str:
        """sha256 of a file, remembered under its path, size, times and inode.

        Raises:
            InputError: it cannot be read.
            BuildError: the cache cannot be written.
        """
        try:
            return self._file_digest(path)
        except OSError as err:
            raise InputError(
                f"{path}: cannot be read ({err.strerror or err}); check the path"
            ) from err

    def _file_digest(self, path: Path) -> str:
        memo = self._memo(path)
        with contextlib.suppress(InputError, ValueError):
            remembered = read_regular(memo, "the digest", max_bytes=_MAX_DIGEST_BYTES).decode()
            if _SHA256.fullmatch(remembered):
                return remembered
        digest = sha256_of(path)
        self._write_memo(memo, digest)
        return digest

    def remember_digest(self, path: Path, digest: str, *, place: Path | None = None) -> None:
        """Keep the sha256 of a file that the caller has just written, for `file_digest`.

        Args:
            path: the file.
            digest: its sha256.
            place: where a rename of its directory will bring it; None: it stays.

        Raises:
            BuildError: the cache cannot be written.
        """
        self._write_memo(self._memo(path, place), digest)

    def _write_memo(self, memo: Path, digest: str) -> None:
        """Replace what stands there: opening a pipe would wait for its reader."""
        with guard(self.root):
            memo.parent.mkdir(parents=True, exist_ok=True)
            with self.at_work_beside(memo):
                with contextlib.suppress(FileNotFoundError):
                    if not stat.S_ISREG(memo.lstat().st_mode):
                        memo.unlink()
                write_atomically(memo, digest.encode())

    def _memo(self, path: Path, place: Path | None = None) -> Path:
        found = path.stat()
        times = (found.st_mtime_ns, found.st_ctime_ns)
        fields = [str((place or path).resolve()), found.st_size, *times, found.st_ino]
        return self.folder("digests") / digest_of({"file": fields})

    @contextlib.contextmanager
    def lock(self, stage: str, fields: Mapping[str, Any]) -> Iterator[None]:
        """Hold what is named so alone, among all processes that use this cache."""
        with locked(self.folder("locks") / f"{stage}-{digest_of(fields)}"):
            yield

    def at_work_beside(self, path: Path) -> contextlib.AbstractContextManager[None]:
        """Keep from being swept what is written step by step beside a file of an entry."""
        return at_work_in(path.parent)

    def sweep(self) -> None:
        """Remove what killed processes left, where nobody works now; what cannot be stays."""
        folders = {name: self.folder(name) for name in FOLDERS}
        sweep(
            folders["locks"],
            entries=[folders[stage] for stage in ("load", "lower", "profile", "bundle")],
            shared=[folders["digests"], *_folders_in(folders["lower"])],
            single=_folders_in(folders["timing"]),
        )

    @contextlib.contextmanager
    def _temporary(self, path: Path) -> Iterator[Path]:
        """A fresh directory beside the entry; the remains of killed processes go first.

        The caller holds the entry's lock, so nobody else works on this entry now.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"{TEMPORARY}{path.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{path.name}-", dir=path.parent))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _folders_in(folder: Path) -> list[Path]:
    """What stands in it under a key."""
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if _KEY.fullmatch(path.name)]
    return []


def sha256_of(path: Path) -> str:
    """sha256 of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _list_files(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 of each file in the folder, written into it."""
    files = {
        path.relative_to(folder).as_posix(): (path.stat().st_size, sha256_of(path))
        for path in folder.rglob("*")
        if path.is_file()
    }
    (folder / _FILES).write_text(json.dumps(files))
    return files


def digest_of(fields: Mapping[str, Any]) -> str:
    """A short name for a set of inputs: 20 hex digits of the sha256 of their canonical JSON."""
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, its folder made first: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_output(path, content)


@contextlib.contextmanager
def guard(where: Path, options: str = "-o, --cache") -> Iterator[None]:
    """Turn an operating system's refusal to write below `where` into one clear line.

    `options` are those that choose another place.
    """
    try:
        yield
    except OSError as err:
        if isinstance(err, FileNotFoundError) and (lost := lost_working_directory()) is not None:
            raise BuildError(lost) from err
        what = f"{err.filename or where}: cannot be written"
        otherwise = f"choose another place ({options})"
        raise BuildError(refusal_text(what, err, otherwise=otherwise)) from err
