"""Whole numbers that a caller gives: a bool or a float that passes for one is refused."""

from operator import index

from preempt_runtime.errors import InputError


def checked_whole(
    what: str, found: object, *, at_least: int, at_most: int | None = None, unit: str = ""
) -> int:
    """The number as an int, numpy's integers, too.

    Raises:
        InputError: it is no whole number, or not in [`at_least`, `at_most`].

    >>> checked_whole("task 'a': buffers", 2, at_least=1)
    2
    """
    is_whole = hasattr(found, "__index__") and not isinstance(found, bool)
    value = _index_of(found) if is_whole else None
    if value is None or value < at_least or (at_most is not None and value > at_most):
        upper = "or more" if at_most is None else f"to {at_most}"
        suffix = f" {unit}" if unit else ""
        raise InputError(
            f"{what} {repr(found)[:40]}, expected a whole number{suffix}, {at_least} {upper}"
        )
    return value


def _index_of(found: object) -> int | None:
    try:
        return index(found)  # type: ignore[arg-type]
    except TypeError:  # such as an array of more than one number
        return None
