"""A cost as recipes write it: a share of what the network costs, or a count."""

from __future__ import annotations

from typing import Annotated

from pydantic import WithJsonSchema

#: What :func:`mcomp.pruning.targets.amount_of` understands, or nothing.
Quantity = Annotated[
    float | str | None,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                {"type": "integer", "minimum": 2},
                {"type": "number", "minimum": 1000},
                {"type": "string", "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*[KMGkmg]\s*$"},
                {"type": "null"},
            ]
        }
    ),
]
