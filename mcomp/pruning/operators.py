"""All rules of :mod:`mcomp.pruning.rules`, loaded."""

from __future__ import annotations

from mcomp.pruning import (  # each registers its rules
    attention_rules,
    elementwise_rules,
    layer_rules,
    norm_rules,
    position_rules,
    shape_rules,
)
from mcomp.pruning.rules import follow

__all__ = [
    "attention_rules",
    "elementwise_rules",
    "follow",
    "layer_rules",
    "norm_rules",
    "position_rules",
    "shape_rules",
]
