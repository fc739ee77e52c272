"""How much each layer suffers from being quantised, alone, with everything else in float."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.errors import UsageError
from mcomp.metrics.accuracy import in_eval_mode
from mcomp.quantization.bypass import bypassed
from mcomp.quantization.config import OFF
from mcomp.quantization.conversion import quantize
from mcomp.quantization.inputs import Batch, check_batches, check_model, fitting, inputs_of, split_batch
from mcomp.quantization.noise import Noise
from mcomp.quantization.quantizers.base import Quantizer
from mcomp.quantization.restoration import float_twin
from mcomp.quantization.summary import quantising_modules, text_table
from mcomp.quantization.units import Unit, units


@dataclass(frozen=True)
class LayerSensitivity:
    """The network with one layer quantised: its weights, and the tensors that it reads.

    Attributes:
        name: of the layer.
        w_bits: of its weights, 32 where none is quantised.
        a_bits: of what it reads, likewise; the fewest.
        sqnr_db: of the network's output; None where nothing changed.
        top1: percent, None without labels.
        drop: points below the float network, None without labels.
    """

    name: str
    w_bits: int
    a_bits: int
    sqnr_db: float | None
    top1: float | None = None
    drop: float | None = None


@dataclass
class Sensitivity:
    """Rows of :func:`sensitivity`; ``str()`` is a table, the most sensitive layer first.

    Attributes:
        layers: in the model's order.
        float_top1: percent of the float network with the present weights, None without labels.
        quantized_top1: percent with all of them at work.
        sqnr_db: of the network's output with all of them at work.
    """

    layers: list[LayerSensitivity] = field(default_factory=list)
    float_top1: float | None = None
    quantized_top1: float | None = None
    sqnr_db: float | None = None

    def ranked(self) -> list[LayerSensitivity]:
        """The most sensitive first: by the points lost, then by noise."""

        def order(row: LayerSensitivity) -> tuple[float, float]:
            return -(row.drop or 0.0), float("inf") if row.sqnr_db is None else row.sqnr_db

        return sorted(self.layers, key=order)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def to_json(self) -> str:
        """As text; figures that do not exist are null."""
        return json.dumps(self.as_dict(), allow_nan=False)

    def __str__(self) -> str:
        lines = [["only this layer quantised", "w bits", "a bits", "SQNR", "top-1", "points lost"]]
        for row in self.ranked():
            bits = ("float" if each == OFF else str(each) for each in (row.w_bits, row.a_bits))
            lines.append([row.name, *bits, _figure(row.sqnr_db, " dB"), _figure(row.top1, " %"), _figure(row.drop)])
        lines.append(["none", "", "", "", _figure(self.float_top1, " %"), ""])
        lines.append(["all", "", "", _figure(self.sqnr_db, " dB"), _figure(self.quantized_top1, " %"), ""])
        return text_table(lines)


@torch.no_grad()
def sensitivity(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    batches: Iterable[Batch],
    *,
    accuracy: bool = True,
    **options: Any,
) -> Sensitivity:
    """Quantise one layer at a time and see what the network's output loses.

    The network runs once per layer over all batches; with ``accuracy`` false only over the first, whose noise ranks
    layers much as their accuracy does, at a fraction of the cost.

    Args:
        model: float, to be quantised and calibrated on ``batches`` here; or quantised and calibrated. Not changed.
        example_inputs: one batch that a float model accepts.
        batches: ``(inputs, labels)`` pairs, or inputs alone, which have no accuracy.
        accuracy: count right answers, where there are labels.
        options: for a float model, as for :func:`mcomp.quantization.quantize`.

    Raises:
        UsageError: there is no batch, or options for a model that is quantised already.
        StageError: as :func:`mcomp.quantization.quantize`; a quantiser has no range.
    """
    check_model(model)
    check_batches(batches)
    shown: list[Batch] = list(batches) if accuracy else [(inputs_of(each, model),) for each in islice(batches, 1)]
    if not shown:
        raise UsageError("sensitivity needs at least one batch", code="MC427", hint="pass inputs, or pairs with labels")
    if not quantising_modules(model):
        options.setdefault("calibration", shown)
        model = quantize(model, example_inputs, **options)
    elif options:
        raise UsageError(
            f"the model is quantised already, so `{next(iter(options))}` decides nothing",
            code="MC427",
            hint="leave the options out, or pass the float model",
        )
    with in_eval_mode(model):
        twin = float_twin(model)
        plain = _Outcome.of(model, shown, ()) if twin is None else _Outcome.of(twin, shown, None)
        whole = _Outcome.of(model, shown, None, plain)
        rows = [
            _row(unit, _Outcome.of(model, shown, unit.quantizers, plain), plain)
            for unit in units(model)
            if any(quantizer.bits != OFF for quantizer in unit.quantizers)
        ]
    return Sensitivity(rows, plain.top1, whole.top1, whole.noise.db())


@dataclass
class _Outcome:
    """The network's outputs on every batch, how far they are from float, and how many answers are right."""

    outputs: list[Any]
    noise: Noise
    top1: float | None

    @classmethod
    def of(
        cls, model: nn.Module, batches: Sequence[Batch], keep: Sequence[Quantizer] | None, plain: _Outcome | None = None
    ) -> _Outcome:
        """With only the quantisers of ``keep`` at work; None is all of them."""
        device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
        outputs, noise, right, count = [], Noise(), 0, 0
        for index, batch in enumerate(batches):
            given, labels = split_batch(batch, model)
            inputs = [each.to(device) for each in given]
            with fitting(model, f"batch {index + 1}", inputs):
                output = _run(model, inputs, keep)
            if plain is None:
                outputs.append(output)
            else:
                noise.add(plain.outputs[index], output)
            if labels and isinstance(output, Tensor) and output.dim() == 2:
                right += int((output.argmax(1).cpu() == labels[0].cpu()).sum())
                count += len(output)
        return cls(outputs, noise, 100 * right / count if count else None)


def _run(model: nn.Module, inputs: Sequence[Tensor], keep: Sequence[Quantizer] | None) -> Any:
    if keep is None:
        return model(*inputs)
    with bypassed(model, keep):
        return model(*inputs)


def _row(unit: Unit, outcome: _Outcome, plain: _Outcome) -> LayerSensitivity:
    drop = None if outcome.top1 is None or plain.top1 is None else plain.top1 - outcome.top1
    return LayerSensitivity(
        name=unit.name,
        w_bits=min((quantizer.bits for _, quantizer, _ in unit.weights), default=OFF),
        a_bits=min((quantizer.bits for quantizer in unit.activations), default=OFF),
        sqnr_db=outcome.noise.db(),
        top1=outcome.top1,
        drop=drop,
    )


def _figure(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.1f}{unit}"
