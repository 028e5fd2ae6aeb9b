"""Results on stdout, progress on stderr: with colours on a terminal, plain lines elsewhere."""

import contextlib
import json
import sys
import time
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


_ALIVE_S = 5.0
_REDRAW_S = 0.2


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """What a stage tells of its progress to: a bar on a terminal, else a line per step.

    A step that is told again goes on: every few seconds that is a line of its own, with how long
    the step has taken. So stages may tell as often as they like.

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

        shown, drawn_s = "", 0.0

        def draw(what: str, frac: float) -> None:
            nonlocal shown, drawn_s
            now_s = time.monotonic()
            if what == shown and now_s - drawn_s < _REDRAW_S:
                return
            shown, drawn_s = what, now_s
            total = 1.0 if frac else None
            bars.update(task, description=what, completed=frac, total=total, refresh=True)

        yield draw


def _line_per_step() -> Watch:
    step, begin_s, told_s = "", 0.0, 0.0

    def write(what: str, frac: float) -> None:
        nonlocal step, begin_s, told_s
        now_s = time.monotonic()
        if what != step:
            step, begin_s, line = what, now_s, what
        elif now_s - told_s >= _ALIVE_S:
            line = f"{what}: {now_s - begin_s:.0f} s"
        else:
            return
        told_s = now_s
        with contextlib.suppress(OSError):  # a log that is full must not end the work
            click.echo(f"preemptc: {line}", err=True)

    return write
