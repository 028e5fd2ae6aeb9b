"""A task set's bundles, opened and loaded, with what their jobs compute on."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from preempt_runtime.bundle import Bundle, open_bundle
from preempt_runtime.device import Array, Device, Network
from preempt_runtime.errors import BundleError, InputError
from preempt_runtime.gated_device import GatedDevice
from preempt_runtime.inputs import random_inputs, read_inputs
from preempt_runtime.loading import (
    Backend,
    FindBackend,
    LoadingDevice,
    LoadingGatedDevice,
    backend_name,
    plan_to_load,
)
from preempt_runtime.manifest import GATES_FIRST, SEGMENTS, GraphSpec, PlanSpec
from preempt_runtime.output_file import check_output
from preempt_runtime.task import Task
from preempt_runtime.task_spec import TaskSpec
from preempt_runtime.taskset import GateMode, TaskSetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTask:
    """A task of the set with what was loaded for it; job k computes on sample k, round and round.

    Tasks that name the same bundle and plan share their network.
    """

    spec: TaskSpec
    bundle: Bundle
    plan: PlanSpec
    network: Network
    samples: tuple[Mapping[str, Array], ...]

    @property
    def task(self) -> Task:
        """The task as the executor takes it."""
        chained = self.plan.chained
        total_ns = None if chained is None else chained.max_ns
        return replace(task_from_spec(self.spec, self.network), total_ns=total_ns)

    def inputs_of(self, job_idx: int) -> Mapping[str, Array]:
        """What the task's job of that number computes on."""
        return self.samples[job_idx % len(self.samples)]


def task_from_spec(spec: TaskSpec, network: Network) -> Task:
    """The task of a file as the executor takes it, on the network that runs its jobs."""
    return Task(
        name=spec.name,
        network=network,
        priority=None if spec.is_best_effort else spec.priority or 0,
        relative_deadline_ns=spec.deadline_ns,
        mailbox=spec.mailbox,
        max_pending=spec.max_pending,
        period_ns=spec.period_ns,
        jitter_ns=spec.jitter_ns,
        late=spec.late,
        buffers=spec.buffers,
        announce_ns=spec.announce_ns,
        check_inputs=spec.check_inputs,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTaskSet:
    """An open device, and the tasks in the order of the file.

    `hazards` would make bounds false and were there before the device was opened; `backend` tells
    those that show later. `gates` is the mode of the device's gates, None where it has none.
    """

    device: Device | GatedDevice
    tasks: tuple[LoadedTask, ...]
    backend: Backend
    hazards: tuple[str, ...]
    gates: GateMode | None = None


def open_bundles(taskset: TaskSetSpec, pins: Mapping[str, str]) -> dict[str, Bundle]:
    """The bundle of each task by its name; the same one for tasks that name the same manifest.

    Raises:
        BundleError: a bundle is damaged, or not the pinned one.
        InputError: a pin names no task.
    """
    names = [task.name for task in taskset.tasks]
    if unknown := [name for name in pins if name not in names]:
        raise InputError(
            f"{taskset.path}: no task is called {unknown[0]!r}, so its manifest cannot be pinned;"
            f" there are {', '.join(names)}"
        )
    shared: dict[tuple[Path, str], Bundle] = {}
    bundles = {}
    for task in taskset.tasks:
        bundle = open_bundle(bundle_path(task), manifest_sha256=pins.get(task.name))
        bundles[task.name] = shared.setdefault((bundle.root, bundle.manifest_sha256), bundle)
    return bundles


def bundle_path(task: TaskSpec) -> Path:
    """The directory of a task's bundle.

    Raises:
        InputError: the task set gives a model or costs instead.
        BundleError: it is not there.
    """
    if task.bundle is None:
        raise InputError(
            f"task {task.name!r} has no bundle to run; with bundle = ..., `preemptc plan"
            " --compile` makes one of its model, `preempt-rt simulate` runs on costs"
        )
    try:
        task.bundle.lstat()
    except FileNotFoundError as err:  # the task set's reader lets this pass where there is a model
        raise BundleError(
            f"task {task.name!r}: {task.bundle}: no such bundle; make it of the task's model with"
            " `preemptc plan TASKSET --compile`"
        ) from err
    except OSError:
        pass  # whoever opens it says what is wrong
    return task.bundle


def check_taskset_output(path: Path, taskset: TaskSetSpec, what: str) -> None:
    """Return if a command that reads the task set may write `what`, such as `the trace`, there.

    Raises:
        InputError: there is no such directory, or it is an input of the command.
    """
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: no directory to write {what} into; make it first")
    bundles = [task.bundle for task in taskset.tasks if task.bundle is not None]
    check_output(path, files=taskset.files, folders=bundles)


@contextlib.contextmanager
def load_taskset(
    taskset: TaskSetSpec,
    bundles: Mapping[str, Bundle],
    find_backend: FindBackend,
    gates: GateMode | None = None,
) -> Iterator[LoadedTaskSet]:
    """The tasks and their networks; closed on exit.

    Args:
        taskset: what to load.
        bundles: of its tasks, by their names.
        find_backend: what runs them.
        gates: load them on a device with gates in that mode; None: on one without.

    Raises:
        BundleError: no plan of a bundle fits this machine, a file is damaged, or the bundles are
            made for different backends.
        GatesError: there are no gates on this machine, or a network cannot have them.
        DeviceError: the device or its library refused.
        InputError: recorded inputs do not fit their network.
    """
    backend = find_backend(_common_backend(taskset, bundles, find_backend))
    hazards = backend.hazards(is_warm=False)
    with ExitStack() as stack:
        device: LoadingDevice | LoadingGatedDevice
        device = backend.open_device() if gates is None else backend.open_gated_device(gates)
        stack.enter_context(contextlib.closing(device))
        networks: dict[tuple[Path, str, str], Network] = {}
        tasks = []
        for spec in taskset.tasks:
            bundle = bundles[spec.name]
            mechanisms = (SEGMENTS,) if gates is None else GATES_FIRST
            plan = plan_to_load(bundle, spec.plan, backend, taskset.threads, mechanisms)
            identity = (bundle.root, bundle.manifest_sha256, plan.id)
            if identity not in networks:
                networks[identity] = device.load(bundle, plan.id)
                stack.callback(networks[identity].close)
            network = networks[identity]
            samples = _samples(spec, network.graph)
            tasks.append(
                LoadedTask(spec=spec, bundle=bundle, plan=plan, network=network, samples=samples)
            )
        yield LoadedTaskSet(
            device=device, tasks=tuple(tasks), backend=backend, hazards=hazards, gates=gates
        )


def _common_backend(
    taskset: TaskSetSpec, bundles: Mapping[str, Bundle], find_backend: FindBackend
) -> str:
    names = {
        task.name: backend_name(bundles[task.name], task.plan, find_backend, taskset.threads)
        for task in taskset.tasks
    }
    if len(set(names.values())) > 1:
        found = ", ".join(f"{backend!r} of task {task!r}" for task, backend in names.items())
        raise BundleError(
            f"{taskset.path}: the bundles need different backends: {found};"
            " one process runs one device, compile them for the same target"
        )
    return next(iter(names.values()))


def _samples(spec: TaskSpec, graph: GraphSpec) -> tuple[Mapping[str, Array], ...]:
    if spec.inputs is None:
        return (random_inputs(graph, seed=spec.seed, task=spec.name),)
    return read_inputs(spec.inputs, graph)
