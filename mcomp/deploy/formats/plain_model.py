"""A copy of a model in operations that every exporter of torch knows, quantisers as divide, round, clamp, multiply."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcomp.deploy.integer_form import ActivationSite
from mcomp.deploy.marking import Marker, mark


class PlainQuantizer(nn.Module):
    """``(clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale``, halves to even."""

    def __init__(self, site: ActivationSite) -> None:
        super().__init__()
        self.scale, self.low, self.high = site.scale, site.qmin - site.zero_point, site.qmax - site.zero_point

    def forward(self, x: Tensor) -> Tensor:
        """The quantised tensor, of any shape."""
        return torch.clamp(torch.round(x / self.scale), self.low, self.high) * self.scale


class PlainDynamicQuantizer(nn.Module):
    """The grid of each tensor as it comes, as ``DynamicQuantizeLinear`` has it; zeros have the scale 1."""

    def __init__(self, site: ActivationSite) -> None:
        super().__init__()
        self.qmin, self.qmax = site.qmin, site.qmax

    def forward(self, x: Tensor) -> Tensor:
        """The quantised tensor, of any shape."""
        low, high = torch.clamp(x.amin(), max=0.0), torch.clamp(x.amax(), min=0.0)
        spread = (high - low) / (self.qmax - self.qmin)
        scale = torch.where(spread > 0, spread, torch.ones_like(spread))
        zero = torch.round(torch.clamp(-low / scale, self.qmin, self.qmax))
        return (torch.clamp(torch.round(x / scale) + zero, self.qmin, self.qmax) - zero) * scale


def plain_model(model: nn.Module, *, activations: bool = True) -> nn.Module:
    """A copy on the CPU, in eval mode, that computes what ``model`` simulates.

    Weights are the values of their integers.

    Args:
        model: float or quantised; not changed.
        activations: whether they are quantised too.

    Raises:
        StageError: MC431, a quantiser has no range yet.
    """
    marked = mark(model, "torchscript")
    marked.model.cpu()
    for name, module in list(marked.model.named_modules()):
        if isinstance(module, Marker):
            site = marked.activations.get(module.name)
            marked.model.set_submodule(name, _quantizer(site) if site is not None and activations else nn.Identity())
    return marked.model.eval()


def _quantizer(site: ActivationSite) -> nn.Module:
    return PlainDynamicQuantizer(site) if site.dynamic else PlainQuantizer(site)
