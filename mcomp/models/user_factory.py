"""Models made by a user's own function, ``file.py:factory`` or ``module:factory``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from mcomp.errors import McompError, PreflightError
from mcomp.models.user_code import import_beside, import_file


def load_factory(name: str, base_dir: Path | None) -> Callable[..., Any]:
    """Import the user's code and find the function. The caller has asked for trust first.

    Raises:
        PreflightError: the file or module is missing, fails to import, or has no such function.
    """
    target, _, function = name.rpartition(":")
    module = _from_file((base_dir or Path()) / target) if target.endswith(".py") else _from_module(target, base_dir)
    factory = getattr(module, function, None)
    if not callable(factory):
        candidates = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise PreflightError(
            f"`{target}` has no function `{function}`",
            code="MC234",
            hint=f"it has {', '.join(f'`{key}`' for key in candidates[:8]) or 'no functions at all'}",
        )
    found: Callable[..., Any] = factory
    return found


def call_factory(factory: Callable[..., Any], name: str, optional: dict[str, Any], kwargs: dict[str, Any]) -> Any:
    """Call a user's factory with ``kwargs``, and with those ``optional`` arguments that it accepts.

    Raises:
        PreflightError: the factory does not take the arguments, or raises.
    """
    arguments = {**{key: value for key, value in optional.items() if accepts(factory, key)}, **kwargs}
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise PreflightError(
            f"`{name}` does not take these options: {error}",
            code="MC235",
            why=f"its signature is {function_signature(factory)}",
            hint="keys beside the common ones are passed to the factory as keyword arguments",
        ) from error
    try:
        return factory(**arguments)
    except McompError:
        raise
    except Exception as error:
        raise PreflightError(
            f"`{name}` failed: {type(error).__name__}: {error}",
            code="MC235",
            why=f"it was called with {arguments}",
            hint="`--traceback` shows where in your file",
        ) from error


def build_user_model(name: str, base_dir: Path | None, num_classes: int, kwargs: dict[str, Any]) -> nn.Module:
    """The ``nn.Module`` a user's factory makes; it gets ``num_classes`` if it takes that.

    Raises:
        PreflightError: no such factory, it fails, or it returns something else.
    """
    made = call_factory(load_factory(name, base_dir), name, {"num_classes": num_classes}, kwargs)
    if not isinstance(made, nn.Module):
        raise PreflightError(
            f"`{name}` returned {type(made).__name__}, not a torch.nn.Module",
            code="MC236",
            hint="return an instance of your network, e.g. `return Net(num_classes)`",
        )
    return made


def accepts(factory: Callable[..., Any], argument: str) -> bool:
    """Whether a keyword argument of this name can be passed."""
    parameters = inspect.signature(factory).parameters.values()
    return any(
        parameter.kind is parameter.VAR_KEYWORD
        or (parameter.name == argument and parameter.kind is not parameter.POSITIONAL_ONLY)
        for parameter in parameters
    )


def function_signature(factory: Callable[..., Any]) -> str:
    """The signature as its author wrote it, e.g. ``make(width, depth=2)``."""
    return f"{getattr(factory, '__name__', 'factory')}{inspect.signature(factory)}"


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PreflightError(f"no file `{path}`", code="MC234", hint="paths are relative to the recipe")
    try:
        return import_file(path, "mcomp_user_")
    except (Exception, SystemExit) as error:
        raise _import_failure(str(path), error) from error


def _from_module(dotted: str, base_dir: Path | None) -> ModuleType:
    try:
        return import_beside(dotted, base_dir or Path())
    except (Exception, SystemExit) as error:
        raise _import_failure(dotted, error) from error


def _import_failure(what: str, error: BaseException) -> PreflightError:
    line = ""
    if isinstance(error, SyntaxError):
        line = f" (line {error.lineno})"
    return PreflightError(f"`{what}` failed to import: {type(error).__name__}: {error}{line}", code="MC234")
