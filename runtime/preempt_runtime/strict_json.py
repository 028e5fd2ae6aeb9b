"""JSON from outside, read strictly: nothing in it may be ambiguous, unbounded or unprintable."""

import json
import math
import re
import reprlib
from collections import Counter
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

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


class Place(NamedTuple):
    """Where in which file a value stands, so that every message can say so.

    `todo` and `error` are what to do about a wrong one, and the class of what is raised. One is
    made for almost every value that is read: hence the named tuple, and a path that becomes a text
    in a message only.

    >>> str(Place(where="manifest.json").field("plans").item(0).refuse("found 3"))
    'manifest.json: plans[0]: found 3; compile the bundle again'
    """

    where: str
    steps: tuple[str | int, ...] = ()
    todo: str = "compile the bundle again"
    error: type[PreemptError] = BundleError

    def field(self, name: str) -> "Place":
        """The place of an object's member."""
        return self._below(name)

    def item(self, idx: int) -> "Place":
        """The place of an array's element."""
        return self._below(idx)

    def _below(self, step: str | int) -> "Place":
        return Place(where=self.where, steps=(*self.steps, step), todo=self.todo, error=self.error)

    @property
    def path(self) -> str:
        """Such as `plans[0].id`."""
        path = ""
        for step in self.steps:
            if isinstance(step, str) and step.isidentifier() and len(step) <= 80:
                path += f".{step}" if path else step
            else:
                path += f"[{brief(step)}]"
        return path

    def refuse(self, what: str, todo: str | None = None) -> PreemptError:
        """The error to raise about this place."""
        at = f"{self.path}: " if self.steps else ""
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
        _check_leaves(level, place)
        objects = [value for value in level if type(value) is dict]
        arrays = [value for value in level if type(value) is list]
        level = list(chain(*objects, *map(dict.values, objects), *arrays))
        if not level:
            return
    raise place.refuse(f"nested deeper than {MAX_DEPTH} levels")


def _check_leaves(values: list[Any], place: Place) -> None:
    """Of one level all at once: a large file has millions."""
    strings = [value for value in values if type(value) is str]
    if _UNUSABLE.search("".join(strings)):
        unusable = next(filter(_UNUSABLE.search, strings))
        raise place.refuse(f"string {brief(unusable)} holds NUL or half a surrogate pair")
    integers = [value for value in values if type(value) is int]
    for value in (min(integers, default=0), max(integers, default=0)):
        if not _INT64_MIN <= value <= _INT64_MAX:
            raise place.refuse(f"integer of {value.bit_length()} bits, at most 64 with its sign")
