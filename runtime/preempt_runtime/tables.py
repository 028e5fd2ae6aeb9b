"""Tables for people: aligned plain text, or rich where it is installed and a person is reading."""

import importlib.util
from collections.abc import Sequence
from typing import TextIO

from preempt_runtime.units import printable


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO) -> None:
    """Write the table to `file`."""
    rows = [[printable(cell) for cell in row] for row in rows]
    if file.isatty() and importlib.util.find_spec("rich") is not None:
        _print_rich(headers, rows, file)
    else:
        file.write(plain_table(headers, rows))


def plain_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""The table as lines; columns whose cells all begin with a digit are set flush right.

    >>> plain_table(("task", "p99"), [("camera", "3 ms"), ("x", "10 ms")])
    'task      p99\ncamera   3 ms\nx       10 ms\n'
    """
    columns = list(zip(headers, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    is_number = [
        all(cell[:1].isdigit() or cell == "-" for cell in cells) and bool(cells)
        for _, *cells in columns
    ]
    lines = (
        "  ".join(
            cell.rjust(width) if flush_right else cell.ljust(width)
            for cell, width, flush_right in zip(row, widths, is_number, strict=True)
        )
        for row in (headers, *rows)
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in names are no markup
    Console(file=file).print(table)
