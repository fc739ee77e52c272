"""What a source file says of its imports, read from its syntax tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MODULE_NAME = re.compile(r"\.?[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_SOUGHT = (ast.Import, ast.ImportFrom, ast.Constant, ast.Call)
_LEAVES = (ast.Import, ast.ImportFrom, ast.Constant, ast.Name, ast.expr_context, ast.operator, ast.cmpop)
_IMPORTERS = {"import_module", "__import__", "find_spec", "spec_from_file_location"}

Import = tuple[str, tuple[str, ...] | None]
"""Module as written (leading dots for relative), and the names taken from it; None for ``import module``."""


@dataclass(frozen=True)
class Facts:
    """What the digest of a file and of its closure depends on.

    Attributes:
        digest: of the tokens.
        imports: imports that may run, those inside functions included.
        type_only: imports under ``if TYPE_CHECKING:``.
        defined: names that the module level defines, or really imports.
        lazy: there is a module-level ``__getattr__``.
        dynamic: it imports modules by name.
        strings: literals that look like module names, kept where ``lazy`` or ``dynamic``.
    """

    digest: str
    imports: tuple[Import, ...]
    type_only: tuple[Import, ...]
    defined: frozenset[str]
    lazy: bool
    dynamic: bool
    strings: tuple[str, ...]

    def as_json(self) -> list[Any]:
        """A JSON-able list."""
        return [
            self.digest,
            [list(entry) for entry in self.imports],
            [list(entry) for entry in self.type_only],
            sorted(self.defined) if self.lazy else [],
            self.lazy,
            self.dynamic,
            list(self.strings),
        ]

    @classmethod
    def from_json(cls, fields: list[Any]) -> Facts:
        """The inverse of :meth:`as_json`."""
        digest, imports, type_only, defined, lazy, dynamic, strings = fields
        return cls(
            digest,
            tuple((module, None if names is None else tuple(names)) for module, names in imports),
            tuple((module, None if names is None else tuple(names)) for module, names in type_only),
            frozenset(defined),
            lazy,
            dynamic,
            tuple(strings),
        )


def read_facts(source: str, digest: str) -> Facts:
    """Parse ``source``.

    Raises:
        SyntaxError: not Python.
    """
    tree = ast.parse(source)
    imports: list[Import] = []
    type_only: list[Import] = []
    strings: set[str] = set()
    called: set[str] = set()
    for node, guarded in _walk(tree):
        target = type_only if guarded else imports
        if isinstance(node, ast.Import):
            target.extend((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            target.append(("." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _MODULE_NAME.fullmatch(node.value):
                strings.add(node.value)
        elif isinstance(node, ast.Call):
            called.add(_called_name(node))
    defined = _defined(tree)
    lazy, dynamic = "__getattr__" in defined, bool(called & _IMPORTERS)
    kept = tuple(sorted(strings)) if lazy or dynamic else ()
    return Facts(digest, tuple(imports), tuple(type_only), defined, lazy, dynamic, kept)


def _is_type_guard(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _walk(tree: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Every import, call and text, and whether it stands under a type guard; a guard's ``else`` really runs."""
    waiting = [(tree, False)]
    while waiting:
        node, guarded = waiting.pop()
        if isinstance(node, _SOUGHT):
            yield node, guarded
        if isinstance(node, _LEAVES):
            continue
        guard = _is_type_guard(node)
        # `ast.walk` by hand: this is most of a cold start
        for name in node._fields:
            below = getattr(node, name, None)
            if type(below) is list:
                inside = guarded or (guard and name == "body")
                waiting += [(item, inside) for item in below if isinstance(item, ast.AST)]
            elif isinstance(below, ast.AST):
                waiting.append((below, guarded))


def _called_name(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _defined(tree: ast.Module) -> frozenset[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return frozenset(names)
