"""Values of the command line: what argparse calls for an option's text."""

import argparse
from collections.abc import Callable
from pathlib import Path

from preempt_runtime.errors import InputError
from preempt_runtime.policies import policy_from_name
from preempt_runtime.simulation.points import SweepAxis, axis_from_text
from preempt_runtime.units import parse_duration_ns


def path(name: str) -> Callable[[str], Path]:
    """A reader of paths that are not empty: that would be the current folder."""

    def read(text: str) -> Path:
        if not text:
            raise InputError(f"{name}: the path is empty; write one")
        return Path(text)

    return read


def duration(text: str) -> int:
    """Nanoseconds of a duration that is more than nothing."""
    try:
        duration_ns = parse_duration_ns(text)
    except InputError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
    if duration_ns == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all")
    return duration_ns


def policy(text: str) -> str:
    """The name of a policy that there is."""
    try:
        return policy_from_name(text).name
    except InputError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def axis(text: str) -> SweepAxis:
    """The axis of a sweep."""
    try:
        return axis_from_text(text)
    except InputError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def integer(least: int, most: int) -> Callable[[str], int]:
    """A reader of integers from `least` to `most`."""

    def read(text: str) -> int:
        # isascii: `int` would also take digits of other scripts.
        if not (
            text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most
        ):
            raise argparse.ArgumentTypeError(f"{text!r}, allowed an integer, {least} to {most}")
        return int(text)

    return read
