"""What a person asks for when a model is quantised; checked, and JSON-able, so that it can be repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from typing import Any, Literal, cast, get_args

from mcomp.errors import UsageError
from mcomp.quantization.scheme_checks import (
    Fault,
    bits_faults,
    check_bits,
    complete_options,
    find_scheme,
    option_faults,
    override_faults,
    refuse,
    scheme_faults,
)
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

    ``beside`` are names that an option may have been meant to be: the fields where nothing is said.

    Raises:
        UsageError: one has a value that does not exist; all of them are told.
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
    beside: InitVar[Sequence[str]] = ()

    def __post_init__(self, beside: Sequence[str]) -> None:
        schemes = (self.scheme, self.a_scheme or self.scheme)
        unknown = [fault for name in schemes for fault in scheme_faults(name)]
        refuse([*unknown, *self._of_schemes(schemes if not unknown else (), beside), *self._of_any_scheme()])
        object.__setattr__(self, "options", complete_options(schemes, self.options))  # frozen, so not plainly

    def _of_schemes(self, schemes: tuple[str, ...], beside: Sequence[str]) -> list[Fault]:
        """What is wrong with bits and options, which only the schemes can tell."""
        if not schemes:
            return []
        rules, reading = (SCHEMES[name] for name in schemes)
        faults = bits_faults(self.w_bits, "w_bits", rules.weight_bits)
        faults += bits_faults(self.a_bits, "a_bits", reading.activation_bits)
        if self.per_channel is True and rules.per_channel is None:
            faults.append((f"scheme `{self.scheme}` has no `per_channel`", "leave it out"))
        faults += option_faults(schemes, self.options, beside or [each.name for each in fields(self)])
        if isinstance(self.overrides, Mapping):
            for pattern, own in self.overrides.items():
                faults += override_faults(pattern, own, (schemes[0], schemes[1]))
        return faults

    def _of_any_scheme(self) -> list[Fault]:
        faults: list[Fault] = []
        if not isinstance(self.levels, int) or not 1 <= self.levels <= 255:
            faults.append((f"`levels` is {self.levels!r}", "use 255, or 127 for TensorRT"))
        if self.route not in get_args(Route):
            faults.append((f"there is no route `{self.route}`", f"one of: {', '.join(get_args(Route))}"))
        skip, overrides = cast(Any, self.skip), cast(Any, self.overrides)
        if not isinstance(skip, list) or not all(isinstance(each, str) for each in skip):
            example = [skip] if isinstance(skip, str) else ["features.0.*"]
            faults.append((f"`skip` is {skip!r}", f"patterns of layers stand in a list: `skip={example}`"))
        if not isinstance(overrides, Mapping):
            usual = "overrides={'features.0.*': {'w_bits': 4}}"
            faults.append((f"`overrides` is {overrides!r}", f"patterns and what differs there: `{usual}`"))
        for name in ("first_layer_float", "last_layer_float", "per_channel"):
            if not isinstance(getattr(self, name), bool):
                faults.append((f"`{name}` is {getattr(self, name)!r}", "use True or False"))
        return faults

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
        beside: Sequence[str] = (),
    ) -> QuantizeConfig:
        """The same with None for what the scheme decides, and only some of its options.

        Pairs are of weights and of activations; ``ends`` are the fields of first and last layer, ``beside`` are names
        that an option may have been meant to be.

        Raises:
            UsageError: one has a value that does not exist.
        """
        scheme, a_scheme = schemes
        # of schemes that there are not, the constructor tells, with whatever else is wrong
        rules, reading = (_NO_SCHEME if scheme_faults(name) else SCHEMES[name] for name in (scheme, a_scheme or scheme))
        usual = (rules.default_bits[0], reading.default_bits[1])
        w_bits, a_bits = (each if given is None else given for given, each in zip(bits, usual, strict=True))
        return cls(
            scheme,
            w_bits,
            a_bits,
            levels,
            list(skip) if isinstance(skip, Sequence) and not isinstance(skip, str) else cast(Any, skip),
            overrides=_copied(overrides),
            per_channel=bool(rules.per_channel) if per_channel is None else per_channel,
            options=dict(options),
            route=route,  # type: ignore[arg-type]  # checked there
            a_scheme=a_scheme,
            beside=beside,
            **{end: getattr(rules, end) if given is None else given for end, given in ends.items()},
        )

    @classmethod
    def recorded(cls, entry: Mapping[str, Any]) -> QuantizeConfig:
        """The one that a surgery log holds, written by this version or by an earlier one."""
        known = {key: value for key, value in entry.items() if key not in (*_RESULTS, *_ONCE_FIELDS)}
        once = {key: entry[key] for key in _ONCE_FIELDS if key in entry}
        return cls(**{"options": once, **known})


_NO_SCHEME = SCHEMES["iao"]


def _copied(overrides: Any) -> Any:
    """Overrides of their own, as far as they are any."""
    if not isinstance(overrides or {}, Mapping):
        return overrides
    return {pattern: dict(own) if isinstance(own, Mapping) else own for pattern, own in dict(overrides or {}).items()}


def check_variant(variant: str) -> None:
    """Refuse a variant of DoReFa that is not offered.

    Raises:
        UsageError: with those that are.
    """
    if variant not in get_args(Variant):
        raise UsageError(
            f"dorefa has no variant `{variant}`", code="MC427", hint=f"one of: {', '.join(get_args(Variant))}"
        )
