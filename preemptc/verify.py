"""Verify a bundle where it is to run: its files, then its plans' outputs against the whole's."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from preempt_runtime.bundle import Bundle, choose_plan, open_bundle
from preempt_runtime.device import Array, Network
from preempt_runtime.errors import BuildError, BundleError, DeviceError, GatesError
from preempt_runtime.gate_keys import GateRank
from preempt_runtime.inputs import random_inputs, read_inputs
from preempt_runtime.loading import (
    Backend,
    LoadingDevice,
    LoadingGatedDevice,
    backend_name,
    open_backend,
)
from preempt_runtime.manifest import GATES, SEGMENTS, WHOLE_PLAN_ID, GraphSpec, PlanSpec
from preemptc.backends import Progress, Tensors
from preemptc.check import is_close, largest, max_abs_diff, same_bits
from preemptc.onnx_io.files import MODEL_FILE, WEIGHTS_FILE

NUM_RANDOM_INPUTS = 3
_SEED = 0
_GATE_MODE = "exclusive"
_RANK: GateRank = ("best-effort", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCheck:
    """What became of one plan: `skipped` says why it cannot run on this machine.

    A plan that ran was equal to the reference on all of `num_inputs`: bitwise, or within the
    tolerance that the manifest states. The reference of a plan of gates is its own engine without
    gates, and equal is bitwise.
    """

    id: str
    mechanism: str
    num_segments: int
    num_inputs: int
    is_reference: bool
    skipped: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """A bundle that is whole, and whose plans for this machine compute the same.

    A bundle that is not built yet has no such plan: its files were checked, and nothing else.
    """

    bundle: Path
    manifest_sha256: str
    num_files: int
    num_bytes: int
    plans: tuple[PlanCheck, ...]

    @property
    def are_outputs_checked(self) -> bool:
        """Whether any plan was run here."""
        return any(plan.skipped is None for plan in self.plans)


def verify_bundle(
    path: Path, *, inputs: Path | None, manifest_sha256: str | None, progress: Progress
) -> Verification:
    """Hash every file, then run every plan for this machine beside the whole network.

    Raises:
        BundleError: a file differs from the manifest, or plans were built, none for this machine.
        InputError: the recorded inputs do not fit.
        BuildError: an output differs; names it, and by how much.
    """
    progress("verify: files", 0.0)
    bundle = open_bundle(path, manifest_sha256=manifest_sha256)
    bundle.verify_files()
    if any(plan.key is not None for plan in bundle.manifest.plans):
        backend = open_backend(backend_name(bundle, None))
        fields = backend.key_fields()
        # refuses, with what differs, if none fits
        choose_plan(bundle, fields, mechanisms=(SEGMENTS, GATES))
        reasons = {plan.id: _why_not(bundle, plan, fields) for plan in bundle.manifest.plans}
        num_inputs = _check_outputs(bundle, reasons, inputs, backend, progress)
    else:
        reasons = {plan.id: _why_not(bundle, plan, {}) for plan in bundle.manifest.plans}
        num_inputs = {}
    return Verification(
        bundle=bundle.root,
        manifest_sha256=bundle.manifest_sha256,
        num_files=len(bundle.manifest.artefacts),
        num_bytes=sum(artefact.num_bytes for artefact in bundle.manifest.artefacts),
        plans=tuple(
            PlanCheck(
                id=plan.id,
                mechanism=plan.mechanism,
                num_segments=len(plan.segments),
                num_inputs=num_inputs[plan.graph] if reasons[plan.id] is None else 0,
                is_reference=plan.id == WHOLE_PLAN_ID,
                skipped=reasons[plan.id],
            )
            for plan in bundle.manifest.plans
        ),
    )


def _check_outputs(
    bundle: Bundle,
    reasons: dict[str, str | None],
    inputs: Path | None,
    backend: Backend,
    progress: Progress,
) -> dict[str, int]:
    """How many inputs the plans of each graph were run on; those with a reason are left out.

    A plan whose gates cannot be put in here gets a reason.
    """
    num_inputs = {}
    for graph in bundle.manifest.graphs:
        plans = [
            plan
            for plan in bundle.manifest.plans
            if reasons[plan.id] is None and plan.graph == graph.id
        ]
        if plans:
            progress(f"verify: outputs of graph {graph.id}", 0.5)
            sets = _input_sets(graph, inputs)
            _compare_plans(bundle, [p for p in plans if p.mechanism != GATES], sets, backend)
            for plan in plans:
                if plan.mechanism == GATES:
                    reasons[plan.id] = _compare_gates(bundle, plan, sets, backend)
            num_inputs[graph.id] = len(sets)
    return num_inputs


def _why_not(bundle: Bundle, plan: PlanSpec, fields: Mapping[str, str | int]) -> str | None:
    try:
        choose_plan(bundle, fields, plan_id=plan.id, mechanisms=(SEGMENTS, GATES))
    except BundleError as err:
        return str(err)
    return None


def _input_sets(graph: GraphSpec, inputs: Path | None) -> tuple[Tensors, ...]:
    drawn = [
        random_inputs(graph, seed=_SEED + idx, task="verify") for idx in range(NUM_RANDOM_INPUTS)
    ]
    return (*drawn, *(read_inputs(inputs, graph) if inputs else ()))


def _compare_plans(
    bundle: Bundle, plans: Sequence[PlanSpec], sets: Sequence[Tensors], backend: Backend
) -> None:
    check = bundle.manifest.check
    has_whole = any(plan.id == WHOLE_PLAN_ID for plan in plans)
    if not has_whole and (check is None or check.is_against_whole):
        raise BundleError(
            f"{bundle.root}: no plan {WHOLE_PLAN_ID!r} for this machine to compare with;"
            " compile the bundle again"
        )
    with closing(backend.open_device()) as device:
        if has_whole:
            expected = _outputs(device, bundle, WHOLE_PLAN_ID, sets)
        else:  # the library builds the whole wrong: see check.py
            expected = _source_outputs(bundle, sets)
        for plan in plans:
            if plan.id != WHOLE_PLAN_ID:
                _compare(bundle, plan, expected, _outputs(device, bundle, plan.id, sets))


def _compare_gates(
    bundle: Bundle, plan: PlanSpec, sets: Sequence[Tensors], backend: Backend
) -> str | None:
    """Why the plan does not run here, if it does not; else its outputs are right, bit by bit.

    Raises:
        BuildError: an output with gates differs from the one without.
        DeviceError: the GPU or the engine cannot be used.
    """
    path = plan.segments[0].path
    plans = bundle.manifest.plans
    if not any(each.id == WHOLE_PLAN_ID and each.segments[0].path == path for each in plans):
        return f"no plan {WHOLE_PLAN_ID!r} of the same engine to compare with"
    with closing(backend.open_device()) as device:
        expected = _outputs(device, bundle, WHOLE_PLAN_ID, sets)
    try:
        with (
            closing(backend.open_gated_device(_GATE_MODE)) as gated,
            closing(gated.load(bundle, plan.id)) as network,
        ):
            found = [_run_gated(gated, network, inputs) for inputs in sets]
            if given_up := gated.give_ups():
                raise DeviceError(f"{bundle.root}: plan {plan.id!r}: {given_up[0]}; verify again")
    except GatesError as err:
        return str(err)
    _compare(bundle, plan, expected, found)
    return None


def _run_gated(device: LoadingGatedDevice, network: Network, inputs: Tensors) -> dict[str, Array]:
    with closing(network.new_buffers()) as buffers:
        buffers.write_inputs(inputs)
        device.start(buffers, _RANK, is_urgent=False)
        while not device.is_done(buffers):
            pass
        return buffers.read_outputs()


def _outputs(
    device: LoadingDevice, bundle: Bundle, plan_id: str, sets: Sequence[Tensors]
) -> list[dict[str, Array]]:
    """What the plan computes from each set of inputs, through the runtime."""
    with closing(device.load(bundle, plan_id)) as network:
        return [_run(device, network, inputs) for inputs in sets]


def _source_outputs(bundle: Bundle, sets: Sequence[Tensors]) -> list[dict[str, Array]]:
    from preemptc.backends.reference import SourceReference  # with ONNX Runtime

    for name in (MODEL_FILE, WEIGHTS_FILE):
        path = bundle.verified_path(f"graph/{name}")
    source = SourceReference(path.with_name(MODEL_FILE))
    names = [spec.name for spec in bundle.manifest.graphs[0].outputs]
    return [source.outputs(names, inputs) for inputs in sets]


def _run(device: LoadingDevice, network: Network, inputs: Tensors) -> dict[str, Array]:
    # Fresh buffers: nothing of the last run can stand in them.
    with closing(network.new_buffers()) as buffers:
        buffers.write_inputs(inputs)
        for segment_idx in range(len(network.segments)):
            device.launch(buffers, segment_idx, is_urgent=False)
        device.wait()
        return buffers.read_outputs()


def _compare(
    bundle: Bundle,
    plan: PlanSpec,
    expected: Sequence[Mapping[str, Array]],
    found: Sequence[Mapping[str, Array]],
) -> None:
    check = bundle.manifest.check
    frac = check.tolerance_frac if check and plan.mechanism != GATES else 0.0
    is_whole = check is None or check.is_against_whole
    reference = "the whole network's" if is_whole else "the source graph's"
    if plan.mechanism == GATES:
        reference = "the same engine's without gates"
    for idx, (whole, chained) in enumerate(zip(expected, found, strict=True)):
        for name, array in whole.items():
            if same_bits(array, chained[name]) or (frac and is_close(array, chained[name], frac)):
                continue
            raise BuildError(
                f"{bundle.root}: plan {plan.id!r}, inputs {idx}: output {name!r} differs from"
                f" {reference} by {max_abs_diff(array, chained[name]):.3g}, allowed"
                f" {frac * largest(array):.3g}; compile the bundle again on this machine"
            )
