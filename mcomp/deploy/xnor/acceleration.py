"""A binary network whose binary layers count bits, and stay in bits where only signs are asked for."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

from torch import fx, nn

from mcomp.deploy.xnor.binary_layers import counting_layer
from mcomp.deploy.xnor.bit_chains import join_steps, keep_in_bits
from mcomp.deploy.xnor.extension import InstructionPath, check_path
from mcomp.deploy.xnor.float_stretches import read_in_rows
from mcomp.deploy.xnor.layers import XnorLayer
from mcomp.errors import StageError
from mcomp.quantization.folded import FoldedLayer
from mcomp.quantization.layers import QuantizedLayer
from mcomp.quantization.modules import replace_module
from mcomp.quantization.restoration import FLOAT
from mcomp.quantization.tracing import trace
from mcomp.surgery import ATTRIBUTE

_COUNTABLE = (nn.modules.conv._ConvNd, nn.Linear, QuantizedLayer, FoldedLayer)


@dataclass(frozen=True)
class LayerRow:
    """What became of one convolution or linear layer.

    Attributes:
        name: in the model.
        popcount: whether it counts bits now.
        reads: ``signs``, packed by what comes before it, or ``floats``, which it packs itself.
        gives: ``signs``, packed for what comes behind it, or ``floats``.
        why: the reason where it does not count bits.
    """

    name: str
    popcount: bool
    reads: str = "floats"
    gives: str = "floats"
    why: str = ""


@dataclass(frozen=True)
class Acceleration:
    """A copy of a model that counts bits, on the CPU and in eval mode, and what became of each layer.

    Attributes:
        model: the copy; a graph module, where the model has a graph.
        layers: every convolution and linear layer.
        note: why signs go from layer to layer as floats; empty where they need not.
    """

    model: nn.Module
    layers: tuple[LayerRow, ...]
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the table."""
        return {"layers": [asdict(row) for row in self.layers], "note": self.note}


def accelerate(model: nn.Module, *, path: InstructionPath = "auto") -> Acceleration:
    """A copy of ``model`` in which layers with binary weights and binary inputs are computed by XNOR and popcount.

    Integer sums are those of the simulated layer, exactly; what is multiplied and added to them is rounded as
    :class:`mcomp.deploy.xnor.XnorConv2d` says. Where a batch norm and a sign follow a layer and nothing else reads
    what is between them, both become one comparison of the sum, and bits go from layer to layer; so they do through max
    pools. Everything else is computed as before. The result is for inference on the CPU in float32; it cannot be
    trained, and is made anew from ``model`` where it is needed.

    Args:
        model: with scheme ``wbwtab`` in it, its batch norms folded or not; not changed.
        path: which loops to take: the fastest that the processor has, or one by name.

    Raises:
        StageError: MC470, no layer has a binary weight and a binary input; or the model holds inf or nan.
        BackendMissingError: MC620, the loops cannot be built.
        UsageError: MC621, the processor does not have that path; MC427, the model is none.
    """
    from mcomp.quantization.inputs import check_model

    check_model(model)
    check_path(path)
    made = copy.deepcopy(model).cpu().eval()
    for record in (ATTRIBUTE, FLOAT):  # no artifact could repeat this, and no float network be made of it
        made.__dict__.pop(record, None)
    graph, note = _graph(made)
    made = made if graph is None else graph
    rows: dict[str, LayerRow] = {}
    for name, layer in list(made.named_modules()):
        if not isinstance(layer, _COUNTABLE):
            continue
        found = counting_layer(layer, graph, path)
        rows[name] = LayerRow(name, not isinstance(found, str), why=found if isinstance(found, str) else "")
        if isinstance(found, str):
            continue
        if name:
            replace_module(made, name, found)
        else:
            made = found
    if not any(row.popcount for row in rows.values()):
        reason = next(iter(rows.values())) if rows else None
        raise StageError(
            "no layer of the model has a binary weight and a binary input",
            code="MC470",
            why=f"`{reason.name}`: {reason.why}" if reason else "it has no convolution and no linear layer",
            hint="quantise with `scheme: wbwtab, w_bits: 1, a_bits: 1` first",
        )
    if graph is not None:
        keep_in_bits(graph, path)
        read_in_rows(graph)
    told = tuple(_told(row, made) for row in rows.values())
    if graph is not None:
        join_steps(graph, path)
    return Acceleration(made, told, note)


def _graph(model: nn.Module) -> tuple[fx.GraphModule | None, str]:
    """What shows which layer reads what, and why there is none."""
    if isinstance(model, fx.GraphModule):
        return model, ""
    if isinstance(model, _COUNTABLE):  # a single layer
        return None, ""
    try:
        return trace(model), ""
    except StageError as error:
        return None, f"{error.message}: each layer packs its own input"


def _told(row: LayerRow, model: nn.Module) -> LayerRow:
    layer = model.get_submodule(row.name)
    if not isinstance(layer, XnorLayer):
        return row
    reads, gives = ("signs" if packed else "floats" for packed in (layer.packing is None, bool(layer.signs_for)))
    return LayerRow(row.name, True, reads, gives)
