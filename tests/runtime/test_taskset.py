import os
import re
from pathlib import Path

import numpy as np
import pytest

from preempt_runtime.arrival_table import ARRIVAL_KEYS
from preempt_runtime.arrivals import ClosedLoop, Periodic, Poisson, Recorded, Sporadic
from preempt_runtime.errors import InputError
from preempt_runtime.load_taskset import task_from_spec
from preempt_runtime.task_spec import CostSpec, TaskSpec
from preempt_runtime.task_table import TASK_KEYS
from preempt_runtime.taskset import HEAD_KEYS, TaskSetSpec, read_taskset
from preempt_runtime.testing import FakeNetwork

MS = 1_000_000
DOCS = Path(__file__).parents[2] / "docs" / "taskset.md"
MINIMAL = """
[taskset]
[[task]]
name = "camera"
bundle = "net.bundle"
priority = 3
[task.arrival]
kind = "periodic"
period = "20ms"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("net", "detector", "planner", "captioner"):
        (tmp_path / f"{name}.bundle").mkdir()
    np.savez(tmp_path / "frames.npz", x=np.zeros(1, np.float32))
    (tmp_path / "releases.txt").write_text("1ms\n2ms\n", encoding="utf-8")
    return tmp_path


def read(folder: Path, text: str, *, seed: int | None = None) -> TaskSetSpec:
    path = folder / "set.toml"
    path.write_text(text, encoding="utf-8")
    return read_taskset(path, seed=seed)


def test_the_taskset_table_may_be_left_out(folder: Path) -> None:
    taskset = read(folder, MINIMAL)
    assert read(folder, MINIMAL.replace("[taskset]\n", "")) == taskset
    assert read_taskset(str(taskset.path)) == taskset


def test_a_minimal_task_set_gets_its_defaults(folder: Path) -> None:
    assert read(folder, MINIMAL) == TaskSetSpec(
        name="set",
        path=folder / "set.toml",
        seed=0,
        threads=None,
        policy="fixed-priority",
        tasks=(
            TaskSpec(
                name="camera",
                bundle=folder / "net.bundle",
                plan=None,
                priority=3,
                is_best_effort=False,
                deadline_ns=None,
                mailbox="queue",
                max_pending=None,
                inputs=None,
                seed=0,
                check_inputs=False,
                arrival=Periodic(period_ns=20 * MS),
                period_ns=20 * MS,
            ),
        ),
    )


def test_the_documented_example_is_read_in_full(folder: Path) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    taskset = read(folder, blocks[0])
    assert (taskset.name, taskset.seed, taskset.threads) == ("robot", 7, 2)
    detector, planner, captioner = taskset.tasks
    assert detector == TaskSpec(
        name="detector",
        bundle=folder / "detector.bundle",
        plan=None,
        priority=10,
        is_best_effort=False,
        deadline_ns=20 * MS,
        mailbox="latest",
        max_pending=None,
        inputs=folder / "frames.npz",
        seed=7,
        check_inputs=False,
        arrival=Periodic(period_ns=33 * MS, offset_ns=5 * MS, jitter_ns=2 * MS),
        period_ns=33 * MS,
        jitter_ns=2 * MS,
        late="drop",
    )
    assert planner.arrival == Sporadic(min_interval_ns=50 * MS, mean_interval_ns=120 * MS)
    assert (planner.priority, planner.max_pending) == (5, 4)
    assert (captioner.priority, captioner.plan) == (None, "whole")
    assert captioner.arrival == ClosedLoop(think_ns=0)


def documented(section: str) -> dict[str, str]:
    """The rows of a section's first table, by what stands in their first column."""
    text = DOCS.read_text(encoding="utf-8").partition(f"\n## `{section}`")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))


def test_the_keys_that_are_read_are_those_that_are_documented() -> None:
    assert set(documented("[taskset]")) == set(HEAD_KEYS)
    assert {*documented("[[task]]"), "arrival"} == set(TASK_KEYS)
    rows = documented("[task.arrival]")
    del rows["kind"]  # the table's head
    found = {kind: re.findall(r"`(\w+)`", row.partition("|")[0]) for kind, row in rows.items()}
    assert found == {kind: list(keys) for kind, keys in ARRIVAL_KEYS.items()}


@pytest.mark.parametrize(
    ("arrival", "expected"),
    [
        ('kind = "poisson"\nrate = 12', Poisson(rate_per_s=12.0)),
        ('kind = "poisson"\nrate = 0.5', Poisson(rate_per_s=0.5)),
        ('kind = "closed_loop"', ClosedLoop(think_ns=0)),
        ('kind = "closed_loop"\nthink = "3ms"', ClosedLoop(think_ns=3 * MS)),
        ('kind = "trace"\npath = "releases.txt"', Recorded(offsets_ns=(MS, 2 * MS))),
    ],
)
def test_every_kind_of_arrival(folder: Path, arrival: str, expected: object) -> None:
    text = MINIMAL.replace('kind = "periodic"\nperiod = "20ms"', arrival)
    assert read(folder, text).tasks[0].arrival == expected


def test_seeds_come_from_the_command_line_then_the_task_then_the_set(folder: Path) -> None:
    text = MINIMAL.replace("[taskset]", "[taskset]\nseed = 4")
    own = text.replace("priority = 3", "priority = 3\nseed = 9")
    assert read(folder, text).tasks[0].seed == 4
    assert read(folder, own).tasks[0].seed == 9
    assert (read(folder, text, seed=5).seed, read(folder, text, seed=5).tasks[0].seed) == (5, 5)


@pytest.mark.parametrize(
    ("found", "replacement", "message"),
    [
        ("[taskset]", "[taskset", ": not TOML: "),
        ("[taskset]", "[taskset]\n\\", ": not TOML: "),
        (
            "[taskset]",
            "[taskset]\nthread = 2",
            ": [taskset]: unknown key 'thread' (did you mean 'threads'?), allowed name, seed,",
        ),
        ("[taskset]", "x = 1\n[taskset]", ": unknown key 'x', allowed taskset, task"),
        (
            "[taskset]",
            "[taskset]\nthreads = 0",
            ": [taskset]: key 'threads': 0, allowed an integer from 1 to 1024",
        ),
        (
            "[taskset]",
            "[taskset]\nthreads = 0x" + "f" * 5000,
            ": [taskset]: key 'threads': an integer of over 63 bits, allowed an integer from 1 to ",
        ),
        (
            "[taskset]",
            '[taskset]\nthreads = "2"',
            ": [taskset]: key 'threads': found '2', allowed an integer from 1 to 1024",
        ),
        (
            "[taskset]",
            "[taskset]\nseed = -1",
            ": [taskset]: key 'seed': -1, allowed an integer from 0 to 9223372036854775807",
        ),
        (
            "[taskset]",
            "[taskset]\nname = 2026-01-01",
            ": [taskset]: key 'name': it is a date or time, allowed a string",
        ),
        (
            'name = "camera"',
            "",
            ": [[task]] number 1: key 'name' is missing, write a string",
        ),
        (
            'name = "camera"',
            'name = "a\\nb"',
            ": [[task]] number 1: key 'name': found 'a\\nb', "
            "allowed a printable string of 1 to 4096 characters",
        ),
        (
            'bundle = "net.bundle"',
            "",
            ": [[task]] 'camera': key 'bundle' is missing, write the bundle's",
        ),
        (
            "net.bundle",
            "lost.bundle",
            "lost.bundle does not exist; make it with `preemptc compile`, or correct the path",
        ),
        ("net.bundle", "x" * 300, f"{'x' * 300} does not exist; make it with"),
        ("net.bundle", "frames.npz", "frames.npz is not a directory; make it with"),
        (
            "priority = 3",
            "",
            ": [[task]] 'camera': found neither of priority and best_effort;"
            " write priority = N (larger runs first) or best_effort = true",
        ),
        (
            "priority = 3",
            "priority = 3\nbest_effort = true",
            ": [[task]] 'camera': found both of priority and best_effort; write priority = N",
        ),
        (
            "priority = 3",
            "priority = true",
            ": [[task]] 'camera': key 'priority': True is a boolean, allowed an integer",
        ),
        (
            "priority = 3",
            "priority = 3.0",
            ": [[task]] 'camera': key 'priority': 3.0 is a float, allowed an integer",
        ),
        (
            "priority = 3",
            "priority = 1000001",
            "key 'priority': 1000001, allowed an integer from -1000000 to 1000000",
        ),
        (
            "priority = 3",
            "best_effort = 1",
            ": [[task]] 'camera': key 'best_effort': 1 is an integer, allowed true or false",
        ),
        (
            "priority = 3",
            'priority = 3\ndeadline = "0ms"',
            ": [[task]] 'camera': key 'deadline': found '0ms', allowed a duration above 0",
        ),
        (
            "priority = 3",
            'priority = 3\ndeadline = "-5ms"',
            ": [[task]] 'camera': key 'deadline': '-5ms' is not a duration; write a number and",
        ),
        (
            "priority = 3",
            "priority = 3\ndeadline = 20",
            "key 'deadline': 20 is an integer, allowed a duration such as 20ms",
        ),
        (
            "priority = 3",
            'priority = 3\nmailbox = "newest"',
            "key 'mailbox': found 'newest', allowed one of queue, latest",
        ),
        (
            "priority = 3",
            'priority = 3\nmailbox = "latest"\nmax_pending = 3',
            "'camera': max_pending is for mailbox = 'queue'; 'latest' keeps one job",
        ),
        (
            "priority = 3",
            "priority = 3\nmax_pending = 0",
            "key 'max_pending': 0, allowed an integer from 1 to 1000000",
        ),
        (
            "priority = 3",
            "priority = 3\nbuffers = 65",
            "key 'buffers': 65, allowed an integer from 1 to 64",
        ),
        (
            "priority = 3",
            'priority = 3\nannounce = "2001us"',
            "key 'announce': found '2001us', allowed at most 2 ms: then an announcement expires",
        ),
        (
            "priority = 3",
            'priority = 3\ninputs = "frames.txt"',
            "key 'inputs': found 'frames.txt', allowed 'random' or the path of a .npz file",
        ),
        (
            "priority = 3",
            'priority = 3\ninputs = "lost.npz"',
            "lost.npz do not exist; record them, or 'random'",
        ),
        (
            "priority = 3",
            f"priority = 3\ninputs = '{'x' * 300}.npz'",
            ".npz do not exist; record them, or 'random'",
        ),
        (
            "priority = 3",
            "priority = 3\ninterval = 4",
            ": [[task]] 'camera': unknown key 'interval', allowed name, bundle, plan, model,",
        ),
        (
            "[task.arrival]",
            "[task.arival]",
            ": [[task]] 'camera': unknown key 'arival' (did you mean 'arrival'?), allowed name,",
        ),
        (
            '"periodic"',
            '"sometimes"',
            ": [task.arrival] of 'camera': key 'kind': found 'sometimes', allowed one of"
            " periodic, sporadic, poisson, closed_loop, trace",
        ),
        (
            'period = "20ms"',
            "",
            ": [task.arrival] of 'camera': key 'period' is missing, write a duration such as 20ms",
        ),
        (
            '"20ms"',
            '"0ms"',
            ": [task.arrival] of 'camera': period is 0 ns, allowed 1 ns to",
        ),
        (
            '"20ms"',
            '"40min years"',
            "key 'period': '40min years' is not a duration; write a number and ns, us, ms, s or",
        ),
        (
            '"20ms"',
            '"99999999999s"',
            "key 'period': '99999999999s' is longer than 31 years; check the unit",
        ),
        (
            '"20ms"',
            f'"{"9" * 400}ms"',
            f"key 'period': '{'9' * 40}' is longer than 31 years; check the unit",
        ),
        (
            '"periodic"\nperiod = "20ms"',
            f'"poisson"\nrate = {"9" * 400}',
            "key 'rate': an integer of over 63 bits, allowed a number up to 1.8e308",
        ),
        (
            '"periodic"\nperiod = "20ms"',
            '"poisson"\nrate = 1e-320',
            "rate is 9.99989e-321 per second, allowed 1e-9",
        ),
        (
            '"20ms"',
            '"20ms"\nrate = 3',
            ": [task.arrival] of 'camera': unknown key 'rate', allowed kind, period, offset, jit",
        ),
        (
            '"periodic"\nperiod = "20ms"',
            '"sporadic"\nmin_interval = "20ms"\nmean_interval = "10ms"',
            "of 'camera': mean_interval is 10000000 ns, allowed 20000000 ns to",
        ),
        (
            '"periodic"\nperiod = "20ms"',
            '"poisson"\nrate = nan',
            "of 'camera': rate is nan per second, allowed 1e-9 (one in 31 years) to 1e9",
        ),
        (
            '"periodic"\nperiod = "20ms"',
            '"trace"\npath = "lost.txt"',
            "lost.txt: cannot read the trace: No such file or directory",
        ),
    ],
)
def test_a_wrong_task_set_is_named_with_its_place(
    folder: Path, found: str, replacement: str, message: str
) -> None:
    text = MINIMAL.replace(found, replacement)
    assert text != MINIMAL
    with pytest.raises(InputError) as caught:
        read(folder, text)
    assert str(caught.value).startswith(str(folder / "set.toml"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_unique(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(folder, MINIMAL + MINIMAL.replace("[taskset]", ""))
    assert str(caught.value).endswith(
        ": [[task]] number 2 is called 'camera' like number 1; give every task its own name"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task = []\n[taskset]\n", "0 tasks, allowed 1 to 1000"),
        ("task = [{}" + ", {}" * 1000 + "]\n[taskset]\n", "1001 tasks, allowed 1 to 1000"),
        ("task = [1]\n[taskset]\n", "key 'task': it is an array, allowed an array of tables, [["),
        ("[task]\n[taskset]\n", "key 'task': it is a table, allowed an array of tables, [[task]]"),
        ("taskset = 3\n", "key 'taskset': 3 is an integer, allowed a table"),
        ("x = " + "[" * 5000, "not TOML"),
        ("#" * (1 << 20) + "\n", "1048577 bytes, the task set has at most 1048576"),
    ],
)
def test_impossible_documents_are_refused(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(folder, text)
    assert message in str(caught.value)


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the task set: No such file or directory"):
        read_taskset(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot read the task set: it is a directory"):
        read_taskset(tmp_path)
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\x00")
    with pytest.raises(InputError, match="not TOML: 'utf-8' codec"):
        read_taskset(path)


def test_a_period_is_an_arrival_of_its_own(folder: Path) -> None:
    text = """
    [[task]]
    name = "camera"
    segments = ["1ms", "2ms"]
    priority = 1
    period = "20ms"
    jitter = "3ms"
    """
    (task,) = read(folder, text).tasks
    assert task.arrival == Periodic(period_ns=20 * MS, jitter_ns=3 * MS)
    assert task.cost == CostSpec(total_ns=3 * MS, segment_ns=(MS, 2 * MS))
    assert (task.bundle, task.deadline_ns, task.implicit_deadline_ns) == (None, None, 20 * MS)


def test_an_arrival_may_be_slower_than_its_period_and_not_faster(folder: Path) -> None:
    slower = MINIMAL.replace("priority = 3", 'priority = 3\nperiod = "15ms"')
    (task,) = read(folder, slower).tasks
    assert (task.period_ns, task.arrival) == (15 * MS, Periodic(period_ns=20 * MS))
    faster = MINIMAL.replace("priority = 3", 'priority = 3\nperiod = "25ms"')
    with pytest.raises(InputError, match="its arrival releases every 20000000 ns"):
        read(folder, faster)


@pytest.mark.parametrize(
    ("arrival", "message"),
    [
        ('kind = "poisson"\nrate = 3', "its arrival is poisson, which keeps no least time"),
        ('kind = "closed_loop"\nthink = "9ms"', "its arrival releases 9000000 ns after a job"),
        ('kind = "closed_loop"\nthink = "10ms"', None),
        ('kind = "trace"\npath = "releases.txt"', "release 1 of its trace at 2000000 ns, too earl"),
        ('kind = "trace"\npath = "slow.txt"', None),
        ('kind = "sporadic"\nmin_interval = "9ms"\nmean_interval = "99ms"', "every 9000000 ns, la"),
    ],
)
def test_a_period_is_no_promise_that_the_arrival_breaks(
    folder: Path, arrival: str, message: str | None
) -> None:
    (folder / "slow.txt").write_text("1ms\n10ms\n21ms\n", encoding="utf-8")
    text = MINIMAL.replace("priority = 3", 'priority = 3\nperiod = "10ms"\njitter = "1ms"')
    text = text.replace('kind = "periodic"\nperiod = "20ms"', arrival)
    if message is None:
        (task,) = read(folder, text).tasks
        assert (task.period_ns, task.jitter_ns) == (10 * MS, MS)
        return
    with pytest.raises(InputError, match=message) as error:
        read(folder, text)
    assert "leave period out" in str(error.value)


def test_a_policy_without_priorities_needs_none(folder: Path) -> None:
    text = MINIMAL.replace("priority = 3", "").replace("[taskset]", '[taskset]\npolicy = "edf"')
    (task,) = read(folder, text).tasks
    assert (task.priority, task.is_best_effort) == (None, False)


def test_costs_are_cut_into_equal_segments_under_the_bound() -> None:
    cost = CostSpec(total_ns=100, point_cost_ns=3)
    assert cost.segments_ns(None) == (100,)
    assert cost.segments_ns(100) == (100,)
    for bound_ns in range(5, 100):
        found = cost.segments_ns(bound_ns)
        assert max(found) <= bound_ns
        assert sum(found) == 100 + 3 * (len(found) - 1)
        fewer = len(found) - 1  # would not do
        assert fewer < 2 or 100 + 3 * (fewer - 1) > fewer * bound_ns


def test_files_include_others(folder: Path) -> None:
    (folder / "more").mkdir()
    task = '[[task]]\nname = "{}"\ncost = "3ms"\npriority = 1\nperiod = "9ms"\n'
    (folder / "more" / "b.toml").write_text(
        '[taskset]\ninclude = ["c.toml"]\n' + task.format("b"), encoding="utf-8"
    )
    (folder / "more" / "c.toml").write_text(task.format("c"), encoding="utf-8")
    found = read(folder, '[taskset]\ninclude = ["more/b.toml"]\nseed = 3\n' + task.format("a"))
    assert [(task.name, task.seed) for task in found.tasks] == [("a", 3), ("b", 3), ("c", 3)]
    assert found.includes == (folder / "more" / "b.toml", folder / "more" / "c.toml")
    with pytest.raises(InputError, match=r"number 1 is called 'b' like number 1 of .*set\.toml"):
        read(folder, '[taskset]\ninclude = ["more/b.toml"]\n' + task.format("b"))
    (folder / "more" / "c.toml").write_text(
        '[taskset]\ninclude = ["../set.toml"]\n', encoding="utf-8"
    )
    with pytest.raises(
        InputError, match=r"a circle: .*set\.toml includes .*b\.toml includes .*c\."
    ):
        read(folder, '[taskset]\ninclude = ["more/b.toml"]\n' + task.format("a"))
    (folder / "more" / "c.toml").write_text("[taskset]\nseed = 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"c\.toml: \[taskset\]: unknown key 'seed'"):
        read(folder, '[taskset]\ninclude = ["more/b.toml"]\n' + task.format("a"))


def test_a_file_is_read_once_and_counts_as_read_without_tasks(folder: Path) -> None:
    task = '[[task]]\nname = "{}"\ncost = "3ms"\npriority = 1\nperiod = "9ms"\n'
    for name in "bc":
        include = '[taskset]\ninclude = ["d.toml"]\n'
        (folder / f"{name}.toml").write_text(include, encoding="utf-8")
    (folder / "d.toml").write_text(task.format("d"), encoding="utf-8")
    found = read(folder, '[taskset]\ninclude = ["b.toml"]\n')
    assert found.files[1:] == found.includes == (folder / "b.toml", folder / "d.toml")
    for twice in ('"d.toml", "./d.toml"', '"b.toml", "c.toml"'):
        with pytest.raises(InputError, match=r"'include': .*/d\.toml is included already"):
            read(folder, f"[taskset]\ninclude = [{twice}]\n" + task.format("a"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "key 'bundle' is missing"),
        ('cost = "1ms"\nsegments = ["1ms"]', "found both cost and segments"),
        ('cost = "1ms"\nbundle = "net.bundle"', "found both bundle and costs"),
        ("segments = []", "at least one duration"),
        ('segments = ["1ms", "0ms"]', "each above 0"),
        ('segments = ["1ms", 3]', "key 'segments': 3 is an integer, allowed a duration such as"),
        ('cost = "0ms"', "a duration above 0"),
        ('cost = "-1ms"', "key 'cost': '-1ms' is not a duration"),
        ('cost = "1ms"\npoint_cost = "2us"\nmax_segment = "2us"', "a duration above"),
        ('model = "none.onnx"', "none.onnx is no file"),
        ('model = "net.onnx"\ncost = "1ms"', "found both model and cost; leave one of them out"),
        ('model = "net.onnx"\nsegments = ["1ms"]', "found both model and segments"),
        ('cost = "1ms"\nprofile = "net.json"', "'profile': .* only beside model; leave it out"),
        ('segments = ["1ms"]\npoint_cost = "1us"', "'point_cost': .* only beside cost"),
        ('segments = ["1ms"]\nmax_segment = "1ms"', "'max_segment': .* only beside model or cost"),
        ('bundle = "net.bundle"\nmax_segment = "1ms"', "only beside model or cost"),
        ('cost = "1ms"\nplan = "whole"', "'plan': .* only beside bundle"),
        (
            'cost = "1ms"\nshapes = { x = "1x3" }',
            "'shapes': it is a table, allowed only beside model",
        ),
        ('model = "set.toml"\nshapes = "x=1x3"', "key 'shapes': found 'x=1x3', allowed a table"),
        ('model = "set.toml"\nshapes = { x = "1x0" }', "key 'x': found '1x0', allowed dimensions"),
        ('model = "set.toml"\nshapes = { x = [1, 3] }', "shapes: key 'x': it is an array"),
        ('cost = "1ms"\nlate = "never"', "one of run, skip, drop"),
        ('cost = "1ms"\njitter = "1ms"', "only beside period"),
    ],
)
def test_wrong_costs_are_named_with_their_place(folder: Path, keys: str, message: str) -> None:
    text = f"""
    [[task]]
    name = "camera"
    priority = 1
    {keys}
    [task.arrival]
    kind = "poisson"
    rate = 3
    """
    with pytest.raises(InputError, match=message) as error:
        read(folder, text)
    assert "'camera'" in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("margin = -0.1", "a number from 0 to 10"),
        ("margin = nan", "a number from 0 to 10"),
        ("corun = 0.5", "a number from 1 to 1000"),
        ('admit = "maybe"', "one of refuse, warn, off"),
        (
            'policy = "best"',
            r"set\.toml: \[taskset\]: key 'policy': found 'best', allowed one",
        ),
        ("depth = 0", "an integer from 1 to 16"),
        ('resume_cost = "-1us"', "duration"),
        ('dispatch = "-1us"', "duration"),
        ("include = 3", "an array of strings"),
        ('include = ["nowhere.toml"]', "cannot read the task set"),
    ],
)
def test_wrong_head_keys_are_named(folder: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(folder, MINIMAL.replace("[taskset]", f"[taskset]\n{line}"))


@pytest.mark.parametrize("value", ["0ms", "-5ms", "5", "1e400s", "99999999999999999999999s"])
def test_impossible_periods_are_refused(folder: Path, value: str) -> None:
    for key in ("period", "deadline", "max_segment"):
        with pytest.raises(InputError, match=f"key '{key}'"):
            read(folder, MINIMAL.replace("priority = 3", f'priority = 3\n{key} = "{value}"'))


def test_a_pipe_is_no_task_set(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "set.toml")
    with pytest.raises(InputError, match="it is a pipe or a device; give a regular file"):
        read_taskset(tmp_path / "set.toml")


def test_a_file_whose_name_cannot_be_printed_is_read(folder: Path) -> None:
    path = folder / "tab\t.toml"
    path.write_text(MINIMAL, encoding="utf-8")
    assert read_taskset(path).name == "tab?"


def test_digits_of_other_scripts_are_no_duration(folder: Path) -> None:
    with pytest.raises(InputError, match="key 'deadline'"):
        read(folder, MINIMAL.replace("priority = 3", 'priority = 3\ndeadline = "\u0663ms"'))


def test_a_task_may_announce_its_jobs(folder: Path) -> None:
    text = MINIMAL.replace("priority = 3", 'priority = 3\nannounce = "100us"')
    (task,) = read(folder, text).tasks
    assert task.announce_ns == 100_000
    assert task_from_spec(task, FakeNetwork()).announce_ns == 100_000


def test_a_bundle_to_be_compiled_has_a_name_that_a_folder_can_have(folder: Path) -> None:
    (folder / "net.onnx").touch()
    text = (
        '[[task]]\nname = "a"\npriority = 1\nperiod = "1s"\nmodel = "net.onnx"\nbundle = "NAME"\n'
    )
    (folder / "set.toml").write_text(text.replace("NAME", "new.bundle"))
    assert read_taskset(folder / "set.toml").tasks[0].bundle == folder / "new.bundle"
    (folder / "set.toml").write_text(text.replace("NAME", "x" * 300))
    with pytest.raises(InputError, match=r"x cannot be looked up \(File name too long\); correct"):
        read_taskset(folder / "set.toml")


def test_a_task_without_releases_is_told_of_both_ways_to_give_them(folder: Path) -> None:
    with pytest.raises(InputError, match=r"'arrival' is missing, write a table; or period = \"33m"):
        read(folder, '[[task]]\nname = "a"\ncost = "1ms"\npriority = 1\n')
