"""`manifest.json` to and from a `Manifest`; the types' own annotations say what is read.

The compatibility rule stands in `manifest`. `schema` and `schema_version` are read first, then
`requires`, then the rest.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from preempt_runtime.manifest import (
    KNOWN_FEATURES,
    MAX_MANIFEST_BYTES,
    SCHEMA,
    SCHEMA_MAJOR,
    SCHEMA_MINOR,
    Artefact,
    Manifest,
)
from preempt_runtime.manifest_check import check_manifest
from preempt_runtime.strict_json import Place, brief, document_from_json

_RENAMED: dict[tuple[type, str], str] = {(Artefact, "num_bytes"): "bytes"}
_JSON_TYPES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
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
    document = document_from_json(text, where, max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
        raise place.refuse(f'no "schema": "{SCHEMA}"', "give the manifest.json of a bundle")
    minor = _read_version(document.pop("schema_version", None), place.field("schema_version"))
    _check_features(document.get("requires"), place.field("requires"))
    manifest = _decode_record(document, Manifest, place, is_lenient=minor > SCHEMA_MINOR)
    assert isinstance(manifest, Manifest)
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


@cache
def _hints(record: type) -> dict[str, tuple[str, Any]]:
    """For each name in the file: the dataclass's field and its type."""
    return {json_name(record, name): (name, hint) for name, hint in get_type_hints(record).items()}


def _decode(value: Any, hint: Any, place: Place, *, is_lenient: bool) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _decode_record(value, hint, place, is_lenient=is_lenient)
    if origin is tuple:
        return _decode_tuple(value, get_args(hint), place, is_lenient=is_lenient)
    if origin is Mapping:
        _expect(value, dict, "an object", place)
        item = get_args(hint)[1]
        return {
            name: _decode(member, item, place.field(name), is_lenient=is_lenient)
            for name, member in value.items()
        }
    if origin is UnionType:
        return _decode_union(value, get_args(hint), place, is_lenient=is_lenient)
    return _decode_scalar(value, hint, place)


def _decode_record(value: Any, record: type, place: Place, *, is_lenient: bool) -> Any:
    _expect(value, dict, "an object", place)
    hints = _hints(record)
    if not is_lenient and (unknown := sorted(value.keys() - hints.keys())):
        version = f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}"
        raise place.field(unknown[0]).refuse(f"no such field in schema {version}")
    if missing := sorted(hints.keys() - value.keys()):
        raise place.field(missing[0]).refuse("this field is missing")
    return record(
        **{
            name: _decode(value[key], hint, place.field(key), is_lenient=is_lenient)
            for key, (name, hint) in hints.items()
        }
    )


def _decode_tuple(
    value: Any, args: tuple[Any, ...], place: Place, *, is_lenient: bool
) -> tuple[Any, ...]:
    _expect(value, list, "an array", place)
    if args[-1] is not Ellipsis and len(value) != len(args):
        raise place.refuse(f"found {len(value)} elements, expected {len(args)}")
    return tuple(
        _decode(element, args[0], place.item(idx), is_lenient=is_lenient)
        for idx, element in enumerate(value)
    )


def _decode_union(value: Any, args: tuple[Any, ...], place: Place, *, is_lenient: bool) -> Any:
    if value is None and NoneType in args:
        return None
    kinds = [kind for kind in args if kind is not NoneType]
    if len(kinds) == 1:
        return _decode(value, kinds[0], place, is_lenient=is_lenient)
    if type(value) not in kinds:
        expected = " or ".join(_JSON_TYPES[kind] for kind in kinds)
        raise place.refuse(f"found {brief(value)}, expected {expected}")
    return value


def _decode_scalar(value: Any, kind: type, place: Place) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    _expect(value, kind, _JSON_TYPES[kind], place)
    return value


def _expect(value: Any, kind: type, expected: str, place: Place) -> None:
    """Refuse another type; exact, because Python's True is an int."""
    if type(value) is not kind:
        raise place.refuse(f"found {brief(value)}, expected {expected}")
