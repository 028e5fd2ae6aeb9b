"""An NVML made of Python, in the place of the module `pynvml` of nvidia-ml-py.

A function that has no value is not supported, as most are on an integrated GPU. Functions and their
results are those of nvidia-ml-py 13: tests/runtime/test_nvml.py compares the names.
"""

import types
from typing import Any

NOT_SUPPORTED, FUNCTION_NOT_FOUND, LIBRARY_NOT_FOUND = 3, 13, 12
_TEXTS = {
    NOT_SUPPORTED: "Not Supported",
    FUNCTION_NOT_FOUND: "Function Not Found",
    LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
}
MEMORY_V2 = 0x2000028
H200: dict[str, Any] = {
    "ClockInfo": {1: 345, 2: 2619},
    "MaxClockInfo": {1: 1980, 2: 3201},
    "EnforcedPowerLimit": 700_000,
    "PersistenceMode": 1,
    "CurrentClocksEventReasons": 0x1,
    "DisplayActive": 0,
    "MigMode": [0, 0],
    "EccMode": [1, 1],
    "RemappedRows": (0, 0, 0, 0),
    "ComputeRunningProcesses": [],
    "GraphicsRunningProcesses": [],
    "MPSComputeRunningProcesses": [],
    "MemoryInfo": {MEMORY_V2: types.SimpleNamespace(used=1 << 20)},
}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(_TEXTS.get(value, "Unknown Error"))
        self.value = value


class NVMLLibraryMismatchError(Exception):
    pass


def process(pid: int, used: int | None = 300 << 20) -> Any:
    return types.SimpleNamespace(pid=pid, usedGpuMemory=used)


class FakeNvml:
    """`values` maps what follows `nvmlDeviceGet` to a result, one per argument, or an exception."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError
    nvmlMemory_v2 = MEMORY_V2

    def __init__(self, values: dict[str, Any] | None = None) -> None:
        self.values = dict(H200 if values is None else values)
        self.driver: str | Exception = "580.159.04"
        self.num_open = 0
        self.init_error: Exception | None = None
        self.asked_for: list[str] = []

    def nvmlInit(self) -> None:
        if self.init_error is not None:
            raise self.init_error
        self.num_open += 1

    def nvmlShutdown(self) -> None:
        self.num_open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        if isinstance(self.driver, Exception):
            raise self.driver
        return self.driver

    def nvmlDeviceGetHandleByPciBusId(self, address: str) -> str:
        self.asked_for.append(address)
        return f"handle of {address}"

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDeviceGet"):
            raise AttributeError(name)

        def ask(handle: str, *args: Any) -> Any:
            assert handle == "handle of 0000:18:00.0"
            assert self.num_open > 0, "NVML is not initialised"
            value = self.values.get(name.removeprefix("nvmlDeviceGet"), NVMLError(NOT_SUPPORTED))
            if isinstance(value, Exception):
                raise value
            return value[args[0]] if args else value

        return ask
