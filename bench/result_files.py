"""A result as JSON for programs and as a page for people, side by side."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preemptc.cache import write_atomically


def write_result(out: Path, name: str, document: Mapping[str, Any], page: str) -> None:
    """Write `name`.json and `name`.md into `out`, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / f"{name}.json", (json.dumps(document, indent=1) + "\n").encode())
    write_atomically(out / f"{name}.md", page.encode())
