"""Bundles on disk: what is refused before a file is used, and which plan fits this machine."""

import hashlib
import logging
import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preempt_runtime.bundle import Bundle, choose_plan, open_bundle
from preempt_runtime.errors import BundleError, InputError
from preempt_runtime.manifest import MANIFEST_NAME, hash_key
from preempt_runtime.manifest_json import json_from_manifest
from preempt_runtime.taskset import read_taskset
from preempt_runtime.trace import write_trace
from tests.runtime.bundle_fixture import (
    KEY,
    KEY_FIELDS,
    LOCAL_FIELDS,
    make_test_bundle,
    make_test_files,
    make_test_manifest,
)
from tests.runtime.fuzz_bundle import run_cases

MODEL = "graph/model.onnx"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_test_bundle(tmp_path / "test.bundle")


def test_whole_bundle_is_accepted(root: Path) -> None:
    bundle = open_bundle(root)
    assert bundle.root == root.resolve()
    assert bundle.manifest == make_test_manifest()
    manifest_bytes = (root / MANIFEST_NAME).read_bytes()
    assert bundle.manifest_sha256 == hashlib.sha256(manifest_bytes).hexdigest()
    bundle.verify_files()
    for path, content in make_test_files().items():
        assert bundle.verified_path(path) == bundle.root / path
        assert bundle.read_bytes(path) == content


def test_path_to_the_bundle_may_be_a_link_or_text(root: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(root)
    bundle = open_bundle(str(tmp_path / "latest"))
    assert bundle.root == root.resolve()
    bundle.verify_files()


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda path: None, "no such bundle; write one with `preemptc compile`"),
        (lambda path: path.write_bytes(b""), "a bundle is a directory"),
        (lambda path: path.mkdir(), "no manifest.json, so no bundle or a half-written one"),
        (lambda path: path.symlink_to(path), "cannot be opened"),
        (lambda path: (path / MANIFEST_NAME).mkdir(parents=True), "not a regular file"),
    ],
    ids=["missing", "file", "empty", "loop", "manifest is a folder"],
)
def test_what_is_no_bundle_is_refused(
    prepare: Callable[[Path], object], expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "b"
    prepare(path)
    with pytest.raises(BundleError, match=expected):
        open_bundle(path)


def test_path_that_no_system_has_is_refused() -> None:
    with pytest.raises(BundleError, match="cannot be opened"):
        open_bundle("a\0b")
    with pytest.raises(BundleError, match="cannot be opened"):
        open_bundle("a" * 10_000)


@pytest.mark.parametrize(
    ("path", "message"),
    [("", "the path is empty"), (3, "found 3, expected a path"), (None, "found None")],
)
def test_what_is_no_path_is_refused(path: Any, message: str) -> None:
    for read in (open_bundle, read_taskset, lambda where: write_trace(where, {})):
        with pytest.raises(InputError, match=f"^a [a-z ]+: {message}"):
            read(path)


def test_half_written_bundle_is_refused_even_with_a_manifest(tmp_path: Path) -> None:
    path = make_test_bundle(tmp_path / ".tmp-detector.bundle-x")
    with pytest.raises(BundleError, match="half-written by a compile; remove it"):
        open_bundle(path)


def test_linked_manifest_is_refused(root: Path, tmp_path: Path) -> None:
    (root / MANIFEST_NAME).rename(tmp_path / "elsewhere")
    (root / MANIFEST_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"manifest\.json: a link, a bundle holds none"):
        open_bundle(root)


def test_huge_manifest_is_refused_before_it_is_read(root: Path) -> None:
    os.truncate(root / MANIFEST_NAME, (64 << 20) + 1)
    with pytest.raises(BundleError, match="64 MiB, at most 64 MiB"):
        open_bundle(root)


def test_other_schema_is_refused(root: Path) -> None:
    text = (root / MANIFEST_NAME).read_text("utf-8").replace('"major": 1', '"major": 2')
    (root / MANIFEST_NAME).write_text(text, "utf-8")
    with pytest.raises(BundleError, match=r"found schema 2\.1, this runtime reads 1\.x; update"):
        open_bundle(root)


def test_pinned_manifest(root: Path) -> None:
    pin = open_bundle(root).manifest_sha256
    assert open_bundle(root, manifest_sha256=pin.upper()).manifest_sha256 == pin
    with open(root / MANIFEST_NAME, "a", encoding="utf-8") as file:
        file.write(" ")
    assert open_bundle(root).manifest_sha256 != pin
    with pytest.raises(BundleError, match=f"pinned '{pin}'"):
        open_bundle(root, manifest_sha256=pin)


def test_pin_is_checked_before_the_manifest_is_parsed(root: Path) -> None:
    (root / MANIFEST_NAME).write_bytes(b"{")
    with pytest.raises(BundleError, match="pinned"):
        open_bundle(root, manifest_sha256="0" * 64)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def link_out(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link_folder(path: Path) -> None:
    outside = path.parents[2] / "outside"
    path.parent.rename(outside)
    path.parent.symlink_to(outside)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (flip, "model.onnx: sha256 [0-9a-f]{64}, the manifest says [0-9a-f]{64}; damaged"),
        (lambda path: os.truncate(path, 7), "model.onnx: 7 bytes, the manifest says 300"),
        (lambda path: os.truncate(path, 301), "model.onnx: 301 bytes, the manifest says 300"),
        (lambda path: path.unlink(), "model.onnx: missing, the manifest lists it"),
        (link_out, "model.onnx: a link, a bundle holds none"),
        (link_folder, "graph: a link, a bundle holds none"),
        (replace_by_folder, "model.onnx: not a regular file"),
        (replace_by_pipe, "model.onnx: not a regular file"),
    ],
    ids=["flip", "short", "long", "missing", "link", "folder link", "folder", "pipe"],
)
def test_damaged_file_is_refused_by_every_way_to_it(
    damage: Callable[[Path], object], expected: str, root: Path
) -> None:
    bundle = open_bundle(root)
    bundle.verify_files()
    damage(root / MODEL)
    uses: tuple[Callable[[Bundle], object], ...] = (
        lambda bundle: bundle.verified_path(MODEL),
        lambda bundle: bundle.read_bytes(MODEL),
        lambda bundle: bundle.verify_files(),
    )
    for use in uses:
        with pytest.raises(BundleError, match=expected):
            use(bundle)


@pytest.mark.parametrize("path", sorted(make_test_files()))
def test_flipped_byte_in_any_file_is_found(path: str, root: Path) -> None:
    if (root / path).stat().st_size == 0:
        (root / path).write_bytes(b"\0")
    else:
        flip(root / path)
    with pytest.raises(BundleError, match=path):
        open_bundle(root).verified_path(path)


@pytest.mark.parametrize("path", ["other.onnx", "../x", "/etc/passwd", MANIFEST_NAME, "graph", ""])
def test_unlisted_path_is_refused(path: str, root: Path) -> None:
    (root / "other.onnx").write_bytes(b"")
    bundle = open_bundle(root)
    with pytest.raises(BundleError, match=r"is not listed in manifest\.json"):
        bundle.verified_path(path)
    with pytest.raises(BundleError, match=r"is not listed in manifest\.json"):
        bundle.read_bytes(path)


def test_unlisted_files_and_links_are_no_part_of_a_bundle(root: Path, tmp_path: Path) -> None:
    (root / "graph" / "more.onnx").write_bytes(b"")
    (root / "linked").symlink_to(tmp_path)
    with pytest.raises(
        BundleError, match=r"2 files are not part of the bundle: 'graph/more.onnx', 'linked'"
    ):
        open_bundle(root).verify_files()


def test_file_is_hashed_once_until_it_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real_open = os.open

    def counting_open(path: Path, flags: int) -> int:
        opened.append(Path(path).name)
        return real_open(path, flags)

    bundle = open_bundle(root)
    monkeypatch.setattr(os, "open", counting_open)
    bundle.verified_path(MODEL)
    bundle.verified_path(MODEL)
    assert opened == ["model.onnx"]
    content = (root / MODEL).read_bytes()
    (root / MODEL).unlink()
    (root / MODEL).write_bytes(content)
    os.utime(root / MODEL, ns=(1, 1))
    bundle.verified_path(MODEL)
    assert opened == ["model.onnx"] * 2


def test_artefacts_of_a_key(root: Path) -> None:
    bundle = open_bundle(root)
    assert [a.path.rpartition("/")[2] for a in bundle.artefacts_for(KEY)] == [
        "segment-000.onnx",
        "segment-001.onnx",
        "segment-002.onnx",
    ]
    assert MODEL in {artefact.path for artefact in bundle.artefacts_for(None)}
    assert bundle.artefacts_for("0" * 16) == ()


def test_first_plan_that_matches_is_chosen(root: Path) -> None:
    bundle = open_bundle(root)
    assert choose_plan(bundle, LOCAL_FIELDS).id == "cpu"
    assert choose_plan(bundle, {"threads": 2}, plan_id="cpu").id == "cpu"


def test_plan_for_another_machine_is_left_out_and_logged(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = with_second_machine(root)
    caplog.set_level(logging.INFO, logger="preempt_runtime.bundle")
    assert choose_plan(bundle, {**LOCAL_FIELDS, "threads": 4}).id == "cpu-4"
    assert "plan 'cpu' left out: threads: bundle has 2, this machine 4" in caplog.text
    caplog.clear()
    assert choose_plan(bundle, LOCAL_FIELDS).id == "cpu"
    assert caplog.text == ""


def test_no_plan_for_this_machine_names_what_differs_in_the_closest(root: Path) -> None:
    bundle = with_second_machine(root)
    with pytest.raises(BundleError) as caught:
        choose_plan(bundle, {**LOCAL_FIELDS, "threads": 4, "cpu_model": "Y"})
    message = str(caught.value)
    assert "the closest, 'cpu-4': cpu_model: bundle has 'Prüfstand 9', this machine 'Y';" in message
    assert f"compile it on this machine: preemptc compile {bundle.root}/{MODEL}" in message


def test_a_command_that_a_message_tells_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    bundle = with_second_machine(make_test_bundle(tmp_path / "my net's.bundle"))
    with pytest.raises(BundleError) as caught:
        choose_plan(bundle, {**LOCAL_FIELDS, "threads": 4, "cpu_model": "Y"})
    words = shlex.split(str(caught.value).partition("compile it on this machine: ")[2])
    assert words == ["preemptc", "compile", f"{bundle.root}/{MODEL}", "--target", "cpu"]


@pytest.mark.parametrize(
    ("local_fields", "expected"),
    [
        ({"threads": "2"}, "threads: bundle has 2, this machine '2'"),
        ({"gpu": "none"}, "gpu: bundle has None, this machine 'none'"),
    ],
)
def test_fields_are_compared_exactly(
    local_fields: dict[str, str | int], expected: str, root: Path
) -> None:
    with pytest.raises(BundleError, match=expected):
        choose_plan(open_bundle(root), local_fields)


def test_plan_that_was_named(root: Path) -> None:
    bundle = open_bundle(root)
    with pytest.raises(BundleError, match="no plan 'gpu', it holds 'cpu', 'portable'"):
        choose_plan(bundle, LOCAL_FIELDS, plan_id="gpu")
    empty = replace(bundle, manifest=replace(bundle.manifest, plans=()))
    with pytest.raises(BundleError, match="no plan, it holds none"):
        choose_plan(empty, LOCAL_FIELDS)


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("orin", "`preemptc build {}` on the board or machine with that GPU"),
        ("native", "`preemptc build {}` on this machine"),
        ("cpu", "`preemptc build {} --target cpu` on this machine"),
    ],
)
@pytest.mark.parametrize("local_fields", [{}, LOCAL_FIELDS])
def test_what_is_not_built_names_its_target_and_the_command(
    root: Path, target: str, command: str, local_fields: dict[str, str | int]
) -> None:
    bundle = open_bundle(root)
    plans = (replace(bundle.manifest.plans[1], target=target),)
    unbuilt = replace(bundle, manifest=replace(bundle.manifest, plans=plans))
    with pytest.raises(BundleError) as refused:
        choose_plan(unbuilt, local_fields)
    assert str(refused.value) == (
        f"{bundle.root}: plan 'portable' is made for {target}, nothing is built for it yet:"
        f" {command.format(bundle.root)}"
    )


def with_second_machine(root: Path) -> Bundle:
    """The bundle with one more plan, `cpu-4`, for the same machine with 4 threads."""
    manifest = make_test_manifest()
    fields = {**KEY_FIELDS, "threads": 4}
    key = hash_key(fields)
    plan = manifest.plans[0]
    segments = tuple(replace(s, path=s.path.replace(KEY, key)) for s in plan.segments)
    built = [a for a in manifest.artefacts if a.key == KEY]
    manifest = replace(
        manifest,
        plans=(*manifest.plans, replace(plan, id="cpu-4", key=key, segments=segments)),
        keys={**manifest.keys, key: fields},
        artefacts=(
            *manifest.artefacts,
            *(replace(a, path=a.path.replace(KEY, key), key=key) for a in built),
        ),
    )
    (root / MANIFEST_NAME).write_text(json_from_manifest(manifest), "utf-8")
    return open_bundle(root)


def test_fuzz(tmp_path: Path) -> None:
    counts = run_cases(500, 1, tmp_path)
    assert counts.total() == 500
    assert counts["manifest tree", "accepted"] > 0
    assert counts["manifest tree", "refused"] > 100
    assert counts["manifest bytes", "refused"] > 50
    assert counts["file", "refused"] > 50
