"""NVRTC 12.2 makes the PTX that is committed: `python -m tests.packaging.nvrtc` writes it anew.

CUDA 12.2 is JetPack 6.0's, so no newer compiler may be used: its PTX would not load there. The
wheel nvidia-cuda-nvrtc-cu12 12.2 is for x86_64 alone. It needs no GPU.
"""

import ctypes
import importlib.metadata
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSION = "12.2.140"
_DISTRIBUTION = "nvidia-cuda-nvrtc-cu12"
_STANDARD = b"--std=c++03"  # newer: tables of nv/target


@dataclass(frozen=True, slots=True, kw_only=True)
class PtxFile:
    """A committed PTX file: what it is made of, and the oldest GPU that takes it."""

    path: Path
    source: Path
    capability: int = 75


_GATES, _WORK = ROOT / "runtime/preempt_runtime/backends/kernels", ROOT / "bench/kernels"
FILES = (
    PtxFile(path=_GATES / "gate.ptx", source=_GATES / "gate.cu"),
    PtxFile(path=_GATES / "gate_sm90.ptx", source=_GATES / "gate.cu", capability=90),
    PtxFile(path=_WORK / "work.ptx", source=_WORK / "work.cu"),
)


def missing() -> str | None:
    """Why this NVRTC cannot be used here; None if it can."""
    try:
        found = importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return (
            f"{_DISTRIBUTION} is not installed; `pip install {_DISTRIBUTION}=={VERSION}` (x86_64)"
        )
    return None if found == VERSION else f"{_DISTRIBUTION} is {found}, the PTX is made by {VERSION}"


def compiled_elsewhere(file: PtxFile) -> str:
    """What is made of its source, by another process: NVRTC changes the locale of its own."""
    command = [sys.executable, "-m", "tests.packaging.nvrtc", file.path.name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    return done.stdout.decode()


def compiled(file: PtxFile) -> str:
    """What is made of its source."""
    library = _library()
    program = ctypes.c_void_p()
    text, name = file.source.read_bytes(), file.source.name
    _check(library.nvrtcCreateProgram(ctypes.byref(program), text, name.encode(), 0, None, None))
    architecture = f"--gpu-architecture=compute_{file.capability}".encode()
    options = (ctypes.c_char_p * 2)(architecture, _STANDARD)
    code = library.nvrtcCompileProgram(program, len(options), options)
    log = _text(library, program, "ProgramLog")
    if code != 0:
        raise RuntimeError(f"{name}: NVRTC error {code}: {log}")
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
    """Write all PTX; that of the name given, to stdout."""
    if reason := missing():
        sys.exit(reason)
    if sys.argv[1:]:
        (file,) = [file for file in FILES if file.path.name == sys.argv[1]]
        sys.stdout.buffer.write(compiled(file).encode())
        return
    for file in FILES:
        file.path.write_text(compiled(file), encoding="utf-8")
        print(file.path.relative_to(ROOT))


if __name__ == "__main__":
    main()
