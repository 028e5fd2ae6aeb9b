"""What TensorRT has timed, kept below the build cache from one process to the next.

`timing/KEY/timing.cache`: a line of JSON (what the times hold for, the sha256 of the rest), then
TensorRT's own bytes. Nothing is read but what this program wrote in the same surroundings.
"""

import hashlib
import json
import logging
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from preempt_runtime.errors import BuildError
from preempt_runtime.units import printable
from preemptc.cache import BuildCache, digest_of, guard, write_atomically

MAX_BYTES = 64 << 20  # a ResNet's times take about 1 MB: beyond this the file is begun anew
_STAGE = "timing"
_VERSION = 1
_MAX_HEADER_BYTES = 1 << 16
_IGNORED = b"ignored"  # stands for a digest: nothing of the file is joined
_log = logging.getLogger("preemptc.backends.tensorrt")


class TimingFile:
    """The kept times of one TensorRT, driver, GPU and set of builder options."""

    def __init__(self, root: Path, fields: Mapping[str, str | int]) -> None:
        self._places, self._fields = BuildCache(root), dict(fields)
        self.path = self._places.folder(_STAGE) / digest_of(fields) / "timing.cache"
        self._is_warned = False

    def read(self) -> bytes:
        """TensorRT's bytes; none if there is no file, or one that is damaged or foreign.

        Of the latter a warning is given, once; the next `write` replaces it.
        """
        content = self._content()
        if content is None:
            return b""
        header, _, payload = content.partition(b"\n")
        if (fault := self._fault(header, payload)) is not None:
            self.warn(f"{fault}; it is ignored, and replaced after the next engine")
            return b""
        return payload

    @property
    def refusal(self) -> str | None:
        """Why this TensorRT does not take back what it wrote, if that was found out."""
        header, _, payload = (self._content() or b"").partition(b"\n")
        if self._fault(header, payload) is not None:
            return None
        return json.loads(header)["refused"] or None

    def write(self, payload: bytes, refused: str = "") -> None:
        """Replace the file; the caller holds `locked`."""
        digest = hashlib.sha256(payload).hexdigest()
        header = {
            "timing_cache": _VERSION,
            "fields": self._fields,
            "sha256": digest,
            "refused": refused,
        }
        if not self.path.is_file():  # a pipe would be written into, which might not end
            with suppress(OSError):
                self.path.unlink()
        line = json.dumps(header, sort_keys=True).encode()
        write_atomically(self.path, line + b"\n" + payload)

    def remove(self) -> None:
        """Begin anew with the next `write`."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Change the file alone, among all processes; what killed ones left goes first.

        Raises:
            BuildError: the cache cannot be written.
        """
        with guard(self.path), self._places.lock(_STAGE, self._fields):
            for left in self.path.parent.glob(".tmp-*"):
                left.unlink(missing_ok=True)
            yield

    def warn(self, what: str) -> None:
        """Tell the user once."""
        if not self._is_warned:
            self._is_warned = True
            _log.warning("%s: %s", self.path, what)

    def _content(self) -> bytes | None:
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might not end
                self.warn("is no regular file; it is ignored")
                return None
            if status.st_size > MAX_BYTES + _MAX_HEADER_BYTES:
                return b""
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as err:
            self.warn(f"cannot be read ({err.strerror or err}); it is ignored")
            return None

    def _fault(self, header: bytes, payload: bytes) -> str | None:
        try:
            found = json.loads(header[:_MAX_HEADER_BYTES])
            fields, digest, version = found["fields"], found["sha256"], found["timing_cache"]
            is_whole = isinstance(found["refused"], str) and isinstance(fields, dict)
        except (ValueError, TypeError, KeyError, RecursionError):
            return "no timing cache of this program, or half of one"
        if version != _VERSION:
            return f"timing cache of version {version!r}, this program writes {_VERSION}"
        if fields != self._fields:
            names = sorted(
                name
                for name in {*fields, *self._fields}
                if fields.get(name) != self._fields.get(name)
            )
            return f"timing cache made for another {printable(', '.join(names))}"
        if not is_whole or hashlib.sha256(payload).hexdigest() != digest:
            return "timing cache that is damaged"
        return None


class TimingCache:
    """The timing cache object of one builder, begun with what earlier processes have timed.

    TensorRT 8.6.0 was seen to refuse networks with a cache that was read back ("Myelin error from
    unknown graph"). So a build that fails with such a cache is tried again with a fresh one; if
    that helps, this is noted in the file, and each process of that TensorRT begins afresh.
    """

    def __init__(self, file: TimingFile | None) -> None:
        self._file = file
        self._cache: Any = None
        self._seen = _digest(b"")  # of what the file held when it was last read or written
        self._is_fresh = False
        self.is_reloaded = False

    def attach(self, config: Any) -> None:
        """Let a build with this `IBuilderConfig` use it."""
        if self._cache is None:
            self._cache = self._reloaded(config)
        if self._cache is None:
            self._cache = config.create_timing_cache(b"")
        if config.set_timing_cache(self._cache, False) is False and self.is_reloaded:
            assert self._file is not None
            self._file.warn("TensorRT says it is of another device or version; it is ignored")
            self.set_aside()
            self._seen = _IGNORED
            self.attach(config)

    def set_aside(self) -> Any:
        """Let the next build begin afresh; what `restore` takes if that was no help."""
        aside, self._cache, self.is_reloaded = self._cache, None, False
        self._is_fresh = True
        return aside

    def restore(self, aside: Any) -> None:
        """Go on with the times that were set aside."""
        self._cache, self.is_reloaded = aside, True

    def refuse(self, reason: str) -> None:
        """Note in the file that this TensorRT builds only without what it reads back."""
        if self._file is not None:
            self._file.warn(f"TensorRT fails with the times it reads back ({reason}); not used")
            self._guarded(lambda file: file.write(b"", refused=reason))
            self._file = None

    def save(self, config: Any) -> None:
        """Keep what was timed so far, joined with what other processes wrote meanwhile.

        A cache that cannot be written is told once; the engine is built all the same.
        """
        content = bytes(self._cache.serialize())

        def write(file: TimingFile) -> None:
            if file.refusal is not None:
                self._file = None
                return
            there = file.read()
            is_ours = _digest(there) == self._seen
            joined = content if is_ours else self._joined(config, there) or content
            if len(joined) > MAX_BYTES:
                file.remove()
                joined = b""
            elif joined != there:
                file.write(joined)
            self._seen = _digest(joined)

        self._guarded(write)

    def _reloaded(self, config: Any) -> Any:
        if self._file is None or self._is_fresh:
            return None
        if self._file.refusal is not None:
            self._file = None
            return None
        kept = self._file.read()
        self._seen = _digest(kept)
        if not kept:
            return None
        cache = _created(config, kept)
        if cache is None:
            self._file.warn("TensorRT cannot read it; it is ignored and replaced")
        self.is_reloaded = cache is not None
        return cache

    def _joined(self, config: Any, there: bytes) -> bytes | None:
        """What the file holds and what this process knows; None if TensorRT cannot join them."""
        if not there or self._seen == _IGNORED:
            return None
        cache = _created(config, there)
        if cache is None or not cache.combine(self._cache, False):
            return None
        return bytes(cache.serialize())

    def _guarded(self, change: Callable[[TimingFile], None]) -> None:
        if self._file is None:
            return
        try:
            with self._file.locked():
                change(self._file)
        except BuildError as err:
            self._file.warn(f"{err}; what TensorRT timed is not kept")
            self._file = None


def _created(config: Any, content: bytes) -> Any:
    """TensorRT's object of these bytes, None where it refuses them."""
    with suppress(Exception):  # pybind11 makes TypeError or RuntimeError of what fails in C++
        return config.create_timing_cache(content)
    return None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
