"""Which layers and tensors are quantised, at how many bits, and why the others stay float. Nothing is changed here."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx, nn

from mcomp.errors import StageError
from mcomp.quantization.config import OFF, QuantizeConfig
from mcomp.quantization.dataflow import is_nonnegative, source
from mcomp.quantization.layers import QUANTIZED
from mcomp.suggest import nearest

#: Layers with weights that no scheme of ours converts yet; named in the report when they stay float.
_WEIGHTED = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


@dataclass
class TensorPlan:
    """One tensor to quantise, made by ``node``, at ``bits``; ``readers`` are the layers that asked for it."""

    node: fx.Node
    bits: int
    nonnegative: bool
    readers: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """Weight bits by layer name, tensors in graph order, and the reason for each layer that stays float."""

    weights: dict[str, int]
    tensors: list[TensorPlan]
    float_layers: dict[str, str]


def make_plan(traced: fx.GraphModule, model: nn.Module, config: QuantizeConfig) -> Plan:
    """Decide for every layer. ``model`` is the module the graph came from, to name layers the graph cannot show.

    Raises:
        StageError: a pattern matches no layer.
    """
    modules: dict[str, nn.Module] = dict(traced.named_modules(remove_duplicate=False))
    calls: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], _WEIGHTED):
            calls.setdefault(node.target, []).append(node)
    _check_patterns([*config.skip, *config.overrides], calls)
    weights: dict[str, int] = {}
    why = _out_of_sight(model, traced)
    tensors: dict[fx.Node, TensorPlan] = {}
    ends = _ends(calls, config)
    for name, nodes in calls.items():
        own = next((bits for pattern, bits in config.overrides.items() if fnmatch.fnmatchcase(name, pattern)), {})
        reason = _why_float(name, modules[name], "" if own else ends.get(name, ""), config.skip)
        bits, reading = own.get("w_bits", config.w_bits), own.get("a_bits", config.a_bits)
        if reason:
            why[name] = reason
            continue
        if bits == OFF:
            why[name] = "w_bits is 32" + (f"; its input is quantised to {reading} bits" if reading != OFF else "")
        else:
            weights[name] = bits
        if reading != OFF:
            _read(tensors, nodes, name, reading, modules)
    order = {node: place for place, node in enumerate(traced.graph.nodes)}
    return Plan(weights, sorted(tensors.values(), key=lambda tensor: order[tensor.node]), why)


def _ends(calls: Iterable[str], config: QuantizeConfig) -> dict[str, str]:
    """The first and the last layer where they stay float, and why."""
    names = list(calls)
    ends = {}
    if names and config.last_layer_float:
        ends[names[-1]] = "last layer (last_layer_float)"
    if names and config.first_layer_float:
        ends[names[0]] = "first layer (first_layer_float)"
    return ends


def _read(
    tensors: dict[fx.Node, TensorPlan], nodes: Iterable[fx.Node], name: str, bits: int, modules: dict[str, nn.Module]
) -> None:
    for node in nodes:
        made_by = source(node.all_input_nodes[0], modules)
        if made_by not in tensors:
            tensors[made_by] = TensorPlan(made_by, bits, is_nonnegative(made_by, modules))
        tensor = tensors[made_by]
        tensor.bits = max(tensor.bits, bits)  # one grid per tensor: the finest that a reader asks for
        if name not in tensor.readers:
            tensor.readers.append(name)


def _why_float(name: str, layer: nn.Module, end: str, skip: Sequence[str]) -> str:
    pattern = next((pattern for pattern in skip if fnmatch.fnmatchcase(name, pattern)), None)
    if pattern is not None:
        return f"skip `{pattern}`"
    if type(layer) not in QUANTIZED:
        return f"{type(layer).__name__} is not supported"
    if end:
        return end
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has forward hooks"
    return ""


def _out_of_sight(model: nn.Module, traced: fx.GraphModule) -> dict[str, str]:
    """Layers with weights that are no node of the graph, and why."""
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    return {
        name: "inside a module that the graph holds as one piece"
        if any(name.startswith(f"{target}.") for target in called)
        else "not called as a layer in forward()"
        for name, module in model.named_modules()
        if isinstance(module, _WEIGHTED) and name and name not in called
    }


def _check_patterns(patterns: Iterable[str], calls: Mapping[str, object]) -> None:
    for pattern in patterns:
        if any(fnmatch.fnmatchcase(name, pattern) for name in calls):
            continue
        close = nearest(pattern, calls, cutoff=0.4) or list(calls)[:3]
        raise StageError(
            f"the pattern `{pattern}` matches no layer",
            code="MC421",
            why=f"the model has {len(calls)} layers with weights",
            hint=f"did you mean {', '.join(f'`{name}`' for name in close)}?" if close else "",
        )
