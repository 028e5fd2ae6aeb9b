"""TensorRT's Python bindings on a machine without TensorRT: the small wheel, and empty libraries.

The wheel is NVIDIA's and stays out of the repository; it lies in the cache after the first use.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

from tests.packaging.tensorrt_names import Api

CACHE = Path(__file__).parents[2] / "build_cache" / "bindings"
_PIP_LIMIT_S = 10
_PIP_DOWNLOAD = [
    *(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"),
    *("--no-deps", "--only-binary=:all:", "--retries", "0", "--timeout", "5"),
]
_NEEDED = re.compile(r"\(NEEDED\).*\[(libnv\S+)\]")
_ENTRY_POINT = re.compile(r" FUNC +GLOBAL +DEFAULT +UND (\w+)$", re.MULTILINE)  # has no version
_LIST_NAMES = """
import inspect, json, sys
sys.path.insert(0, sys.argv[1])
import tensorrt_bindings

def names(owner, prefix=""):
    for name in dir(owner):
        yield prefix + name
        member = inspect.getattr_static(owner, name, None)
        if isinstance(member, type) and not name.startswith("__") and prefix.count(".") < 3:
            yield from names(member, f"{prefix}{name}.")

print(json.dumps([tensorrt_bindings.__version__, sorted(names(tensorrt_bindings))]))
"""


def read_api(version: str, folder: Path) -> Api:
    """The names of one TensorRT; skips the test if the tools or the network are missing."""
    for tool in ("gcc", "readelf"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed; the stub libraries need it")
    with zipfile.ZipFile(_wheel(version)) as wheel:
        wheel.extractall(folder)
    libraries = _make_stubs(folder / "tensorrt_bindings" / "tensorrt.so", folder / "stubs")
    code = [sys.executable, "-c", _LIST_NAMES, str(folder)]
    found, names = json.loads(_run(*code, LD_LIBRARY_PATH=str(libraries)))
    assert found == version
    return Api(version=version, names=frozenset(names))


def _wheel(version: str) -> Path:
    """The wheel for this Python, built for CUDA 12 or else 13; both have the same names."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    pattern = f"tensorrt_cu1[23]_bindings-{version}-{tag}-*_{platform.machine()}.whl"
    if not (wheels := sorted(CACHE.glob(pattern))):
        wheels = [_download(version)]
    return wheels[0]


def _download(version: str) -> Path:
    CACHE.mkdir(parents=True, exist_ok=True)
    said = ""
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        for package in ("tensorrt-cu12-bindings", "tensorrt-cu13-bindings"):
            wanted = [*_PIP_DOWNLOAD, "--dest", folder, f"{package}=={version}"]
            try:
                done = subprocess.run(wanted, capture_output=True, text=True, timeout=_PIP_LIMIT_S)
            except subprocess.TimeoutExpired:
                said = f"no answer in {_PIP_LIMIT_S} s"
                break
            if done.returncode == 0:
                (wheel,) = Path(folder).glob("*.whl")
                return wheel.replace(CACHE / wheel.name)
            errors = [line for line in done.stderr.splitlines() if "ERROR" in line or "No " in line]
            said = said or "; ".join(errors) or done.stderr.strip()
            if "from versions: none" in done.stderr:  # the index does not answer
                break
    pytest.skip(f"pip gets no wheel of TensorRT {version}: {said}")


def _make_stubs(binding: Path, folder: Path) -> Path:
    """A folder with the libraries that a binding is linked against, which do nothing.

    They define each of its symbols that no library of the system does, and return 0.
    """
    folder.mkdir()
    libraries = _NEEDED.findall(_run("readelf", "-W", "--dynamic", str(binding)))
    symbols = _ENTRY_POINT.findall(_run("readelf", "-W", "--dyn-syms", str(binding)))
    assert libraries, f"{binding} needs no TensorRT library"
    source = folder / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols))
    stub = folder / "stub.so"
    _run("gcc", "-shared", "-fPIC", "-o", str(stub), str(source))
    for library in libraries:
        (folder / library).symlink_to(stub)
    return folder


def _run(*command: str, **environment: str) -> str:
    variables = {**os.environ, "LC_ALL": "C", **environment}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
