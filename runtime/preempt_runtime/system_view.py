"""What Linux tells about the machine and this process, read from files below a root.

The root is `/`, or a directory of a test that holds the same files. What cannot be read is None:
containers and virtual machines hide much of it.
"""

import contextlib
import os
import platform
import re
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

ORT_WHEELS = ("onnxruntime", "onnxruntime-gpu")
_CAP_IPC_LOCK, _CAP_SYS_NICE = 14, 23
_DIGITS = 19  # of what fits in 64 bits, nearly
_NUM_TIMES = 8  # user to steal; guest times are contained in user


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """Clock ticks since boot, over all cores."""

    total_ticks: int
    steal_ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """A process and the clock ticks it has run for, its threads together."""

    pid: int
    name: str
    ticks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """The Python that runs, and the ONNX Runtime wheels that are installed in it."""

    version: str
    switch_interval_s: float
    wheels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUsers:
    """Names of the processes that have a device open, by pid.

    Into `num_hidden` more this user may not look.
    """

    names: Mapping[int, str]
    num_hidden: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemView:
    """Where to read, and what no file tells: limits are in the units of `getrlimit`, None = none.

    `usable_cores` are those that the process may run on; `pids` are this process and those whose
    load is not held against the machine. `environment` are the process's variables.
    """

    root: Path
    pids: frozenset[int]
    usable_cores: frozenset[int]
    ticks_per_s: int
    rtprio_limit: int | None
    memlock_limit: int | None
    interpreter: Interpreter
    environment: Mapping[str, str] = field(default_factory=dict)

    def text(self, relative: str) -> str | None:
        """A file's content without surrounding white space, None if it cannot be read."""
        return text_below(self.root, relative)

    def cpu_times(self) -> CpuTimes | None:
        """The first line of `/proc/stat`."""
        lines = (self.text("proc/stat") or "").splitlines()
        numbers = map(whole_number, lines[0].split()[1:] if lines else ())
        ticks = [number for number in numbers if number is not None]
        if len(ticks) < _NUM_TIMES:
            return None
        return CpuTimes(total_ticks=sum(ticks[:_NUM_TIMES]), steal_ticks=ticks[_NUM_TIMES - 1])

    def process_times(self) -> dict[int, ProcessTimes]:
        """Every visible process but `pids`."""
        found = {}
        with contextlib.suppress(OSError):
            for folder in (self.root / "proc").iterdir():
                if folder.name.isdecimal() and int(folder.name) not in self.pids:
                    times = self._times_of(int(folder.name))
                    if times is not None:
                        found[times.pid] = times
        return found

    def users_of(self, device: re.Pattern[str]) -> DeviceUsers:
        """Processes but `pids` that have a device file open whose path matches."""
        users: dict[int, str] = {}
        num_hidden = 0
        for pid in self.process_times():
            try:
                links = [os.readlink(fd) for fd in (self.root / f"proc/{pid}/fd").iterdir()]
            except PermissionError:
                num_hidden += 1
                continue
            except OSError:  # it has ended, or closed a file, meanwhile
                continue
            if any(device.fullmatch(link) for link in links):
                users[pid] = self.text(f"proc/{pid}/comm") or "?"
        return DeviceUsers(names=users, num_hidden=num_hidden)

    def isolated_cores(self) -> str:
        """Cores that the kernel keeps other work off, such as `2-3`; empty without any."""
        return self.text("sys/devices/system/cpu/isolated") or ""

    def load_average(self) -> float | None:
        """Runnable and uninterruptible tasks, averaged over a minute."""
        words = (self.text("proc/loadavg") or "").split()
        with contextlib.suppress(ValueError, IndexError):
            return float(words[0])
        return None

    def available_bytes(self) -> int | None:
        """Memory that can be had without swapping, a container's limit included."""
        for line in (self.text("proc/meminfo") or "").splitlines():
            if line.startswith("MemAvailable:"):
                available_bytes = int(line.split()[1]) * 1024
                limit_bytes = self._container_free_bytes()
                return available_bytes if limit_bytes is None else min(available_bytes, limit_bytes)
        return None

    def cpu_quota(self) -> float | None:
        """Cores' worth of time that the container may use; None without a limit."""
        quotas = []
        for folder in self._cgroup_folders("cpu"):
            words = (self.text(f"{folder}/cpu.max") or "").split()
            if not words:
                words = [
                    self.text(f"{folder}/cpu.cfs_{name}_us") or "" for name in ("quota", "period")
                ]
            if len(words) == 2 and all(word.isdecimal() for word in words) and words[1] != "0":
                quotas.append(int(words[0]) / int(words[1]))
        return min(quotas, default=None)

    def governors(self) -> frozenset[str]:
        """Frequency governors of the usable cores; empty where they cannot be read."""
        texts = (
            self.text(f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor")
            for core in self.usable_cores
        )
        return frozenset(text for text in texts if text)

    def is_smt_active(self) -> bool | None:
        """Whether two hardware threads share a core."""
        return {"0": False, "1": True}.get(self.text("sys/devices/system/cpu/smt/active") or "")

    def may_use_fifo(self) -> bool:
        """Whether SCHED_FIFO would be granted."""
        return self._has_capability(_CAP_SYS_NICE) or self.rtprio_limit != 0

    def may_lock_memory(self) -> bool:
        """Whether any amount of memory may be locked."""
        return self._has_capability(_CAP_IPC_LOCK) or self.memlock_limit is None

    def fifo_share(self) -> float | None:
        """Share of a second that real-time threads may run; None without such a limit."""
        runtime, period = (
            self.text(f"proc/sys/kernel/sched_rt_{name}_us") or "" for name in ("runtime", "period")
        )
        if not (runtime.isdecimal() and period.isdecimal() and int(period)):
            return None
        return int(runtime) / int(period)

    def _times_of(self, pid: int) -> ProcessTimes | None:
        # `pid (name) state …`, and a name may hold spaces and brackets: the last one ends it.
        head, _, tail = (self.text(f"proc/{pid}/stat") or "").rpartition(")")
        words = tail.split()
        if len(words) < 13:
            return None
        name = head.partition("(")[2]
        return ProcessTimes(pid=pid, name=name, ticks=int(words[11]) + int(words[12]))

    def _container_free_bytes(self) -> int | None:
        free = []
        for folder in self._cgroup_folders("memory"):
            for limit_name, used_name in (
                ("memory.max", "memory.current"),
                ("memory.limit_in_bytes", "memory.usage_in_bytes"),
            ):
                limit, used = (
                    self.text(f"{folder}/{limit_name}"),
                    self.text(f"{folder}/{used_name}"),
                )
                if limit and used and limit.isdecimal() and used.isdecimal():
                    free.append(max(0, int(limit) - int(used)))
        return min(free, default=None)

    def _cgroup_folders(self, controller: str) -> list[str]:
        """The process's control group and those around it, version 2 or 1."""
        folders = []
        for line in (self.text("proc/self/cgroup") or "0::/").splitlines():
            _, controllers, path = [*line.split(":", 2), "", ""][:3]
            if controllers and controller not in controllers.split(","):
                continue
            mount = f"sys/fs/cgroup/{controller}" if controllers else "sys/fs/cgroup"
            parts = [part for part in path.split("/") if part not in ("", "..")]
            folders += ["/".join([mount, *parts[:num]]) for num in range(len(parts) + 1)]
        return folders

    def _has_capability(self, bit: int) -> bool:
        for line in (self.text("proc/self/status") or "").splitlines():
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> bit & 1)
        return False


def view_this_machine() -> SystemView:
    """The machine and the process that this runs on."""
    return SystemView(
        root=Path("/"),
        pids=frozenset({os.getpid()}),
        usable_cores=frozenset(os.sched_getaffinity(0)),
        ticks_per_s=os.sysconf("SC_CLK_TCK"),
        rtprio_limit=_limit(resource.RLIMIT_RTPRIO),
        memlock_limit=_limit(resource.RLIMIT_MEMLOCK),
        interpreter=Interpreter(
            version=platform.python_version(),
            switch_interval_s=sys.getswitchinterval(),
            wheels=_installed(ORT_WHEELS),
        ),
        environment=dict(os.environ),
    )


def text_below(root: Path, relative: str) -> str | None:
    """The content of a file without surrounding white space, None if it cannot be read."""
    try:
        return (root / relative).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def whole_number(text: str | None) -> int | None:
    """The number that a file of the kernel's holds; None of anything else.

    >>> whole_number("612000000"), whole_number("-1"), whole_number("9" * 20), whole_number(None)
    (612000000, None, None, None)
    """
    is_number = text is not None and text.isascii() and text.isdecimal() and len(text) <= _DIGITS
    return int(text) if text is not None and is_number else None


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _installed(wheels: tuple[str, ...]) -> dict[str, str]:
    versions = {}
    for wheel in wheels:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[wheel] = metadata.version(wheel)
    return versions
