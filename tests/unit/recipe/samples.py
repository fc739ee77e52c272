"""Recipe texts and ways to look at what became of them."""

from __future__ import annotations

from typing import Any

import pytest

from mcomp.errors import Diagnostic, RecipeError
from mcomp.recipe import Recipe

FLAGSHIP = """\
version: 1
name: nin_gc_prune_quant
seed: 0
vars: {ratio: 0.4}
model: {name: nin_gc, num_classes: 10, width: 0.5}
data: {name: digits, image_size: 16, batch_size: 64}
stages:
  - train: {epochs: 5}
  - sparse_train: {epochs: 5, penalty: 1e-3}
  - prune: {ratio: "${ratio}", regular: 8}
    gates: [{metric: params, max_ratio: 0.7, vs: sparse_train}]
  - finetune: {epochs: 4}
  - quantize: {scheme: dorefa, w_bits: 8, a_bits: 8, epochs: 4}
    gates: [{metric: top1, max_drop: 1.0, unit: points, vs: finetune}]
  - bn_fuse
  - trt_int8: {calibration: {method: entropy, samples: 512}}
"""

HEAD = "version: 1\nmodel: {name: nin}\ndata: {name: digits}\n"


def stages(*entries: str) -> str:
    """A recipe of these stages; the first stands on line 5."""
    return HEAD + "stages:\n" + "".join(f"  - {entry}\n" for entry in entries)


def faults(text: str, *sets: str, **options: Any) -> list[Diagnostic]:
    """The errors of a recipe that must be refused."""
    with pytest.raises(RecipeError) as caught:
        Recipe.from_text(text, sets, **options)
    return [one for one in caught.value.diagnostics if one.severity == "error"]


def fault(text: str, *sets: str, **options: Any) -> Diagnostic:
    """The only error of a recipe that must be refused."""
    found = faults(text, *sets, **options)
    assert len(found) == 1, found
    return found[0]


def place(one: Diagnostic) -> tuple[int | None, int | None, int]:
    return one.line, one.column, one.length
