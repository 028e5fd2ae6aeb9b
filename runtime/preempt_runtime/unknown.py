"""What could not be found out, and why: never confused with a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stands in the place of a value; `reason` says what refused to tell it."""

    reason: str
