"""A TOML table that is read strictly: every key is known, has its type, and lies in its range."""

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preempt_runtime.errors import InputError
from preempt_runtime.input_file import read_regular
from preempt_runtime.units import parse_duration_ns

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_TOML_BYTES = 1 << 20
_KIND = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    list: "an array",
    dict: "a table",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TomlTable:
    """One table of a file; `where` names both in every message."""

    where: str
    entries: Mapping[str, Any]

    def allow(self, *keys: str) -> None:
        """Refuse every key that is not among `keys`.

        Raises:
            InputError: there is another key; the message says which was meant, perhaps, and lists
                those allowed.
        """
        for key in self.entries:
            if key not in keys:
                close = difflib.get_close_matches(key, keys, n=1)
                meant = f" (did you mean {close[0]!r}?)" if close else ""
                raise InputError(
                    f"{self.where}: unknown key {key!r}{meant}, allowed {', '.join(keys)}"
                )

    def has(self, key: str) -> bool:
        """Whether the key is written."""
        return key in self.entries

    def text(self, key: str, default: str | None = None) -> str:
        """The string at `key`: not empty, printable, at most 4096 characters."""
        found = self._get(key, default, (str,), "a string")
        if not (isinstance(found, str) and found and found.isprintable() and len(found) <= 4096):
            raise self.error(key, "a printable string of 1 to 4096 characters")
        return found

    def choice(self, key: str, allowed: tuple[str, ...], default: str) -> str:
        """The string at `key`, one of those allowed."""
        found = self._get(key, default, (str,), f"one of {', '.join(allowed)}")
        if found not in allowed:
            raise self.error(key, f"one of {', '.join(allowed)}")
        return str(found)

    def flag(self, key: str) -> bool:
        """The boolean at `key`, false if it is not written."""
        return bool(self._get(key, False, (bool,), "true or false"))

    def integer(self, key: str, least: int, most: int, default: int | None = None) -> int:
        """The integer at `key`, `least` to `most`."""
        allowed = f"an integer from {least} to {most}"
        found = self._get(key, default, (int,), allowed)
        if not least <= found <= most:
            raise self.error(key, allowed)
        return int(found)

    def number(self, key: str) -> float:
        """The integer or float at `key`."""
        found = self._get(key, None, (int, float), "a number")
        try:
            return float(found)
        except OverflowError as err:
            raise self.error(key, "a number up to 1.8e308") from err

    def duration_ns(self, key: str, default: str | None = None) -> int:
        """The duration at `key`, such as `20ms`, in nanoseconds."""
        found = self._get(key, default, (str,), "a duration such as 20ms")
        try:
            return parse_duration_ns(found)
        except InputError as err:
            raise InputError(f"{self.where}: key {key!r}: {err}") from err

    def positive_ns(self, key: str) -> int | None:
        """The duration at `key`, which must be above 0; None where the key is missing."""
        if not self.has(key):
            return None
        if (value_ns := self.duration_ns(key)) == 0:
            raise self.error(key, "a duration above 0")
        return value_ns

    def texts(self, key: str) -> tuple[str, ...]:
        """The strings in the array at `key`, each as `text` allows it."""
        return tuple(item.text(key) for item in self._items(key, "an array of strings"))

    def durations_ns(self, key: str, *, most: int) -> tuple[int, ...]:
        """The durations in the array at `key`, at most `most` of them, in nanoseconds."""
        items = self._items(key, "an array of durations such as 20ms")
        if len(items) > most:
            raise InputError(f"{self.where}: key {key!r}: {len(items)} of them, allowed {most}")
        return tuple(item.duration_ns(key) for item in items)

    def _items(self, key: str, allowed: str) -> tuple["TomlTable", ...]:
        """Each element of an array as a table in which it stands at `key`."""
        found = self._get(key, None, (list,), allowed)
        return tuple(TomlTable(where=self.where, entries={key: item}) for item in found)

    def table(self, key: str, where: str, default: Mapping[str, Any] | None = None) -> "TomlTable":
        """The table at `key`; messages will call it `where`."""
        return TomlTable(where=where, entries=self._get(key, default, (dict,), "a table"))

    def tables(self, key: str) -> tuple[Mapping[str, Any], ...]:
        """The array of tables at `key`, `[[key]]`."""
        found = self._get(key, None, (list,), f"an array of tables, [[{key}]]")
        if not all(isinstance(entry, dict) for entry in found):
            raise self._type_error(key, f"an array of tables, [[{key}]]")
        return tuple(found)

    def error(self, key: str, allowed: str) -> InputError:
        """An error that says what stands at `key`, of the right type, and what is allowed."""
        found = self.entries[key]
        is_long = isinstance(found, int)
        unshown = f"{_kind(found)} of over 63 bits" if is_long else f"it is {_kind(found)}"
        shown = _shown(found) or unshown
        return InputError(f"{self.where}: key {key!r}: {shown}, allowed {allowed}")

    def _type_error(self, key: str, allowed: str) -> InputError:
        """The same for what is of another type."""
        found = self.entries[key]
        if isinstance(found, str):
            return self.error(key, allowed)
        shown = _shown(found) or "it"
        return InputError(
            f"{self.where}: key {key!r}: {shown} is {_kind(found)}, allowed {allowed}"
        )

    def _get(self, key: str, default: Any, kinds: tuple[type, ...], allowed: str) -> Any:
        if key not in self.entries:
            if default is None:
                raise InputError(f"{self.where}: key {key!r} is missing, write {allowed}")
            return default
        if type(self.entries[key]) not in kinds:  # not isinstance: a bool is no integer here
            raise self._type_error(key, allowed)
        return self.entries[key]


def _kind(found: object) -> str:
    return _KIND.get(type(found), "a date or time")


def _shown(found: object) -> str | None:
    """The value, where it is short enough for a message."""
    if isinstance(found, str):
        return f"found {found[:60]!r}"
    if isinstance(found, (bool, float)) or (isinstance(found, int) and abs(found) < 2**63):
        return repr(found)
    return None


def read_toml(path: Path) -> TomlTable:
    """The top table of a TOML file.

    Raises:
        InputError: unreadable, over 1 MiB, or not TOML; with the line where the parser says it.
    """
    content = read_regular(path, "the task set", max_bytes=MAX_TOML_BYTES)
    try:
        return TomlTable(where=str(path), entries=tomllib.loads(content.decode("utf-8")))
    except (ValueError, RecursionError) as err:  # TOMLDecodeError and UnicodeDecodeError among them
        raise InputError(f"{path}: not TOML: {err}") from err
