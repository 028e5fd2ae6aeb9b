"""How far ONNX Runtime's optimised graph may be from the source graph."""

from pathlib import Path

import onnx

from preemptc.backends import EXACT, Tolerance
from preemptc.onnx_io.quantized import is_quantized, output_steps

# Integer kernels and the source's floats between DQ and Q round a value that lies in the middle
# to different sides; each such step is a difference for the layers behind. Seen: 3 steps of the
# output, 2.1 % of its largest value (MobileNetV2), 2 steps, 3.1 % (ResNet-50); the float
# network is as far from both (rms, within 5 %). Allowed is twice that, rounded down for the share.
# ONNX Runtime 1.32.0, AVX-512 VNNI, 2026-11-26.
_SOURCE_STEPS = 6
_SOURCE_FRAC = 6e-2


def tolerance_of(source: onnx.ModelProto, folder: Path) -> Tolerance:
    """Bit by bit between segments; from the source, what float sums or quantised layers explain.

    Args:
        folder: where the external weights of `source` are.
    """
    if not is_quantized(source):
        return EXACT
    steps = output_steps(source, folder)
    return Tolerance(
        chained_frac=EXACT.chained_frac,
        source_frac=_SOURCE_FRAC,
        source_limits={name: _SOURCE_STEPS * step for name, step in steps.items()},
        reason="the chain runs the very nodes of the whole graph; integer kernels round what lies"
        " between two steps to another side than the source's floats do, layer after layer",
        advice="ONNX Runtime's integer kernels are too far from the quantised graph here; x86"
        " processors without VNNI saturate int8 sums: quantise with reduce_range=True, or try"
        " another version of ONNX Runtime",
    )
