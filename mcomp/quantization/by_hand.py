"""The quantisers of a layer that a person writes into a network of their own, from a scheme and its bits."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from mcomp.errors import UsageError
from mcomp.quantization.config import QuantizeConfig, find_scheme
from mcomp.quantization.layer_choice import Choice, choice_of

if TYPE_CHECKING:
    from mcomp.quantization.quantizers.base import Quantizer


def keywords(layer: type[nn.Module]) -> list[str]:
    """Names of what a layer written by hand takes by keyword: its own arguments, and those of the original."""
    found: dict[str, None] = {}
    for kind in layer.__mro__:
        if kind is nn.Module:
            break
        if "__init__" in vars(kind):
            parameters = list(inspect.signature(vars(kind)["__init__"]).parameters.values())[1:]
            found.update(dict.fromkeys(each.name for each in parameters if each.kind not in _REST))
            if kind.__module__.startswith("torch.") and all(each.kind not in _REST for each in parameters):
                break
    return list(found)


_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True)
class Written:
    """What a layer was written down with.

    Attributes:
        weights: what its weight gets.
        activations: what it reads or makes gets.
        levels: largest level of unsigned 8-bit activations.
    """

    weights: Choice
    activations: Choice
    levels: int

    @classmethod
    def of(
        cls,
        layer: type[nn.Module],
        schemes: tuple[str, str | None],
        bits: tuple[int | None, int | None],
        levels: int,
        per_channel: bool | None,
        options: Mapping[str, Any],
    ) -> tuple[Written, dict[str, Any]]:
        """The checked request, and those of ``options`` that are the layer's own and no scheme's.

        Pairs are of weights and of activations; None as the scheme has it.

        Args:
            layer: the class that is written down.
            schemes: by name.
            bits: or None.
            levels: largest level of unsigned 8-bit activations.
            per_channel: of the weight, or None.
            options: the keywords that remain.

        Raises:
            UsageError: a scheme does not exist or has no such bits or value, or the layer has no such keyword.
        """
        own = keywords(layer)
        # whatever is neither the layer's nor the scheme's is refused with the rest, and its likely meaning
        known = {name for name in options if name not in own}
        config = QuantizeConfig.of(
            schemes,
            bits,
            levels,
            skip=(),
            ends={"first_layer_float": False, "last_layer_float": False},
            overrides=None,
            per_channel=per_channel,
            options={name: value for name, value in options.items() if name in known},
            route="modules",
            beside=own,
        )
        if config.options.get("fold_bn"):
            raise UsageError(
                "a layer by itself has no batch norm to fold",
                code="MC427",
                hint="leave `fold_bn` out, or convert a float network with `quantize`",
            )
        made = cls(choice_of(config, {}, "w"), choice_of(config, {}, "a"), levels)
        return made, {name: value for name, value in options.items() if name not in known}

    @property
    def scales_inputs(self) -> bool:
        """Whether outputs are scaled by the size of what was read before it was made binary (XNOR-Net)."""
        return bool(self.activations.options.get("input_scale"))

    def weight(self) -> Quantizer:
        """A quantiser of a weight."""
        choice = self.weights
        return find_scheme(choice.scheme).weight(choice.bits, choice.per_channel, choice.options)

    def activation(self, nonnegative: bool) -> Quantizer | None:
        """A quantiser of a tensor; None where activations stay float."""
        choice = self.activations
        if choice.off:
            return None
        if choice.options.get("variant") == "micronet":  # no graph here to hold the factor 0.1
            from mcomp.quantization.quantizers import DoReFaActivation

            return DoReFaActivation(choice.bits, "micronet")
        levels = self.levels if choice.bits == 8 else None
        return find_scheme(choice.scheme).activation(choice.bits, nonnegative, levels, choice.options)
