"""`bench.gate_child` on a fake GPU: `python -m tests.unit.fake_gate_child BUNDLE ...`.

FAKE_FOLDER is where the lock on the GPU stands. With one connection there is one hardware queue.
"""

import os
import sys
from pathlib import Path

import pytest

from bench.gate_child import main
from preempt_runtime.backends import trt_gated
from preempt_runtime.backends.gate_canary import held_up
from tests.runtime.fake_graphs import GraphDriver
from tests.runtime.gated_trt_world import install_graphs

if __name__ == "__main__":
    has_one_queue = os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS") == "1"
    patch = pytest.MonkeyPatch()
    folder = Path(os.environ["FAKE_FOLDER"])
    fake = install_graphs(patch, folder, num_queues=int(has_one_queue)).driver
    assert isinstance(fake, GraphDriver)
    if has_one_queue:
        patch.setattr(trt_gated, "held_up", held_up)
        fake.step_ns = 20_000  # a gate's limit of 50 ms comes soon
    sys.exit(main())
