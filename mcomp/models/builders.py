"""A built-in model says how it was built, so that an artifact of it loads with no code at hand."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch import nn

from mcomp.errors import UsageError
from mcomp.suggest import did_you_mean, listed
from mcomp.surgery import provenance

P = ParamSpec("P")
M = TypeVar("M", bound=nn.Module)


def records_builder(function: Callable[P, M]) -> Callable[P, M]:
    """Decorate a built-in model's function: what it was called with becomes the model's builder."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> M:
        unknown = next((name for name in kwargs if name not in signature.parameters), None)
        if unknown is not None:
            raise UsageError(
                f"`{function.__name__}` has no option `{unknown}`",
                code="MC262",
                hint=did_you_mean(unknown, signature.parameters) or f"its options are {listed(signature.parameters)}",
            )
        called = signature.bind(*args, **kwargs)
        called.apply_defaults()
        model = function(*args, **kwargs)
        provenance(model).builder = {"name": function.__name__, "kwargs": dict(called.arguments)}
        return model

    return build
