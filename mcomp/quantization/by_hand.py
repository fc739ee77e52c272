"""The quantisers of a layer that a person writes into a network of their own, from a scheme and its bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcomp.quantization.config import OFF, QuantizeConfig, find_scheme

if TYPE_CHECKING:
    from mcomp.quantization.quantizers.base import Quantizer


@dataclass(frozen=True)
class Written:
    """What a layer was written down with."""

    config: QuantizeConfig

    @classmethod
    def of(
        cls,
        scheme: str,
        w_bits: int | None,
        a_bits: int | None,
        *,
        levels: int,
        per_channel: bool | None,
        options: Mapping[str, Any],
    ) -> tuple[Written, dict[str, Any]]:
        """The checked request, and those of ``options`` that the scheme does not know: the layer's own.

        Raises:
            UsageError: the scheme does not exist or has no such bits or value.
        """
        known = find_scheme(scheme).options
        config = QuantizeConfig.of(
            scheme,
            w_bits,
            a_bits,
            levels=levels,
            skip=(),
            first_layer_float=False,
            last_layer_float=False,
            overrides=None,
            per_channel=per_channel,
            options={name: value for name, value in options.items() if name in known},
            route="modules",
        )
        return cls(config), {name: value for name, value in options.items() if name not in known}

    def weight(self) -> Quantizer:
        """A quantiser of a weight."""
        made = find_scheme(self.config.scheme)
        return made.weight(self.config.w_bits, self.config.per_channel, self.config.options)

    def activation(self, nonnegative: bool) -> Quantizer | None:
        """A quantiser of a tensor; None where activations stay float."""
        config = self.config
        if config.a_bits == OFF:
            return None
        if config.options.get("variant") == "micronet":  # no graph here to hold the factor 0.1
            from mcomp.quantization.quantizers import DoReFaActivation

            return DoReFaActivation(config.a_bits, "micronet")
        levels = config.levels if config.a_bits == 8 else None
        return find_scheme(config.scheme).activation(config.a_bits, nonnegative, levels, config.options)
