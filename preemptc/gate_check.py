"""Stage check of a plan of gates: with gates an engine computes bit by bit what it does without."""

from collections.abc import Sequence

from preempt_runtime.errors import BuildError
from preempt_runtime.inputs import random_inputs
from preempt_runtime.manifest import CheckSpec, GraphSpec
from preemptc.backends import Bench, GateBench, Tensors
from preemptc.check import (
    NUM_RANDOM_INPUTS,
    AgainstSource,
    check_repeatable,
    max_abs_diff,
    same_bits,
)

REFERENCE = "the same engine without gates"


def check_gates(
    gates: GateBench,
    bench: Bench,
    graph: GraphSpec,
    cuts: Sequence[int],
    *,
    seed: int,
    recorded: Sequence[Tensors] = (),
) -> CheckSpec:
    """Compare the engine with gates against the same without, and that against the source.

    Args:
        gates: where the engine runs with gates and without.
        bench: runs the source graph, and says how far from it the engine may be.
        graph: the network's interface.
        cuts: where the gates stand.
        seed: of random inputs.
        recorded: more inputs, beside the random ones.

    Raises:
        BuildError: a bit of an output differs, or the engine is too far from the source; names
            the output.
    """
    drawn = [
        random_inputs(graph, seed=seed + idx, task="check") for idx in range(NUM_RANDOM_INPUTS)
    ]
    of_engine = AgainstSource(bench.tolerance)
    for idx, inputs in enumerate((*drawn, *recorded)):
        alone = gates.outputs(None, inputs)
        gated = gates.outputs(cuts, inputs)
        if not all(same_bits(array, gated[name]) for name, array in alone.items()):
            check_repeatable(alone, gates.outputs(None, inputs))
            raise BuildError(_difference(alone, gated, idx))
        counts = idx >= len(drawn) or not recorded  # random inputs may be out of a domain
        of_engine.add(bench.source_outputs(inputs), alone, may_be_nan=not counts)
    fault = of_engine.fault("recorded" if recorded else "random")
    if fault is not None:
        raise BuildError(fault)
    return CheckSpec(
        reference=REFERENCE,
        num_inputs=len(drawn) + len(recorded),
        seed=seed,
        bitwise=True,
        max_abs_diff=0.0,
        tolerance_frac=0.0,
        source_max_abs_diff=of_engine.max_abs_diff,
    )


def _difference(alone: Tensors, gated: Tensors, idx: int) -> str:
    name = next(name for name, array in alone.items() if not same_bits(array, gated[name]))
    return (
        f"output {name!r} of the engine with gates differs from that without by"
        f" {max_abs_diff(alone[name], gated[name]):.3g} on inputs {idx}, allowed 0: this is a bug,"
        " please report the model; compile it with --mechanism segments"
    )
