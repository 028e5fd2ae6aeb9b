"""What the names in a source stand for: a chain on TensorRT's module, or a value that is known."""

import ast
import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass

_ROOTS = frozenset({"trt", "tensorrt"})
_UNTYPED = re.compile(r"['\"]?(Any|object)\b( \| None)?|.*\b(trt|tensorrt)\..*")
_FUNCTIONS = {"bool": bool, "int": int, "len": len, "map": map, "str": str, "tuple": tuple}
UNKNOWN = object()


class _Present:
    """Stands for an attribute that exists: it is not None, and nothing else is known of it."""

    def __eq__(self, other: object) -> bool:
        raise TypeError("not known")

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One TensorRT: its version, and dotted names such as `BuilderFlag.FP16`."""

    version: str
    names: frozenset[str]

    def has(self, path: str) -> bool:
        """Whether a chain exists; what hangs on a value that is no class is not looked at."""
        if path in self.names:
            return True
        owner = path.rpartition(".")[0]
        is_class = any(name.startswith(f"{owner}.") for name in self.names)
        return owner != "" and not is_class and self.has(owner)


class Names:
    """The names of one file where the scan stands; with an `api` also what that decides.

    `paths` has the chain of a name, None for a thing of ours; `functions` the values that
    functions of any file return. An object has the chain of its class, the module has "".
    """

    def __init__(
        self, instances: Mapping[str, str], api: Api | None, functions: dict[str, object]
    ) -> None:
        self.paths: dict[str, str | None] = {}
        self.values: dict[str, object] = {}
        self.functions = functions
        self._instances, self._api = instances, api

    def path(self, node: ast.AST) -> str | None:
        """The chain of an expression, if it comes from TensorRT."""
        if isinstance(node, ast.Call):
            return self._path_of_call(node)
        if not isinstance(node, ast.Name | ast.Attribute):
            return None
        if (key := ast.unparse(node)) in self.paths:
            return self.paths[key]
        if isinstance(node, ast.Attribute) and (owner := self.path(node.value)) is not None:
            return f"{owner}.{node.attr}".lstrip(".")
        name = last_name(node).lstrip("_")
        return "" if name in _ROOTS else self._instances.get(name)

    def _path_of_call(self, call: ast.Call) -> str | None:
        is_import = ast.unparse(call).endswith("import_module('tensorrt')")
        if is_import or last_name(call.func) == "library":
            return ""
        if (key := f"{last_name(call.func).lstrip('_')}()") in self._instances:
            return self._instances[key]
        is_getattr = last_name(call.func) == "getattr"
        path = (self.member(call) if is_getattr else self.path(call.func)) or ""
        return path if path.rpartition(".")[2][:1].isupper() else None  # classes have capitals

    def member(self, call: ast.Call) -> str | None:
        """The chain that a hasattr, getattr or setattr looks at, `OWNER.*` if it is computed."""
        if last_name(call.func) not in ("hasattr", "getattr", "setattr") or len(call.args) < 2:
            return None
        owner, name = self.path(call.args[0]), call.args[1]
        if owner is None:
            return None
        member = str(name.value) if isinstance(name, ast.Constant) else "*"
        return f"{owner}.{member}".lstrip(".")

    def known(self, node: ast.AST) -> object:
        """What the version and the API say of an expression, without computing."""
        if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in self.values:
            return self.values[ast.unparse(node)]
        if self._api is None:
            return UNKNOWN
        if isinstance(node, ast.Attribute) and self.path(node) == "__version__":
            return self._api.version
        if not isinstance(node, ast.Call):
            return UNKNOWN
        path = self.member(node)
        if path is None or path.endswith("*"):
            return self.functions.get(last_name(node.func), UNKNOWN)
        if last_name(node.func) == "hasattr":
            return self._api.has(path)
        default = node.args[2] if len(node.args) > 2 else None
        absent = default.value if isinstance(default, ast.Constant) else UNKNOWN
        return _Present() if self._api.has(path) else absent

    def value(self, node: ast.expr) -> object:
        """What an expression comes to, if what is known decides it."""
        folder = _Folder(self)
        expression = ast.Expression(folder.fold(copy.deepcopy(node)))
        if not folder.found:
            return UNKNOWN
        try:
            code = compile(ast.fix_missing_locations(expression), "scanned", "eval")
            return eval(code, {"__builtins__": _FUNCTIONS, **folder.found})
        except Exception:  # it takes more than is known
            return UNKNOWN

    def truth(self, test: ast.expr) -> bool | None:
        """Whether a branch is taken, or None."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            truth = self.truth(test.operand)
            return None if truth is None else not truth
        if isinstance(test, ast.BoolOp):
            truths, decisive = [self.truth(each) for each in test.values], is_or(test)
            return decisive if decisive in truths else None if None in truths else not decisive
        value = self.value(test)
        try:
            return None if value is UNKNOWN else bool(value)
        except TypeError:
            return None

    def bind(self, target: ast.expr, value: ast.expr) -> None:
        """A name stands for an expression from here on."""
        key, path, known = ast.unparse(target), self.path(value), self.value(value)
        is_made_here = isinstance(value, ast.Call) and last_name(value.func)[:1].isupper()
        is_ours = path is None and (is_made_here or ast.unparse(value) in self.paths)
        self.forget(key)
        if is_ours or path is not None:
            self.paths[key] = path
        if known is not UNKNOWN:
            self.values[key] = known

    def declare(self, key: str, annotation: ast.expr | None) -> None:
        """A name is of this type: of ours, unless it is one that says nothing."""
        self.forget(key)
        if annotation is not None and not _UNTYPED.fullmatch(ast.unparse(annotation)):
            self.paths[key] = None

    def forget(self, key: str) -> None:
        """Nothing is known of a name but the name."""
        self.paths.pop(key, None)
        self.values.pop(key, None)

    def copy(self) -> tuple[dict[str, str | None], dict[str, object]]:
        """What is known where a function begins."""
        return dict(self.paths), dict(self.values)

    def restore(self, before: tuple[dict[str, str | None], dict[str, object]]) -> None:
        """Forget a function's own names; an object keeps its attributes."""
        paths = {key: path for key, path in self.paths.items() if key.startswith("self.")}
        values = {key: value for key, value in self.values.items() if key.startswith("self.")}
        self.paths, self.values = before[0] | paths, before[1] | values


class _Folder(ast.NodeTransformer):
    """Puts a variable for each part of an expression that is known."""

    def __init__(self, names: Names) -> None:
        self.found: dict[str, object] = {}
        self._names = names

    def fold(self, node: ast.expr) -> ast.expr:
        folded = self.visit(node)
        assert isinstance(folded, ast.expr)
        return folded

    def visit(self, node: ast.AST) -> ast.AST:
        known = self._names.known(node)
        if known is UNKNOWN:
            return self.generic_visit(node)
        name = f"_known_{len(self.found)}"
        self.found[name] = known
        return ast.Name(name, ast.Load())


def last_name(node: ast.AST) -> str:
    """`c` of `a.b.c`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_or(node: ast.BoolOp) -> bool:
    """Whether it is `or`, which one true value decides; one false value decides `and`."""
    return isinstance(node.op, ast.Or)
