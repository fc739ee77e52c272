"""An op on tensors without values gives what the CPU gives: shape, type, and the same layout in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from mcomp.pruning.ghost_ops import ghost_result

_IMAGES = torch.zeros(2, 6, 8, 8)
_LAST = _IMAGES.to(memory_format=torch.channels_last)
_TURNED = torch.zeros(2, 8, 6, 8).transpose(1, 2)
_GATE = torch.zeros(2, 6, 1, 1)
_WORDS = torch.zeros(2, 5, 6)
_SWAPPED = torch.zeros(5, 2, 6).transpose(0, 1)
_VECTOR = torch.zeros(6)
_LAYOUTS = {
    "plain": _IMAGES,
    "channels last": _LAST,
    "turned": _TURNED,
    "words": _WORDS,
    "swapped": _SWAPPED,
    "part": _IMAGES[:, :3],
    "spread": _GATE.expand(2, 6, 8, 8),
}
_UNARY = ("relu", "sigmoid", "silu", "hardswish", "hardsigmoid", "hardtanh", "gelu", "tanh", "leaky_relu", "clone")
_PAIRS = [
    *((tensor, tensor) for tensor in _LAYOUTS.values()),
    *((tensor, 2.0) for tensor in _LAYOUTS.values()),
    *((_IMAGES, _LAST), (_LAST, _IMAGES), (_IMAGES, _GATE), (_GATE, _IMAGES), (_LAST, _GATE), (_GATE, _LAST)),
    *((_VECTOR, _WORDS), (_WORDS, _VECTOR), (_SWAPPED, _WORDS), (_WORDS, _SWAPPED), (_SWAPPED, _VECTOR)),
    (torch.zeros(2, 1, 6), torch.zeros(5, 1)),
    (_GATE.expand(2, 6, 8, 8), _IMAGES),
]


def _norm(x: Tensor, training: bool) -> list[Any]:
    of_channels = [torch.ones(x.shape[1]) for _ in range(4)]
    return [x, *of_channels, training, 0.1, 1e-5]


def _cases() -> list[Any]:
    cases: list[tuple[str, list[Any]]] = [(name, [x]) for name in _UNARY for x in _LAYOUTS.values()]
    cases += [(name, list(pair)) for name in ("add", "sub", "mul", "div") for pair in _PAIRS]
    cases += [("native_batch_norm", _norm(x, training)) for x in _LAYOUTS.values() for training in (True, False)]
    cases += [("native_layer_norm", [x, [x.shape[-1]], None, None, 1e-5]) for x in _LAYOUTS.values()]
    cases += [
        (name, [x, -1, False][:n]) for x in _LAYOUTS.values() for name, n in (("_softmax", 3), ("_safe_softmax", 2))
    ]
    cases += [("mean", [x, dims, keep]) for x in _LAYOUTS.values() for dims in ([-1], [1, 2]) for keep in (True, False)]
    cases += [("cat", [[x, y], 1]) for x in (_IMAGES, _LAST) for y in (_IMAGES, _LAST)]
    cases += [("cat", [[_SWAPPED, _WORDS], 1]), ("cat", [[_WORDS, _WORDS], -1])]
    for x in (_IMAGES, _LAST, _TURNED):
        cases += [("upsample_bilinear2d", [x, [16, 16], False]), ("upsample_nearest2d", [x, [16, 16]])]
        weight = torch.zeros(4, x.shape[1], 3, 3)
        cases.append(("convolution", [x, weight, None, [1, 2], [1, 1], [1, 1], False, [0, 0], 1]))
    turned = torch.zeros(4, 6).t()
    cases += [("addmm", [torch.zeros(4), torch.zeros(3, 6), turned]), ("mm", [torch.zeros(6, 3).t(), turned])]
    cases.append(("bmm", [torch.zeros(2, 6, 3).transpose(1, 2), torch.zeros(2, 4, 6).transpose(1, 2)]))
    return [pytest.param(name, args, id=f"{name} {number}") for number, (name, args) in enumerate(cases)]


def _ghostly(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


@pytest.mark.parametrize(("name", "args"), _cases())
def test_a_short_way_leads_where_the_op_does(name: str, args: list[Any]) -> None:
    found = ghost_result(name, tree_map(_ghostly, args), {})
    if found is None:
        return  # PyTorch is asked
    expected = getattr(torch.ops.aten, name)(*args)
    for mine, other in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        assert mine.is_meta
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        assert _steps(mine) == _steps(other)


def _steps(tensor: Tensor) -> list[int]:
    return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("add", [torch.zeros(2, 3), torch.zeros(2, 4)]),
        ("mul_", [torch.zeros(2, 3), torch.zeros(2, 4)]),
        ("mm", [torch.zeros(2, 3), torch.zeros(4, 2)]),
        ("bmm", [torch.zeros(2, 3, 4), torch.zeros(3, 4, 3)]),
        ("addmm", [torch.zeros(5), torch.zeros(2, 3), torch.zeros(3, 4)]),
        ("native_layer_norm", [torch.zeros(2, 3), [4], None, None, 1e-5]),
    ],
)
def test_widths_that_do_not_fit_raise_as_the_op_does(name: str, args: list[Any]) -> None:
    with pytest.raises(RuntimeError):
        getattr(torch.ops.aten, name)(*args)
    with pytest.raises(RuntimeError):
        ghost_result(name, tree_map(_ghostly, args), {})
