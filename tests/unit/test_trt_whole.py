"""A plan of one segment takes the whole network's engine: building it again takes minutes."""

from pathlib import Path
from typing import Any

import pytest

from preempt_runtime.errors import BuildError
from preemptc.backends import silent
from preemptc.backends.tensorrt.backend import TrtBackend
from preemptc.backends.tensorrt.bench import WHOLE_ENGINE, TrtBench
from preemptc.backends.tensorrt.engine_builder import EngineOptions
from preemptc.cache import BuildCache
from preemptc.load import load
from preemptc.targets import TARGETS
from tests.unit import onnx_models as models


class _RefusingBuilder:
    build_ns = 0

    def build(self, *args: Any, **kwargs: Any) -> bytes:
        raise BuildError("asked to build")


def test_the_segment_of_all_nodes_is_the_whole_network_s_engine(tmp_path: Path) -> None:
    model = load(
        models.save(models.chain(), tmp_path / "net.onnx"), {}, BuildCache(tmp_path / "cache")
    )
    options = EngineOptions(precision="fp32", level=3)
    backend = TrtBackend(TARGETS["orin"], options, is_portable=True, cache=None)
    folder = tmp_path / "lowered"
    folder.mkdir()
    backend.lower(model, folder, silent)
    (folder / WHOLE_ENGINE).write_bytes(b"engine")
    lowered = backend.read_lowered(model, folder)
    bench = TrtBench(model, lowered, _RefusingBuilder())  # type: ignore[arg-type]
    assert bench.build(0, lowered.graph.num_nodes) == folder / WHOLE_ENGINE
    assert bench.num_built == 0
    with pytest.raises(BuildError, match="asked to build"):
        bench.build(0, 1)
