"""Both command lines, in this process or in one that lacks something."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from preemptc.cli import main

ROOT = Path(__file__).parents[2]
Argument = str | Path

NO_TENSORRT = "sys.modules['tensorrt'] = None"
OLD_TENSORRT = (
    "import types; sys.modules['tensorrt'] = trt = types.ModuleType('tensorrt');"
    " trt.__version__, trt.Runtime = '8.4.3.1', object"
)


class Compiler:
    """`preemptc` in this process, which keeps one builder; a bug raises here."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def json(self, *arguments: Argument) -> Any:
        """What a command tells programs."""
        code, stdout, stderr = self(*arguments, "--json")
        assert code == 0, stderr
        return json.loads(stdout)

    def refused(self, *arguments: Argument) -> str:
        """The one line of an error, exit code 1, nothing on stdout."""
        return refusal(*self(*arguments))

    def __call__(self, *arguments: Argument) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        result = CliRunner().invoke(
            main,
            [str(argument) for argument in arguments],
            env={"PREEMPTC_CACHE": str(self._cache)},
            catch_exceptions=False,
        )
        return result.exit_code, result.stdout, result.stderr


def environment(**changed: str) -> dict[str, str]:
    """The environment of a process that finds these sources."""
    paths = [str(ROOT), str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **changed}


def command(program: str, *arguments: Argument, first: str = "") -> list[str]:
    """Words that run a command line in a process of its own, after a line of Python."""
    module = {"preemptc": "preemptc.cli", "preempt-rt": "preempt_runtime.cli"}[program]
    code = f"import sys; {first}\nfrom {module} import main\nsys.exit(main())"
    return [sys.executable, "-c", code, *map(str, arguments)]


def elsewhere(
    program: str,
    *arguments: Argument,
    folder: Path,
    first: str = "",
    variables: Mapping[str, str] | None = None,
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in a process of its own."""
    done = subprocess.run(
        command(program, *arguments, first=first),
        cwd=folder,
        env=environment(**(variables or {})),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def refusal(code: int, stdout: str, stderr: str) -> str:
    """The one line of a refusal: the last on stderr, exit code 1, nothing on stdout."""
    assert (code, stdout) == (1, ""), stderr
    assert "Traceback" not in stderr
    lines = [line.partition(": error: ") for line in stderr.splitlines()]
    errors = [text for program, mark, text in lines if mark and program.startswith("preempt")]
    assert len(errors) == 1, stderr
    return errors[0]
