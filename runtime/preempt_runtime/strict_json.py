"""JSON from outside, read strictly: nothing in it may be ambiguous, unbounded or unprintable."""

import json
import math
import re
import reprlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from preempt_runtime.errors import BundleError, PreemptError
from preempt_runtime.units import fmt_bytes

MAX_DEPTH = 64
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
_UNUSABLE = re.compile("[\0\ud800-\udfff]")
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 80


def brief(value: object) -> str:
    """One short line for a value of unknown size, for messages."""
    return _BRIEF.repr(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in which file a value stands, so that every message can say so.

    `todo` and `error` are what to do about a wrong one, and the class of what is raised.

    >>> str(Place(where="manifest.json").field("plans").item(0).refuse("found 3"))
    'manifest.json: plans[0]: found 3; compile the bundle again'
    """

    where: str
    path: str = ""
    todo: str = "compile the bundle again"
    error: type[PreemptError] = BundleError

    def field(self, name: str) -> "Place":
        """The place of an object's member."""
        if not (name.isidentifier() and len(name) <= 80):
            return replace(self, path=f"{self.path}[{brief(name)}]")
        return replace(self, path=f"{self.path}.{name}" if self.path else name)

    def item(self, idx: int) -> "Place":
        """The place of an array's element."""
        return replace(self, path=f"{self.path}[{idx}]")

    def refuse(self, what: str, todo: str | None = None) -> PreemptError:
        """The error to raise about this place."""
        at = f"{self.path}: " if self.path else ""
        return self.error(f"{self.where}: {at}{what}; {todo or self.todo}")


def document_from_json(text: str | bytes, place: Place, *, max_bytes: int) -> Any:
    """The value that a JSON text stands for.

    Beyond RFC 8259: UTF-8 only, no duplicate member, no NaN, no infinity (`1e999` included),
    integers within 64 bits, no NUL and no lone surrogate in a string, at most 64 levels deep.

    Raises:
        PreemptError: not such a text; `place` names the file in the message.
    """
    if len(text) > max_bytes:
        raise place.refuse(f"{fmt_bytes(len(text))} of JSON, at most {fmt_bytes(max_bytes)}")
    try:
        document = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=partial(_object_from_pairs, place),
            parse_float=partial(_finite_float, place),
            parse_constant=partial(_refuse_constant, place),
        )
    except RecursionError as err:
        raise place.refuse(f"nested deeper than {MAX_DEPTH} levels") from err
    except ValueError as err:
        raise place.refuse(f"not JSON in UTF-8 ({err})") from err
    _check_tree(document, place)
    return document


def _object_from_pairs(place: Place, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise place.refuse(f"member {brief(twice)} stands twice in one object")
    return members


def _finite_float(place: Place, digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise place.refuse(f"number {digits[:40]} is beyond 64-bit floating point")
    return value


def _refuse_constant(place: Place, name: str) -> float:
    raise place.refuse(f"{name} is not a JSON number")


def _check_tree(document: Any, place: Place) -> None:
    """Refuse what no reader should have to hold; iterative, so that depth cannot exhaust it."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            else:
                _check_leaf(value, place)
        if not below:
            return
        level = below
    raise place.refuse(f"nested deeper than {MAX_DEPTH} levels")


def _check_leaf(value: Any, place: Place) -> None:
    if isinstance(value, str):
        if _UNUSABLE.search(value):
            raise place.refuse(f"string {brief(value)} holds NUL or half a surrogate pair")
    elif isinstance(value, int) and not _INT64_MIN <= value <= _INT64_MAX:
        raise place.refuse(f"integer of {value.bit_length()} bits, at most 64 with its sign")
