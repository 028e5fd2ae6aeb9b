"""`manifest.json` to and from a `Manifest`; the types' own annotations say what is read.

The compatibility rule stands in `manifest`. `schema` and `schema_version` are read first, then
`requires`, then the rest.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from preempt_runtime.manifest import (
    KNOWN_FEATURES,
    MAX_MANIFEST_BYTES,
    MECHANISMS,
    SCHEMA,
    SCHEMA_MAJOR,
    SCHEMA_MINOR,
    Artefact,
    Manifest,
)
from preempt_runtime.manifest_check import check_manifest
from preempt_runtime.strict_json import Place, brief, document_from_json
from preempt_runtime.typed_json import record_from_value

_RENAMED: dict[tuple[type, str], str] = {(Artefact, "num_bytes"): "bytes"}
_UPDATE = "update preempt-runtime, or compile the bundle with the version installed here"


def json_name(record: type, field_name: str) -> str:
    """What a field of a manifest dataclass is called in the file."""
    return _RENAMED.get((record, field_name), field_name)


def json_from_manifest(manifest: Manifest) -> str:
    """The manifest as a JSON document: sorted keys, one value, one text.

    Raises:
        BundleError: a reader would refuse what would be written.
    """
    version = {"major": SCHEMA_MAJOR, "minor": SCHEMA_MINOR}
    document = {"schema": SCHEMA, "schema_version": version, **_encode(manifest)}
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    manifest_from_json(text, "manifest to be written")
    return text


def manifest_from_json(text: str | bytes, where: str) -> Manifest:
    """The manifest of a JSON document, checked.

    Raises:
        BundleError: not a manifest that this version reads; `where` names the file in the message.
    """
    place = Place(where=where)
    document = document_from_json(text, place, max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
        raise place.refuse(f'no "schema": "{SCHEMA}"', "give the manifest.json of a bundle")
    minor = _read_version(document.pop("schema_version", None), place.field("schema_version"))
    _check_features(document.get("requires"), place.field("requires"))
    _bring_up_to_date(document.get("plans"), minor, place.field("plans"))
    manifest = record_from_value(
        document, Manifest, place, name_of=json_name, is_lenient=minor > SCHEMA_MINOR
    )
    check_manifest(manifest, where)
    return manifest


def _read_version(version: Any, place: Place) -> int:
    """The minor version of a file whose major version is ours."""
    if not isinstance(version, dict):
        raise place.refuse(f"found {brief(version)}, expected an object with major and minor")
    major, minor = version.get("major"), version.get("minor")
    if type(major) is not int or type(minor) is not int or min(major, minor) < 0:
        raise place.refuse(f"found {brief(version)}, expected major and minor as integers")
    if major != SCHEMA_MAJOR:
        reads = f"this runtime reads {SCHEMA_MAJOR}.x"
        raise place.refuse(f"found schema {major}.{minor}, {reads}", _UPDATE)
    if minor <= SCHEMA_MINOR and (unknown := sorted(set(version) - {"major", "minor"})):
        raise place.field(unknown[0]).refuse(f"no such field in schema {major}.{minor}")
    return minor


def _bring_up_to_date(plans: Any, minor: int, place: Place) -> None:
    """Say of an older file's plans what this version does; leave out what only a newer one runs."""
    if not isinstance(plans, list):
        return
    if minor < 1:  # no gates yet
        for idx, plan in enumerate(plans):
            if isinstance(plan, dict):
                if "gates" in plan:
                    raise place.item(idx).field("gates").refuse("no such field in schema 1.0")
                plan["gates"] = None
    if minor > SCHEMA_MINOR:
        plans[:] = [plan for plan in plans if not _is_of_newer_mechanism(plan)]


def _is_of_newer_mechanism(plan: Any) -> bool:
    mechanism = plan.get("mechanism") if isinstance(plan, dict) else None
    return isinstance(mechanism, str) and mechanism not in MECHANISMS


def _check_features(requires: Any, place: Place) -> None:
    if not isinstance(requires, list):
        raise place.refuse(f"found {brief(requires)}, expected an array of strings")
    for idx, feature in enumerate(requires):
        if not isinstance(feature, str) or feature not in KNOWN_FEATURES:
            known = ", ".join(sorted(KNOWN_FEATURES))
            what = f"found {brief(feature)}, this runtime knows {known}"
            raise place.item(idx).refuse(what, _UPDATE)


def _encode(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        return {json_name(kind, f.name): _encode(getattr(value, f.name)) for f in fields(kind)}
    if isinstance(value, Mapping):
        return {name: _encode(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(item) for item in value]
    return value
