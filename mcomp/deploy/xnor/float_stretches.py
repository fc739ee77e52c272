"""Floats that end in packed signs: nobody sees their memory format, so they have the one that is packed faster."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn

from mcomp.deploy.xnor.layers import XnorConv2d
from mcomp.deploy.xnor.sign_steps import SignPacking

#: Of these each number of an output is the same in either format, to the last bit.
_ALIKE = (nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Identity, nn.Dropout)
_PROBE = 32


def read_in_rows(model: fx.GraphModule) -> None:
    """Compute in ``channels_last`` what leads from a convolution to a packing of signs, and nowhere else.

    A binary convolution writes that format itself. A float one is switched over where it gives the same bits on a
    random probe: it may add up in another order there.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    targets = [str(node.target) for node in model.graph.nodes if node.op == "call_module"]
    for node in model.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[str(node.target)], SignPacking):
            continue
        maker = node.all_input_nodes[0]
        while maker.op == "call_module" and len(maker.users) == 1 and type(modules[str(maker.target)]) in _ALIKE:
            maker = maker.all_input_nodes[0]
        if maker.op != "call_module" or len(maker.users) > 1 or targets.count(str(maker.target)) > 1:
            continue
        module = modules[str(maker.target)]
        if type(module) is XnorConv2d:
            module.channels_last = True
        elif type(module) is nn.Conv2d and _same_bits(module):
            module.to(memory_format=torch.channels_last)


def _same_bits(layer: nn.Conv2d) -> bool:
    rows = copy.deepcopy(layer).to(memory_format=torch.channels_last)
    sides = [_PROBE + step * (size - 1) for size, step in zip(layer.kernel_size, layer.dilation, strict=True)]
    probe = torch.randn(2, layer.in_channels, *sides, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return torch.equal(layer(probe), rows(probe))
