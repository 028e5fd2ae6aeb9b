"""The source graph by ONNX Runtime on the CPU: what every target is checked against."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preempt_runtime.backends.ort import default_threads, library_version, open_session
from preempt_runtime.errors import BuildError
from preemptc.backends import Tensors
from preemptc.onnx_io.files import one_line


class SourceReference:
    """One session of the source graph, opened at the first run."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._path, self._threads = path, threads or default_threads()
        self._session: Any = None

    def outputs(self, names: Sequence[str], inputs: Tensors) -> dict[str, Any]:
        """The named outputs.

        Raises:
            DeviceError: ONNX Runtime is missing or broken.
            BuildError: the source graph does not run, with ONNX Runtime's text.
        """
        library_version()
        try:
            if self._session is None:
                self._session = open_session(self._path, self._threads)
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as err:  # onnxruntime raises its own classes, without a common root
            raise BuildError(f"the source graph does not run: {one_line(err)}") from err
