"""Published results name the machine by what it is, not by where somebody's files lay on it."""

import re
from pathlib import Path

import pytest

RESULTS = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*.*"))
ABSOLUTE = re.compile(r"""(?:^|[\s"'`=(])(/\w[^\s"'`)]*)""")


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_no_result_names_a_folder_of_the_machine(path: Path) -> None:
    assert ABSOLUTE.findall('"--out /data/x" and 1/8, chained / whole') == ["/data/x"]
    assert ABSOLUTE.findall(path.read_text()) == []
