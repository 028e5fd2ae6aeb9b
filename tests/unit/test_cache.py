"""The build cache: an entry is there as a whole, is made once, and is renewed under its readers."""

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

from preempt_runtime.errors import BuildError
from preemptc import cache as cache_module
from preemptc import swap
from preemptc.cache import FOLDERS, BuildCache, digest_of, sha256_of

FIELDS = {"a": 1}
T = TypeVar("T")


def _writes(text: str) -> "Maker":
    return Maker(text)


class Maker:
    """Writes a text into an entry, and counts how often."""

    def __init__(self, text: str) -> None:
        self.text, self.num_calls = text, 0

    def __call__(self, folder: Path) -> None:
        self.num_calls += 1
        (folder / "value").write_text(self.text)


def _holds(text: str, entry: Path) -> bool:
    return (entry / "value").read_text() == text


def test_an_unsound_entry_is_made_again_and_a_sound_one_is_found(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    cache.entry("lower", FIELDS, _writes("old"))
    make = _writes("new")
    for _ in range(2):
        entry = cache.entry("lower", FIELDS, make, lambda entry: _holds("new", entry))
        assert _holds("new", entry)
    assert (make.num_calls, cache.hits) == (1, 1)
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def test_a_stage_that_is_wanted_anew_is_made_once_more_and_others_are_found(tmp_path: Path) -> None:
    for stage in ("lower", "load"):
        BuildCache(tmp_path).entry(stage, FIELDS, _writes("old"))
    cache, make = BuildCache(tmp_path, anew={"lower"}), _writes("new")
    assert cache.find("lower", FIELDS) is None
    for _ in range(2):
        assert _holds("new", cache.entry("lower", FIELDS, make))
    assert _holds("old", cache.entry("load", FIELDS, make))
    assert (make.num_calls, cache.hits) == (1, 2)
    assert cache.find("lower", FIELDS) is not None


def test_what_fails_to_renew_leaves_the_old_entry(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    entry = cache.entry("lower", FIELDS, _writes("old"))

    def broken(folder: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache.entry("lower", FIELDS, broken, lambda entry: False)
    assert _holds("old", entry)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_swap_in_replaces_and_leaves_nothing(
    can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not can_exchange:
        monkeypatch.setattr(swap, "_exchange", lambda left, right: False)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "value").write_text(name)
    swap.swap_in(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert _holds("new", tmp_path / "old")


def test_a_place_that_somebody_else_took_meanwhile_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "value").write_text(name)
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as it was a moment ago
    swap.swap_in(tmp_path / "new", tmp_path / "old")
    assert os.listdir(tmp_path) == ["old"]
    assert _holds("new", tmp_path / "old")


def test_readers_never_miss_an_entry_that_is_renewed(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    path = cache.entry("lower", FIELDS, _writes("0")) / "value"
    is_done = threading.Event()

    def read() -> int:
        num_read = 0
        while not is_done.is_set() or not num_read:
            assert path.read_text().isdigit()
            num_read += 1
        return num_read

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        for idx in range(100):
            cache.entry("lower", FIELDS, _writes(str(idx)), lambda entry: False)
        is_done.set()
        assert reader.result(timeout=30) > 0


def test_two_that_find_an_entry_unsound_make_it_once(tmp_path: Path) -> None:
    BuildCache(tmp_path).entry("lower", FIELDS, _writes("old"))
    both_saw_it, make = threading.Barrier(2), _writes("new")
    seen = threading.local()

    def is_sound(entry: Path) -> bool:
        if not getattr(seen, "before", False):  # the glance without the lock
            seen.before = True
            found = _holds("new", entry)
            both_saw_it.wait(timeout=30)
            return found
        return _holds("new", entry)

    with ThreadPoolExecutor(2) as pool:
        work = [
            pool.submit(BuildCache(tmp_path).entry, "lower", FIELDS, make, is_sound)
            for _ in range(2)
        ]
        entries = {future.result(timeout=30) for future in work}
    assert make.num_calls == 1
    assert all(_holds("new", entry) for entry in entries)


def test_a_changed_file_of_equal_size_and_time_has_another_digest(tmp_path: Path) -> None:
    cache, path = BuildCache(tmp_path / "cache"), tmp_path / "file"
    path.write_bytes(b"abc")
    before = path.stat()
    assert cache.file_digest(path) == sha256_of(path)
    other = tmp_path / "other"
    other.write_bytes(b"abd")
    os.replace(other, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.file_digest(path) == sha256_of(path)


def test_a_remembered_digest_is_not_computed_again(tmp_path: Path) -> None:
    cache, path = BuildCache(tmp_path / "cache"), tmp_path / "file"
    path.write_bytes(b"abc")
    cache.remember_digest(path, "a" * 64)  # as the caller knows it
    assert cache.file_digest(path) == "a" * 64


def test_a_damaged_memory_of_digests_is_made_again(tmp_path: Path) -> None:
    cache, path = BuildCache(tmp_path / "cache"), tmp_path / "file"
    path.write_bytes(b"abc")
    digest = cache.file_digest(path)
    (memo,) = (cache.root / "digests").iterdir()
    for damage in (b"\xff" * 64, b"", b"0" * 63):
        memo.write_bytes(damage)
        assert cache.file_digest(path) == digest


@pytest.mark.parametrize("size", [10, 3 << 20])
def test_a_changed_file_of_equal_size_makes_the_entry_again(size: int, tmp_path: Path) -> None:
    cache, make = BuildCache(tmp_path), _writes("x" * size)
    entry = cache.entry("lower", FIELDS, make)
    (entry / "value").write_text("y" * size)
    assert cache.entry("lower", FIELDS, make) == entry
    assert _holds("x" * size, entry)
    assert (make.num_calls, cache.hits) == (2, 0)


@pytest.mark.parametrize("damage", [b"\xff" * 100, b"[1]", b'{"value": 10}', b"", b"[" * 100_000])
def test_a_damaged_list_of_files_makes_the_entry_again(damage: bytes, tmp_path: Path) -> None:
    cache, make = BuildCache(tmp_path), _writes("text")
    entry = cache.entry("lower", FIELDS, make)
    (entry / "files.json").write_bytes(damage)
    assert _holds("text", cache.entry("lower", FIELDS, make))
    assert make.num_calls == 2


def test_large_files_of_an_entry_are_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, make = BuildCache(tmp_path), _writes("x" * (3 << 20))
    cache.entry("lower", FIELDS, make)
    hashed: list[Path] = []
    monkeypatch.setattr(cache_module, "sha256_of", hashed.append)
    cache.entry("lower", FIELDS, make)
    assert (make.num_calls, hashed) == (1, [])


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "socket"])
def test_what_stands_where_a_lock_should_be_is_refused_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BuildCache(tmp_path / "cache")
    with cache.lock("lower", {"a": 1}):
        pass
    (lock,) = (cache.root / "locks").iterdir()
    lock.unlink()
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    elif kind == "link":
        lock.symlink_to(tmp_path / "elsewhere")
    else:
        # An address has room for some 100 bytes: less than a temporary folder's path may take.
        monkeypatch.chdir(lock.parent)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"./{lock.name}")
    with pytest.raises(BuildError, match="a lock of the build cache, found no regular file"):
        cache.entry("lower", {"a": 1}, lambda folder: None)
    assert not (tmp_path / "elsewhere").exists()


def test_a_pipe_where_the_list_of_an_entry_should_be_makes_it_anew(tmp_path: Path) -> None:
    cache, make = BuildCache(tmp_path), _writes("text")
    files = cache.entry("lower", FIELDS, make) / "files.json"
    files.unlink()
    os.mkfifo(files)
    entry = _in_time(lambda: cache.entry("lower", FIELDS, make))
    assert _holds("text", entry)
    assert (make.num_calls, files.is_file()) == (2, True)


@pytest.mark.parametrize("kind", ["pipe", "link", "other text"])
def test_what_is_no_digest_is_replaced_by_one(kind: str, tmp_path: Path) -> None:
    cache, large = BuildCache(tmp_path / "cache"), tmp_path / "large"
    large.write_bytes(b"x" * (3 << 20))
    digest = cache.file_digest(large)
    (memo,) = (cache.root / "digests").iterdir()
    memo.unlink()
    os.mkfifo(tmp_path / "pipe")
    if kind == "pipe":
        os.mkfifo(memo)
    elif kind == "link":
        memo.symlink_to(tmp_path / "pipe")
    else:
        memo.write_text(digest.upper() * 100)
    assert _in_time(lambda: cache.file_digest(large)) == digest
    assert memo.read_text() == digest
    assert not memo.is_symlink()


def _in_time(action: Callable[[], T]) -> T:
    """What it returns; a failure where it waits for ever, with whose thread nobody waits then."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(action()), daemon=True)
    thread.start()
    thread.join(20.0)
    assert results, "it waits, or failed"
    return results[0]


def test_what_the_cache_keeps_is_known_by_name(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    assert all(cache.holds(cache.folder(name) / "below") for name in FOLDERS)
    assert not cache.holds(tmp_path / "mine")
    with pytest.raises(AssertionError, match="mine"):  # it would not be told from a user's
        cache.entry("mine", FIELDS, _writes("text"))


KEY = digest_of(FIELDS)


def _leave(cache: BuildCache) -> set[str]:
    """Everything that a killed process may leave: folders of entries, and files in halves."""
    names = {
        *(f"{stage}/.tmp-{KEY}-abc_d123" for stage in ("load", "lower", "profile", "bundle")),
        f"bundle/.tmp-{KEY}-abcd1234.old",
        f"lower/{KEY}/.tmp-k3_abcde",
        f"lower/{KEY}/.tmp-0123456789abcdef",
        f"lower/{KEY}/segment-0-5.onnx.4711",
        f"timing/{KEY}/.tmp-0123456789abcdef",
        "digests/.tmp-0123456789abcdef",
    }
    for name in names:
        path = cache.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".4711" or "0123456789abcdef" in name:
            path.write_bytes(b"half")
        else:
            (path / "packed").mkdir(parents=True)
            (path / "packed" / "engine").write_bytes(b"half")
    return names


def _left(cache: BuildCache, names: set[str]) -> set[str]:
    return {name for name in names if (cache.root / name).exists()}


def test_what_killed_processes_left_is_swept_whatever_it_is_for(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    names = _leave(cache)
    kept = ("lower/notes", f"lower/{KEY}/segment-0-5.onnx", f"bundle/{KEY}/model", "mine/.tmp-x")
    for name in kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"whole")
    cache.sweep()
    assert _left(cache, names) == set()
    assert all((tmp_path / name).read_bytes() == b"whole" for name in kept)


@pytest.mark.parametrize(
    ("at_work", "used"),
    [
        ("bundle", "bundle/"),
        ("lower", "lower/.tmp-"),
        ("timing", "timing/"),
        ("beside a graph", f"lower/{KEY}/"),
        ("digests", "digests/"),
    ],
)
def test_what_somebody_works_in_is_not_swept(at_work: str, used: str, tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    names = _leave(cache)
    theirs = BuildCache(tmp_path)  # a lock is its descriptor's: so it is with another process
    if at_work == "beside a graph":
        work = theirs.at_work_beside(tmp_path / "lower" / KEY / "model.onnx")
    elif at_work == "digests":
        work = theirs.at_work_beside(tmp_path / "digests" / KEY)
    else:
        work = theirs.lock(at_work, FIELDS)
    with work:
        cache.sweep()
        assert _left(cache, names) == {name for name in names if name.startswith(used)}
    cache.sweep()
    assert _left(cache, names) == set()


def _make_for_ever(root: str, is_begun: "multiprocessing.synchronize.Event") -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_bytes(b"x")
        is_begun.set()
        signal.pause()

    BuildCache(Path(root)).entry("bundle", FIELDS, make)


def test_a_process_that_makes_an_entry_keeps_it_until_it_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    is_begun = context.Event()
    child = context.Process(target=_make_for_ever, args=(str(tmp_path), is_begun))
    child.start()
    try:
        assert is_begun.wait(30)
        (left,) = (tmp_path / "bundle").iterdir()
        BuildCache(tmp_path).sweep()
        assert (left / "half").exists()
    finally:
        child.kill()
        child.join()
    BuildCache(tmp_path).sweep()
    assert not left.exists()


def test_a_cache_in_disorder_is_swept_as_far_as_it_goes(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    cache.sweep()
    assert not list(tmp_path.iterdir()), "nothing is made for it"
    names = _leave(cache)
    (tmp_path / "locks").write_text("a file in the way")
    (tmp_path / "digests" / ".tmp-link").symlink_to(tmp_path)
    cache.sweep()
    assert _left(cache, names) == {
        name for name in names if not name.startswith((f"lower/{KEY}", "digests"))
    }
    assert not os.path.lexists(tmp_path / "digests" / ".tmp-link")


def test_a_folder_of_the_cache_that_is_a_link_is_swept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("digests", "bundle"):
        (tmp_path / "elsewhere" / name).mkdir()
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    cache = BuildCache(tmp_path)
    names = _leave(cache)
    cache.sweep()
    assert _left(cache, names) == set()
