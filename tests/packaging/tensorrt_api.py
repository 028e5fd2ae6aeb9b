"""Which TensorRT attributes a source uses, and which of them one TensorRT lacks.

Followed are chains on the module (`trt`, `tensorrt`, `self._trt`, the result of `library()`),
names bound to such a chain, objects of TensorRT's classes, and variables that are named as such
an object is by custom. Branches that the version, `hasattr(x, "NAME")` or
`getattr(x, "NAME", default)` rule out for a TensorRT are left out for it.
"""

import ast
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from tests.packaging.tensorrt_names import Api, Names, is_or, last_name

_LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Use:
    """A place that uses a chain; `OWNER.*` where the member's name is computed."""

    path: str
    file: str
    line: int
    is_optional: bool = False

    def __str__(self) -> str:
        return f"{self.path} ({self.file}:{self.line})"


def scan(
    sources: Mapping[str, str],
    instances: Mapping[str, str],
    api: Api | None = None,
    ours: Mapping[str, Iterable[str]] | None = None,
) -> tuple[Use, ...]:
    """Every use in the sources, or with an `api` those that its version can reach.

    Args:
        sources: text by file name.
        instances: TensorRT's class by the name, without leading underscores, of a variable or
            of a function with `()`.
        api: of one TensorRT.
        ours: by file, the variables of such a name that hold something else there.
    """
    functions: dict[str, object] = {}
    scanners = []
    for file, text in sources.items():
        not_theirs = set((ours or {}).get(file, ()))
        known = {name: theirs for name, theirs in instances.items() if name not in not_theirs}
        scanners.append((_Scanner(file, Names(known, api, functions)), ast.parse(text)))
    for _ in range(2):  # the second time with the functions and attributes that the first found
        for scanner, tree in scanners:
            scanner.uses.clear()
            scanner.visit(tree)
    return tuple(sorted(use for scanner, _ in scanners for use in scanner.uses))


def missing(uses: Iterable[Use], api: Api, optional: Collection[str] = ()) -> tuple[Use, ...]:
    """The uses that this TensorRT has not, but must have.

    Args:
        uses: of `scan` with this `api`.
        api: of one TensorRT.
        optional: chains that are guarded in a way that the scan does not see.
    """
    return tuple(
        use
        for use in uses
        if not (use.is_optional or use.path in optional or api.has(use.path.removesuffix(".*")))
    )


class _Scanner(ast.NodeVisitor):
    """Walks one file in the order of its statements."""

    def __init__(self, file: str, names: Names) -> None:
        self.uses: set[Use] = set()
        self._file, self._names = file, names
        self._is_in_class = False

    def generic_visit(self, node: ast.AST) -> None:
        for _, field in ast.iter_fields(node):
            for each in field if isinstance(field, list) else [field]:
                if isinstance(each, ast.AST):
                    self.visit(each)
                if isinstance(each, ast.If) and self._leaves(each):
                    break

    def _leaves(self, node: ast.If) -> bool:
        """Whether what follows an `if` is never reached."""
        taken = {True: node.body, False: node.orelse, None: []}[self._names.truth(node.test)]
        return bool(taken) and isinstance(taken[-1], _LEAVES)

    def _use(self, path: str, line: int, *, is_optional: bool = False) -> None:
        self.uses.add(Use(path=path, file=self._file, line=line, is_optional=is_optional))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self._names.path(node)
        if path and self._names.path(node.value) is not None:
            self._use(path, node.lineno)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if (path := self._names.member(node)) is not None:
            function = last_name(node.func)
            has_default = function == "getattr" and len(node.args) > 2
            self._use(path, node.lineno, is_optional=function == "hasattr" or has_default)
        self.generic_visit(node)

    def _visit_branches(self, node: ast.If | ast.IfExp) -> None:
        self.visit(node.test)
        truth = self._names.truth(node.test)
        for branch, is_taken in ((node.body, True), (node.orelse, False)):
            if truth in (None, is_taken):
                statements = branch if isinstance(branch, list) else [branch]
                self.generic_visit(ast.Module(statements, []))  # type: ignore[arg-type]

    visit_If = visit_IfExp = _visit_branches

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for value in node.values:
            self.visit(value)
            if self._names.truth(value) is is_or(node):
                break

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._bind(target, node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._bind(node.target, node.value)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if not isinstance(target, ast.Name):
            self.visit(target)
        if isinstance(target, ast.Name | ast.Attribute):
            self._names.bind(target, value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for each, its_value in zip(target.elts, value.elts, strict=False):
                self._bind(each, its_value)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):  # by a loop, a with, an unpacking or an addition
            self._names.forget(node.id)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        key = ast.unparse(node.target)
        key = f"self.{key}" if self._is_in_class else key
        self._names.declare(key, node.annotation)
        if node.value is not None and key not in self._names.paths:
            self._names.bind(node.target, node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self._is_in_class = self._is_in_class, True
        self.generic_visit(node)
        self._is_in_class = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        names, outer, self._is_in_class = self._names, self._is_in_class, False
        before = names.copy()
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        for argument in arguments:
            names.declare(argument.arg, argument.annotation)
        self.generic_visit(node)
        last = node.body[-1]
        if isinstance(last, ast.Return) and last.value and len(node.body) <= 2:
            names.functions[node.name] = names.value(last.value)
        names.restore(before)
        self._is_in_class = outer

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name == "tensorrt":
                self._names.paths[alias.asname or alias.name] = ""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            if node.module == "tensorrt":
                self._use(alias.name, node.lineno)
            self._names.paths[name] = alias.name if node.module == "tensorrt" else None
