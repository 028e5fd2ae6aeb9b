"""The README's commands work as written, in its order, with small networks for large ones."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SMALLER = {"mobilenet_v2": "tiny_cnn", "resnet152": "light/squeezenet", "10s": "300ms"}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _commands(block: str) -> list[list[str]]:
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [[SMALLER.get(word, word) for word in words] for words in lines if words]


def _run(words: list[str], folder: Path) -> None:
    folders = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": folders, "PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"


def _main(words: list[str]) -> list[str]:
    """The command as a module: the scripts may not be installed where the tests run."""
    modules = {"preemptc": "preemptc.cli", "preempt-rt": "preempt_runtime.cli"}
    if words[0] in modules:
        code = f"import sys; from {modules[words[0]]} import main; sys.exit(main())"
        return [sys.executable, "-c", code, *words[1:]]
    return words


def test_the_walk_through_runs(tmp_path: Path) -> None:
    num_commands = 0
    for language, block in BLOCK.findall(README):
        if language == "toml":
            name = re.match(r"# (\S+)", block)
            assert name is not None, "a TOML block starts with its file's name"
            (tmp_path / name[1]).write_text(block)
        for words in _commands(block) if language == "sh" else []:
            if words[0] == "source":
                assert words[1] == ".venv/bin/activate"
            elif words[0] == "make":
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
            else:
                _run(_main(words), tmp_path)
                num_commands += 1
    assert num_commands >= 9
    assert (tmp_path / "trace.json").stat().st_size > 1000


PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        if target.startswith("http"):
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not heading or heading in _headings(linked), f"{target}#{heading}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_extras_that_pages_name_are_those_there_are(page: Path) -> None:
    projects = {"runtime": ROOT / "runtime", "preempt-runtime": ROOT / "runtime"}
    projects |= {".": ROOT, "preemptc": ROOT}
    text = page.read_text()
    for project, extras in re.findall(r"(preemptc|preempt-runtime|runtime|\.)\[([a-z,]+)\]", text):
        known = (projects[project] / "pyproject.toml").read_text()
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", known, re.MULTILINE), f"{project}[{extra}]"


def _headings(page: Path) -> set[str]:
    """What links call the headings of a page."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_every_make_target_is_described() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    for target in phony[1].split():
        assert re.search(rf"^{target}:.* ## \w", makefile, re.MULTILINE), target
