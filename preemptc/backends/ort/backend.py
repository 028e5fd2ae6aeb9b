"""The CPU target: ONNX Runtime behind the seam of `preemptc.backends`."""

from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from preempt_runtime.backends.ort import default_threads, local_fields
from preempt_runtime.device import MAX_THREADS
from preempt_runtime.errors import InputError
from preempt_runtime.manifest import hash_key
from preemptc.backends import BackendOptions, Progress, silent
from preemptc.backends.ort.bench import OrtBench
from preemptc.backends.ort.estimate import estimate
from preemptc.backends.ort.lower import lower, read_lowered
from preemptc.backends.ort.profiler import profile
from preemptc.model import Lowered, Model
from preemptc.profile import LatencyProfile

_FATAL = 4  # severity in ONNX Runtime's own scale


class OrtBackend:
    """ONNX Runtime with a fixed number of threads."""

    target = "cpu"
    is_portable = False

    def __init__(self, threads: int | None) -> None:
        if threads is not None and not 1 <= threads <= MAX_THREADS:
            raise InputError(f"--threads {threads}: allowed are 1 to {MAX_THREADS}")
        self.threads = threads or default_threads()
        ort.set_default_logger_severity(_FATAL)  # it tells errors in colours that it raises, too

    def key_fields(self, model: Model) -> Mapping[str, str | int]:
        """Graph, library version, processor and threads."""
        return {
            **local_fields(),
            "graph_sha256": model.digest,
            "options": "optimised=all named=outputs",
            "threads": self.threads,
        }

    def lower(self, model: Model, folder: Path, progress: Progress = silent) -> None:
        """Write the graph that ONNX Runtime optimises for this machine into `folder`."""
        lower(model, folder, self.threads)

    def read_lowered(self, model: Model, folder: Path) -> Lowered:
        """The graph that `lower` wrote."""
        fields = self.key_fields(model)
        return read_lowered(
            model, folder, target=self.target, key=hash_key(fields), key_fields=fields
        )

    def estimate(self, lowered: Lowered) -> LatencyProfile:
        """Costs by roofline."""
        return estimate(lowered, self.threads)

    def profile(self, lowered: Lowered, progress: Progress) -> LatencyProfile:
        """Costs measured on this machine."""
        return profile(lowered, self.threads, progress)

    def bench(self, model: Model, lowered: Lowered, progress: Progress = silent) -> OrtBench:
        """Sessions of this graph's segments, their files beside the graph's weights."""
        return OrtBench(model, lowered, self.threads, progress)


def open_backend(target: str, options: BackendOptions) -> OrtBackend:
    """The backend of the CPU target.

    Raises:
        InputError: an option that is for GPUs.
    """
    if options.precision is not None or options.level is not None:
        raise InputError("--precision and --opt-level are for GPU targets; leave them out for cpu")
    if options.engines == "skip":
        raise InputError("--engines skip is for GPU targets; a bundle for cpu needs its graphs")
    return OrtBackend(options.threads)
