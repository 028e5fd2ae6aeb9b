"""The scan of sources for TensorRT's names, on small sources and a small TensorRT."""

import textwrap

import pytest

from tests.packaging.tensorrt_api import Use, missing, scan
from tests.packaging.tensorrt_names import Api

INSTANCES = {"engine": "ICudaEngine", "config": "IBuilderConfig", "read()": "ICudaEngine"}
NEW = Api(
    version="10.3.0",
    names=frozenset(
        {
            *("__version__", "Logger", "Logger.Severity", "Logger.Severity.ERROR", "float16"),
            *("BuilderFlag", "BuilderFlag.TF32", "Strategy", "Strategy.USER_MANAGED"),
            *("Builder", "Builder.create_network", "INetworkDefinition.num_inputs"),
            *("ICudaEngine", "ICudaEngine.name", "ICudaEngine.size_v2", "IBuilderConfig.level"),
        }
    ),
)


def _paths(source: str, api: Api | None = None) -> set[str]:
    uses = scan({"a.py": textwrap.dedent(source)}, INSTANCES, api)
    return {use.path for use in uses if not use.is_optional}


def _missing(source: str) -> set[str]:
    uses = scan({"a.py": textwrap.dedent(source)}, INSTANCES, NEW)
    return {use.path for use in missing(uses, NEW)}


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("trt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("import tensorrt\ntensorrt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("import tensorrt as rt\nrt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("from tensorrt import BuilderFlag as Flag\nFlag.FP16", "BuilderFlag.FP16"),
        ("library().BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("backend.library().BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("x = library()\nx.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("x = importlib.import_module('tensorrt')\nx.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("self._trt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("flag = trt.BuilderFlag\nflag.FP16", "BuilderFlag.FP16"),
        ("class A(trt.ILogger): pass", "ILogger"),
        ("trt.Builder(log).create_network(0)", "Builder.create_network"),
        ("b = trt.Builder(log)\nb.create_network(0)", "Builder.create_network"),
        ("getattr(trt.BuilderFlag, 'FP16')", "BuilderFlag.FP16"),
        ("getattr(trt.BuilderFlag, name)", "BuilderFlag.*"),
        ("engine.name", "ICudaEngine.name"),
        ("segment._engine.name", "ICudaEngine.name"),
        ("engine = open(blob)\nengine.name", "ICudaEngine.name"),
        ("self._read(blob).name", "ICudaEngine.name"),
        ("x = read(blob)\nx.name", "ICudaEngine.name"),
        ("engine = File(blob)\n(engine,) = engines\nengine.name", "ICudaEngine.name"),
        ("x = trt.BuilderFlag\nx = x.FP16", "BuilderFlag.FP16"),
        ("x, y = trt.BuilderFlag, trt.Builder\nx.FP16", "BuilderFlag.FP16"),
        ("config.level = 3", "IBuilderConfig.level"),
        ("setattr(config, 'level', 3)", "IBuilderConfig.level"),
        ("def f(engine: Any | None): engine.name", "ICudaEngine.name"),
        ("def f(engine: 'trt.ICudaEngine'): engine.name", "ICudaEngine.name"),
    ],
)
def test_a_use_is_found(source: str, path: str) -> None:
    assert path in _paths(source)


def test_attributes_are_found_before_the_method_that_sets_them() -> None:
    source = """
        class A:
            def use(self): return self._b.create_network(0)
            def __init__(self): self._b = library().Builder(None)
    """
    assert _paths(source) == {"Builder", "Builder.create_network"}


@pytest.mark.parametrize(
    "source",
    [
        "def f(engine: EngineFile): engine.read()",
        "def f(engine: EngineFile):\n  self._engine = engine\n  self._engine.read()",
        "class A:\n  engine: EngineFile\n  def f(self): return self.engine.read()",
        "engine = EngineFile(path)\nengine.read()",
        "from preempt_runtime.backends import tensorrt\ntensorrt.EngineLogger()",
        "def f(engine: EngineFile):\n  self._engine, x = engine, 1\n  self._engine.read()",
        "model.engines.read()",
        "for read in engines: read.name",
    ],
)
def test_things_of_ours_are_left_alone(source: str) -> None:
    assert _paths(source) == set()


def test_a_file_can_name_things_of_ours() -> None:
    sources = {"a.py": "engine.x", "b.py": "engine.y"}
    (use,) = scan(sources, INSTANCES, ours={"a.py": ("engine",)})
    assert use == Use(path="ICudaEngine.y", file="b.py", line=1)
    assert str(use) == "ICudaEngine.y (b.py:1)"


def test_a_name_of_one_function_says_nothing_in_another() -> None:
    source = """
        def f(): x = trt.BuilderFlag; x.TF32
        def g(): x.FP16
    """
    assert _paths(source) == {"BuilderFlag", "BuilderFlag.TF32"}


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("trt.BuilderFlag.FP16", "BuilderFlag.FP16"),
        ("trt.Nothing", "Nothing"),
        ("trt.Nothing.at_all", "Nothing.at_all"),
        ("trt.Logger.Severity.WORSE", "Logger.Severity.WORSE"),
        ("engine.size", "ICudaEngine.size"),
        ("if hasattr(engine, 'size_v2'): engine.size", "ICudaEngine.size"),
        ("if not hasattr(engine, 'size'): engine.old", "ICudaEngine.old"),
        ("if int(trt.__version__.split('.')[0]) >= 10: engine.size", "ICudaEngine.size"),
        ("if major < 10: engine.size", "ICudaEngine.size"),
        ("if cheap and hasattr(engine, 'size_v2'): engine.size", "ICudaEngine.size"),
        ("x = trt.__version__\nx = '8'\nif x == '8': engine.size", "ICudaEngine.size"),
        ("s = getattr(trt, 'Nothing', None)\ns.MEMBER", "Nothing.MEMBER"),
        ("s = getattr(trt, 'Strategy', 0)\nif s == 1: engine.size", "ICudaEngine.size"),
    ],
)
def test_what_a_version_lacks_is_missing(source: str, path: str) -> None:
    assert path in _missing(source)


@pytest.mark.parametrize(
    "source",
    [
        "trt.BuilderFlag.TF32.value",
        "trt.Logger.Severity.ERROR",
        "trt.float16; trt.__version__",
        "if hasattr(engine, 'size'): engine.size",
        "engine.size_v2 if hasattr(engine, 'size_v2') else engine.size",
        "has_new = hasattr(engine, 'size_v2')\nif not has_new: engine.size",
        "hasattr(engine, 'size') and engine.size",
        "if cheap and hasattr(engine, 'size'): engine.size",
        "if cheap or not hasattr(engine, 'size'): pass\nelse: engine.size",
        "getattr(engine, 'size', None)",
        "if getattr(engine, 'size', None) is not None: engine.size",
        "s = getattr(trt, 'Nothing', None)\nif s is not None: s.MEMBER",
        "s = getattr(trt, 'Strategy', None)\nif s is None: engine.size\nelse: s.USER_MANAGED",
        "major = int(trt.__version__.split('.')[0])\nif major < 10: engine.size",
        "if trt.__version__.startswith('8.'): engine.size",
        "if precise and trt.__version__.startswith('8.'): engine.size",
        "v = tuple(map(int, trt.__version__.split('.')[:2]))\nif v < (10, 3): engine.size",
        "def f():\n  if hasattr(engine, 'size_v2'):\n    return 1\n  return engine.size",
        "def major(): return int(trt.__version__.split('.')[0])\nif major() == 8: engine.size",
        "if major(trt) == 8: engine.size\ndef major(x): return int(x.trt.__version__[:2])",
        "class A:\n  def __init__(self): self._v2 = hasattr(engine, 'size_v2')\n"
        "  def f(self):\n    if not self._v2: engine.size",
    ],
)
def test_what_a_version_cannot_reach_may_lack(source: str) -> None:
    assert _missing(source) == set()


def test_a_chain_can_be_optional() -> None:
    uses = scan({"a.py": "engine.size; engine.volume"}, INSTANCES, NEW)
    assert [use.path for use in missing(uses, NEW, {"ICudaEngine.size"})] == ["ICudaEngine.volume"]


def test_functions_are_known_across_files() -> None:
    sources = {
        "a.py": "if major() == 8: engine.size",
        "b.py": "def major():\n  '''The first number.'''\n  return int(trt.__version__[:2])",
    }
    assert missing(scan(sources, INSTANCES, NEW), NEW) == ()
