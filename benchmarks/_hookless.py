"""The package twice in one process: as it is, and with telemetry's hooks taken out before it is compiled.

Taken out is what a call and an invocation do to find out that there is no instrument: of each comparison of
``instrument`` and ``served`` with None its outcome is left, with which the compiler drops what depends on it, and
``served`` is no longer handed on.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from types import CodeType, ModuleType
from typing import Any

OF_A_CALL = ("iii_anyio._runtime.calling", "iii_anyio._runtime.dispatch")
NAMES = {"instrument", "served"}


class _WithoutHooks(ast.NodeTransformer):
    def __init__(self) -> None:
        self.removed = 0

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        found = node.left.attr if isinstance(node.left, ast.Attribute) else getattr(node.left, "id", "")
        if found in NAMES and isinstance(node.ops[0], ast.Is | ast.IsNot):
            self.removed += 1
            return ast.copy_location(ast.Constant(value=isinstance(node.ops[0], ast.Is)), node)
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.And):  # the compiler leaves a constant in there
            node.values = [value for value in node.values if getattr(value, "value", None) is not True]
        return node if len(node.values) > 1 else node.values[0]

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        node.args = [argument for argument in node.args if argument.arg != "served"]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.args = [given for given in node.args if getattr(given, "id", "") != "served"]
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if getattr(node.target, "id", "") == "served" else self.generic_visit(node)


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        change = _WithoutHooks()
        tree = change.visit(ast.parse(self.get_data(path), path))
        if not change.removed:
            raise RuntimeError(f"{fullname} has no hooks that are known here: this benchmark has to follow it")
        code: CodeType = compile(ast.fix_missing_locations(tree), path, "exec")
        return code


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if fullname in OF_A_CALL else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


class Copy:
    """One copy of the package and of the modules of the benchmarks that import it."""

    def __init__(self, *, has_hooks: bool) -> None:
        self._has_hooks = has_hooks
        self._modules: dict[str, ModuleType] = {}

    @contextmanager
    def imported(self) -> Generator[None]:
        """For as long as this lasts, its modules are those that are imported."""
        finder = _Finder()
        before = _take_out()
        sys.modules.update(self._modules)
        if not self._has_hooks:
            sys.meta_path.insert(0, finder)
        try:
            yield
        finally:
            if not self._has_hooks:
                sys.meta_path.remove(finder)
            self._modules = _take_out()
            sys.modules.update(before)

    def module(self, name: str) -> Any:
        """A module of this copy."""
        with self.imported():
            return importlib.import_module(name)


def _take_out() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in {"iii_anyio", "benchmarks"}]
    return {name: sys.modules.pop(name) for name in names}
