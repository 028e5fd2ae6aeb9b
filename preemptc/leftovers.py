"""What killed processes left in a build cache: all that is temporary where nobody works now."""

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from preempt_runtime.errors import BuildError
from preemptc.locks import alone_in, locked_if_free
from preemptc.swap import ASIDE_SUFFIX

TEMPORARY = ".tmp-"
_BEGIN, _ASIDE = re.escape(TEMPORARY), re.escape(ASIDE_SUFFIX)
_ENTRY = re.compile(rf"{_BEGIN}([0-9a-f]{{20}})-[a-z0-9_]{{8}}({_ASIDE})?")
_WRITTEN = re.compile(rf"{_BEGIN}.+|.+\.onnx\.[0-9]+")


def sweep(
    locks: Path, *, entries: Iterable[Path], shared: Iterable[Path], single: Iterable[Path]
) -> None:
    """Remove what is temporary and whose lock is free; what cannot be removed stays.

    Args:
        locks: where the lock files are; one is called after the folder and the key it is for.
        entries: folders in which a directory under a key's lock becomes the entry of that key.
        shared: folders in which any number of processes write, each `at_work_in` it.
        single: folders that one process writes into at a time, under the lock of their name.
    """
    for folder in entries:
        for left in _children(folder, _ENTRY):
            match = _ENTRY.fullmatch(left.name)
            assert match is not None
            _remove_if_free(locks / f"{folder.name}-{match[1]}", [left])
    for folder in shared:
        if _children(folder, _WRITTEN):
            with alone_in(folder) as is_alone:
                if is_alone:
                    _remove(_children(folder, _WRITTEN))
    for folder in single:
        _remove_if_free(locks / f"{folder.parent.name}-{folder.name}", _children(folder, _WRITTEN))


def _remove_if_free(lock: Path, lefts: list[Path]) -> None:
    if lefts:
        with contextlib.suppress(OSError, BuildError), locked_if_free(lock) as is_free:
            if is_free:
                _remove(lefts)


def _remove(lefts: Iterable[Path]) -> None:
    for left in lefts:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


def _children(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """What stands in the folder under such a name; nothing where it cannot be read."""
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
    return []
