"""What a person asks for when a model is quantised; checked, and JSON-able, so that it can be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mcomp.errors import UsageError
from mcomp.quantization.scheme_checks import check_bits, check_override, complete_options, find_scheme
from mcomp.quantization.schemes import OFF, SCHEMES

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
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_channel: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    route: Route = "symbolic"
    a_scheme: str | None = None

    def __post_init__(self) -> None:
        schemes = (self.scheme, self.a_scheme or self.scheme)
        rules, reading = (find_scheme(name) for name in schemes)
        check_bits(self.w_bits, "w_bits", rules.weight_bits)
        check_bits(self.a_bits, "a_bits", reading.activation_bits)
        if not 1 <= self.levels <= 255:
            raise UsageError(f"`levels` is {self.levels}", code="MC427", hint="use 255, or 127 for TensorRT")
        for pattern, own in self.overrides.items():
            check_override(pattern, own, schemes)
        if self.route not in get_args(Route):
            routes = ", ".join(get_args(Route))
            raise UsageError(f"there is no route `{self.route}`", code="MC427", hint=f"one of: {routes}")
        if self.per_channel and rules.per_channel is None:
            raise UsageError(f"scheme `{self.scheme}` has no `per_channel`", code="MC427", hint="leave it out")
        object.__setattr__(self, "options", complete_options(schemes, self.options))  # frozen, so not plainly

    @classmethod
    def of(
        cls,
        schemes: tuple[str, str | None],
        bits: tuple[int | None, int | None],
        levels: int,
        skip: Sequence[str],
        ends: Mapping[str, bool | None],
        overrides: Mapping[str, Mapping[str, Any]] | None,
        per_channel: bool | None,
        options: Mapping[str, Any],
        route: str,
    ) -> QuantizeConfig:
        """The same with None for what the scheme decides, and only some of its options.

        Pairs are of weights and of activations; ``ends`` are the fields of first and last layer.

        Raises:
            UsageError: one has a value that does not exist.
        """
        scheme, a_scheme = schemes
        rules, reading = find_scheme(scheme), find_scheme(a_scheme or scheme)
        usual = (rules.default_bits[0], reading.default_bits[1])
        w_bits, a_bits = (each if given is None else given for given, each in zip(bits, usual, strict=True))
        return cls(
            scheme,
            w_bits,
            a_bits,
            levels,
            list(skip),
            overrides={pattern: dict(own) for pattern, own in (overrides or {}).items()},
            per_channel=bool(rules.per_channel) if per_channel is None else per_channel,
            options=dict(options),
            route=route,  # type: ignore[arg-type]  # checked there
            a_scheme=a_scheme,
            **{end: getattr(rules, end) if given is None else given for end, given in ends.items()},
        )

    @classmethod
    def recorded(cls, entry: Mapping[str, Any]) -> QuantizeConfig:
        """The one that a surgery log holds, written by this version or by an earlier one."""
        known = {key: value for key, value in entry.items() if key not in (*_RESULTS, *_ONCE_FIELDS)}
        once = {key: entry[key] for key in _ONCE_FIELDS if key in entry}
        return cls(**{"options": once, **known})


def check_variant(variant: str) -> None:
    """Refuse a variant of DoReFa that is not offered.

    Raises:
        UsageError: with those that are.
    """
    if variant not in get_args(Variant):
        raise UsageError(
            f"dorefa has no variant `{variant}`", code="MC427", hint=f"one of: {', '.join(get_args(Variant))}"
        )
