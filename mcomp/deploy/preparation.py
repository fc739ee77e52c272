"""From any model to the quantised network that one target runs: every range known, every tensor on a grid it needs.

What a target wants beyond what was trained becomes part of the simulated network here, in torch, where it is measured
like everything else; the lowering adds nothing of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from mcomp.deploy.folding import folded
from mcomp.deploy.profiles import PROFILES, find_profile
from mcomp.errors import StageError, UsageError

if TYPE_CHECKING:
    from mcomp.deploy.profiles.base import Profile
    from mcomp.quantization.inputs import Batch

    #: Sets the ranges that a model misses, by batches that are made when it asks for them; the names it set.
    Calibrator = Callable[[nn.Module, Callable[[], Iterable[Batch]], str | None], list[str]]

NEEDS_RANGES = "give `calibration: {method: entropy, samples: 512}`"


@dataclass
class Prepared:
    """A network ready to be lowered.

    Attributes:
        model: quantised, its batch norms folded, its ranges known.
        calibrated: activation quantisers whose range was found now.
        added: those of them that were in no training: what layers make, for engines that end in integers.
        notes: what could not be prepared.
        bias_change: the most that a bias was moved to a whole number of the accumulator's unit.
    """

    model: nn.Module
    calibrated: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bias_change: float = 0.0


def prepare(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    profile: str,
    batches: Callable[[], Iterable[Batch]] | None = None,
    method: str | None = "minmax",
    outputs: bool = True,
    calibrator: Calibrator | None = None,
) -> Prepared:
    """Quantise what is float, find the ranges that are missing, and give a target the grids that its kernels need.

    Trained ranges stay as they are.

    Args:
        model: float or quantised; not changed.
        example_inputs: a batch that the model accepts.
        profile: ``onnxruntime``, ``openvino``, ``tensorrt`` or ``portable``.
        batches: makes the calibration batches; asked for at most twice. Without it no range is found.
        method: how ranges are found, see :func:`mcomp.quantization.calibrate`.
        outputs: whether a target whose kernels end in integers gets grids for what layers make.
        calibrator: finds the ranges in place of :func:`mcomp.quantization.calibrate`.

    Raises:
        StageError: MC435, ranges are missing and there are no batches.
        UsageError: MC432, no such profile; MC429, the network does not run on a batch.
    """
    from mcomp.quantization.summary import quantising_modules

    target = find_profile(profile)
    if target is None:
        raise UsageError("`float` needs no preparation", code="MC432", hint=f"profiles: {', '.join(PROFILES)}")
    post_training = not quantising_modules(model)
    quantised = per_channel(model, example_inputs, profile) if post_training else copy.deepcopy(model)
    prepared = Prepared(quantised)
    if waiting := missing_ranges(quantised):
        if batches is None:
            raise StageError(
                f"{len(waiting)} activation quantisers have no range, first `{waiting[0]}`",
                code="MC435",
                hint=NEEDS_RANGES,
            )
        prepared.calibrated += (calibrator or _calibrated)(quantised, batches, method)
    if post_training:
        from mcomp.quantization import fold_batch_norms

        prepared.model = fold_batch_norms(quantised, example_inputs).model
    if target.quantize_outputs != "none" and outputs:
        _add_outputs(prepared, example_inputs, target, batches, method, calibrator or _calibrated)
    if target.integer_bias:
        _round_biases(prepared, example_inputs)
    prepared.model.eval()
    return prepared


def per_channel(model: nn.Module, example_inputs: tuple[Tensor, ...], profile: str) -> nn.Module:
    """A float model quantised to 8 bits as its file for ``profile`` will be, before the activations' ranges are known.

    Args:
        model: float; not changed.
        example_inputs: a batch that the model accepts.
        profile: decides what grid an activation has.
    """
    from mcomp.quantization import fold_batch_norms, quantize

    target = PROFILES[profile]
    whole = fold_batch_norms(model, example_inputs).model
    if target.asymmetric:
        return quantize(whole, example_inputs, scheme="iao", symmetric_activations=False, observer="minmax").eval()
    # of the symmetric grids only this one reaches to -128, as int8 does: no clip is left in the graph
    return quantize(whole, example_inputs, scheme="iao", a_scheme="lsq", levels=target.levels).eval()


def missing_ranges(model: nn.Module) -> list[str]:
    """The activation quantisers of ``model`` whose range is not known."""
    from mcomp.quantization.calibration import quantizers

    return [name for name, module in quantizers(model).items() if not module.ready]


def _add_outputs(
    prepared: Prepared,
    example_inputs: tuple[Tensor, ...],
    target: Profile,
    batches: Callable[[], Iterable[Batch]] | None,
    method: str | None,
    calibrator: Calibrator,
) -> None:
    from mcomp.quantization.outputs import quantize_outputs

    try:
        model = folded(prepared.model, example_inputs)
        model, added = quantize_outputs(model, for_fusion=target.quantize_outputs == "fusions")
    except StageError as error:
        prepared.notes.append(f"what layers make stays float: {error}")
        return
    if not added:
        return
    if batches is None:
        prepared.notes.append(
            f"{len(added)} tensors that `{target.name}` wants as integers stay float, first `{added[0]}`: there is no "
            "data to find their ranges on"
        )
        return
    prepared.calibrated += calibrator(model, batches, method)
    prepared.model, prepared.added = model, added


def _round_biases(prepared: Prepared, example_inputs: tuple[Tensor, ...]) -> None:
    """Give biases the values that the file will hold; only weights that are integers already have a unit for them."""
    from mcomp.quantization import fold_batch_norms
    from mcomp.quantization.accumulator_bias import round_biases
    from mcomp.quantization.folded import FoldedLayer

    if not any(isinstance(module, FoldedLayer) for module in prepared.model.modules()):
        try:
            prepared.model = fold_batch_norms(prepared.model, example_inputs).model
        except StageError as error:
            prepared.notes.append(f"biases are rounded in the file alone: {error}")
            return
    prepared.bias_change = round_biases(prepared.model)
    if prepared.bias_change:
        prepared.notes.append(
            f"biases are whole numbers of the accumulator's unit (largest change {prepared.bias_change:.1e})"
        )


def _calibrated(model: nn.Module, batches: Callable[[], Iterable[Batch]], method: str | None) -> list[str]:
    from mcomp.quantization import calibrate

    return calibrate(model, batches(), method)
