"""Names to stages: built in, from installed packages (entry points ``mcomp.stages``), or from local files."""

from __future__ import annotations

import importlib
import warnings
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from mcomp.errors import McompError, UsageError
from mcomp.models.user_code import import_file
from mcomp.stages.base import Stage

ENTRY_POINT_GROUP = "mcomp.stages"

#: One module of ``mcomp.stages.builtin`` per stage, in the order of a typical recipe.
BUILT_IN = (
    "train",
    "sparse_train",
    "prune",
    "finetune",
    "quantize",
    "bn_fuse",
    "evaluate",
    "onnx_int8",
    "trt_int8",
)

_STAGES: dict[str, type[Stage]] = {}
_entry_points_loaded = False

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
    known = _STAGES.get(name)
    if known is not None and (known.__module__, known.__qualname__) != (stage.__module__, stage.__qualname__):
        warnings.warn(f"stage `{name}` of {known.__module__} is replaced by {stage.__module__}", stacklevel=2)
    _STAGES[name] = stage
    return stage


def get(name: str) -> type[Stage]:
    """The stage called ``name``.

    Raises:
        KeyError: no stage has this name.
    """
    if name not in _STAGES and name in BUILT_IN:
        importlib.import_module(f"mcomp.stages.builtin.{name}")
    if name not in _STAGES:
        _load_entry_points()
    return _STAGES[name]


def names() -> list[str]:
    """All known names, built-in ones first in recipe order, then the others alphabetically."""
    _load_entry_points()
    return [*BUILT_IN, *sorted(set(_STAGES) - set(BUILT_IN))]


def load_file(path: Path) -> list[str]:
    """Run a local ``.py`` file and return the names of the stages it registered. It may import its neighbours.

    The caller has asked the user for trust first: this executes code.

    Raises:
        UsageError: the file fails to import or registers nothing.
    """
    before = dict(_STAGES)
    try:
        import_file(path, "mcomp_plugin_")
    except McompError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"plug-in `{path.name}` failed to import: {type(error).__name__}: {error}", code="MC211"
        ) from error
    found = [key for key, value in _STAGES.items() if before.get(key) is not value]
    if not found:
        raise UsageError(
            f"plug-in `{path.name}` registers no stage",
            code="MC212",
            hint="decorate the class with `@mcomp.stages.register`",
        )
    return found


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
