"""NVRTC 12.2 makes the PTX that is committed: `python -m tests.packaging.nvrtc` writes it anew.

CUDA 12.2 is JetPack 6.0's, so no newer compiler may be used: its PTX would not load there. The
wheel nvidia-cuda-nvrtc-cu12 12.2 is for x86_64 alone. It needs no GPU.
"""

import ctypes
import importlib.metadata
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = (
    ROOT / "runtime/preempt_runtime/backends/kernels/gate.cu",
    ROOT / "bench/kernels/work.cu",
)
VERSION = "12.2.140"
_DISTRIBUTION = "nvidia-cuda-nvrtc-cu12"
_OPTIONS = (b"--gpu-architecture=compute_75", b"--std=c++03")  # newer: tables of nv/target


def missing() -> str | None:
    """Why this NVRTC cannot be used here; None if it can."""
    try:
        found = importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return (
            f"{_DISTRIBUTION} is not installed; `pip install {_DISTRIBUTION}=={VERSION}` (x86_64)"
        )
    return None if found == VERSION else f"{_DISTRIBUTION} is {found}, the PTX is made by {VERSION}"


def compiled_elsewhere(source: Path) -> str:
    """The PTX of a CUDA C file, by another process: NVRTC changes the locale of its own."""
    command = [sys.executable, "-m", "tests.packaging.nvrtc", str(source)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return done.stdout.decode()


def compiled(source: Path) -> str:
    """The PTX of a CUDA C file."""
    library = _library()
    program = ctypes.c_void_p()
    text = source.read_bytes()
    _check(
        library.nvrtcCreateProgram(ctypes.byref(program), text, source.name.encode(), 0, None, None)
    )
    options = (ctypes.c_char_p * len(_OPTIONS))(*_OPTIONS)
    code = library.nvrtcCompileProgram(program, len(_OPTIONS), options)
    log = _text(library, program, "ProgramLog")
    if code != 0:
        raise RuntimeError(f"{source.name}: NVRTC error {code}: {log}")
    return _text(library, program, "PTX")


def _library() -> ctypes.CDLL:
    files = importlib.metadata.files(_DISTRIBUTION) or []
    (found,) = [file for file in files if file.name == "libnvrtc.so.12"]
    path = Path(str(found.locate()))
    ctypes.CDLL(str(path.with_name("libnvrtc-builtins.so.12.2")), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


def _text(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    _check(getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.value.decode()


def _check(code: int) -> None:
    if code != 0:
        raise RuntimeError(f"NVRTC error {code}")


def main() -> None:
    """Write the PTX beside each source; of the one named, to stdout."""
    if reason := missing():
        sys.exit(reason)
    if sys.argv[1:]:
        sys.stdout.buffer.write(compiled(Path(sys.argv[1])).encode())
        return
    for source in SOURCES:
        source.with_suffix(".ptx").write_text(compiled(source), encoding="utf-8")
        print(source.with_suffix(".ptx").relative_to(ROOT))


if __name__ == "__main__":
    main()
