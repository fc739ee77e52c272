"""Find the layer behind each ATen call of an exported graph by the names of the parameters it reads."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from mcomp.quantization.dataflow import call_name
from mcomp.quantization.operands import operand

_LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    "conv1d": (nn.Conv1d,),
    "conv2d": (nn.Conv2d,),
    "conv3d": (nn.Conv3d,),
    "conv_transpose1d": (nn.ConvTranspose1d,),
    "conv_transpose2d": (nn.ConvTranspose2d,),
    "conv_transpose3d": (nn.ConvTranspose3d,),
    "embedding": (nn.Embedding,),
}
_DROPOUTS: dict[str, type[nn.Module]] = {
    "dropout": nn.Dropout,
    "dropout_": nn.Dropout,
    "feature_dropout": nn.Dropout2d,
    "alpha_dropout": nn.AlphaDropout,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
}
_RECURRENT: dict[str, type[nn.Module]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN, "rnn_relu": nn.RNN}

_CELLS: dict[str, type[nn.Module]] = {
    "lstm_cell": nn.LSTMCell, "gru_cell": nn.GRUCell, "rnn_tanh_cell": nn.RNNCell, "rnn_relu_cell": nn.RNNCell,
}  # fmt: skip


def restore_layers(model: nn.Module, graph: fx.Graph) -> None:
    """Turn calls that a layer of ``model`` made back into calls of that layer; the others stay functions."""
    owners = _owners(model)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        name = call_name(node)
        if name in _DROPOUTS:
            path = f"traced_dropouts.{node.name}"
            _add(model, path, _DROPOUTS[name](node.args[1]).train(model.training))
            _replace(graph, node, path, node.args[0])
        elif name in _LAYERS:
            tensor, weight = (1, 0) if name == "embedding" else (0, 1)
            for path in _candidates(node.args[weight], owners, model, _LAYERS[name]):
                if _same_call(name, node, model, path):
                    _replace(graph, node, path, node.args[tensor])
                    break
        elif name in ("batch_norm", "_native_batch_norm_legit_no_training"):
            for path in _candidates(node.args[3], owners, model, (nn.modules.batchnorm._BatchNorm,)):
                _replace(graph, node, path, node.args[0])
                break
        elif name == "embedding_bag":
            for path in _candidates(node.args[0], owners, model, (nn.EmbeddingBag,)):
                if _same_bag(node, model, path):
                    _restore_bag(graph, node, path)
                    break
        elif name in _CELLS:
            for path in _candidates(node.args[2], owners, model, (_CELLS[name],)):
                _replace(graph, node, path, node.args[0], node.args[1])
                break
        elif name in _RECURRENT and isinstance(node.args[2], Sequence):
            for path in _candidates(node.args[2][0], owners, model, (_RECURRENT[name],)):
                _restore_recurrent(graph, node, path, name == "lstm")
                break
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Paths of the modules that hold a tensor, by the tensor's identity: it may have several names."""
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None:
                owners.setdefault(id(tensor), []).append(path)
    return owners


def _candidates(
    tensor: Any, owners: dict[int, list[str]], model: nn.Module, kinds: tuple[type[nn.Module], ...]
) -> list[str]:
    if not isinstance(tensor, fx.Node) or tensor.op != "get_attr":
        return []
    holder, _, name = str(tensor.target).rpartition(".")
    paths = owners.get(id(getattr(model.get_submodule(holder), name)), [])
    return [path for path in paths if isinstance(model.get_submodule(path), kinds)]


def _same_call(name: str, node: fx.Node, model: nn.Module, path: str) -> bool:
    """Whether calling the layer computes what this call does: its bias and all its options are the layer's."""
    layer: Any = model.get_submodule(path)
    if layer._forward_hooks or layer._forward_pre_hooks or type(layer).forward not in _FORWARDS:
        return False
    if name == "embedding":
        return layer.max_norm is None
    bias = operand(node, (2, "bias"))
    held = None if not isinstance(bias, fx.Node) or bias.op != "get_attr" else str(bias.target)
    own = None
    if layer.bias is not None:
        own = layer.bias
    given = None
    if held is not None:
        holder, _, leaf = held.rpartition(".")
        given = getattr(model.get_submodule(holder), leaf)
    if given is not own or (isinstance(bias, fx.Node) and held is None):
        return False
    if name == "linear":
        return True
    if layer.padding_mode != "zeros":
        return False
    order = ("stride", "padding", "dilation", "groups")
    if name.startswith("conv_transpose"):
        order = ("stride", "padding", "output_padding", "groups", "dilation")  # type: ignore[assignment]
    for place, option in enumerate(order, start=3):
        found = operand(node, (place, option))
        if found is not None and not _same(found, getattr(layer, option)):
            return False
    return True


_FORWARDS = {
    kind.forward
    for kind in (
        nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
        nn.Embedding,
    )
}  # fmt: skip


def _same(found: Any, own: Any) -> bool:
    if isinstance(found, str) or isinstance(own, str):
        return bool(found == own)
    listed = list(found) if isinstance(found, Sequence) else [found]
    wanted = list(own) if isinstance(own, Sequence) else [own]
    if len(listed) == 1:
        listed = listed * len(wanted)
    return listed == wanted


def _restore_recurrent(graph: fx.Graph, node: fx.Node, path: str, cell: bool) -> None:
    """ATen returns output and states side by side; the module returns the two states of an LSTM as a pair."""
    hidden = node.args[1]
    state = tuple(hidden) if isinstance(hidden, Sequence) else hidden
    with graph.inserting_before(node):
        called = graph.call_module(path, (node.args[0], state))
        for user in list(node.users):
            index = user.args[1]
            assert isinstance(index, int)
            with graph.inserting_before(user):
                part = graph.call_function(operator.getitem, (called, min(index, 1)))
                if cell and index:
                    part = graph.call_function(operator.getitem, (part, index - 1))
            user.replace_all_uses_with(part)
            graph.erase_node(user)
    graph.erase_node(node)


def _same_bag(node: fx.Node, model: nn.Module, path: str) -> bool:
    layer: Any = model.get_submodule(path)
    weighted = len(node.args) > 6 and node.args[6] is not None
    return layer.max_norm is None and layer.padding_idx is None and not layer.include_last_offset and not weighted


def _restore_bag(graph: fx.Graph, node: fx.Node, path: str) -> None:
    """ATen returns the sums and three tensors that only its backward pass reads."""
    with graph.inserting_before(node):
        called = graph.call_module(path, (node.args[1], node.args[2]))
    for user in list(node.users):
        if user.args[1] == 0:
            user.replace_all_uses_with(called)
        graph.erase_node(user)
    graph.erase_node(node)


def _add(model: nn.Module, path: str, module: nn.Module) -> None:
    holder, _, name = path.rpartition(".")
    if not hasattr(model, holder):
        model.add_module(holder, nn.Module())
    model.get_submodule(holder).add_module(name, module)


def _replace(graph: fx.Graph, node: fx.Node, path: str, *arguments: Any) -> None:
    with graph.inserting_before(node):
        called = graph.call_module(path, tuple(tuple(each) if isinstance(each, list) else each for each in arguments))
    called.meta = dict(node.meta)
    node.replace_all_uses_with(called)
    graph.erase_node(node)
