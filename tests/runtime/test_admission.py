import logging
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest

from preempt_runtime.admission import Admission, Observed, analysed_task
from preempt_runtime.clock import VirtualClock
from preempt_runtime.cost_watch import AllowedCosts, CostWatch, Excess
from preempt_runtime.errors import AdmissionError, DeviceError, InputError, PreemptError
from preempt_runtime.executor import Executor
from preempt_runtime.manifest import Latency
from preempt_runtime.policies import POLICIES, FixedPriority, Policy
from preempt_runtime.readmission import Readmission, in_background
from preempt_runtime.schedulability import Assumptions
from preempt_runtime.task import ADMIT, Task
from preempt_runtime.testing import (
    EXAMPLE_INPUTS,
    FakeDevice,
    FakeNetwork,
    Recording,
    lines_from_recording,
)

URGENT = Task(name="urgent", network=FakeNetwork(segment_ns=(3,)), priority=2, period_ns=10)
LONG = Task(name="long", network=FakeNetwork(segment_ns=(4, 4)), priority=1, period_ns=40)
BACKGROUND = Task(name="background", network=FakeNetwork(segment_ns=(9,)))


def admission(mode: str = "refuse", **assumptions: float) -> Admission:
    found = Assumptions(**assumptions)  # type: ignore[arg-type]
    return Admission(policy="fixed-priority", mode=mode, assumptions=found)  # type: ignore[arg-type]


def test_a_task_that_fits_gets_its_bound() -> None:
    bound = admission().admit((URGENT,), LONG)
    assert bound is not None
    assert [task.response_ns for task in bound.tasks] == [6, 11]
    assert bound.source == "estimated"  # fake segments were never measured


def test_a_task_that_breaks_a_promise_to_another_is_refused() -> None:
    with pytest.raises(AdmissionError, match="'background' is not admitted") as caught:
        admission().admit((URGENT, LONG), BACKGROUND)
    # Blocked for 9 - 1, then 3: one after the deadline of 10.
    assert "task 'urgent' (deadline 10 ns): may end 1 ns after its deadline" in str(caught.value)


def test_the_margin_counts() -> None:
    assert admission().admit((URGENT,), LONG) is not None
    with pytest.raises(AdmissionError, match="with a margin of 100%"):
        admission(margin_frac=1.0).admit((URGENT,), LONG)


def test_a_warning_admits(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bound = admission("warn").admit((URGENT, LONG), BACKGROUND)
    assert bound is not None
    assert not bound.is_schedulable
    assert "task background is admitted without a guarantee" in caplog.messages[0]
    assert admission("off").admit((URGENT, LONG), BACKGROUND) is None


def test_what_the_analysis_is_not_told_is_an_objection(caplog: pytest.LogCaptureFixture) -> None:
    with_pre = replace(LONG, pre=lambda inputs, stream: inputs)
    with pytest.raises(AdmissionError, match="how long pre takes is not known; give pre_ns"):
        admission().admit((URGENT,), with_pre)
    with caplog.at_level(logging.WARNING):
        assert admission("warn").admit((URGENT,), with_pre) is None
    assert "pre_ns" in caplog.messages[0]
    with pytest.raises(AdmissionError, match="no least time between them"):
        admission().admit((URGENT,), replace(LONG, period_ns=None))


def test_every_step_counts_with_its_longest_time() -> None:
    task = replace(
        LONG,
        pre=lambda inputs, stream: inputs,
        post=lambda outputs, stream: outputs,
        pre_ns=2,
        post_ns=5,
        jitter_ns=7,
    )
    found = analysed_task(task, Observed(segment_ns=(3, 6)))
    assert found.segment_ns == (2, 4, 6, 5)
    assert (found.jitter_ns, found.period_ns, found.implicit_deadline_ns) == (7, 40, 40)


class _Measured(FakeNetwork):
    @property
    def segments(self):  # type: ignore[no-untyped-def]
        latency = Latency(p50_ns=4, p99_ns=5, max_ns=6, num_samples=9)
        return tuple(replace(segment, latency=latency) for segment in super().segments)


def test_a_measured_maximum_is_what_counts() -> None:
    found = analysed_task(replace(LONG, network=_Measured(segment_ns=(4, 4))))
    assert (found.segment_ns, found.source) == ((6, 6), "measured")


def test_tasks_are_told_what_is_wrong_with_their_times() -> None:
    with pytest.raises(InputError, match="jitter -1, expected a whole number of ns"):
        replace(LONG, jitter_ns=-1)
    with pytest.raises(InputError, match="time of pre 0, expected a whole number of ns"):
        replace(LONG, pre_ns=0)


class _World:
    def __init__(
        self,
        mode: str | None,
        *tasks: Task,
        margin_frac: float = 0.0,
        policy: Policy | None = None,
    ) -> None:
        self.clock, self.recording = VirtualClock(), Recording()
        found = None if mode is None else admission(mode, margin_frac=margin_frac)
        self.executor = Executor(
            FakeDevice(self.clock),
            policy or FixedPriority(),
            self.clock,
            [self.recording],
            switch_interval_s=None,
            admission=found,
        )
        for task in tasks:
            self.executor.add_task(task)

    def submit(self, *releases: tuple[int, str]) -> None:
        for at_ns, name in releases:
            self.executor.submit(name, EXAMPLE_INPUTS, release_ns=at_ns)

    def lines(self) -> list[str]:
        self.executor.run()
        self.executor.check_integrity()
        return lines_from_recording(self.recording)


def test_an_executor_refuses_a_task_and_goes_on_as_before() -> None:
    world = _World("refuse", URGENT, LONG)
    with pytest.raises(AdmissionError):
        world.executor.add_task(BACKGROUND)
    assert [task.name for task in world.executor.tasks()] == ["urgent", "long"]
    with pytest.raises(InputError, match="no task is called 'background'"):
        world.submit((0, "background"))
    world.submit((0, "long"), (1, "urgent"))
    assert world.lines()[:3] == ["0-4 long#0[0]", "4-7 urgent#1[0]", "7-11 long#0[1]"]


@pytest.mark.parametrize("mode", ADMIT)
@pytest.mark.parametrize(("policy", "depth"), [(FixedPriority(), 2), (POLICIES["edf"], 1)])
def test_an_executor_promises_nothing_for_another(mode: str, policy: Policy, depth: int) -> None:
    clock = VirtualClock()
    device = FakeDevice(clock, max_depth=2)
    with pytest.raises(InputError, match="analyses policy 'fixed-priority' at depth 1, the exec"):
        Executor(device, policy, clock, depth=depth, admission=admission(mode))
    matching = admission(mode, depth=2)
    Executor(device, FixedPriority(), clock, depth=2, admission=matching).close()


def test_what_was_removed_makes_room() -> None:
    world = _World("refuse", URGENT, LONG)
    world.executor.remove_task("urgent")
    world.executor.add_task(BACKGROUND)
    assert [task.name for task in world.executor.tasks()] == ["long", "background"]


def test_a_change_that_breaks_a_promise_is_refused() -> None:
    world = _World("refuse", URGENT, LONG)
    with pytest.raises(AdmissionError, match="task 'urgent' is not changed, with a margin of 0%"):
        world.executor.change_task(replace(URGENT, relative_deadline_ns=5))
    assert world.executor.tasks() == (URGENT, LONG)
    world.executor.change_task(replace(URGENT, relative_deadline_ns=6))


def test_a_change_without_a_guarantee_is_called_a_change(caplog: pytest.LogCaptureFixture) -> None:
    world = _World("warn", URGENT, LONG)
    with caplog.at_level(logging.WARNING):
        world.executor.change_task(replace(URGENT, relative_deadline_ns=5))
    assert caplog.messages[0].startswith(
        "task urgent is changed without a guarantee, with a margin"
    )


def test_a_change_that_the_analysis_does_not_see_is_not_judged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Shedding is one: the set it is done to is not schedulable, which was said before."""
    late = replace(URGENT, relative_deadline_ns=5)
    world = _World("warn", late, LONG)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        world.executor.change_task(replace(late, late="drop", max_pending=2))
    assert caplog.messages == []
    assert world.executor.tasks()[0].late == "drop"


def test_tasks_that_are_added_together_are_judged_together() -> None:
    """One by one, urgent's excess would be that with background alone below it."""
    world = _World("refuse")
    slower = replace(BACKGROUND, name="slower", network=FakeNetwork(segment_ns=(19,)))
    says = (
        "these 4 tasks are not admitted, with a margin of 0%: task 'urgent' .deadline 10 ns.: may"
        " end 11 ns after its deadline; see `preemptc plan` for what would make them fit"
    )
    with pytest.raises(AdmissionError, match=says):
        world.executor.add_tasks([URGENT, LONG, BACKGROUND, slower])
    assert world.executor.tasks() == ()
    world.executor.add_tasks([URGENT, LONG])
    assert world.executor.tasks() == (URGENT, LONG)


def test_of_tasks_that_cannot_all_be_added_none_is() -> None:
    world = _World(None, URGENT)
    with pytest.raises(InputError, match="task 'urgent' is there already"):
        world.executor.add_tasks([LONG, URGENT])
    with pytest.raises(InputError, match="task 'long' is there already"):
        world.executor.add_tasks([LONG, LONG])

    class NoMemory(FakeNetwork):
        def new_buffers(self):  # type: ignore[no-untyped-def]
            raise DeviceError("out of memory")

    with pytest.raises(DeviceError, match="out of memory"):
        world.executor.add_tasks([LONG, replace(BACKGROUND, network=NoMemory())])
    assert world.executor.tasks() == (URGENT,)
    world.executor.add_tasks([])


def test_a_changed_priority_holds_from_the_next_preemption_point_on() -> None:
    world = _World(None, URGENT, LONG)
    world.submit((0, "long"), (1, "urgent"))
    raised = replace(LONG, priority=3)
    world.clock.call_at(2, lambda: world.executor.change_task(raised))
    lines = world.lines()
    assert lines[:3] == ["0-4 long#0[0]", "4-8 long#0[1]", "8-11 urgent#1[0]"]
    assert lines[4] == "urgent#1 finished release=1 start=8 end=11 response=10"
    assert world.executor.tasks() == (URGENT, raised)


def test_a_change_to_dropping_ends_a_job_that_is_late_already() -> None:
    world = _World(None, replace(LONG, relative_deadline_ns=3))
    world.submit((0, "long"), (1, "long"))
    drops = replace(LONG, relative_deadline_ns=3, late="drop")
    world.clock.call_at(2, lambda: world.executor.change_task(drops))
    lines = world.lines()
    assert lines[0] == "0-4 long#0[0]"
    assert [line.split()[1] for line in lines[1:]] == ["dropped", "dropped"]


@pytest.mark.parametrize("name", POLICIES)
def test_waiting_best_effort_jobs_may_become_real_time(name: str) -> None:
    before = replace(BACKGROUND, network=FakeNetwork(segment_ns=(4, 4)))
    world = _World(None, replace(URGENT, relative_deadline_ns=10), before, policy=POLICIES[name])
    world.submit((0, "background"), (1, "background"), (2, "urgent"), (6, "background"))
    after = replace(before, priority=1, period_ns=20)
    world.clock.call_at(3, lambda: world.executor.change_task(after))
    assert sum(" finished " in line for line in world.lines()) == 4


def test_blocking_goes_on_counting_across_a_change() -> None:
    world = _World(None, URGENT, LONG, BACKGROUND)
    world.submit((0, "background"), (1, "long"))
    world.clock.call_at(2, lambda: world.executor.change_task(replace(LONG, priority=7)))
    (line,) = [line for line in world.lines() if line.startswith("long#1")]
    assert "blocking=8" in line  # from its release at 1 until 9


def test_a_change_keeps_network_and_name() -> None:
    world = _World(None, URGENT)
    with pytest.raises(InputError, match="its network, pre, post, buffers and outputs cannot"):
        world.executor.change_task(replace(URGENT, network=FakeNetwork(segment_ns=(1, 1))))
    with pytest.raises(InputError, match="no task is called 'long'"):
        world.executor.change_task(LONG)


class _Slow(FakeNetwork):
    """Its bundle says 4 ns a segment; it takes what `segment_ns` says."""

    @property
    def segments(self):  # type: ignore[no-untyped-def]
        latency = Latency(p50_ns=4, p99_ns=4, max_ns=4, num_samples=9)
        return tuple(replace(segment, latency=latency) for segment in super().segments)


@pytest.mark.parametrize("sheds", [False, True])
def test_tasks_are_analysed_again_when_a_segment_takes_too_long(
    sheds: bool, caplog: pytest.LogCaptureFixture
) -> None:
    long = replace(LONG, network=_Slow(segment_ns=(4, 9)))
    urgent = replace(URGENT, relative_deadline_ns=10)
    rules = admission("off")
    watch = CostWatch(
        {"long": AllowedCosts(latencies=(Latency(p50_ns=4, p99_ns=4, max_ns=4, num_samples=9),) * 2,
                              assumptions=Assumptions())},
        lambda excess: respond([excess]),
    )  # fmt: skip
    clock, recording = VirtualClock(), Recording()
    with Executor(
        FakeDevice(clock), FixedPriority(), clock, [watch, recording], switch_interval_s=None
    ) as executor:
        readmission = Readmission(
            executor, rules, watch, promised=rules.bound((urgent, long)), sheds=sheds
        )
        respond = readmission.respond
        executor.add_task(urgent)
        executor.add_task(long)
        for at_ns in (0, 40, 80):
            executor.submit("long", EXAMPLE_INPUTS, release_ns=at_ns)
        with caplog.at_level(logging.WARNING):
            executor.run()
        shed = {task.name: task.late for task in executor.tasks()}
    # Blocked for 9 - 1, then 3: one after the deadline of 10.
    assert readmission.bound is not None
    assert readmission.bound.task("urgent").response_ns == 11
    assert "task long: segment 1 took 9 ns, its bound allows 4 ns" in caplog.text
    assert "'urgent' (deadline 10 ns): may end 1 ns after" in caplog.messages[0]
    assert shed == {"urgent": "drop" if sheds else "run", "long": "run"}
    assert readmission.shed == (("urgent",) if sheds else ())
    assert len(caplog.messages) == 1 + sheds
    assert watch.drifts()["long"].num_exceeded == 3


def excess_of(task: str, elapsed_ns: int = 2, *, is_first: bool = False) -> Excess:
    return Excess(task=task, segment_idx=0, elapsed_ns=elapsed_ns, allowed_ns=1, is_first=is_first)


def test_only_broken_promises_are_shed(caplog: pytest.LogCaptureFixture) -> None:
    rules = admission("off")
    never = replace(LONG, name="never", priority=0, relative_deadline_ns=1)
    tasks = (replace(URGENT, relative_deadline_ns=5), LONG, never)
    watch = CostWatch({})
    with Executor(FakeDevice(VirtualClock()), FixedPriority(), VirtualClock()) as executor:
        for task in tasks:
            executor.add_task(task)
        promised = rules.bound(tasks)
        assert [task.is_schedulable for task in promised.tasks] == [False, True, False]
        readmission = Readmission(executor, rules, watch, promised=promised, sheds=True)
        readmission.respond([excess_of("a", is_first=True), excess_of("b"), excess_of("c")])
        readmission.respond([excess_of("b", is_first=True), excess_of("c", is_first=True)])
        shed_at_first = readmission.shed
        executor.change_task(replace(LONG, relative_deadline_ns=2))
        readmission.respond([excess_of("c")])
    assert (shed_at_first, readmission.shed) == ((), ("long",))
    assert [message.split(":")[0] for message in caplog.messages] == [
        *("task a", "task c", "task b", "task c"),  # the newest, too, where the verdict is new
        "task long drops late jobs from now on",
    ]


def test_what_comes_during_an_answer_is_answered_together() -> None:
    seen: list[list[Excess]] = []
    entered, gate = threading.Event(), threading.Event()

    def respond(found: Sequence[Excess]) -> None:
        seen.append(list(found))
        entered.set()
        assert gate.wait(60)
        if len(seen) == 1:
            raise InputError("the task is gone")  # said, and the next one is answered

    first, other = excess_of("a", is_first=True), excess_of("b", is_first=True)
    with in_background(respond) as tell:
        tell(first)
        assert entered.wait(60)
        for excess in (excess_of("a", 3), other, *(excess_of("a", ns) for ns in range(4, 1000))):
            tell(excess)
        gate.set()
    assert seen == [[first], [other, excess_of("a", 999)]]


def test_what_a_whole_job_was_seen_to_take_counts_where_it_is_less() -> None:
    long = replace(LONG, network=FakeNetwork(segment_ns=(4, 4, 4)))
    assert analysed_task(replace(long, total_ns=9)).total_ns == 9
    by_sum = admission().bound((URGENT, long)).task("long")
    by_total = admission().bound((URGENT, replace(long, total_ns=9))).task("long")
    assert (by_sum.cost_ns, by_total.cost_ns) == (12, 9)
    assert (by_sum.response_ns, by_total.response_ns) == (18, 15)
    assert by_total.longest_ns == 4
    # More than the sum, or less than one segment, it says nothing.
    assert admission().bound((URGENT, replace(long, total_ns=99))).task("long") == by_sum
    assert admission().bound((URGENT, replace(long, total_ns=1))).task("long").cost_ns == 4
    # A segment that was seen to take longer makes what was measured of whole jobs void.
    again = admission().bound(
        (URGENT, replace(long, total_ns=9)), {"long": Observed(segment_ns=(5, 1, 1))}
    )
    assert again.task("long").cost_ns == 13
    # A whole job that was seen to take longer counts with that.
    again = admission().bound((URGENT, replace(long, total_ns=9)), {"long": Observed(job_ns=10)})
    assert again.task("long").cost_ns == 10


def test_what_was_seen_on_the_device_is_not_inflated_twice() -> None:
    long = replace(LONG, network=FakeNetwork(segment_ns=(400, 400, 400)), total_ns=900)
    rules = admission(corun_factor=1.5, dispatch_ns=7, margin_frac=0.1)
    as_measured = rules.bound((replace(long, period_ns=9999),))
    seen = Observed(segment_ns=(607, 600, 1), job_ns=1350 + 3 * 7)  # 400 * 1.5 + 7, 900 * 1.5
    assert analysed_task(long, seen, rules.assumptions) == analysed_task(long)
    assert rules.bound((replace(long, period_ns=9999),), {"long": seen}) == as_measured
    found = analysed_task(long, Observed(segment_ns=(1, 1, 907)), rules.assumptions)
    assert (found.segment_ns, found.total_ns) == ((400, 400, 600), None)


def test_what_a_job_pays_once_is_seen_in_its_first_and_its_last_segment_and_is_no_cost() -> None:
    long = replace(LONG, network=FakeNetwork(segment_ns=(400, 400, 400)), total_ns=900)
    rules = admission(job_dispatch_ns=50)
    seen = Observed(segment_ns=(450, 400, 450), job_ns=950)
    assert analysed_task(long, seen, rules.assumptions) == analysed_task(long)
    found = analysed_task(long, Observed(segment_ns=(450, 450, 450)), rules.assumptions)
    assert found.segment_ns == (400, 450, 400)


def test_a_misspelt_mode_does_not_admit_everything() -> None:
    with pytest.raises(InputError, match="mode 'Refuse', expected one of refuse, warn, off"):
        admission("Refuse")


def test_a_closed_executor_takes_no_task() -> None:
    world = _World(None, URGENT)
    world.executor.close()
    with pytest.raises(PreemptError, match="'long': the executor is closed"):
        world.executor.add_task(LONG)
