"""What a person asks for when a model is quantised; checked, and JSON-able, so that it can be repeated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from mcomp.errors import UsageError

#: Bits that mean "leave it in float".
OFF = 32

Variant = Literal["int_exact", "paper", "micronet"]
SCHEMES = ("dorefa",)


@dataclass(frozen=True)
class QuantizeConfig:
    """Options of :func:`mcomp.quantization.quantize`, where they are described.

    Raises:
        UsageError: one has a value that does not exist.
    """

    scheme: str = "dorefa"
    w_bits: int = 8
    a_bits: int = 8
    variant: Variant = "int_exact"
    levels: int = 255
    skip: list[str] = field(default_factory=list)
    first_layer_float: bool = True
    overrides: dict[str, dict[str, int]] = field(default_factory=dict)
    per_channel: bool = False
    tanh: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(
                f"no quantisation scheme `{self.scheme}`", code="MC427", hint=f"schemes: {', '.join(SCHEMES)}"
            )
        check_variant(self.variant)
        check_bits(self.w_bits, "w_bits")
        check_bits(self.a_bits, "a_bits")
        if not 1 <= self.levels <= 255:
            raise UsageError(f"`levels` is {self.levels}", code="MC427", hint="use 255, or 127 for TensorRT")
        for pattern, own in self.overrides.items():
            for key, bits in own.items():
                if key not in ("w_bits", "a_bits"):
                    raise UsageError(
                        f"override `{pattern}` holds unknown `{key}`", code="MC427", hint="use `w_bits` and `a_bits`"
                    )
                check_bits(bits, f"{pattern}: {key}")


def check_bits(bits: int, what: str) -> None:
    """Refuse bits outside 2..16 and 32.

    Raises:
        UsageError: with the name of the option.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or (bits != OFF and not 2 <= bits <= 16):
        raise UsageError(f"`{what}` is {bits!r}", code="MC427", hint="use 2..16 bits, or 32 for off")


def check_variant(variant: str) -> None:
    """Refuse a variant of DoReFa that is not offered.

    Raises:
        UsageError: with those that are.
    """
    if variant not in get_args(Variant):
        raise UsageError(
            f"dorefa has no variant `{variant}`", code="MC427", hint=f"one of: {', '.join(get_args(Variant))}"
        )
