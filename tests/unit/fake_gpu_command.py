"""`preemptc` on a fake GPU with a fake TensorRT: `python -m tests.unit.fake_gpu_command ...`.

FAKE_TENSORRT is the version, FAKE_STEPS how many steps each build takes.
"""

import os
import signal

import pytest

from preemptc.start import main
from tests.runtime.tensorrt_world import install
from tests.unit.fake_trt_builder import FakeBuilder

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    trt = install(pytest.MonkeyPatch(), os.environ["FAKE_TENSORRT"], memory_bytes=1 << 28)
    fake = FakeBuilder(trt)
    fake.steps = int(os.environ["FAKE_STEPS"])
    fake.stays_in_the_library = os.environ["FAKE_TENSORRT"].startswith("8")
    main()
