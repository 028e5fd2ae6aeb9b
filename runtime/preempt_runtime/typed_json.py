"""Parsed JSON as values of dataclasses: the fields' own annotations say what is read.

Understood are str, int, float, bool, dataclasses, arrays `tuple[X, ...]` and `tuple[X, X]`,
`Mapping[str, X]`, `Literal` of strings, unions of scalars, `X | None` and Any.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from preempt_runtime.strict_json import Place, brief

_JSON_TYPES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}

Record = TypeVar("Record")
NameOf = Callable[[type, str], str]


def same_name(record: type, field_name: str) -> str:
    """The field's own name: what it is called in JSON unless a caller says otherwise."""
    return field_name


def record_from_value(
    value: Any,
    record: type[Record],
    place: Place,
    *,
    name_of: NameOf = same_name,
    is_lenient: bool = False,
) -> Record:
    """The dataclass `record` from a JSON object: every field must be there, of its very type.

    Args:
        value: as `strict_json` parsed it.
        record: the dataclass.
        place: where the object stands, for messages.
        name_of: what a field of a dataclass is called in JSON.
        is_lenient: ignore fields that the dataclass does not have.

    Raises:
        PreemptError: another value, as `place` tells it.
    """
    decoder = _Decoder(name_of=name_of, is_lenient=is_lenient)
    decoded = decoder.record(value, record, place)
    assert isinstance(decoded, record)
    return decoded


@cache
def _hints(record: type, name_of: NameOf) -> dict[str, tuple[str, Any]]:
    """For each name in the file: the dataclass's field and its type."""
    return {name_of(record, name): (name, hint) for name, hint in get_type_hints(record).items()}


@cache
def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return get_origin(hint), get_args(hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoder:
    name_of: NameOf
    is_lenient: bool

    def record(self, value: Any, record: type, place: Place) -> Any:
        _expect(value, dict, "an object", place)
        hints = _hints(record, self.name_of)
        if not self.is_lenient and (unknown := sorted(value.keys() - hints.keys())):
            raise place.field(unknown[0]).refuse("no such field in this version")
        if missing := sorted(hints.keys() - value.keys()):
            raise place.field(missing[0]).refuse("this field is missing")
        return record(
            **{
                name: member  # most are scalars of their very type, whose place nobody asks for
                if type(member := value[key]) is hint
                else self.value(member, hint, place.field(key))
                for key, (name, hint) in hints.items()
            }
        )

    def value(self, value: Any, hint: Any, place: Place) -> Any:
        if hint is Any:
            return value
        origin, args = _parts(hint)
        if is_dataclass(hint):
            assert isinstance(hint, type)
            return self.record(value, hint, place)
        if origin is tuple:
            return self._tuple(value, args, place)
        if origin is Mapping:
            _expect(value, dict, "an object", place)
            return {
                name: self.value(member, args[1], place.field(name))
                for name, member in value.items()
            }
        if origin is UnionType:
            return self._union(value, args, place)
        if origin is Literal:
            if not isinstance(value, str) or value not in args:
                raise place.refuse(f"found {brief(value)}, expected {' or '.join(args)}")
            return value
        return _scalar(value, hint, place)

    def _tuple(self, value: Any, args: tuple[Any, ...], place: Place) -> tuple[Any, ...]:
        _expect(value, list, "an array", place)
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise place.refuse(f"found {len(value)} elements, expected {len(args)}")
        if set(map(type, value)) <= {args[0]}:
            return tuple(value)
        return tuple(
            self.value(element, args[0], place.item(idx)) for idx, element in enumerate(value)
        )

    def _union(self, value: Any, args: tuple[Any, ...], place: Place) -> Any:
        if value is None and NoneType in args:
            return None
        kinds = [kind for kind in args if kind is not NoneType]
        if len(kinds) == 1:
            return self.value(value, kinds[0], place)
        if type(value) not in kinds:
            expected = " or ".join(_JSON_TYPES[kind] for kind in kinds)
            raise place.refuse(f"found {brief(value)}, expected {expected}")
        return value


def _scalar(value: Any, kind: type, place: Place) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    _expect(value, kind, _JSON_TYPES[kind], place)
    return value


def _expect(value: Any, kind: type, expected: str, place: Place) -> None:
    """Refuse another type; exact, because Python's True is an int."""
    if type(value) is not kind:
        raise place.refuse(f"found {brief(value)}, expected {expected}")
