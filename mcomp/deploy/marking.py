"""Mark every quantisation site of a network, so that one float export can carry it to any target.

On a copy, each activation quantiser becomes a named marker and each quantised layer a plain float layer whose
weight passes through a named marker. A marker computes nothing; in ONNX it is one node of the domain ``mcomp``,
which a profile's lowering then replaces by Q/DQ. No name of a parameter has to survive the exporter.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcomp.deploy.integer_form import ActivationSite, WeightSite, activation_site, weight_site
from mcomp.deploy.written_constants import fold_written_constants

DOMAIN, OP = "mcomp", "Marker"
Route = Literal["torchscript", "dynamo"]


@dataclass
class MarkedModel:
    """The marked float copy and its sites by marker name."""

    model: nn.Module
    activations: dict[str, ActivationSite] = field(default_factory=dict)
    weights: dict[str, WeightSite] = field(default_factory=dict)


def mark(model: nn.Module, route: Route) -> MarkedModel:
    """A deep copy of ``model`` with markers in place of its quantisers, for one of the two exporters.

    Raises:
        StageError: MC431, a quantiser has no range yet, or its scale is not a positive number.
    """
    from mcomp.quantization.calibration import quantizers
    from mcomp.quantization.parameter_values import quantized_parameters

    marked = MarkedModel(copy.deepcopy(model).eval())
    tensors = quantizers(marked.model)
    parameters = {id(module): (path, tensor) for path, (module, tensor) in quantized_parameters(marked.model).items()}
    for name, module in list(marked.model.named_modules()):
        if name in tensors:
            if module.bits >= 32:
                marked.model.set_submodule(name, nn.Identity())
                continue
            marked.activations[name] = activation_site(name, module)
            before, marker = tensors[name].warp(), Marker(name, route)
            marked.model.set_submodule(name, marker if before is None else nn.Sequential(before, marker))
        elif id(module) in parameters:
            path, tensor = parameters[id(module)]
            site = weight_site(path, module.integers_of(tensor))
            marked.weights[site.name] = site
            marked.model.set_submodule(name, MarkedParameter(site, route))
        elif callable(getattr(module, "integer_weight", None)):
            if getattr(getattr(module, "weight_quantizer", None), "bits", 8) >= 32:
                continue
            site = weight_site(f"{name}.weight", module.integer_weight())
            marked.weights[site.name] = site
            marked.model.set_submodule(name, MarkedLayer(module, site, route))
    fold_written_constants(marked.model)
    return marked


def _float_weight(site: WeightSite) -> nn.Parameter:
    """The float value of a weight's integers, in the layer's own order of dimensions."""
    value = (site.values - site.zero_point) * site.scale.reshape(-1, *[1] * (site.values.ndim - 1))
    value = np.ascontiguousarray(np.moveaxis(value, 0, site.axis).astype(np.float32))
    return nn.Parameter(torch.from_numpy(value), requires_grad=False)


class _TorchScriptMarker(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        return x.clone()

    @staticmethod
    def symbolic(g: Any, x: Any, name: str) -> Any:
        return g.op(f"{DOMAIN}::{OP}", x, name_s=name).setType(x.type())


class Marker(nn.Module):
    """The identity; one ``mcomp::Marker`` node with the attribute ``name`` in an export."""

    def __init__(self, name: str, route: Route) -> None:
        super().__init__()
        self.name = name
        self.route = route

    def forward(self, x: Tensor) -> Tensor:
        """``x`` itself."""
        if self.route == "torchscript":
            marked: Tensor = _TorchScriptMarker.apply(x, self.name)
            return marked
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OP}", (x,), {"name": self.name}, dtype=x.dtype, shape=x.shape, version=1
        )


class MarkedParameter(nn.Module):
    """What a function or a composite layer reads in place of a parameter: the float value of its integers, marked."""

    def __init__(self, site: WeightSite, route: Route) -> None:
        super().__init__()
        self.weight = _float_weight(site)
        self.marker = Marker(site.name, route)

    def forward(self, _parameter: Tensor) -> Tensor:
        """The value, whatever the parameter holds."""
        marked: Tensor = self.marker(self.weight)
        return marked


def _spelled_out(convolution: Any) -> Any:
    """Its padding in numbers where that is possible: ONNX Runtime knows no dilation beside automatic padding."""
    border = convolution._reversed_padding_repeated_twice if convolution.padding == "same" else ()
    if border and list(border[::2]) == list(border[1::2]):
        return tuple(reversed(border[::2]))
    return convolution.padding


class MarkedLayer(nn.Module):
    """A convolution, linear layer or embedding with the geometry of ``source`` and the float value of its integers."""

    input_quantizer: Any  # a module or None

    def __init__(self, source: Any, site: WeightSite, route: Route) -> None:
        super().__init__()
        self.weight = _float_weight(site)
        bias = getattr(source, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone(), requires_grad=False)
        self.marker = Marker(site.name, route)
        self.table = isinstance(source, (nn.Embedding, nn.EmbeddingBag))
        self.mode = getattr(source, "mode", "")  # of a bag
        self.bilinear = isinstance(source, nn.Bilinear)
        names = ("stride", "padding", "output_padding", "groups", "dilation")
        transposed = isinstance(source, nn.modules.conv._ConvTransposeNd)
        self.geometry = {name: getattr(source, name) for name in names} if transposed else None
        # under the name that it has in the layer: it is marked in its own turn
        self.register_module("input_quantizer", getattr(source, "input_quantizer", None))
        self.scale = getattr(source, "input_scale", None)
        self.convolution = hasattr(source, "kernel_size")
        if self.convolution:
            self.stride, self.padding = source.stride, _spelled_out(source)
            self.dilation, self.groups = source.dilation, source.groups
            self.padding_mode = source.padding_mode
            self.border = list(getattr(source, "_reversed_padding_repeated_twice", ()))

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """``(N, C, …)`` through the convolution, or ``(…, features)`` through the linear layer.

        ``more`` is the second operand of a bilinear layer, or the offsets of a bag.
        """
        weight = self.marker(self.weight)
        if self.table:
            bag: Any = F.embedding_bag
            looked_up: Tensor = bag(x, weight, *more, mode=self.mode) if self.mode else F.embedding(x, weight)
            return looked_up
        if self.bilinear:
            return F.bilinear(self._read(x), self._read(more[0]), weight, self.bias)
        if self.scale is None:
            return self._multiply(self._read(x), weight, self.bias)
        from mcomp.quantization.quantizers.xnor import scale_output

        output = self._multiply(self._read(x), weight, None)
        return scale_output(output, self.scale(x), self.bias, weight.dim() - 2)

    def _read(self, x: Tensor) -> Tensor:
        return x if self.input_quantizer is None else self.input_quantizer(x)

    def _multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.geometry is not None:
            operation: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[weight.dim() - 3]
            spread: Tensor = operation(x, weight, bias, **self.geometry)
            return spread
        if not self.convolution:
            return F.linear(x, weight, bias)
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self.border, mode=self.padding_mode), 0
        convolve: Any = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.dim()]
        convolved: Tensor = convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)
        return convolved
