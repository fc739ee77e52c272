"""Names to stages: built in, from installed packages (entry points ``mcomp.stages``), or from local files."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from mcomp.errors import McompError, UsageError
from mcomp.models.user_code import import_file
from mcomp.stages.base import Stage

ENTRY_POINT_GROUP = "mcomp.stages"
_BUILT_IN_HOME = "mcomp.stages.builtin."

#: One module of ``mcomp.stages.builtin`` per stage, in the order of a typical recipe.
BUILT_IN = (
    "train",
    "sparse_train",
    "sensitivity",
    "search",
    "prune",
    "sparsify",
    "finetune",
    "quantize",
    "calibrate",
    "qaft",
    "bn_fuse",
    "evaluate",
    "export",
    "packed",
    "onnx_int8",
    "openvino_int8",
    "trt_int8",
)

_STAGES: dict[str, type[Stage]] = {}
_entry_points_loaded = False

#: What the plug-ins of one recipe registered, while that recipe is read; None outside of it.
_OF_RECIPE: ContextVar[dict[str, type[Stage]] | None] = ContextVar("_OF_RECIPE", default=None)
#: The folder of the plug-in that is being run.
_LOADING: ContextVar[Path | None] = ContextVar("_LOADING", default=None)
#: File to the stages that it registered last; its neighbours are imported once, so they register only once.
_OF_FILE: dict[Path, dict[str, type[Stage]]] = {}

S = TypeVar("S", bound=type[Stage])


def register(stage: S) -> S:
    """Class decorator: make a stage known by its ``name``. Warns when it replaces another one."""
    name = getattr(stage, "name", None)
    if not isinstance(name, str) or not name.isidentifier():
        raise UsageError(
            f"stage class `{stage.__name__}` has no usable name",
            code="MC210",
            hint='set `name = "my_stage"` (letters, digits and underscores) in the class',
        )
    own = _OF_RECIPE.get()
    into = own if own is not None and _is_of_plugin(stage) else _STAGES
    known = _known(name)
    if known is not None and (known.__module__, known.__qualname__) != (stage.__module__, stage.__qualname__):
        warnings.warn(f"stage `{name}` of {known.__module__} is replaced by {stage.__module__}", stacklevel=2)
    into[name] = stage
    return stage


@contextmanager
def of_one_recipe() -> Iterator[None]:
    """While this is open, what :func:`load_file` registers is known; afterwards it is not.

    A recipe has the stages that are built in, those of installed packages, those registered in Python, and those of
    the plug-ins that it names itself: never those that another recipe of the same process names.
    """
    token = _OF_RECIPE.set({})
    try:
        yield
    finally:
        _OF_RECIPE.reset(token)


def _is_of_plugin(stage: type[Stage]) -> bool:
    """True for a class of the plug-in that is being run, or of its neighbours; not for one of a package it imports."""
    folder = _LOADING.get()
    file = getattr(sys.modules.get(stage.__module__), "__file__", None)
    home = stage.__module__.startswith(_BUILT_IN_HOME)
    return folder is not None and file is not None and not home and folder in Path(file).resolve().parents


def _known(name: str) -> type[Stage] | None:
    return (_OF_RECIPE.get() or {}).get(name) or _STAGES.get(name)


def get(name: str) -> type[Stage]:
    """The stage called ``name``.

    Raises:
        KeyError: no stage has this name.
    """
    if _known(name) is None and name in BUILT_IN:
        importlib.import_module(f"{_BUILT_IN_HOME}{name}")
    if _known(name) is None:
        _load_entry_points()
    found = _known(name)
    if found is None:
        raise KeyError(name)
    return found


def names() -> list[str]:
    """All known names, built-in ones first in recipe order, then the others alphabetically."""
    _load_entry_points()
    return [*BUILT_IN, *sorted({*_STAGES, *(_OF_RECIPE.get() or ())} - set(BUILT_IN))]


def load_file(path: Path) -> list[str]:
    """Run a local ``.py`` file and return the names of the stages it registered. It may import its neighbours.

    The caller has asked the user for trust first: this executes code.

    Raises:
        UsageError: the file fails to import or registers nothing.
    """
    own = _OF_RECIPE.get()
    into = _STAGES if own is None else own
    before = {**_STAGES, **into}
    file = path.resolve()
    loading = _LOADING.set(file.parent)
    try:
        module = import_file(path, "mcomp_plugin_")
    except McompError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"plug-in `{path.name}` failed to import: {type(error).__name__}: {error}", code="MC211"
        ) from error
    finally:
        _LOADING.reset(loading)
    fresh = {key: value for key, value in {**_STAGES, **into}.items() if before.get(key) is not value}
    of_neighbours = {key: value for key, value in _OF_FILE.get(file, {}).items() if value.__module__ != module.__name__}
    found = {**of_neighbours, **fresh}
    _OF_FILE[file] = found
    into.update(found)
    if not found:
        raise UsageError(
            f"plug-in `{path.name}` registers no stage",
            code="MC212",
            hint="decorate the class with `@mcomp.stages.register`",
        )
    return list(found)


def _load_entry_points() -> None:
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            stage = point.load()
            if not (isinstance(stage, type) and issubclass(stage, Stage)):
                raise TypeError(f"`{point.value}` is not a subclass of mcomp.stages.Stage")
            if getattr(stage, "name", None) in BUILT_IN:
                raise ValueError(f"`{stage.name}` is the name of a built-in stage; give it another")
            if getattr(stage, "name", None) not in _STAGES:
                register(stage)
        except (Exception, SystemExit) as error:  # another package's fault must not take ours away
            package = point.dist.name if point.dist is not None else point.module
            warnings.warn(
                f"stage `{point.name}` of the package `{package}` cannot be loaded: {type(error).__name__}: {error}",
                stacklevel=2,
            )
