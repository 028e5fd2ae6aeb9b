"""Graphs with gates on a fake driver: cut, put together, run beside each other, in every order."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from preempt_runtime.backends import cuda_driver
from preempt_runtime.backends.cuda import CudaContext, Stream, open_cuda
from preempt_runtime.backends.cuda_graph import CudaGraph, capture_graph
from preempt_runtime.backends.gate_board import GateBoard, Mode
from preempt_runtime.backends.gates import GatedGraph, run_gated
from preempt_runtime.errors import DeviceError
from preempt_runtime.gate_keys import key_of
from tests.runtime.fake_graphs import ALL_BEGUN, PROGRAMMATIC, CUgraphNodeType, GraphDriver

Edges = dict[tuple[int, int], int]
DIAMOND: Edges = {(0, 1): 0, (0, 2): 0, (1, 3): 0, (2, 3): 0, (3, 4): 0, (4, 5): 0, (2, 5): 0}
VERSIONS = [(13, 13000), (12, 13000), (12, 12060), (12, 12020)]
"""Bindings and driver; 12.2 is JetPack 6.0's and knows no edge data."""


@dataclass
class Gpu:
    driver: GraphDriver
    context: CudaContext
    stream: Stream
    ran: list[str] = field(default_factory=list)

    def captured(self, *labels: str) -> CudaGraph:
        """A graph whose nodes write down that they ran."""

        def enqueue() -> None:
            for label in labels:
                self.driver.enqueue(self.stream.handle, label, partial(self.ran.append, label))

        return capture_graph(self.stream, enqueue)

    @property
    def kernels(self) -> list[str]:
        """What ran on the device, by label and kernel, in the order in which it ended."""
        what = [line.partition(": ")[2] for line in self.driver.log]
        ends = [each for each in what if not each.startswith("preempt_")]
        return [each.removeprefix("end of ") for each in ends]


Opener = Callable[..., Gpu]


@pytest.fixture(params=[(8, 7), (9, 0), (12, 0)], ids=["sm_87", "sm_90", "sm_120"])
def gpu_of(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Opener]:
    """GPUs on which gates wait for the node before them, and on which they start beside it."""
    opened: list[Gpu] = []

    def make(**how: int) -> Gpu:
        driver = GraphDriver(**how)
        driver.attributes[75], driver.attributes[76] = request.param
        monkeypatch.setattr(cuda_driver, "driver", driver)
        monkeypatch.setattr(cuda_driver, "library", lambda: driver.library)
        opened.append(Gpu(driver, open_cuda(), Stream(priority="low")))
        return opened[-1]

    yield make
    for gpu in opened:
        monkeypatch.setattr(cuda_driver, "driver", gpu.driver)
        gpu.stream.close()
        gpu.context.close()
        assert gpu.driver.open == {}, "something was not given back"


def run_alone(gpu: Gpu, captured: CudaGraph, cuts: tuple[int, ...]) -> None:
    with GateBoard(mode="exclusive") as board:
        slot = board.take_slot()
        with GatedGraph(captured, cuts, board, slot, gpu.stream) as graph:
            gpu.driver.log.clear()
            run_gated(graph, board, key_of("real-time", 0, slot), gpu.stream)
            gpu.stream.synchronize()
            assert set(board.slots()) == {2**64 - 1}


@pytest.mark.parametrize(("bindings", "version"), VERSIONS)
def test_gates_stand_between_the_kernels_of_a_chain(
    gpu_of: Opener, bindings: int, version: int
) -> None:
    gpu = gpu_of(bindings=bindings, version=version)
    with gpu.captured("a", "b", "c", "d") as captured:
        shape = captured.shape()
        assert (shape.is_chain, shape.cuts()) == (True, (1, 2, 3))
        assert shape.nodes[0].name == (None if version < 12030 else "a")
        run_alone(gpu, captured, (1, 3))
    gate, first = "preempt_gate_exclusive", "preempt_gate_exclusive_first"
    assert gpu.kernels[1:-1] == [first, "a", gate, "b", "c", gate, "d", "preempt_clear"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("cuts", [(), (1,), (3,), (1, 3, 5), (1, 2, 3, 4, 5)])
def test_parallel_branches_are_joined_at_a_gate(
    gpu_of: Opener, seed: int, cuts: tuple[int, ...]
) -> None:
    gpu = gpu_of(seed=seed)
    gpu.driver.captured_edges = dict(DIAMOND)
    with gpu.captured(*"abcdef") as captured:
        assert not captured.shape().is_chain
        run_alone(gpu, captured, cuts)
    assert sorted(gpu.ran) == list("abcdef")
    place = {label: idx for idx, label in enumerate(gpu.ran)}
    assert all(place["abcdef"[start]] < place["abcdef"[end]] for start, end in DIAMOND)
    ran = [each for each in gpu.kernels if len(each) == 1 or "gate" in each]
    pieces = [piece.split() for piece in re.split(r"\w+gate_exclusive\w*", " ".join(ran))[1:]]
    assert [len(piece) for piece in pieces] == [
        end - start for start, end in zip((0, *cuts), (*cuts, 6), strict=True)
    ]


def test_branches_of_an_uncut_graph_do_run_in_several_orders(gpu_of: Opener) -> None:
    found = set()
    for seed in range(20):
        gpu = gpu_of(seed=seed)
        gpu.driver.captured_edges = dict(DIAMOND)
        with gpu.captured(*"abcdef") as captured:
            run_alone(gpu, captured, ())
        found.add("".join(gpu.ran))
    assert len(found) > 1


@pytest.mark.parametrize("bindings", [12, 13])
def test_a_programmatic_edge_becomes_a_full_one_at_a_gate_alone(
    gpu_of: Opener, bindings: int
) -> None:
    gpu = gpu_of(bindings=bindings)
    gpu.driver.captured_edges = {(0, 1): PROGRAMMATIC, (1, 2): PROGRAMMATIC}
    with gpu.captured("a", "b", "c") as captured:
        assert [edge.is_programmatic for edge in captured.shape().edges] == [True, True]
        with GateBoard(mode="overlap") as board:
            slot = board.take_slot()
            with GatedGraph(captured, (1,), board, slot, gpu.stream) as graph:
                (shape,) = [
                    shape
                    for handle, shape in gpu.driver._shapes.items()
                    if handle == int(graph.graph._raw)
                ]
                labels = {idx: node.label for idx, node in shape.nodes.items()}
                kinds = {
                    (labels[start], labels[end]): kind for (start, end), kind in shape.edges.items()
                }
                early = ALL_BEGUN if board.starts_early else 0
                assert kinds == {
                    ("preempt_gate_overlap", "a"): 0,
                    ("a", "preempt_gate_overlap"): early,
                    ("preempt_gate_overlap", "b"): 0,
                    ("b", "c"): PROGRAMMATIC,
                    ("c", "preempt_clear"): early,
                }


def test_a_gate_starts_early_behind_one_kernel_alone(gpu_of: Opener) -> None:
    """Behind branches, and behind what no kernel does, it waits for their ends."""
    gpu = gpu_of()
    gpu.driver.kinds = {"copy": CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMCPY}
    gpu.driver.captured_edges = {(0, 1): 0, (0, 2): 0, (1, 3): 0, (2, 3): 0, (3, 4): 0, (4, 5): 0}
    with (
        gpu.captured("a", "b", "c", "d", "e", "copy") as captured,
        GateBoard(mode="exclusive") as board,
        GatedGraph(captured, (1, 3, 4), board, board.take_slot(), gpu.stream) as graph,
    ):
        shape = gpu.driver._shapes[int(graph.graph._raw)]
        into = {
            shape.nodes[start].label: port
            for (start, end), port in shape.edges.items()
            if shape.nodes[end].launch
        }
    assert into == {
        "a": ALL_BEGUN if board.starts_early else 0,
        "b": 0,
        "c": 0,
        "d": ALL_BEGUN if board.starts_early else 0,
        "copy": 0,
    }


def test_gates_start_early_where_gpu_and_driver_can_do_it(gpu_of: Opener) -> None:
    found = {}
    for version in (12020, 13000):
        gpu = gpu_of(bindings=12, version=version)
        with GateBoard(mode="exclusive") as board:
            found[version] = board.starts_early
    is_new = gpu.driver.attributes[75] >= 9
    assert found == {12020: False, 13000: is_new}


def test_what_a_gate_that_starts_early_does_comes_after_the_node_before_it(gpu_of: Opener) -> None:
    """In some order both run at once; the gate looks, and says so, when the other has ended."""
    has_begun_early = False
    for seed in range(20):
        gpu = gpu_of(seed=seed)
        with gpu.captured("a", "b") as captured:
            run_alone(gpu, captured, (1,))
        what = [line.partition(": ")[2] for line in gpu.driver.log]
        gate = what.index("preempt_gate_exclusive"), what.index("end of preempt_gate_exclusive")
        assert what.index("a") < gate[1] < what.index("b")
        has_begun_early |= gate[0] < what.index("a")
    assert has_begun_early == (gpu.driver.attributes[75] >= 9)


def test_an_old_driver_says_what_it_cannot_tell(gpu_of: Opener) -> None:
    gpu = gpu_of(bindings=12, version=12020)
    gpu.driver.captured_edges = {(0, 1): PROGRAMMATIC}
    with (
        gpu.captured("a", "b") as captured,
        pytest.raises(DeviceError, match="cuGraphGetEdges failed: error 912"),
    ):
        captured.shape()


def test_what_a_memset_prepares_stays_with_it(gpu_of: Opener) -> None:
    gpu = gpu_of()
    gpu.driver.kinds = {
        "zero": CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMSET,
        "copy": CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMCPY,
    }
    with gpu.captured("a", "zero", "copy", "b", "c") as captured:
        shape = captured.shape()
        assert shape.cuts() == (1, 4)
        assert shape.summary() == "3 kernels, 1 memcpy, 1 memset, a plain chain"
        with pytest.raises(DeviceError, match=r"before node 3: .* 5 nodes cannot be cut there"):
            run_alone(gpu, captured, (3,))
        with pytest.raises(DeviceError, match=r"\(4, 1\): expected ascending"):
            run_alone(gpu, captured, (4, 1))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (CUgraphNodeType.CU_GRAPH_NODE_TYPE_HOST, "node 1 of 3 is a host node: it runs on the CPU"),
        (None, r"node 1 of 3 \(odd\) needs all its blocks at once"),
    ],
)
def test_what_cannot_have_gates_is_refused_with_the_node(
    gpu_of: Opener, kind: CUgraphNodeType | None, message: str
) -> None:
    gpu = gpu_of()
    if kind is None:
        gpu.driver.cooperative = {"odd"}
    else:
        gpu.driver.kinds = {"odd": kind}
    with gpu.captured("a", "odd", "b") as captured, pytest.raises(DeviceError, match=message):
        run_alone(gpu, captured, (1,))


def test_a_graph_without_kernels_is_refused(gpu_of: Opener) -> None:
    gpu = gpu_of()
    gpu.driver.kinds = {"copy": CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEMCPY}
    with gpu.captured("copy") as captured, pytest.raises(DeviceError, match="has no kernel"):
        run_alone(gpu, captured, ())


def test_a_fingerprint_tells_other_nodes_launches_and_edges_apart(gpu_of: Opener) -> None:
    gpu = gpu_of()
    found = []
    for labels, edges in [
        (("a", "b", "c"), None),
        (("a", "b", "c"), None),
        (("a", "x", "c"), None),
        (("a", "long name", "c"), None),
        (("a", "b", "c"), {(0, 1): 0, (0, 2): 0}),
        (("a", "b", "c"), {(0, 1): 0, (1, 2): PROGRAMMATIC}),
    ]:
        gpu.driver.captured_edges = edges
        with gpu.captured(*labels) as captured:
            found.append(captured.shape().fingerprint())
    assert found[0] == found[1]
    assert len(set(found)) == 5


@pytest.mark.parametrize("raising", ["write", "copy", "kernel"])
@pytest.mark.parametrize("mode", ["exclusive", "overlap"])
@pytest.mark.parametrize("seed", range(8))
def test_an_urgent_job_gets_between_the_kernels_of_another(
    gpu_of: Opener, seed: int, mode: Mode, raising: str
) -> None:
    gpu = gpu_of(seed=seed)
    long, short = [f"be{i}" for i in range(8)], ["rt0", "rt1"]
    with (
        gpu.captured(*long) as best_effort,
        gpu.captured(*short) as urgent,
        GateBoard(mode=mode, raising=raising) as board,  # type: ignore[arg-type]
        Stream(priority="high") as high,
    ):
        slots = board.take_slot(), board.take_slot()
        with (
            GatedGraph(best_effort, best_effort.shape().cuts(), board, slots[0], gpu.stream) as be,
            GatedGraph(urgent, urgent.shape().cuts(), board, slots[1], gpu.stream) as rt,
        ):
            run_gated(be, board, key_of("best-effort", 0, slots[0]), gpu.stream)
            while len(gpu.ran) < 3:
                gpu.driver.advance()
            run_gated(rt, board, key_of("real-time", 0, slots[1]), high)
            while board.slots()[slots[1]] == 2**64 - 1 and "rt1" not in gpu.ran:
                gpu.driver.advance()
            raised_at = len(gpu.ran)
            high.synchronize()
            done_at = gpu.ran.index("rt1")
            gpu.stream.synchronize()
    meanwhile = [each for each in gpu.ran[raised_at:done_at] if each.startswith("be")]
    assert len(meanwhile) <= 1
    assert [each for each in gpu.ran if each in long] == long
    assert gpu.ran[-1] == "be7"
    if raising == "write":
        assert not any("preempt_raise" in line for line in gpu.driver.log)


def test_a_job_that_fails_before_its_launch_holds_nobody_back(gpu_of: Opener) -> None:
    gpu = gpu_of()
    with gpu.captured("a", "b") as captured, GateBoard(mode="exclusive") as board:
        slots = board.take_slot(), board.take_slot()
        with (
            GatedGraph(captured, (1,), board, slots[0], gpu.stream) as graph,
            GatedGraph(captured, (1,), board, slots[1], gpu.stream) as other,
            Stream(priority="high") as high,
        ):

            def fail() -> None:
                raise DeviceError("the copy failed")

            with pytest.raises(DeviceError, match="the copy failed"):
                run_gated(graph, board, key_of("real-time", 0, slots[0]), high, before=fail)
            run_gated(other, board, key_of("best-effort", 0, slots[1]), gpu.stream)
            gpu.stream.synchronize()
            high.synchronize()
            assert board.give_ups() == ()
    assert gpu.ran == ["a", "b"]


def test_inputs_are_copied_behind_the_raise_and_outputs_behind_the_graph(gpu_of: Opener) -> None:
    gpu = gpu_of()
    with gpu.captured("a") as captured, GateBoard(mode="overlap") as board:
        slot = board.take_slot()
        with GatedGraph(captured, (), board, slot, gpu.stream) as graph:
            gpu.driver.log.clear()
            run_gated(
                graph,
                board,
                key_of("real-time", 0, slot),
                gpu.stream,
                before=lambda: gpu.driver.enqueue(gpu.stream.handle, "in", lambda: None),
                after=lambda: gpu.driver.enqueue(gpu.stream.handle, "out", lambda: None),
            )
            gpu.stream.synchronize()
    assert gpu.kernels[0].startswith("write 0x4")
    assert gpu.kernels[1:] == ["in", "preempt_gate_overlap", "a", "preempt_clear", "out"]


def test_times_tell_where_a_job_stood_and_how_long_each_stretch_took(gpu_of: Opener) -> None:
    gpu = gpu_of()
    with gpu.captured("a", "b", "c") as captured, GateBoard(mode="exclusive") as board:
        slot = board.take_slot()
        with GatedGraph(captured, (1, 2), board, slot, gpu.stream, is_timed=True) as graph:
            run_gated(graph, board, key_of("real-time", 0, slot), gpu.stream)
            gpu.stream.synchronize()
            times = graph.times()
        with (
            GatedGraph(captured, (1, 2), board, slot, gpu.stream) as graph,
            pytest.raises(DeviceError, match="is_timed=True"),
        ):
            graph.times()
    moments = [*sum(zip(times.arrived_ns, times.passed_ns, strict=True), ()), times.end_ns]
    assert moments == sorted(moments)
    assert len(times.stretch_ns) == len(times.waited_ns) == 3
    assert sum(times.stretch_ns) + sum(times.waited_ns) == moments[-1] - moments[0]
