"""What a person asks for when a model is quantised; checked, and JSON-able, so that it can be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mcomp.errors import UsageError
from mcomp.quantization.schemes import OFF, SCHEMES, USUAL_BITS, Scheme

__all__ = ["OFF", "SCHEMES", "QuantizeConfig", "Route", "Variant", "check_bits", "check_variant", "find_scheme"]

Variant = Literal["int_exact", "paper", "micronet"]
#: How a model is seen: the graph of ``torch.fx``, that of ``torch.export``, or module by module; ``auto`` takes the
#: one that converts most, the earlier where two convert the same.
Route = Literal["auto", "symbolic", "export", "modules"]

#: Options of DoReFa that were fields of their own in records of earlier versions.
_ONCE_FIELDS = ("variant", "tanh")
#: What a record holds beside the options.
_RESULTS = ("op", "float_layers", "torch", "why_route", "reached")


@dataclass(frozen=True)
class QuantizeConfig:
    """Options of :func:`mcomp.quantization.quantize`, where they are described; nothing is left to a default.

    Raises:
        UsageError: one has a value that does not exist.
    """

    scheme: str = "dorefa"
    w_bits: int = 8
    a_bits: int = 8
    levels: int = 255
    skip: list[str] = field(default_factory=list)
    first_layer_float: bool = True
    last_layer_float: bool = False
    overrides: dict[str, dict[str, int]] = field(default_factory=dict)
    per_channel: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    route: Route = "symbolic"

    def __post_init__(self) -> None:
        rules = find_scheme(self.scheme)
        offered = {"w_bits": rules.weight_bits, "a_bits": rules.activation_bits}
        check_bits(self.w_bits, "w_bits", rules.weight_bits)
        check_bits(self.a_bits, "a_bits", rules.activation_bits)
        if not 1 <= self.levels <= 255:
            raise UsageError(f"`levels` is {self.levels}", code="MC427", hint="use 255, or 127 for TensorRT")
        for pattern, own in self.overrides.items():
            for key, bits in own.items():
                if key not in offered:
                    raise UsageError(
                        f"override `{pattern}` holds unknown `{key}`", code="MC427", hint="use `w_bits` and `a_bits`"
                    )
                check_bits(bits, f"{pattern}: {key}", offered[key])
        if self.route not in get_args(Route):
            routes = ", ".join(get_args(Route))
            raise UsageError(f"there is no route `{self.route}`", code="MC427", hint=f"one of: {routes}")
        if self.per_channel and rules.per_channel is None:
            raise UsageError(f"scheme `{self.scheme}` has no `per_channel`", code="MC427", hint="leave it out")
        object.__setattr__(self, "options", complete_options(self.scheme, self.options))  # frozen, so not plainly

    @classmethod
    def of(
        cls,
        scheme: str,
        w_bits: int | None,
        a_bits: int | None,
        *,
        levels: int,
        skip: Sequence[str],
        first_layer_float: bool | None,
        last_layer_float: bool | None,
        overrides: Mapping[str, Mapping[str, int]] | None,
        per_channel: bool | None,
        options: Mapping[str, Any],
        route: str,
    ) -> QuantizeConfig:
        """The same with None for what the scheme decides, and only some of its options.

        Raises:
            UsageError: one has a value that does not exist.
        """
        rules = find_scheme(scheme)
        return cls(
            scheme,
            rules.default_bits[0] if w_bits is None else w_bits,
            rules.default_bits[1] if a_bits is None else a_bits,
            levels,
            list(skip),
            rules.first_layer_float if first_layer_float is None else first_layer_float,
            rules.last_layer_float if last_layer_float is None else last_layer_float,
            {pattern: dict(own) for pattern, own in (overrides or {}).items()},
            bool(rules.per_channel) if per_channel is None else per_channel,
            dict(options),
            route,  # type: ignore[arg-type]  # checked there
        )

    @classmethod
    def recorded(cls, entry: Mapping[str, Any]) -> QuantizeConfig:
        """The one that a surgery log holds, written by this version or by an earlier one."""
        known = {key: value for key, value in entry.items() if key not in (*_RESULTS, *_ONCE_FIELDS)}
        once = {key: entry[key] for key in _ONCE_FIELDS if key in entry}
        return cls(**{"options": once, **known})


def find_scheme(name: str) -> Scheme:
    """The scheme called ``name``.

    Raises:
        UsageError: there is none.
    """
    if name not in SCHEMES:
        raise UsageError(f"no quantisation scheme `{name}`", code="MC427", hint=f"schemes: {', '.join(SCHEMES)}")
    return SCHEMES[name]


def complete_options(scheme: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a scheme: what was given, and defaults.

    Raises:
        UsageError: it has no such option, or no such value.
    """
    offered = find_scheme(scheme).options
    for name, value in given.items():
        if name not in offered:
            known = ", ".join(f"`{each}`" for each in offered) or "it has none of its own"
            raise UsageError(f"scheme `{scheme}` has no option `{name}`", code="MC427", hint=f"options: {known}")
        if value not in offered[name]:
            values = ", ".join(str(each) for each in offered[name])
            raise UsageError(f"{scheme} has no {name} `{value}`", code="MC427", hint=f"one of: {values}")
    return {name: given.get(name, values[0]) for name, values in offered.items()}


def check_bits(bits: int, what: str, offered: Sequence[int] = USUAL_BITS) -> None:
    """Refuse bits that are not offered: outside 2..16 and 32 unless the scheme says otherwise.

    Raises:
        UsageError: with the name of the option.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in offered:
        known = "2..16" if offered == USUAL_BITS else ", ".join(str(each) for each in offered if each != OFF)
        raise UsageError(f"`{what}` is {bits!r}", code="MC427", hint=f"use {known} bits, or 32 for off")


def check_variant(variant: str) -> None:
    """Refuse a variant of DoReFa that is not offered.

    Raises:
        UsageError: with those that are.
    """
    if variant not in get_args(Variant):
        raise UsageError(
            f"dorefa has no variant `{variant}`", code="MC427", hint=f"one of: {', '.join(get_args(Variant))}"
        )
