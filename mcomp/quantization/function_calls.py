"""Quantising what functions read: a parameter behind its own quantiser, attention as a module."""

from __future__ import annotations

from torch import fx

from mcomp.quantization.attention import QuantAttention
from mcomp.quantization.kept_weight import QuantizedParameter
from mcomp.quantization.modules import attribute
from mcomp.quantization.parameter_plan import ParameterPlan
from mcomp.quantization.quantizer_factory import QuantizerFactory
from mcomp.quantization.quantizers.base import Quantizer

#: Where the quantisers of parameters, and attention, live in the converted model.
PARAMETERS, ATTENTIONS = "quantized_parameters", "attentions"


def insert_parameter(traced: fx.GraphModule, plan: ParameterPlan, make: QuantizerFactory) -> None:
    """Let every function that reads the parameter read it through one quantiser."""
    graph = traced.graph
    home = f"{PARAMETERS}.{(plan.path or plan.name).replace('.', '_')}"
    assert plan.choice is not None, "the plan decides before anything is inserted"
    quantizer = make.weight(plan.choice, per_channel=plan.axis is not None)
    module = QuantizedParameter(quantizer, plan.path, home, plan.axis or 0).train(make.training)
    if plan.path:
        module.initialise(attribute(traced, plan.path))
    traced.add_submodule(home, module)
    nodes = [plan.node]
    if plan.path:
        nodes = [node for node in graph.nodes if node.op == "get_attr" and node.target == plan.path]
    first = next(node for node in graph.nodes if node in nodes)
    with graph.inserting_after(first):
        quantised = graph.call_module(home, (first,))
    for node in nodes:
        node.replace_all_uses_with(quantised, delete_user_cb=lambda user: user is not quantised)


def insert_attention(traced: fx.GraphModule, node: fx.Node, probabilities: Quantizer) -> None:
    """Put a module that quantises its probabilities in the place of scaled dot-product attention."""
    home = f"{ATTENTIONS}.{node.name}"
    probabilities.__dict__["readers"] = (node.name,)
    traced.add_submodule(home, QuantAttention(probabilities).train(traced.training))
    with traced.graph.inserting_before(node):
        made = traced.graph.call_module(home, node.args, dict(node.kwargs))
    node.replace_all_uses_with(made)
    traced.graph.erase_node(node)
