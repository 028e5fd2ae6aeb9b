"""What a Jetson's files tell of its GPU: clock limits, power mode, throttling.

Paths and forms are those of L4T 36 to 39 (JetPack 6 and 7). `sys/kernel/debug` is for root alone.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from preempt_runtime.gpu_view import (
    HIGHEST_CLOCK,
    LOWEST_CLOCK,
    MEMORY_CLOCK,
    NOT_THROTTLED,
    POWER_MODE,
    SM_CLOCK,
    THROTTLING,
    GpuClocks,
)
from preempt_runtime.system_view import text_below, whole_number

_GPU_FOLDER = re.compile(r"(.*\.)?(gpu|ga10b|gv11b|gp10b)(-gpc-0)?")  # Orin 17000000.gpu; Thor
_EMC_RATES = (
    "sys/kernel/debug/bpmp/debug/clk/emc/rate",
    "sys/class/devfreq/bwmgr/cur_freq",
)
_MODE = re.compile(r"pmode:0*([0-9]{1,9})")
_NO_DEVFREQ = "no GPU below /sys/class/devfreq"


def is_tegra(root: Path) -> bool:
    """Whether this is a Jetson."""
    return (root / "etc/nv_tegra_release").exists() or _gpu_folder(root) is not None


def tegra_clocks(root: Path) -> GpuClocks:
    """Clocks, power mode and throttling, as far as the files can be read."""
    fields: dict[str, str | int] = {}
    unknown: dict[str, str] = {}
    folder = _gpu_folder(root)
    names = {SM_CLOCK: "cur_freq", LOWEST_CLOCK: "min_freq", HIGHEST_CLOCK: "max_freq"}
    for name, file in names.items():
        hertz = whole_number(text_below(root, f"{folder}/{file}"))
        if hertz is not None:
            fields[name] = _mhz(hertz)
        else:
            unknown[name] = f"/{folder}/{file} cannot be read" if folder else _NO_DEVFREQ
    rates = [whole_number(text_below(root, path)) for path in _EMC_RATES]
    rate = next((hertz for hertz in rates if hertz is not None), None)
    if rate is not None:
        fields[MEMORY_CLOCK] = _mhz(rate)
    else:
        unknown[MEMORY_CLOCK] = f"/{_EMC_RATES[0]} cannot be read; try as root"
    mode = _power_mode(root)
    if mode is None:
        unknown[POWER_MODE] = "/var/lib/nvpmodel/status cannot be read; see `nvpmodel -q`"
    else:
        fields[POWER_MODE] = mode
    alerts = _alerts(root)
    if alerts is None:
        unknown[THROTTLING] = "no throttle alerts below /sys/class/thermal"
    else:
        fields[THROTTLING] = ", ".join(alerts) or NOT_THROTTLED
    return GpuClocks(fields=fields, unknown=unknown)


def _mhz(hertz: int) -> int:
    return round(hertz / 1e6)


def _gpu_folder(root: Path) -> str | None:
    base = "sys/class/devfreq"
    names = sorted(path.name for path in _children(root / base) if _GPU_FOLDER.fullmatch(path.name))
    return f"{base}/{names[0]}" if names else None


def _power_mode(root: Path) -> str | None:
    match = _MODE.search(text_below(root, "var/lib/nvpmodel/status") or "")
    if match is None:
        return None
    number = match[1]
    table = text_below(root, "etc/nvpmodel.conf") or ""
    name = re.search(rf"^\s*<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+)", table, re.MULTILINE)
    return f"{number} ({name[1]})" if name else number


def _alerts(root: Path) -> list[str] | None:
    """Throttle alerts that are raised; None where there are none to read.

    A cooling device's state says how far it was turned down, but only those called alerts stand
    for throttling: a fan's or a clock governor's is its usual work.
    """
    raised, has_any = [], False
    for folder in sorted(_children(root / "sys/class/thermal")):
        relative = folder.relative_to(root)
        kind = text_below(root, f"{relative}/type") or ""
        state = whole_number(text_below(root, f"{relative}/cur_state"))
        if kind.endswith("-alert") and state is not None:
            has_any = True
            if state:
                raised.append(kind)
    return raised if has_any else None


def over_current_events(root: Path) -> dict[str, int]:
    """Times since boot that the supply's protection slowed the chip, by the name of its counter."""
    found = {}
    for folder in sorted(_children(root / "sys/class/hwmon")):
        for file in sorted(folder.glob("oc*_event_cnt")):
            count = whole_number(text_below(root, str(file.relative_to(root))))
            if count is not None:
                found[file.name.removesuffix("_event_cnt")] = count
    return found


def _children(folder: Path) -> Iterator[Path]:
    try:
        yield from folder.iterdir()
    except OSError:
        return
