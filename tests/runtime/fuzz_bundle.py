"""Mutation fuzz of bundles: whatever is broken in one, only `BundleError` may come out.

    python tests/runtime/fuzz_bundle.py --cases 10000 --seed 0

Each case breaks one thing in a fresh copy of a small bundle, every other one with a plan of gates:
bytes of the manifest, its JSON tree, or a file. What is accepted all the same must then be true: a
damaged file never is, and an accepted manifest is written and read back as the same value.
"""

import argparse
import copy
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script, where pytest has not set the path
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT), str(ROOT / "runtime")]

from preempt_runtime.bundle import choose_plan, open_bundle
from preempt_runtime.errors import BundleError
from preempt_runtime.manifest import GATES_FIRST, MANIFEST_NAME, SEGMENTS
from preempt_runtime.manifest_json import json_from_manifest, manifest_from_json
from preempt_runtime.network_memory import memory_from_manifest
from tests.runtime.bundle_fixture import LOCAL_FIELDS, make_test_bundle, manifest_with_gates

MARK = "@DUPLICATE@"
RAW = "@RAW"
RAW_TEXTS = (
    "NaN",
    "-Infinity",
    "1e999",
    "-0",
    "1.0",
    "1E3",
    "9" * 400,
    "9" * 5000,
    "[" * 63 + "]" * 63,
    "[" * 5000 + "]" * 5000,
    '{"a":' * 5000 + "0" + "}" * 5000,
    '"\\u0000"',
    '"\\ud800"',
    '"\x01"',
    "01",
    "",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
    0.5,
    -1.5,
    1e308,
    "",
    "x",
    "x" * 5000,
    "a\0b",
    "a\nb",
    "../../etc/passwd",
    "/etc/passwd",
    "graph/../graph/model.onnx",
    "graph//model.onnx",
    "C:\\x",
    "manifest.json",
    "a/" * 3000 + "a",
    [],
    {},
    [[]],
    [0, 1],
    {"a": 1},
)


def mutate_bytes(text: bytes, rng: random.Random) -> bytes:
    """The text with one to four byte edits, or cut short."""
    damaged = bytearray(text)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(damaged) or 1)
        match rng.choice(("flip", "insert", "delete", "truncate", "repeat", "digit")):
            case "flip" if damaged:
                damaged[at % len(damaged)] ^= 1 << rng.randrange(8)
            case "insert":
                damaged[at:at] = rng.randbytes(rng.randint(1, 4))
            case "delete":
                del damaged[at : at + rng.randint(1, 30)]
            case "truncate" if rng.random() < 0.3:
                del damaged[at:]
            case "repeat":
                damaged[at:at] = damaged[at : at + rng.randint(1, 200)]
            case "digit":
                digits = [idx for idx, byte in enumerate(damaged) if 48 <= byte <= 57]
                if digits:
                    damaged[rng.choice(digits)] = rng.choice(b"0123456789-.e")
    return bytes(damaged)


def mutate_tree(text: bytes, rng: random.Random) -> bytes:
    """The document with one to three values, members or elements changed."""
    document = json.loads(text)
    raws: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if slots := list(_slots(document)):
            _mutate_slot(slots, raws, rng)
    written = json.dumps(document).replace(MARK, "")
    for idx, raw in enumerate(raws):
        written = written.replace(f'"{RAW}{idx}@"', raw)
    return written.encode()


def _mutate_slot(slots: list[tuple[Any, Any]], raws: list[str], rng: random.Random) -> None:
    """Change one place; `raws` collects the texts that stand for what JSON cannot say."""
    parent, name = rng.choice(slots)
    match rng.choice(("value", "value", "raw", "delete", "duplicate", "rename", "swap", "step")):
        case "duplicate" if rng.random() < 0.02:
            _multiply(parent, name, 2000)
        case "value":
            parent[name] = copy.deepcopy(rng.choice(VALUES))
        case "raw":
            raws.append(rng.choice(RAW_TEXTS))
            parent[name] = f"{RAW}{len(raws) - 1}@"
        case "delete":
            del parent[name]
        case "duplicate":
            _duplicate(parent, name)
        case "rename" if isinstance(parent, dict):
            parent[rng.choice((f"{name}x", "", "a\nb", "\0", "x" * 300))] = parent.pop(name)
        case "swap":
            other, other_name = rng.choice(slots)
            parent[name] = copy.deepcopy(other[other_name])
        case "step" if type(parent[name]) is int:
            parent[name] += rng.choice((-1, 1))


def _slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON tree: its container, and its name or index there."""
    names = list(value) if isinstance(value, dict) else range(len(value))
    for name in names:
        yield value, name
        if isinstance(value[name], dict | list):
            yield from _slots(value[name])


def _multiply(parent: Any, name: Any, number: int) -> None:
    if isinstance(parent, list):
        parent[name:name] = [copy.deepcopy(parent[name]) for _ in range(number)]
    else:
        parent.update((f"{name}{idx}", copy.deepcopy(parent[name])) for idx in range(number))


def _duplicate(parent: Any, name: Any) -> None:
    if isinstance(parent, list):
        parent.insert(name, copy.deepcopy(parent[name]))
    else:
        parent[f"{name}{MARK}"] = copy.deepcopy(parent[name])


def damage_file(root: Path, rng: random.Random) -> str:
    """Damage one file or folder of the bundle so that it must be refused; what was done to it."""
    path = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    names = ["delete", "to link", "to dangling link", "to looping link", "to folder", "to pipe"]
    names += ["add file", "add link"]
    if path.name != MANIFEST_NAME:  # another content of the manifest may be a right one
        names += ["append"] + ["flip", "truncate"] * (path.stat().st_size > 0)
    if path.parent != root:  # the bundle itself may be reached by a link
        names += ["folder to link", "folder to file"]
    damage = rng.choice(names)
    match damage:
        case "append" | "flip" | "truncate":
            path.write_bytes(_other_content(path.read_bytes(), damage, rng))
        case "to link":
            _replace_by_link(path)
        case "folder to link":
            _replace_by_link(path.parent)
        case "folder to file":
            shutil.rmtree(path.parent)
            path.parent.write_bytes(b"x")
        case "add file":
            path.with_name("more").write_bytes(b"")
        case "add link":
            path.with_name("more").symlink_to(root.parent)
        case _:
            _replace_by_nonfile(path, damage)
    return f"{damage} ({path.name})"


def _other_content(content: bytes, damage: str, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) or 1)
    if damage == "append":
        return content + rng.randbytes(rng.randint(1, 9))
    if damage == "truncate":
        return content[:at]
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def _replace_by_nonfile(path: Path, damage: str) -> None:
    path.unlink()
    if damage == "to folder":
        path.mkdir()
    elif damage == "to pipe":
        os.mkfifo(path)
    elif damage != "delete":
        path.symlink_to("nowhere" if damage == "to dangling link" else path.name)


def _replace_by_link(path: Path) -> None:
    """Move it out of its place and link to it: the content stays right, the place does not."""
    moved = path.with_name(f"{path.name}.moved")
    path.rename(moved)
    path.symlink_to(moved)


def use_bundle(root: Path) -> None:
    """Do with the bundle all that a runtime does before it executes anything.

    Raises:
        BundleError: something is wrong with it.
        AssertionError: something was accepted that is not true.
    """
    bundle = open_bundle(root)
    manifest = bundle.manifest
    written = json_from_manifest(manifest)
    assert manifest_from_json(written, "written") == manifest
    for mechanisms in ((SEGMENTS,), GATES_FIRST):
        choose_plan(bundle, LOCAL_FIELDS, mechanisms=mechanisms)
    for plan in manifest.plans:
        assert (plan.gates is None) == (plan.mechanism == SEGMENTS)
        assert [len(outputs) for _, _, outputs in plan.files].count(0) == 0
        memory_from_manifest(manifest, plan)
    for artefact in manifest.artefacts:
        path = bundle.verified_path(artefact.path)
        content = path.read_bytes()
        assert path.resolve() == path
        assert path.is_relative_to(root.resolve())
        assert hashlib.sha256(content).hexdigest() == artefact.sha256
        assert bundle.read_bytes(artefact.path) == content
    bundle.verify_files()


def run_case(root: Path, rng: random.Random) -> tuple[str, str]:
    """Damage the bundle in `root` and use it: the kind of damage, and how the use ended."""
    manifest_path = root / MANIFEST_NAME
    damage = ""
    kind = rng.choice(("manifest bytes", "manifest tree", "manifest tree", "file"))
    if kind == "file":
        damage = damage_file(root, rng)
    else:
        mutate = mutate_bytes if kind == "manifest bytes" else mutate_tree
        manifest_path.write_bytes(mutate(manifest_path.read_bytes(), rng))
    try:
        use_bundle(root)
    except BundleError as err:
        if "\n" in str(err):
            raise AssertionError(f"a message is one line, this is not: {err}") from err
        return kind, "refused"
    if kind == "file":
        raise AssertionError(f"a bundle with a damaged file was accepted: {damage}")
    return kind, "accepted"


def run_cases(num_cases: int, seed: int, folder: Path) -> Counter[tuple[str, str]]:
    """How many cases of each kind were accepted and refused; `folder` is scratch space.

    Raises:
        RuntimeError: a case ended otherwise; the message names its number and seed.
    """
    plain = make_test_bundle(folder / "plain")
    gated = make_test_bundle(folder / "gated", manifest_with_gates())
    for whole in (plain, gated):
        use_bundle(whole)
    counts: Counter[tuple[str, str]] = Counter()
    for case in range(num_cases):
        root = folder / "case" / "test.bundle"
        shutil.copytree((plain, gated)[case % 2], root)
        try:
            counts[run_case(root, random.Random(f"{seed}/{case}"))] += 1
        except Exception as err:
            raise RuntimeError(f"case {case} of seed {seed}: {type(err).__name__}: {err}") from err
        shutil.rmtree(root.parent)
    return counts


def main() -> None:
    """Run the fuzz and print its counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = run_cases(options.cases, options.seed, Path(folder))
    for (kind, end), count in sorted(counts.items()):
        print(f"{kind:15} {end:9} {count:6}")
    print(f"{counts.total()} cases, seed {options.seed}: no other exception than BundleError")


if __name__ == "__main__":
    main()
