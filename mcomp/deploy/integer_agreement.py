"""Layer by layer: are the integers that a runtime computes those that were simulated?

Compared from end to end, one activation that rounds the other way changes all that follows. So each quantised tensor of
the file becomes an input and an output of its own: every layer reads the simulated integers, and what it makes of them
is held against the simulated ones. Both sides round half to even; sums of floats in another order may still land on the
other side of a half.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn

from mcomp.deploy.onnx_graph import OnnxGraph
from mcomp.deploy.onnx_session import OnnxSession


@dataclass(frozen=True)
class Agreement:
    """Of one quantised tensor, how many integers differ and by how much at most.

    Attributes:
        name: of its quantiser.
        elements: how many integers were compared.
        differing: how many of them are not the same.
        largest: the largest difference, in steps of the grid.
    """

    name: str
    elements: int
    differing: int
    largest: int


def compare_integers(path: str | Path, model: nn.Module, images: Tensor, simulate: bool = False) -> list[Agreement]:
    """Compare what the layers of a file make of the simulated integers with what the simulation makes of them.

    Args:
        path: a file of :func:`mcomp.deploy.to_onnx` with Q/DQ.
        model: the quantised model that it was written from.
        images: a batch for it.
        simulate: run the file's operators in float as they are written, in place of integer kernels.

    Returns:
        A row for each quantised tensor with a constant scale that the model makes once, in the order of the file.
    """
    values = _simulated(model, images)
    proto = onnx.load(path)
    cut = _Cut(proto)
    feeds = {"input": images.numpy()}
    expected: dict[str, NDArray[Any]] = {}
    for site in cut.sites:
        if site.name in values:
            expected[site.name] = site.integers(values[site.name])
            feeds[cut.open(site, expected[site.name].shape)] = expected[site.name]
    names = [site for site in cut.sites if site.name in expected]
    if not names:  # weights alone are integers
        return []
    if not names:
        return []
    with tempfile.TemporaryDirectory() as folder:
        session = OnnxSession(cut.write(Path(folder) / "cut.onnx"), simulate=simulate)
        found = session.arrays([site.quantised for site in names], feeds)
    return [_row(site.name, expected[site.name], own) for site, own in zip(names, found, strict=True)]


def _row(name: str, expected: NDArray[Any], found: NDArray[Any]) -> Agreement:
    apart = np.abs(expected.astype(np.int64) - found.astype(np.int64))
    return Agreement(name, apart.size, int((apart > 0).sum()), int(apart.max(initial=0)))


def _simulated(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each activation quantiser returns; those that are called several times are left out."""
    from mcomp.quantization.calibration import quantizers

    seen: dict[str, list[Tensor]] = {}
    handles = [
        module.register_forward_hook(
            # what comes next may write over it in place
            lambda _module, _args, output, name=name: seen.setdefault(name, []).append(output.clone())
        )
        for name, module in quantizers(model).items()
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: outputs[0] for name, outputs in seen.items() if len(outputs) == 1}


@dataclass(frozen=True)
class _Site:
    name: str
    quantised: str
    reader: onnx.NodeProto
    scale: float
    zero_point: int
    dtype: np.dtype[Any]

    def integers(self, value: Tensor) -> NDArray[Any]:
        codes = np.rint(value.numpy().astype(np.float64) / self.scale) + self.zero_point
        return codes.astype(self.dtype)


class _Cut:
    """The graph with an input in front of every layer."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = OnnxGraph(proto)
        self.sites = [site for node in self.graph.nodes if (site := self._site(node)) is not None]

    def _site(self, node: onnx.NodeProto) -> _Site | None:
        """The first quantiser of a tensor; those behind operations that commute have names of their own."""
        name = node.output[0].removesuffix("_dequantized")
        if node.op_type != "DequantizeLinear" or name == node.output[0]:
            return None
        entry, maker = node, self.graph.producer(node.input[0])
        if maker is not None and maker.op_type == "Pad":  # adds channels that the network does not have
            entry, maker = maker, self.graph.producer(maker.input[0])
        if maker is None or maker.op_type not in ("QuantizeLinear", "Clip"):
            return None
        scale, zero_point = (self.graph.array(each) for each in node.input[1:3])
        if scale is None or zero_point is None or scale.size > 1:
            return None
        return _Site(name, entry.input[0], entry, float(scale), int(zero_point), zero_point.dtype)

    def open(self, site: _Site, shape: tuple[int, ...]) -> str:
        """Let the readers of a tensor read a new input; returns its name."""
        name = f"{site.name}_given"
        kind = helper.np_dtype_to_tensor_dtype(site.dtype)
        self.graph.model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        self.graph.inputs.add(name)
        self.graph.model.graph.output.append(helper.make_tensor_value_info(site.quantised, kind, None))
        self.graph.outputs.add(site.quantised)
        site.reader.input[0] = name
        return name

    def write(self, path: Path) -> Path:
        """The cut graph as a file."""
        path.write_bytes(self.graph.finish().SerializeToString())
        return path
