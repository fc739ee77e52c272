"""What every stage that quantises can be told, held against the scheme, and the conversion that follows from it."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, model_validator

from mcomp.errors import UsageError, plural
from mcomp.options import Options
from mcomp.quantization.override_file import read_overrides
from mcomp.quantization.scheme_checks import check_override, listed_bits, override_faults
from mcomp.quantization.schemes import FLOAT, OFF, SCHEMES, Scheme
from mcomp.stages.base import Finding, StageOptions, Surroundings
from mcomp.stages.layer_names import unmatched
from mcomp.stages.placed_faults import faults_at
from mcomp.stages.searched import SEARCH, searched_bits

if TYPE_CHECKING:
    from torch import Tensor, nn

Bits = Annotated[int, WithJsonSchema({"type": "integer", "enum": [*range(1, 17), OFF]})]
SchemeName = Literal["dorefa", "iao", "dynamic", "lsq", "lsq_plus", "pact", "ristretto", "wbwtab"]

#: Where an option stands, and what is wrong with it.
Faults = dict[tuple[str, ...], str]


class SchemeOptions(Options):
    """Options that only some schemes have; None is as the scheme has it."""

    variant: Literal["int_exact", "paper", "micronet"] | None = Field(
        None,
        description="dorefa: int_exact (when left out) keeps the float model's function; the others reproduce older "
        "formulas",
    )
    tanh: bool | None = Field(None, description="dorefa: warp weights by tanh first, as the paper does (int_exact)")
    symmetric_weights: bool | None = Field(None, description="iao: zero point 0 of weights; yes when left out")
    symmetric_activations: bool | None = Field(None, description="iao: zero point 0 of activations; yes when left out")
    observer: Literal["moving_average", "minmax", "percentile", "mse", "entropy"] | None = Field(
        None,
        description="iao: what finds activation ranges; moving_average (when left out) and minmax go on in training",
    )
    fold_bn: Literal["batch", "correction"] | None = Field(
        None,
        description="iao, ristretto: quantise convolutions as folded with their batch norm while training, by the "
        "statistics of each batch or, steadier, by the running ones with the output corrected; not at all when left "
        "out",
    )
    freeze_bn_after: int | None = Field(
        None,
        ge=0,
        description="iao, ristretto: after how many forward passes in training mode, each of a gradient accumulation "
        "included, folded batch norms keep their statistics; 0 for never",
    )
    overflow: Literal["forbid", "saturate"] | None = Field(
        None, description="ristretto: the point fits the largest value (when left out) or has the least squared error"
    )
    ste: Literal["saturate_ste", "ste", "soft_ste"] | None = Field(
        None, description="wbwtab: gradient through the sign: cut at 1 (when left out), plain, or fading to 1"
    )
    codes: Literal["pm1", "01"] | None = Field(
        None, description="wbwtab: binary activations are -1 and +1 (when left out), or 0 and 1"
    )
    input_scale: bool | None = Field(
        None, description="wbwtab: multiply by XNOR-Net's scale K of each window of the input; no when left out"
    )


OF_SCHEMES = tuple(SchemeOptions.model_fields)


class LayerChoice(SchemeOptions):
    """What the layers that one pattern names have of their own; what is left out stays as for all others."""

    scheme: SchemeName | Literal["float"] | None = Field(None, description="of weights, and of activations too")
    a_scheme: SchemeName | Literal["float"] | None = Field(None, description="of activations, where it is another one")
    w_bits: Bits | None = Field(None, description="weight bits, 32 for float")
    a_bits: Bits | None = Field(None, description="bits of the layer's input, 32 for float")
    per_channel: bool | None = Field(None, description="one weight scale per output channel")


class BitsAndLayers(StageOptions):
    """Scheme, bits, and which layers; what is None follows from the scheme."""

    scheme: SchemeName = Field(
        "dorefa",
        description="how values become few bits: dorefa (Zhou 2016, integer-exact), iao (Jacob 2018), "
        "dynamic (activations by the tensor at hand), "
        "lsq (Esser 2020), lsq_plus (Bhalgat 2020), pact (Choi 2018), ristretto (fixed point, Gysel 2016), "
        "wbwtab (binary and ternary)",
    )
    a_scheme: SchemeName | None = Field(None, description="scheme of activations, where it is another one")
    w_bits: Bits | None = Field(
        None, description="weight bits, 2..16 (wbwtab: 1 binary, 2 ternary), or 32 for off; 8 when left out (wbwtab: 1)"
    )
    a_bits: Bits | None = Field(
        None, description="activation bits, 2..16 (wbwtab: 1, dynamic: 8), or 32 for off; 8 when left out (wbwtab: 1)"
    )
    per_channel: bool | None = Field(
        None,
        description="one weight scale per output channel (dorefa, iao, dynamic, pact); left out: iao, dynamic",
    )
    first_layer_float: bool | None = Field(
        None, description="keep the first layer and its input float; when left out: dorefa and wbwtab yes, others no"
    )
    last_layer_float: bool | None = Field(
        None, description="keep the last layer and its input float; when left out: wbwtab yes, others no"
    )
    skip: list[str] = Field([], description="patterns of layers that stay float: `head.*`, `type:Linear`")
    overrides: dict[str, LayerChoice] = Field(
        {},
        description="pattern (a name, `type:Linear`, `position:first`) to {scheme, w_bits, a_bits, …}; the first that "
        "matches a layer counts",
    )
    overrides_file: str | None = Field(
        None,
        description="a YAML or JSON file of more overrides, a search's result say; those of the recipe come first",
        json_schema_extra={"path": True},
    )
    bits: Literal["search"] | None = Field(
        None, description="`search`: bits of each layer as a `search` before it found them; `overrides` come first"
    )
    levels: Literal["auto"] | int = Field(
        "auto",
        description="largest level of unsigned 8-bit activations: 127 or 255; auto is 127 where trt_int8 follows",
    )


class QuantizationOptions(SchemeOptions, BitsAndLayers):
    """All that stages share which quantise."""

    calibration: Literal["minmax", "moving_average", "percentile", "mse", "entropy"] | None = Field(
        None, description="how activation ranges are found on data; when left out as the scheme has it, mostly mse"
    )
    calibration_samples: int = Field(512, ge=1, description="training images the ranges are found on")
    sensitivity: bool = Field(
        False, description="report accuracy with one layer quantised at a time, on the validation images"
    )

    @model_validator(mode="after")
    def _as_the_scheme_has_it(self) -> QuantizationOptions:
        """Bits and options that the scheme does not offer, each at its place."""
        faults = {**_wrong_bits(self), **_wrong_options(self)}
        if self.levels not in ("auto", 127, 255):
            faults[("levels",)] = f"levels {self.levels} is none of auto, 127 and 255"
        if faults:
            raise faults_at(faults, self.model_dump())
        return self

    def completed(self, around: Surroundings) -> Any:
        """The same with nothing left to the scheme; ``levels: auto`` is 127 where TensorRT follows, else 255.

        TensorRT has no unsigned INT8.
        """
        rules, reading = _rules(self)
        usual: dict[str, Any] = {
            "w_bits": rules.default_bits[0],
            "a_bits": reading.default_bits[1],
            "per_channel": bool(rules.per_channel),
            "first_layer_float": rules.first_layer_float,
            "last_layer_float": rules.last_layer_float,
            **{name: values[0] for each in (rules, reading) for name, values in each.options.items()},
        }
        update = {name: value for name, value in usual.items() if getattr(self, name) is None}
        if self.levels == "auto":
            update["levels"] = 127 if "trt_int8" in around.after else 255
        return self.model_copy(update=update)


def override_findings(options: QuantizationOptions) -> list[Finding]:
    """What is wrong with the file of overrides, and a warning for each override that the skip list hides."""
    try:
        all_overrides(options)
    except UsageError as error:
        return [Finding(error.message, option=("overrides_file",), hint=error.hint, code=error.code)]
    return [
        Finding(
            f"override `{pattern}` has no effect: `skip` holds the same pattern",
            option=("overrides", pattern),
            severity="warning",
        )
        for pattern in options.overrides
        if any(fnmatch.fnmatchcase(pattern, skipped) for skipped in options.skip)
    ]


def all_overrides(options: QuantizationOptions) -> dict[str, dict[str, Any]]:
    """The overrides of the recipe, then those of the file that it names.

    Raises:
        UsageError: the file cannot be read, or asks for what no scheme offers.
    """
    own = {name: choice.model_dump(exclude_none=True) for name, choice in options.overrides.items()}
    if options.overrides_file is None:
        return own
    held = read_overrides(options.overrides_file)
    for pattern, choice in held.items():
        check_override(pattern, choice, (options.scheme, options.a_scheme or options.scheme))
    return {**own, **{pattern: choice for pattern, choice in held.items() if pattern not in own}}


def unmatched_layers(model: nn.Module, options: QuantizationOptions) -> list[Finding]:
    """Patterns that name no layer of ``model``."""
    held = [pattern for pattern in all_overrides(options) if pattern not in options.overrides]
    places = {"skip": options.skip, "overrides": options.overrides, "overrides_file": held}
    return [fault for place, patterns in places.items() for fault in unmatched(model, place, patterns, by_kind=True)]


def converted(model: nn.Module, example_inputs: tuple[Tensor, ...], options: QuantizationOptions) -> nn.Module:
    """A quantised copy of ``model``; of one that is quantised already, from its latent float weights."""
    from mcomp.quantization import is_quantized, quantize, restore_float

    return quantize(
        restore_float(model) if is_quantized(model) else model,
        example_inputs,
        scheme=options.scheme,
        a_scheme=options.a_scheme,
        w_bits=options.w_bits,
        a_bits=options.a_bits,
        levels=255 if options.levels == "auto" else options.levels,
        skip=options.skip,
        first_layer_float=options.first_layer_float,
        last_layer_float=options.last_layer_float,
        overrides=_with_searched(model, options),
        per_channel=options.per_channel,
        **{name: value for name in OF_SCHEMES if (value := getattr(options, name)) is not None},
    )


def _with_searched(model: nn.Module, options: QuantizationOptions) -> dict[str, dict[str, Any]]:
    """All overrides, those that a search noted on the model last; the first that matches a layer counts."""
    own = all_overrides(options)
    if options.bits != SEARCH:
        return own
    found = searched_bits(model)
    for pattern, choice in found.items():
        check_override(pattern, choice, (options.scheme, options.a_scheme or options.scheme))
    return {**own, **{pattern: choice for pattern, choice in found.items() if pattern not in own}}


def _rules(options: QuantizationOptions) -> tuple[Scheme, Scheme]:
    """Of weights and of activations."""
    return SCHEMES[options.scheme], SCHEMES[options.a_scheme or options.scheme]


def _wrong_bits(options: QuantizationOptions) -> Faults:
    schemes = (options.scheme, options.a_scheme or options.scheme)
    faults = _bits_beyond(schemes, (options.w_bits, options.a_bits))
    for pattern, own in options.overrides.items():
        theirs = (own.scheme or schemes[0], own.a_scheme or own.scheme or schemes[1])
        found = _bits_beyond(theirs, (own.w_bits, own.a_bits))
        faults.update({("overrides", pattern, *place): text for place, text in found.items()})
        rest = own.model_dump(exclude_none=True, exclude={name for (name,) in found})
        others = override_faults(pattern, rest, schemes)
        if others:
            faults[("overrides", pattern)] = "; ".join(f"{text}; {hint}" for text, hint in others)
    return faults


def _bits_beyond(schemes: tuple[str, str], bits: tuple[int | None, int | None]) -> Faults:
    faults: Faults = {}
    for option, what, scheme, asked in zip(
        ("w_bits", "a_bits"), ("weights", "activations"), schemes, bits, strict=True
    ):
        if asked is None or scheme == FLOAT:
            continue
        offered = SCHEMES[scheme].weight_bits if option == "w_bits" else SCHEMES[scheme].activation_bits
        if asked not in offered:
            faults[(option,)] = (
                f"`{scheme}` has no {what} of {plural(asked, 'bit')}; use {listed_bits(offered)}, or 32 for off"
            )
    return faults


def _wrong_options(options: QuantizationOptions) -> Faults:
    rules, reading = _rules(options)
    faults: Faults = {}
    for name in OF_SCHEMES:
        if getattr(options, name) is not None and name not in {**rules.options, **reading.options}:
            faults[(name,)] = f"scheme `{options.scheme}` has no option `{name}`; {_own_options(rules, name)}"
    if options.per_channel and rules.per_channel is None:
        having = ", ".join(f"`{name}`" for name, each in SCHEMES.items() if each.per_channel is not None)
        faults[("per_channel",)] = f"scheme `{options.scheme}` has no scale per channel to choose; {having} have"
    elif options.per_channel and "variant" in rules.options and options.variant not in (None, "int_exact"):
        faults[("per_channel",)] = (
            "per_channel needs variant int_exact: the other formulas have one scale by definition"
        )
    return faults


def _own_options(rules: Scheme, name: str) -> str:
    """What the scheme has, and whose option it is."""
    own = ", ".join(f"`{each}`" for each in rules.options)
    whose = next(other for other, each in SCHEMES.items() if name in each.options)
    return f"it is one of `{whose}`; " + (f"this one has {own}" if own else "this one has none of its own")
