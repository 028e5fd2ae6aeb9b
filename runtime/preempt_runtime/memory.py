"""What fits into memory: Linux promises more than it has, and kills whoever takes its word."""

import contextlib
from pathlib import Path

_ALWAYS_TRIED_BYTES = 256 << 20  # for less, files of the system are not read


def exceeds_memory(num_bytes: int, root: Path = Path("/")) -> bool:
    """Whether so much cannot be had now: not from what is free or swap, nor within the container.

    A container's limit counts whole: what it caches on the way can be had back.
    """
    if num_bytes <= _ALWAYS_TRIED_BYTES:
        return False
    with contextlib.suppress(OSError, ValueError):
        if num_bytes > int((root / "sys/fs/cgroup/memory.max").read_text()):
            return True
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (root / "proc/meminfo").read_text().splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (li.partition(":") for li in lines)}
        return num_bytes > 1024 * (kib["MemAvailable"] + kib["SwapFree"])
    return False
