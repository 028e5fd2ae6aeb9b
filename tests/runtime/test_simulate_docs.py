"""The documents' example outputs are what the commands print."""

import re
import shlex
from pathlib import Path

import pytest

from preempt_runtime import cli

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["README.md", "docs/simulation.md"])
def test_outputs_follow_their_commands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands: list[list[str]] = []
    num_checked = 0
    for language, block in BLOCK.findall((ROOT / name).read_text(encoding="utf-8")):
        if language == "toml" and block.startswith("# costs.toml"):
            (tmp_path / "costs.toml").write_text(block, encoding="utf-8")
        elif language == "sh":
            lines = [shlex.split(line, comments=True) for line in block.splitlines()]
            commands = [words for words in lines if words[:2] == ["preempt-rt", "simulate"]]
        elif language == "text" and commands:
            for words in commands:
                assert cli.main(words[1:]) == 0
            assert capsys.readouterr().out.strip() == block.strip()
            num_checked += len(commands)
            commands = []
    assert num_checked == 2


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = BLOCK.findall((ROOT / "docs/simulation.md").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    (costs,), (code,) = ([text for kind, text in blocks if kind == k] for k in ("toml", "python"))
    (tmp_path / "costs.toml").write_text(costs, encoding="utf-8")
    exec(compile(code, "docs/simulation.md", "exec"), {})
    assert "num_samples=400" in capsys.readouterr().out


def test_the_picture_is_what_its_command_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/simulation.md").read_text(encoding="utf-8")
    (costs,) = (block for kind, block in BLOCK.findall(text) if kind == "toml")
    (command,) = re.findall(r"^    preempt-rt (.*simulation-load\.svg)$", text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "costs.toml").write_text(costs, encoding="utf-8")
    assert cli.main(shlex.split(command)) == 0
    drawn = (tmp_path / "simulation-load.svg").read_text(encoding="utf-8")
    assert drawn == (ROOT / "docs/simulation-load.svg").read_text(encoding="utf-8")
