"""The page that leads through the code names every module, and none that is gone."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-it-works.md"
PACKAGES = (ROOT / "preemptc", ROOT / "runtime" / "preempt_runtime")
PATTERNS = re.findall(r"`(?:preemptc/)?([\w*./]+\.py)`", PAGE.read_text())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_the_page_names_is_there(pattern: str) -> None:
    assert any(any(package.glob(pattern)) for package in (*PACKAGES, ROOT))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_every_module_of_a_package_is_named(package: Path) -> None:
    named = {path for pattern in PATTERNS for path in package.glob(pattern)}
    modules = {path for path in package.glob("*.py") if not path.name.startswith("__")}
    assert sorted(path.name for path in modules - named) == []
