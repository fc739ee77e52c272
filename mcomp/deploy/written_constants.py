"""Constants that a network writes piece by piece, such as the attention mask of shifted windows, computed beforehand.

Torch's older exporter drops writes into a slice of a tensor where they come from a graph of ``torch.export``. What
depends on no input is computed here and becomes a buffer; the writes go.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from mcomp.quantization.dataflow import call_name

_NEW: dict[str, Any] = {"new_zeros": torch.zeros, "new_ones": torch.ones, "new_full": torch.full}
_CREATE = frozenset({"zeros", "ones", "full", "arange", "eye", "tensor"})
_MUTATING = frozenset({"setitem", "iadd", "isub", "imul", "itruediv"})


def fold_written_constants(model: nn.Module) -> int:
    """Replace, in a graph module, every constant that is written in place; how many values became buffers."""
    if not isinstance(model, fx.GraphModule):
        return 0
    constant = _constants(model.graph)
    count = 0
    for group in _groups(model.graph, constant):
        if any(_writes(node) for node in group):
            count += _fold(model, group, count)
    if count:
        model.graph.lint()
        model.recompile()
    return count


def _constants(graph: fx.Graph) -> set[fx.Node]:
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op not in ("call_function", "call_method"):
            continue
        name, inputs = call_name(node), node.all_input_nodes
        created = (name in _NEW and len(inputs) == 1) or (name in _CREATE and not inputs)
        if created or (inputs and all(each in found for each in inputs)):
            found.add(node)
    return found


def _groups(graph: fx.Graph, constant: set[fx.Node]) -> list[list[fx.Node]]:
    """Constants that hang together, each group in the graph's order."""
    group: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if node not in constant:
            continue
        joined = [node]
        for other in {id(group[each]): group[each] for each in node.all_input_nodes if each in constant}.values():
            joined = [*other, *joined]
        for each in joined:
            group[each] = joined
    order = {node: place for place, node in enumerate(graph.nodes)}
    distinct = {id(nodes): nodes for nodes in group.values()}
    return [sorted(nodes, key=lambda node: order[node]) for nodes in distinct.values()]


def _writes(node: fx.Node) -> bool:
    name = call_name(node)
    return name in _MUTATING or (name.endswith("_") and not name.endswith("__"))


def _fold(model: fx.GraphModule, group: list[fx.Node], index: int) -> int:
    values: dict[fx.Node, Any] = {}
    for node in group:
        values[node] = _value(node, values)
    inside, kept = set(group), 0
    for node in group:
        readers = [user for user in node.users if user not in inside]
        if not readers:
            continue
        if not isinstance(values[node], Tensor):  # a size
            for reader in readers:
                reader.args = _replaced(reader.args, node, values[node])
                reader.kwargs = _replaced(reader.kwargs, node, values[node])
            continue
        name = f"_written_constant_{index + kept}"
        model.register_buffer(name, values[node].clone().contiguous())
        with model.graph.inserting_before(min(readers)):
            held = model.graph.get_attr(name)
        for reader in readers:
            reader.replace_input_with(node, held)
        kept += 1
    for node in reversed(group):
        model.graph.erase_node(node)
    return kept


def _value(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    name = call_name(node)
    if name in _NEW:
        options = {key: value for key, value in node.kwargs.items() if key == "dtype" and value is not None}
        return _NEW[name](*node.args[1:], **options)
    args = fx.node.map_arg(node.args, lambda each: values[each])
    kwargs = fx.node.map_arg(node.kwargs, lambda each: values[each])
    with torch.no_grad():
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        call: Any = node.target
        return call(*args, **kwargs)


def _replaced(arguments: Any, node: fx.Node, value: Any) -> Any:
    return fx.node.map_arg(arguments, lambda each: value if each is node else each)
