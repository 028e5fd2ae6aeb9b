"""The versions of the ONNX tools: cached results depend on them."""

import onnx
import onnx_graphsurgeon

ONNX_VERSION: str = onnx.__version__
LIBRARY_VERSIONS = {"onnx": ONNX_VERSION, "onnx_graphsurgeon": onnx_graphsurgeon.__version__}


def folding_version() -> str | None:
    """Version of the ONNX Runtime with which constants are folded; None if there is none."""
    try:
        import onnxruntime
    except ImportError:
        return None
    version: str | None = getattr(onnxruntime, "__version__", None)
    return version
