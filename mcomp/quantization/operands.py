"""Which tensors a layer or a function multiplies, and which of its operands is a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from mcomp.quantization.dataflow import call_name

Place = tuple[int, str]  # position and keyword


@dataclass(frozen=True)
class Signature:
    """Of a function that multiplies: what it reads, which operand is a weight, and that one's output axis."""

    inputs: tuple[Place, ...]
    weight: Place | None = None
    axis: int = 0


_X, _W = (0, "input"), (1, "weight")
_CONV, _TRANSPOSED = Signature((_X,), _W), Signature((_X,), _W, axis=1)
_PRODUCT = Signature(((0, "input"), (1, "other")))

#: By bare name, for ``torch.nn.functional``, ``torch`` and ``torch.ops.aten`` alike.
FUNCTIONS: dict[str, Signature] = {
    "linear": _CONV,
    "conv1d": _CONV,
    "conv2d": _CONV,
    "conv3d": _CONV,
    "conv_transpose1d": _TRANSPOSED,
    "conv_transpose2d": _TRANSPOSED,
    "conv_transpose3d": _TRANSPOSED,
    "bilinear": Signature(((0, "input1"), (1, "input2")), (2, "weight")),
    "matmul": _PRODUCT,
    "bmm": Signature(((0, "input"), (1, "mat2"))),
    "mm": Signature(((0, "input"), (1, "mat2"))),
    "baddbmm": Signature(((1, "batch1"), (2, "batch2"))),
    "addmm": Signature(((1, "mat1"), (2, "mat2"))),
    "scaled_dot_product_attention": Signature(((0, "query"), (1, "key"), (2, "value"))),
}
ATTENTION = "scaled_dot_product_attention"

_MODULE_INPUTS: dict[type[nn.Module], tuple[Place, ...]] = {
    nn.Bilinear: ((0, "input1"), (1, "input2")),
    nn.MultiheadAttention: ((0, "query"), (1, "key"), (2, "value")),
    nn.Embedding: (),
    nn.EmbeddingBag: (),
}


def operand(node: fx.Node, place: Place) -> Any:
    """The argument of a call at a position or keyword, or None."""
    position, keyword = place
    return node.args[position] if position < len(node.args) else node.kwargs.get(keyword)


def layer_inputs(node: fx.Node, layer: nn.Module) -> list[fx.Node]:
    """The tensors that a layer's call multiplies with its weights."""
    places = next((own for kind, own in _MODULE_INPUTS.items() if isinstance(layer, kind)), (_X,))
    found = [operand(node, place) for place in places]
    if not found and not places:
        return []
    return [each for each in found if isinstance(each, fx.Node)] or node.all_input_nodes[:1]


def signature(node: fx.Node) -> Signature | None:
    """How a call multiplies, or None where it does not."""
    if node.op not in ("call_function", "call_method"):
        return None
    name = call_name(node)
    if name == "embedding":  # torch.ops.aten has the table first, torch.nn.functional the indices
        return Signature((), (0 if is_aten(node) else 1, "weight"))
    if name == "einsum":
        return Signature(tuple((place, "") for place in range(1, len(node.args))))
    return FUNCTIONS.get(name)


def is_aten(node: fx.Node) -> bool:
    """Whether the call is of ``torch.ops.aten``."""
    return hasattr(node.target, "overloadpacket")


def constant(node: fx.Node) -> bool:
    """Whether the tensor comes from parameters, buffers and numbers alone."""
    waiting, seen = [node], {node}
    while waiting:
        each = waiting.pop()
        own = each.op == "get_attr" or (each.op == "call_module" and not each.all_input_nodes)  # a parametrisation
        if not own:
            if each.op == "placeholder" or not each.all_input_nodes:
                return False
            fresh = [one for one in each.all_input_nodes if one not in seen]
            seen.update(fresh)
            waiting += fresh
    return True
