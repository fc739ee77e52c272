"""What quantisation did to each tensor and each layer, measured on data in one go through it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mcomp.errors import StageError
from mcomp.quantization.bypass import bypassed
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.config import OFF
from mcomp.quantization.inputs import Batch, check_batches, fitting, inputs_of
from mcomp.quantization.noise import Noise
from mcomp.quantization.restoration import float_twin
from mcomp.quantization.summary import text_table
from mcomp.quantization.tensor_report import TensorReport, TensorSums, weight_report
from mcomp.quantization.units import Unit, units


@dataclass(frozen=True)
class OutputReport:
    """One layer: what all quantisers up to here did to its output.

    Attributes:
        name: of the layer.
        sqnr_db: of its output against the same network with no quantiser at work; None where there is no noise.
    """

    name: str
    sqnr_db: float | None


@dataclass
class LayerReport:
    """Rows of :func:`layer_report`; ``str()`` is a table.

    Attributes:
        tensors: weights and activations, in the model's order.
        outputs: layers, in order of execution.
        sqnr_db: of the network's output; None where there is no noise.
        samples: how many inputs were looked at.
    """

    tensors: list[TensorReport] = field(default_factory=list)
    outputs: list[OutputReport] = field(default_factory=list)
    sqnr_db: float | None = None
    samples: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def to_json(self) -> str:
        """As text; figures that do not exist are null."""
        return json.dumps(self.as_dict(), allow_nan=False)

    def __str__(self) -> str:
        lines = [["tensor", "kind", "scheme", "bits", "values", "grid", "clipped", "levels", "SQNR"]]
        lines += [
            [
                row.name,
                row.kind,
                row.scheme,
                str(row.bits),
                f"{row.low:.4g} .. {row.high:.4g}",
                f"{row.grid_low:.4g} .. {row.grid_high:.4g}",
                "-" if row.clipped is None else f"{row.clipped:.2f} %",
                f"{row.used:.0f} %",
                _db(row.sqnr_db),
            ]
            for row in self.tensors
        ]
        outputs = [["output of", "SQNR"], *([row.name, _db(row.sqnr_db)] for row in self.outputs)]
        outputs.append(["the network", _db(self.sqnr_db)])
        notes = [f"{row.name}: {row.note}" for row in self.tensors if row.note]
        return "\n\n".join(filter(None, [text_table(lines), "\n".join(notes), text_table(outputs)]))


@torch.no_grad()
def layer_report(model: nn.Module, batches: Iterable[Batch]) -> LayerReport:
    """Measure every quantised tensor and the output of every quantised layer.

    Each batch runs twice, once with all quantisers bypassed and once as it is; of tensors only sums, extremes and
    histograms are kept, of the first run the layers' outputs until the second has passed them.

    Args:
        model: quantised and calibrated; not changed. Of layers that were folded to integers the weights have no float
            value to compare with, and are left out.
        batches: inputs ``[N, ...]``, or ``(inputs, labels)`` pairs of which the first is used.

    Raises:
        StageError: MC422, the model is not quantised; MC423, a quantiser has no range, or there was no batch.
        UsageError: MC429, the batches are none, or the model does not take one.
    """
    check_batches(batches)
    found = units(model)
    if not found:
        raise StageError(
            "the model holds nothing quantised to report on",
            code="MC422",
            hint="quantise it first: `mcomp.quantization.quantize(model, example_inputs)`",
        )
    watched = _Watched(model, found)
    training = model.training
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    samples = 0
    try:
        model.eval()
        for place, batch in enumerate(batches, start=1):
            inputs = [each.to(device) for each in inputs_of(batch, model)]
            with fitting(model, f"batch {place}", inputs):
                watched.run(inputs)
            samples += len(inputs[0])
    finally:
        watched.close()
        model.train(training)
    if not samples:
        raise StageError(
            "the layer report saw no data", code="MC423", hint="pass at least one batch of inputs that the model takes"
        )
    weights = [
        weight_report(name, unit.name, quantizer, weight.detach().movedim(unit.axis(name), 0))
        for unit in found
        for name, quantizer, weight in unit.weights
        if quantizer.bits != OFF
    ]
    activations = [
        watched.sums[name].report(name, "activation", watched.layers[name], module)
        for name, module in quantizers(model).items()
        if name in watched.sums and watched.sums[name].count
    ]
    outputs = [OutputReport(name, noise.db()) for name, noise in watched.noise.items()]
    return LayerReport([*weights, *activations], outputs, watched.whole.db(), samples)


class _Watched:
    """Hooks on quantisers and layers, and what they have summed up."""

    def __init__(self, model: nn.Module, found: list[Unit]) -> None:
        self.model = model
        self.expected: dict[str, list[Any]] = {}
        self.comparing = False
        self.whole = Noise()
        self.noise: dict[str, Noise] = {}
        self.sums: dict[str, TensorSums] = {}
        self.layers: dict[str, list[str]] = {}
        self.handles = []
        self.plain = float_twin(model)
        names = {id(module): name for name, module in model.named_modules()}
        for unit in found:
            for quantizer in unit.activations:
                name = names[id(quantizer)]
                self.layers.setdefault(name, []).append(unit.name)
                if name not in self.sums and quantizer.bits != OFF:
                    self.sums[name] = TensorSums()
                    self.handles.append(quantizer.register_forward_hook(self._tensor_hook(name)))
            if unit.module is not None:
                self.handles.append(unit.module.register_forward_hook(self._output_hook(unit.name)))
                if self.plain is not None:
                    twin = dict(self.plain.named_modules()).get(unit.name)
                    if twin is not None:
                        twin.register_forward_hook(self._output_hook(unit.name))

    def run(self, inputs: list[Tensor]) -> None:
        """Both runs of one batch."""
        self.comparing, self.expected = False, {}
        if self.plain is not None:
            plain = self.plain(*inputs)
        else:
            with bypassed(self.model):
                plain = self.model(*inputs)
        self.comparing = True
        self.whole.add(plain, self.model(*inputs))
        self.expected = {}

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _tensor_hook(self, name: str) -> Any:
        def see(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
            if self.comparing and output.numel():
                warp = None if module.bits == 1 else module.warp()  # a sign is no function in front of the grid
                before = args[0] if warp is None else warp(args[0])
                grid = module.qparams(before) if module.dynamic else module.qparams()
                self.sums[name].see(before, output, grid, module.dynamic)

        return see

    def _output_hook(self, name: str) -> Any:
        def see(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            if not self.comparing:
                # copied: an activation in place may write over the output right away
                self.expected.setdefault(name, []).append(tree_map(_copied, output))
            elif self.expected.get(name):
                self.noise.setdefault(name, Noise()).add(self.expected[name].pop(0), output)

        return see


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"
