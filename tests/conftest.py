"""The golden fixture: text that a person has read, kept in a file, compared to the letter."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preempt_runtime.backends import trt_library

_GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite the golden files, to be read as a diff",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background of a shell; what tests start would not hear of Ctrl-C either.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "golden: compares with a golden file (marked by itself)")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "golden" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.golden)


@pytest.fixture(autouse=True, scope="session")
def no_forced_terminal() -> Iterator[None]:
    """Output is no terminal's, whatever the environment of the tests makes libraries believe."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def no_remembered_device() -> Iterator[None]:
    """What a test's fakes said of the device stays no other's."""
    yield
    trt_library.local_fields.cache_clear()


@pytest.fixture(scope="module")
def quick_measurements() -> Iterator[None]:
    """Few runs: for tests of what is said, not of how long it takes."""
    from preemptc import trials  # not before a test asks: the runtime's tests do without it
    from preemptc.backends.ort import profiler

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_TRIAL_RUNS", "_FINAL_RUNS"):
            patch.setattr(trials, name, 3)
        for name in ("_TRIAL_BUDGET_NS", "_FINAL_BUDGET_NS"):
            patch.setattr(trials, name, 0)
        patch.setattr(profiler, "_BUDGET_NS", 20_000_000)
        patch.setattr(profiler, "_CHAIN_RUNS", 5)
        yield


@pytest.fixture
def steady_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has one speed, whatever else it does: no profile is ever out of date."""
    from preemptc import machine_speed

    monkeypatch.setattr(machine_speed, "SPEED_FACTOR", 1e9)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Asserts that a text is that of a file under tests/golden."""

    def check(name: str, text: str) -> None:
        path = _GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing; run pytest with --update-golden and read it"
        assert text == path.read_text(encoding="utf-8")

    return check
