"""A measured profile of a GPU holds the clocks at which it was measured."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from preempt_runtime.backends.cuda import Stream
from preempt_runtime.backends.tensorrt import TrtBuffers
from preempt_runtime.errors import DeviceError
from preemptc.backends.tensorrt.profiler import busy_clocks, measured_profile
from preemptc.model import Lowered
from preemptc.profile import BoundaryCost, json_from_profile, profile_from_json
from tests.runtime.tensorrt_world import FIELDS, install

CLOCKS: dict[str, str | int] = {"gpu_sm_clock_mhz": 1980, "power_mode": "0 (MAXN)"}


class Queue:
    """A graph and the stream that it is launched on; `events` is what was done, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def launch(self, stream: object) -> None:
        assert stream is self
        self.events.append("launch")

    def synchronize(self) -> None:
        self.events.append("synchronize")

    def read(self) -> dict[str, str | int]:
        self.events.append("read")
        return CLOCKS

    def clocks(self, read: Any, whole_ns: int) -> Any:
        buffers = cast(TrtBuffers, SimpleNamespace(graphs=(self,)))
        return busy_clocks(buffers, cast(Stream, self), read, whole_ns)


@pytest.mark.parametrize(("whole_ns", "num_launches"), [(10_000_000, 11), (500_000_000, 1)])
def test_clocks_are_read_while_a_tenth_of_a_second_of_work_waits(
    whole_ns: int, num_launches: int
) -> None:
    queue = Queue()
    assert queue.clocks(queue.read, whole_ns) == CLOCKS
    assert queue.events == [*["launch"] * num_launches, "read", "synchronize"]


def test_a_failure_leaves_nothing_in_flight() -> None:
    def fail() -> dict[str, str | int]:
        raise DeviceError("gone")

    queue = Queue()
    with pytest.raises(DeviceError, match="gone"):
        queue.clocks(fail, 500_000_000)
    assert queue.events == ["launch", "synchronize"]


def test_the_profile_of_a_bundle_holds_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch)
    nodes = (SimpleNamespace(name="a"), SimpleNamespace(name="b"))
    lowered = SimpleNamespace(
        graph_digest="0" * 64,
        target="native",
        graph=SimpleNamespace(nodes=nodes),
        key_fields={"options": "precision=fp16 level=3"},
    )
    profile = measured_profile(
        cast(Lowered, lowered),
        [[10, 10], [30, 30]],
        [80, 80],
        BoundaryCost(fixed_ns=1, ns_per_byte=0.0),
        CLOCKS,
    )
    assert profile.node_ns == (20, 60)
    again = profile_from_json(json_from_profile(profile), "profile.json")
    assert again.machine == {**FIELDS, **CLOCKS, "options": "precision=fp16 level=3"}
