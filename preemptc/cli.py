"""The command line `preemptc`: which commands there are, and how errors become exit codes.

0: done. 1: refused, one line on stderr; so is an option that the target does not know. 2: wrong
usage, which the command line alone shows: unknown options, values that cannot be read, options
that exclude each other. 130: interrupted. A bug keeps its traceback. A command's module is imported
when it is called: ONNX and its runtime take most of a second.
"""

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

import click

from preempt_runtime.errors import PreemptError
from preempt_runtime.input_file import lost_working_directory
from preempt_runtime.stdout import check_stdout, stdout_refusal
from preempt_runtime.units import printable
from preemptc import __version__
from preemptc.interruption import INTERRUPTED, LINE, was_interrupted

SUMMARIES: Mapping[str, str] = MappingProxyType(
    {
        "compile": "Split a network under a bound and write its bundle.",
        "build": "Build a bundle's engines on the device that will run them.",
        "analyze": "Show where a network can be split, and why not elsewhere.",
        "plan": "Say whether a task set keeps every deadline, and under which bounds.",
        "explore": "Show what bound costs what overhead: the Pareto front.",
        "profile": "Measure what a network's nodes cost on this machine.",
        "inspect": "Show what a bundle holds, and whether it fits this machine.",
        "verify": "Check a bundle's files, and its outputs bit by bit.",
        "targets": "Show what networks can be compiled for.",
    }
)


def _refuse(reason: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be as full as stdout
        click.echo(f"preemptc: error: {_one_line(reason)}", err=True)


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _one_line(super().format(record))


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    """Warnings to stderr as it is now, a line each; no handler is left behind."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(_Formatter("preemptc: warning: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("preemptc", "preempt_runtime")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _interrupted(ctx: click.Context) -> NoReturn:
    click.echo(LINE, err=True)
    ctx.exit(INTERRUPTED)


class CommandGroup(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of work."""
        return list(SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, its module imported."""
        if cmd_name not in SUMMARIES:
            return None
        module = importlib.import_module(f"preemptc.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the summaries, without an import."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line, once there is a stdout to write to."""
        try:
            check_stdout()
            return super().main(*args, **kwargs)
        except PreemptError as err:
            _refuse(str(err))
        except OSError:
            if (reason := stdout_refusal(probe="\n")) is None:
                raise
            _refuse(reason)
        sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error raised on purpose becomes one line and exit code 1."""
        try:
            with _warnings():
                return super().invoke(ctx)
        except PreemptError as err:
            if was_interrupted():
                _interrupted(ctx)
            _refuse(str(err))
            ctx.exit(1)
        except FileNotFoundError:
            if (reason := lost_working_directory()) is None:
                raise
            _refuse(reason)
            ctx.exit(1)
        except KeyboardInterrupt:
            _interrupted(ctx)


@click.group(name="preemptc", cls=CommandGroup)
@click.version_option(version=__version__, prog_name="preemptc")
def main() -> None:
    """Compile ONNX networks into bundles with preemption points.

    Results go to stdout, progress and errors to stderr. Every command takes --json.
    """


if __name__ == "__main__":
    main()
