"""The schemes by name: which quantiser a weight gets, which one an activation, and what may be asked of them.

Costs no torch until a quantiser is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.quantization.config import Variant
    from mcomp.quantization.quantizers import Quantizer

#: Bits that mean "leave it in float".
OFF = 32
#: The name of no scheme, for layers that stay float.
FLOAT = "float"
USUAL_BITS = (*range(2, 17), OFF)

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Scheme:
    """One scheme.

    Attributes:
        weight: bits, whether per output channel, options -> a fresh quantiser of a weight.
        activation: bits, whether the tensor is never negative, largest unsigned level or None, options -> a fresh
            quantiser of an activation.
        options: what it takes beyond bits: name to the values on offer, the default first.
        weight_bits: on offer.
        activation_bits: on offer.
        default_bits: of weights and of activations.
        per_channel: whether weights have a scale per output channel when nobody says; None where there is no choice.
        first_layer_float: whether the first layer stays float when nobody says.
        last_layer_float: likewise the last.
        replaces_relu: whether an activation quantiser takes the place of the ReLU before it.
    """

    weight: Callable[[int, bool, Options], Quantizer]
    activation: Callable[[int, bool, int | None, Options], Quantizer]
    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    weight_bits: tuple[int, ...] = USUAL_BITS
    activation_bits: tuple[int, ...] = USUAL_BITS
    default_bits: tuple[int, int] = (8, 8)
    per_channel: bool | None = None
    first_layer_float: bool = False
    last_layer_float: bool = False
    replaces_relu: bool = False


def _dorefa_weight(bits: int, per_channel: bool, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import DoReFaWeight

    return DoReFaWeight(bits, options["variant"], per_channel=per_channel, tanh=options["tanh"])


def _dorefa_activation(bits: int, nonnegative: bool, levels: int | None, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import DoReFaActivation

    # the factor of the older formula becomes a node of its own, so that the quantiser stays a plain integer grid
    variant: Variant = "paper" if options["variant"] == "micronet" else options["variant"]
    return DoReFaActivation(bits, variant, signed=not nonnegative, levels=levels, nonnegative_input=nonnegative)


def _iao_weight(bits: int, per_channel: bool, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import AffineQuantizer

    return AffineQuantizer(bits, options["symmetric_weights"], 0 if per_channel else None)


def _iao_activation(bits: int, nonnegative: bool, levels: int | None, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import AffineQuantizer

    symmetric = options["symmetric_activations"]
    return AffineQuantizer(
        bits,
        symmetric,
        observer=options["observer"],
        signed=symmetric and not nonnegative,
        levels=levels,
        nonnegative_input=nonnegative,
    )


def _lsq_weight(bits: int, per_channel: bool, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import LSQuantizer

    return LSQuantizer(bits, of_weight=True, narrow=bits >= 8)


def _lsq_activation(bits: int, nonnegative: bool, levels: int | None, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import LSQuantizer

    return LSQuantizer(bits, not nonnegative, levels=levels, nonnegative_input=nonnegative)


def _lsq_plus_activation(bits: int, nonnegative: bool, levels: int | None, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import LSQPlusQuantizer

    # the offset of a tensor without negative values is 0: nothing to learn
    return _lsq_activation(bits, True, levels, options) if nonnegative else LSQPlusQuantizer(bits)


def _pact_weight(bits: int, per_channel: bool, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import DoReFaWeight

    return DoReFaWeight(bits, per_channel=per_channel)


def _pact_activation(bits: int, nonnegative: bool, levels: int | None, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import PACTQuantizer

    return PACTQuantizer(bits, not nonnegative, levels=levels, nonnegative_input=nonnegative)


def _ristretto_weight(bits: int, per_channel: bool, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import RistrettoQuantizer

    return RistrettoQuantizer(bits, options["overflow"], narrow=bits >= 8)


def _ristretto_activation(bits: int, nonnegative: bool, levels: int | None, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import RistrettoQuantizer

    overflow = options["overflow"]
    return RistrettoQuantizer(bits, overflow, "minmax" if overflow == "forbid" else "mse")


def _wbwtab_weight(bits: int, per_channel: bool, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import AffineQuantizer, BinaryWeight, TernaryWeight

    if bits == OFF:
        return AffineQuantizer(OFF)  # of a layer that is written by hand: it passes its weight through
    return BinaryWeight() if bits == 1 else TernaryWeight()


def _wbwtab_activation(bits: int, nonnegative: bool, levels: int | None, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import BinaryActivation

    return BinaryActivation(options["ste"], options["codes"])


def _dynamic_weight(bits: int, per_channel: bool, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import AffineQuantizer

    return AffineQuantizer(bits, True, 0 if per_channel else None)


def _dynamic_activation(bits: int, nonnegative: bool, levels: int | None, options: Options) -> Quantizer:
    from mcomp.quantization.quantizers import DynamicQuantizer

    return DynamicQuantizer(bits)


SCHEMES: dict[str, Scheme] = {
    "dorefa": Scheme(
        _dorefa_weight,
        _dorefa_activation,
        {"variant": ("int_exact", "paper", "micronet"), "tanh": (False, True)},
        per_channel=False,
        first_layer_float=True,
    ),
    "iao": Scheme(
        _iao_weight,
        _iao_activation,
        {
            "symmetric_weights": (True, False),
            "symmetric_activations": (True, False),
            "observer": ("moving_average", "minmax", "percentile", "mse", "entropy"),
            "fold_bn": (None, "batch", "correction"),
            "freeze_bn_after": range(1 << 31),
        },
        per_channel=True,
    ),
    "dynamic": Scheme(_dynamic_weight, _dynamic_activation, activation_bits=(8, OFF), per_channel=True),
    "lsq": Scheme(_lsq_weight, _lsq_activation),
    "lsq_plus": Scheme(_lsq_weight, _lsq_plus_activation),
    "pact": Scheme(_pact_weight, _pact_activation, per_channel=False),
    "ristretto": Scheme(
        _ristretto_weight,
        _ristretto_activation,
        {
            "overflow": ("forbid", "saturate"),
            "fold_bn": (None, "batch", "correction"),
            "freeze_bn_after": range(1 << 31),
        },
    ),
    "wbwtab": Scheme(
        _wbwtab_weight,
        _wbwtab_activation,
        {"ste": ("saturate_ste", "ste", "soft_ste"), "codes": ("pm1", "01"), "input_scale": (False, True)},
        weight_bits=(1, 2, OFF),
        activation_bits=(1, OFF),
        default_bits=(1, 1),
        first_layer_float=True,
        last_layer_float=True,
        replaces_relu=True,
    ),
}
