"""What a person's factory can be called with, read from its source; nothing is run. No torch here."""

from __future__ import annotations

import ast
from pathlib import Path

_MOST_BYTES = 2_000_000


def keywords_of(file: Path, function: str) -> list[str] | None:
    """Names of the keyword arguments of a function, or of a class's ``__init__``, at the top of a file.

    Returns:
        None where the source does not tell: ``**kwargs``, a decorator, a base class's ``__init__``, a name that is
        bound in some other way, or a file that cannot be read as Python.
    """
    try:
        if file.stat().st_size > _MOST_BYTES:
            return None
        tree = ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None  # importing it says what is wrong
    bound = [node for node in ast.walk(tree) if _binds(node, function)]
    if len(bound) != 1 or bound[0] not in tree.body:
        return None
    found, own = bound[0], 0
    if isinstance(found, ast.ClassDef) and not found.decorator_list and not found.keywords:
        inits = [node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        found, own = (inits[0], 1) if len(inits) == 1 else (found, 0)
    if not isinstance(found, ast.FunctionDef) or found.decorator_list or found.args.kwarg is not None:
        return None
    positional = [*found.args.posonlyargs, *found.args.args][own:]
    named = positional[max(0, len(found.args.posonlyargs) - own) :]
    return [one.arg for one in (*named, *found.args.kwonlyargs)]


def _binds(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name == name
    if isinstance(node, ast.alias):
        return (node.asname or node.name) in (name, "*")
    return isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store | ast.Del)
