"""Keep signs in bits from the layer that makes them to the layers that read them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from mcomp.deploy.xnor import thresholds
from mcomp.deploy.xnor.extension import InstructionPath
from mcomp.deploy.xnor.filters import WORD
from mcomp.deploy.xnor.layers import XnorConv2d
from mcomp.deploy.xnor.sign_steps import SignChain, SignMaxPool2d, SignPacking, SignStep
from mcomp.quantization.quantizers.binary import BinaryActivation

#: Where packing and pooling of bits live in the model.
HOME = "packed_signs"
_PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass
class _Readers:
    """What reads a sign, directly or through what only moves it: those that take bits, and how many that do not."""

    layers: list[fx.Node] = field(default_factory=list)
    others: int = 0


def keep_in_bits(model: fx.GraphModule, path: InstructionPath) -> None:
    """Hand packed signs from maker to reader, in place of floats, wherever only binary convolutions read them."""
    _spell_out_signs(model)
    chains = _Chains(model, path)
    for node in list(model.graph.nodes):
        if node.op == "call_module" and isinstance(chains.modules[str(node.target)], BinaryActivation):
            chains.pack(node)
    model.graph.eliminate_dead_code()
    model.delete_all_unused_submodules()
    model.recompile()


def join_steps(model: fx.GraphModule, path: InstructionPath) -> None:
    """Make one call of the steps that follow each other with nobody else reading what is between them."""
    modules = dict(model.named_modules(remove_duplicate=False))

    def step(node: fx.Node) -> SignStep | None:
        module = modules[str(node.target)] if node.op == "call_module" else None
        packed = isinstance(module, SignStep) and (not module.reads_floats or isinstance(module, SignPacking))
        return module if packed and isinstance(module, SignStep) else None

    joined: set[fx.Node] = set()
    for node in list(model.graph.nodes):
        run = [node]
        while node not in joined and step(run[-1]) and len(run[-1].users) == 1:
            (user,) = run[-1].users
            following = step(user)
            if following is None or following.reads_floats:
                break
            run.append(user)
        if len(run) == 1:
            continue
        joined.update(run)
        steps = [found for each in run if (found := step(each)) is not None]
        target = f"{HOME}.from_{node.name.removeprefix(f'{HOME}_')}"
        model.add_submodule(target, SignChain(steps, path).eval())
        with model.graph.inserting_after(run[-1]):
            call = model.graph.call_module(target, (node.all_input_nodes[0],))
        run[-1].replace_all_uses_with(call)
        for each in reversed(run):
            model.graph.erase_node(each)
    model.delete_all_unused_submodules()
    model.recompile()


def _spell_out_signs(model: fx.GraphModule) -> None:
    """Put the sign that a convolution makes of its input in front of it, where it alone reads that."""
    modules = dict(model.named_modules(remove_duplicate=False))
    targets = Counter(str(node.target) for node in model.graph.nodes if node.op == "call_module")
    for node in list(model.graph.nodes):
        layer = modules[str(node.target)] if node.op == "call_module" else None
        if type(layer) is not XnorConv2d or not layer.makes_signs or targets[str(node.target)] > 1:
            continue
        if layer.padding_mode != "zeros" or layer.input_scale is not None or len(node.all_input_nodes[0].users) > 1:
            continue
        target = f"{HOME}.before_{node.name}"
        model.add_submodule(target, BinaryActivation(codes=layer.codes).eval())
        with model.graph.inserting_before(node):
            sign = model.graph.call_module(target, (node.all_input_nodes[0],))
        node.replace_input_with(node.all_input_nodes[0], sign)


class _Chains:
    def __init__(self, model: fx.GraphModule, path: InstructionPath) -> None:
        self.model, self.path = model, path
        self.modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
        called = [node for node in model.graph.nodes if node.op == "call_module"]
        self.calls = Counter(id(self.modules[str(node.target)]) for node in called)

    def pack(self, sign: fx.Node) -> None:
        """Replace the sign that ``sign`` makes by its bits, where all its readers take them in one layout."""
        readers = _Readers()
        self._find_readers(sign, readers)
        layers: list[Any] = [self.modules[str(node.target)] for node in readers.layers]
        layouts = {_layout(layer) for layer in layers}
        if readers.others or len(layouts) != 1:
            return
        packed = self._made(sign, layers[0].inputs, layouts.pop())
        self._hand_over(sign, packed)
        for layer in layers:
            layer.read_signs()

    def _find_readers(self, node: fx.Node, found: _Readers) -> None:
        for user in node.users:
            module = self._module(user)
            if type(module) in _PASSING or _pools(module):
                self._find_readers(user, found)
            elif type(module) is XnorConv2d and self._own(module) and module.padding_mode == "zeros":
                found.layers.append(user)
            else:
                found.others += 1

    def _made(self, sign: fx.Node, channels: int, groups: int) -> fx.Node:
        """The node whose output is the packed sign: the layer that makes it, or a packing of floats."""
        tail: list[nn.Module] = []
        maker = sign.all_input_nodes[0]
        while len(maker.users) == 1 and self._monotone(maker):
            tail.insert(0, self.modules[str(maker.target)])
            maker = maker.all_input_nodes[0]
        layer = self._module(maker)
        alone = type(layer) is XnorConv2d and self._own(layer) and len(maker.users) == 1
        if isinstance(layer, XnorConv2d) and alone and layer.input_scale is None and layer.outputs == channels:
            edges = thresholds.of_sums(tail, layer.scale, layer.bias, layer.products)
            if edges is not None:
                layer.give_signs(*edges, groups)
                return maker
        floats = thresholds.of_floats(tail, channels) if tail else None
        if floats is None:  # nothing to compare in advance
            maker = sign.all_input_nodes[0]
        with self.model.graph.inserting_after(maker):
            threshold, flip = floats or (None, None)
            return self._call(SignPacking(channels, groups, threshold, flip, self.path), maker, sign.name)

    def _hand_over(self, floats: fx.Node, packed: fx.Node) -> None:
        """Let every reader of ``floats`` read ``packed``."""
        for user in list(floats.users):
            module = self._module(user)
            if type(module) in _PASSING:
                self._hand_over(user, packed)
            elif isinstance(module, nn.MaxPool2d):
                with self.model.graph.inserting_before(user):
                    pooled = self._call(SignMaxPool2d(module), packed, user.name)
                self._hand_over(user, pooled)
            else:
                user.replace_input_with(floats, packed)

    def _call(self, module: nn.Module, source: fx.Node, name: str) -> fx.Node:
        target = f"{HOME}.{name}"
        self.model.add_submodule(target, module.eval())
        self.modules[target] = module
        return self.model.graph.call_module(target, (source,))

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def _own(self, module: nn.Module) -> bool:
        return self.calls[id(module)] == 1

    def _monotone(self, node: fx.Node) -> bool:
        module = self._module(node)
        if type(module) not in thresholds.MONOTONE or module is None:
            return False
        return getattr(module, "running_mean", 0) is not None  # else it measures each batch, in eval mode too


def _pools(module: nn.Module | None) -> bool:
    return type(module) is nn.MaxPool2d and not module.ceil_mode and not module.return_indices


def _layout(layer: XnorConv2d) -> int:
    """Groups whose channels start on a word of their own."""
    return 1 if layer.inputs // layer.groups % WORD == 0 else layer.groups
