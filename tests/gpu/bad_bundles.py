"""Copies of a built bundle with something false in them, and what runs them."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preempt_runtime.manifest import MANIFEST_NAME, hash_key


def with_engine(source: Path, target: Path, edit: Callable[[bytes], bytes]) -> Path:
    """A copy with another first engine, whose size and hash the manifest says."""
    manifest = _copied(source, target)
    path = manifest["plans"][0]["segments"][0]["path"]
    content = edit((target / path).read_bytes())
    (target / path).write_bytes(content)
    (artefact,) = [artefact for artefact in manifest["artefacts"] if artefact["path"] == path]
    artefact.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    return _written(target, manifest)


def with_key_fields(source: Path, target: Path, **fields: str | int) -> Path:
    """A copy that says it was built for another machine, under the KEY that this gives."""
    manifest = _copied(source, target)
    (old,) = manifest["keys"]
    changed = {**manifest["keys"][old], **fields}
    new = hash_key(changed)
    (target / "engines" / old).rename(target / "engines" / new)
    text = json.dumps({**manifest, "keys": {old: changed}}).replace(old, new)
    return _written(target, json.loads(text))


def with_forged_key(source: Path, target: Path, **fields: str | int) -> Path:
    """A copy whose KEY's fields were changed without the KEY."""
    manifest = _copied(source, target)
    (key,) = manifest["keys"]
    manifest["keys"][key].update(fields)
    return _written(target, manifest)


def taskset_of(bundle: Path, folder: Path) -> Path:
    """A task set in which the bundle is the one task, over and over again."""
    path = folder / "tasks.toml"
    path.write_text(
        f'[[task]]\nname = "net"\nbundle = {json.dumps(str(bundle))}\npriority = 1\n'
        'arrival = { kind = "closed_loop" }\n'
    )
    return path


def _copied(source: Path, target: Path) -> Any:
    shutil.copytree(source, target)
    return json.loads((target / MANIFEST_NAME).read_text())


def _written(target: Path, manifest: Any) -> Path:
    (target / MANIFEST_NAME).write_text(json.dumps(manifest))
    return target
