"""Layers with weights that a graph does not show as calls, and why."""

from __future__ import annotations

from collections.abc import Container, Mapping

from torch import fx, nn

from mcomp.quantization.dataflow import call_name

#: Modules whose weights are worth integers; named in the report when they stay float.
WEIGHTED = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)


_ONE_PIECE = "inside a module that the graph holds as one piece"
_TAKEN = "its weight goes into the function"


def hidden_from_graph(float_layers: Mapping[str, str]) -> list[str]:
    """The layers that stay float because a graph does not show them, where another one may."""
    return [name for name, why in float_layers.items() if why == _ONE_PIECE or why.startswith(_TAKEN)]


def out_of_sight(model: nn.Module, traced: fx.GraphModule, read: Container[str]) -> dict[str, str]:
    """Layers of ``model`` that are neither called in the graph nor read by a function (``read``: those parameters)."""
    modules = dict(traced.named_modules(remove_duplicate=False))
    called = {
        str(node.target): modules.get(str(node.target)) for node in traced.graph.nodes if node.op == "call_module"
    }
    whole = tuple(f"{name}." for name, module in called.items() if isinstance(module, WEIGHTED))
    pieces = tuple(f"{name}." for name in called)
    takers = {
        str(node.target): call_name(user) for node in traced.graph.nodes if node.op == "get_attr" for user in node.users
    }
    found = {}
    for name, module in model.named_modules():
        if not name or not isinstance(module, WEIGHTED) or name in called or name.startswith(whole):
            continue
        weights = _weights(name, module)
        unread = [path for path in weights if path not in read]
        if not unread and weights:
            continue
        taker = next((takers[path] for path in unread if path in takers), "")
        if name.startswith(pieces):
            found[name] = _ONE_PIECE
        elif taker:
            found[name] = f"{_TAKEN} `{taker}`"
        else:
            found[name] = "forward() does not call it in eval mode (an auxiliary head, or unused)"
    return found


def _weights(name: str, module: nn.Module) -> list[str]:
    """The matrices of a layer: its own, or those that a parametrisation computes them from."""
    for recurse in (False, True):
        found = [f"{name}.{own}" for own, tensor in module.named_parameters(recurse=recurse) if tensor.dim() > 1]
        found = [path for path in found if not path.rpartition(".")[2].startswith("bias")]
        if found:
            return found
    return []
