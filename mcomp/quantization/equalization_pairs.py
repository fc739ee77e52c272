"""Pairs of layers between which a positive factor per channel may be moved, found by dataflow."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from mcomp.errors import StageError
from mcomp.quantization.config import Route
from mcomp.quantization.dataflow import call_name
from mcomp.quantization.routes import graph_again

BatchNorm = nn.modules.batchnorm._BatchNorm
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

# f(s * x) = s * f(x) for s > 0, channel by channel; those in the first half also f(x + c) = f(x) + c where x >= 0.
_KEEPING = (
    nn.ReLU, nn.Identity, nn.Dropout, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
_HOMOGENEOUS = (
    *_KEEPING, nn.LeakyReLU, nn.PReLU, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.Dropout2d, nn.Upsample,
)  # fmt: skip
_KEEPING_CALLS = frozenset(
    {
        "relu", "relu_", "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
        "adaptive_max_pool2d", "contiguous", "mean", "flatten",
    }
)  # fmt: skip
_HOMOGENEOUS_CALLS = _KEEPING_CALLS | {"leaky_relu", "avg_pool1d", "avg_pool2d", "avg_pool3d", "interpolate"}


@dataclass(frozen=True)
class Pair:
    """Two layers by name, the batch norms behind each ("" for none), and whether a constant passes between them."""

    first: str
    second: str
    norm: str = ""
    behind: str = ""
    keeps_constants: bool = False


def find_pairs(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[list[Pair], dict[str, str]]:
    """Pairs in graph order, and convolutions to the batch norm behind each; nothing where no graph is to be had."""
    routes: tuple[Route, ...] = ("symbolic", "export")
    for route in routes:
        try:
            return _Finder(graph_again(route, copy.deepcopy(model), example_inputs)).found()
        except StageError:  # of this graph; the next way to see the model, or none
            continue
    return [], {}


class _Finder:
    def __init__(self, traced: fx.GraphModule) -> None:
        self.traced = traced
        self.modules = dict(traced.named_modules(remove_duplicate=False))
        self.nodes = [node for node in traced.graph.nodes if node.op == "call_module"]
        self.calls = Counter(id(self.modules[str(node.target)]) for node in self.nodes)
        read = [str(node.target) for node in traced.graph.nodes if node.op == "get_attr"]
        self.bare = {name.rpartition(".")[0] for name in read}
        owners = [id(own) for module in traced.modules() for own in module._parameters.values() if own is not None]
        self.owners = Counter(owners)

    def found(self) -> tuple[list[Pair], dict[str, str]]:
        """See :func:`find_pairs`."""
        pairs, normed = [], {}
        for node in self.nodes:
            if not self._is_own_layer(node):
                continue
            norm = self._norm_behind(node)
            if norm is not None:
                normed[str(node.target)] = str(norm.target)
            elif self._has_any_norm(node):
                continue
            pair = self._pair(node, norm)
            if pair is not None:
                pairs.append(pair)
        return pairs, normed

    def _is_own_layer(self, node: fx.Node) -> bool:
        """A layer of the plain kind that is called once and shares nothing."""
        layer = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if layer is None or type(layer) not in _LAYERS or self.calls[id(layer)] > 1:
            return False
        hooked = layer._forward_hooks or layer._forward_pre_hooks or parametrize.is_parametrized(layer)
        shared = any(self.owners[id(own)] > 1 for own in layer._parameters.values() if own is not None)
        return not hooked and not shared and str(node.target) not in self.bare

    def _only_user(self, node: fx.Node) -> fx.Node | None:
        users = list(node.users)
        return users[0] if len(users) == 1 and users[0].op != "output" else None

    def _has_any_norm(self, node: fx.Node) -> bool:
        user = self._only_user(node)
        return user is not None and user.op == "call_module" and isinstance(self.modules[str(user.target)], BatchNorm)

    def _norm_behind(self, node: fx.Node) -> fx.Node | None:
        """The batch norm that alone reads a convolution, if it has statistics and factors of its own."""
        user = self._only_user(node)
        if user is None or user.op != "call_module" or type(self.modules[str(node.target)]) not in _CONVOLUTIONS:
            return None
        norm = self.modules[str(user.target)]
        usable = isinstance(norm, BatchNorm) and norm.affine and norm.running_mean is not None
        return user if usable and self.calls[id(norm)] == 1 else None

    def _pair(self, node: fx.Node, norm: fx.Node | None) -> Pair | None:
        here, keeps = norm or node, True
        relu = False
        while (user := self._only_user(here)) is not None:
            if user.all_input_nodes[0] is not here:
                return None
            if self._is_own_layer(user):
                return self._fitting(node, user, norm, keeps and relu)
            if not self._passes(user, node):
                return None
            keeps = keeps and self._keeps(user)
            relu = relu or call_name(user).startswith("relu") or isinstance(self._module(user), nn.ReLU)
            here = user
        return None

    def _fitting(self, node: fx.Node, user: fx.Node, norm: fx.Node | None, keeps: bool) -> Pair | None:
        first, second = self._module(node), self._module(user)
        outputs, inputs = first.weight.shape[0], second.weight.shape[1] * getattr(second, "groups", 1)
        if inputs % outputs or (inputs != outputs and not isinstance(second, nn.Linear)):
            return None
        padded = not isinstance(second, nn.Linear) and second.padding_mode == "zeros" and _pads(second)
        behind = self._norm_behind(user)
        norms = [str(each.target) if each is not None else "" for each in (norm, behind)]
        return Pair(str(node.target), str(user.target), norms[0], norms[1], keeps and not padded)

    def _module(self, node: fx.Node) -> Any:
        return self.modules.get(str(node.target)) if node.op == "call_module" else None

    def _passes(self, node: fx.Node, first: fx.Node) -> bool:
        """Whether a factor per channel of ``first`` goes through."""
        module = self._module(node)
        if module is not None:
            plain_flatten = isinstance(module, nn.Flatten) and module.start_dim == 1
            return (type(module) in _HOMOGENEOUS or plain_flatten) and not module._forward_hooks
        name = call_name(node)
        if name == "flatten":
            start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
            return bool(start == 1) and type(self._module(first)) in _CONVOLUTIONS
        if name == "mean":
            dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            whole = isinstance(dims, (list, tuple)) and all(each in (2, 3, -1, -2) for each in dims)
            return whole and type(self._module(first)) is nn.Conv2d
        return node.op in ("call_function", "call_method") and name in _HOMOGENEOUS_CALLS

    def _keeps(self, node: fx.Node) -> bool:
        """Whether a constant added to non-negative values comes out as it went in."""
        module = self._module(node)
        if module is not None:
            return isinstance(module, (*_KEEPING, nn.Flatten))
        return call_name(node) in _KEEPING_CALLS


def _pads(layer: Any) -> bool:
    if isinstance(layer.padding, str):
        return bool(layer.padding == "same" and any(size > 1 for size in layer.kernel_size))
    return any(size > 0 for size in layer.padding)
