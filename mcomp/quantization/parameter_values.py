"""The weights that functions and composite layers read through a quantiser, by name, with their present values."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from mcomp.metrics.accuracy import in_eval_mode
from mcomp.quantization.kept_weight import QuantizedParameter
from mcomp.quantization.operands import constant


def quantized_parameters(model: nn.Module) -> dict[str, tuple[QuantizedParameter, Tensor]]:
    """Every :class:`QuantizedParameter` of ``model`` and the float weight that it reads.

    Named after its parameter; one that reads a weight which a graph computes is named after that computation.
    """
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    found: dict[str, tuple[QuantizedParameter, Tensor]] = {}
    computed: dict[str, QuantizedParameter] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, QuantizedParameter) and module.parameter:
            path = name.removesuffix(module.home) + module.parameter
            found[path] = (module, tensors[path])
        elif isinstance(module, QuantizedParameter):
            computed[name] = module
    if computed and isinstance(model, fx.GraphModule):
        found.update(_evaluated(model, computed))
    return found


def _evaluated(
    model: fx.GraphModule, computed: dict[str, QuantizedParameter]
) -> dict[str, tuple[QuantizedParameter, Tensor]]:
    interpreter = fx.Interpreter(model, garbage_collect_values=False)
    found = {}
    with in_eval_mode(model), torch.no_grad():
        for node in model.graph.nodes:
            target = str(node.target)
            if node.op == "call_module" and target in computed:
                found[target.rpartition(".")[2]] = (computed[target], interpreter.env[node.all_input_nodes[0]])
            if constant(node):
                interpreter.env[node] = interpreter.run_node(node)
    return found
