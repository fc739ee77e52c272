"""Write a model in another runtime's format, and run what was written."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.deploy.checked_arguments import checked_inputs, checked_path
from mcomp.deploy.formats.base import Format, first_output
from mcomp.deploy.formats.names import WEIGHT_BITS
from mcomp.deploy.formats.plain_model import plain_model
from mcomp.errors import McompError, StageError, UsageError
from mcomp.quantization.modules import relative_error
from mcomp.quantization.summary import quantising_modules
from mcomp.suggest import did_you_mean

#: Name to the module and class that hold it; loaded when asked for.
FORMATS = {
    "onnx": ("onnx_file", "Onnx"),
    "pt2": ("torch_export", "TorchExport"),
    "torchscript": ("torchscript", "TorchScript"),
    "openvino": ("openvino_ir", "OpenVinoIR"),
    "ncnn": ("ncnn_model", "Ncnn"),
    "mnn": ("mnn_model", "Mnn"),
}


@dataclass(frozen=True)
class Exported:
    """One file, or two that belong together, and what running it showed.

    Attributes:
        format: its name.
        files: the one to load first.
        bytes: of all files, on disk.
        relative_error: ``max|file - reference| / max|reference|`` of the first output for the example inputs.
        reference: what it was held against: ``simulated`` (the quantised model as trained), ``weights`` (its trained
            weights with float activations, in formats that have no other) or ``float``.
        weight_bits: of weights that were quantised anew for this file, else None.
        versions: of the packages that wrote and ran it.
        notes: what a person must know.
        batch: the one size of a batch that the file takes; None where it takes any.
    """

    format: str
    files: tuple[Path, ...]
    bytes: int
    relative_error: float
    reference: str
    weight_bits: int | None
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    batch: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; files by name."""
        return {**asdict(self), "files": [path.name for path in self.files]}


def export(
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    path: str | Path,
    format: str = "onnx",
    *,
    weight_bits: int | None = None,
) -> Exported:
    """Write ``model`` to ``path`` in ``format``, run the file on the example inputs, and compare.

    Args:
        model: float or quantised; not changed.
        example_inputs: a batch that the model accepts, ``(N, …)`` each; one sample more is tried too.
        path: of the file to load; the suffix of the format is added where it is missing.
        format: ``onnx``, ``pt2``, ``torchscript``, ``openvino``, ``ncnn`` or ``mnn``.
        weight_bits: store weights in so many bits, where the format can (``mnn``: 8, 4, 2; ``ncnn``: 16). What that
            costs is reported and not judged.

    Raises:
        UsageError: MC446, no such format, or not these bits; MC427, the model is none, or counts bits; MC429, the
            inputs are no tensors or hold nan or inf; MC445, the path is none.
        BackendMissingError: MC618, a package of the format is not installed.
        StageError: MC447, the format cannot express the network; MC448, the file answers differently.
    """
    chosen = find_format(format)
    check_bits(format, weight_bits)
    chosen.require()
    inputs = tuple(x.detach().cpu() for x in checked_inputs(model, example_inputs))
    wanted = checked_path(path)
    target = wanted if wanted.suffix == chosen.suffix else wanted.with_name(wanted.name + chosen.suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = chosen.write(model, inputs, target, weight_bits)
    reference, expected = _reference(model, chosen, inputs)
    run = chosen.open(written.files)
    error = relative_error(run(*inputs), expected)
    if weight_bits is None and not error <= chosen.tolerance:
        raise StageError(
            f"the file in format `{format}` answers differently: {error:.1e} apart, at most {chosen.tolerance:.0e}",
            code="MC448",
            why="its runtime computes something else than the model",
            hint="export it in another format, and please report the network",
        )
    notes = []
    if reference == "weights":
        notes.append(f"`{format}` quantises no activations: weights are those that were trained, the rest is float")
    batch = None
    if chosen.any_batch and (why := _fixed_batch(run, inputs)):
        batch = len(inputs[0])
        notes.append(f"the file takes batches of {batch} only: {why}")
    return Exported(
        format, written.files, written.bytes, error, reference, weight_bits, chosen.versions(), tuple(notes), batch
    )


def find_format(name: str) -> Format:
    """The format of this name.

    Raises:
        UsageError: MC446, there is none.
    """
    if not isinstance(name, str) or name not in FORMATS:
        advice = did_you_mean(str(name), FORMATS)
        raise UsageError(f"no format `{name}`", code="MC446", hint=advice or f"there are {', '.join(FORMATS)}")
    module, held = FORMATS[name]
    made: Format = getattr(importlib.import_module(f"mcomp.deploy.formats.{module}"), held)()
    return made


def check_bits(name: str, weight_bits: int | None) -> None:
    """Refuse bits that the format does not store weights in.

    Raises:
        UsageError: MC446.
    """
    offered = WEIGHT_BITS.get(name, ())
    if weight_bits is not None and weight_bits not in offered:
        listed = f"it has {', '.join(map(str, offered))}" if offered else "leave the bits out: it has no such thing"
        raise UsageError(f"`{name}` stores no weights in {weight_bits} bits", code="MC446", hint=listed)


def _reference(model: nn.Module, chosen: Format, inputs: tuple[Tensor, ...]) -> tuple[str, Tensor]:
    """What the file is held against, and its answer."""
    with torch.no_grad():
        answer: Tensor = first_output(plain_model(model, activations=chosen.keeps_quantisation)(*inputs))
    if not quantising_modules(model):
        return "float", answer
    return ("simulated" if chosen.keeps_quantisation else "weights"), answer


def _fixed_batch(run: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> str:
    """Why the file takes no batch but one of the example's size; nothing where it does."""
    wanted = tuple(torch.cat([x, x[:1]]) for x in inputs)
    try:
        found = run(*wanted)
    except McompError as error:
        return error.why or error.message
    except Exception as error:  # every runtime has its own
        return str(error).strip().splitlines()[0][:120]
    return "" if len(found) == len(wanted[0]) else f"it answers {len(found)} rows to {len(wanted[0])}"
