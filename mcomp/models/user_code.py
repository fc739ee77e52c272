"""Import a person's own Python files, which may import their neighbours. No torch here."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

#: Names of modules that came from a person's folder, to that folder.
_NEIGHBOURS: dict[str, Path] = {}


def import_file(path: Path, prefix: str) -> ModuleType:
    """Run a ``.py`` file as a module of its own and return it; whatever it raises goes on to the caller.

    The module is called ``<prefix><stem>_<digest of the path>``: files of the same name in two folders are two modules.

    Args:
        path: the file.
        prefix: ``mcomp_plugin_`` or ``mcomp_user_``.
    """
    file = path.resolve()
    name = f"{prefix}{path.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:10]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"`{path}` is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, pydantic and pickle look their module up by name
    try:
        with _importable(file.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def import_beside(dotted: str, folder: Path) -> ModuleType:
    """Import a module that lies in ``folder``, or anywhere on ``sys.path``."""
    with _importable(folder.resolve()):
        return importlib.import_module(dotted)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let a file import its neighbours while it is being imported.

    A neighbour of the same name from another folder is forgotten first, or it would be taken in its place.
    """
    for name, home in list(_NEIGHBOURS.items()):
        top = name.partition(".")[0]
        if home != folder and ((folder / f"{top}.py").is_file() or (folder / top).is_dir()):
            del _NEIGHBOURS[name]
            sys.modules.pop(name, None)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()  # a file written a moment ago may not be in the finder's listing yet
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and folder in Path(file).parents and not name.startswith("mcomp_"):
                _NEIGHBOURS[name] = folder
