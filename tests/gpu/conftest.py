"""Without a GPU or TensorRT every test here is skipped; the reason is told once."""

import pytest

from preempt_runtime.backends.tensorrt import local_fields
from preempt_runtime.errors import DeviceError
from tests.gpu.workshop import native, portable, report, shop

__all__ = ["native", "portable", "report", "shop"]


def pytest_report_header() -> str:
    try:
        fields = local_fields()
    except DeviceError as err:
        return f"GPU: none that can be used: {err}"
    return "GPU: " + ", ".join(f"{name} {value}" for name, value in fields.items())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    try:
        local_fields()
    except DeviceError as err:
        pytest.skip(str(err))  # here and not in a fixture: pytest then counts them in one line
