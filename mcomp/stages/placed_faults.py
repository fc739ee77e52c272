"""Faults of options that point at the very option, or the very entry of a list, that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError


def fault_at(place: str | int, message: str, given: Any, kind: str = "value_error") -> ValidationError:
    """What a validator raises so that the caret stands at ``place`` below the option or options it looks at.

    Args:
        place: a key or an index.
        message: what is wrong with what stands there.
        given: the value that the validator got.
        kind: pydantic's word for the fault.
    """
    return faults_at({place: message}, given, kind)


def faults_at(messages: Mapping[Any, str], given: Any, kind: str = "value_error") -> ValidationError:
    """The same of several places; a tuple is a path below the options."""
    details = [
        # a brace in a message would be taken for a field
        InitErrorDetails(
            type=PydanticCustomError(kind, "{text}", {"text": text}),
            loc=place if isinstance(place, tuple) else (place,),
            input=given,
        )
        for place, text in messages.items()
    ]
    return ValidationError.from_exception_data("Options", details)
