"""Results on stdout, progress on stderr: with colours on a terminal, plain lines elsewhere."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from preempt_runtime.stdout import results_out
from preemptc.backends import Progress as Watch
from preemptc.report import Table, plain_text, rich_table


def show(document: Mapping[str, Any], tables: Sequence[Table], *, as_json: bool) -> None:
    """Print the result once: as one JSON document, or as tables."""
    with results_out() as out:
        if as_json:
            click.echo(json.dumps(document, indent=1), file=out)
            return
        console = Console(highlight=False, file=out)
        if not console.is_terminal:
            click.echo(plain_text(tables), nl=False, file=out)
            return
        for table in tables:
            console.print(rich_table(table), end="\n\n")


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """What a stage tells of its progress to: a bar on a terminal, else a line per step.

    The bar is drawn by the stages' own calls: a thread that redraws would stand beside what is
    being measured. Whatever libraries print meanwhile goes to stderr, too: stdout is for results.
    """
    with contextlib.redirect_stdout(sys.stderr), _watching() as progress:
        yield progress


@contextlib.contextmanager
def _watching() -> Iterator[Watch]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_per_step()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bars:
        task = bars.add_task("", total=None)

        def draw(what: str, frac: float) -> None:
            total = 1.0 if frac else None
            bars.update(task, description=what, completed=frac, total=total, refresh=True)

        yield draw


def _line_per_step() -> Watch:
    shown = ""

    def write(what: str, frac: float) -> None:
        nonlocal shown
        if what != shown:
            shown = what
            with contextlib.suppress(OSError):  # a log that is full must not end the work
                click.echo(f"preemptc: {what}", err=True)

    return write
