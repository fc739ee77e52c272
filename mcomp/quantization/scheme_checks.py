"""Whether what is asked of a scheme is on offer; the refusals name what is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import UsageError
from mcomp.quantization.schemes import FLOAT, OFF, SCHEMES, USUAL_BITS, Scheme
from mcomp.suggest import did_you_mean


def find_scheme(name: str) -> Scheme:
    """The scheme called ``name``.

    Raises:
        UsageError: there is none.
    """
    if name not in SCHEMES:
        raise UsageError(f"no quantisation scheme `{name}`", code="MC427", hint=f"schemes: {', '.join(SCHEMES)}")
    return SCHEMES[name]


def complete_options(schemes: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the schemes: what was given, and defaults.

    Raises:
        UsageError: none of them has such an option, or such a value.
    """
    offered = {name: values for scheme in schemes for name, values in find_scheme(scheme).options.items()}
    said = " and ".join(f"`{scheme}`" for scheme in dict.fromkeys(schemes))
    for name, value in given.items():
        if name not in offered:
            known = ", ".join(f"`{each}`" for each in offered) or "it has none of its own"
            raise UsageError(f"scheme {said} has no option `{name}`", code="MC427", hint=f"options: {known}")
        if value not in offered[name]:
            whole = isinstance(offered[name], range)
            values = "whole numbers from 0" if whole else ", ".join(str(each) for each in offered[name])
            raise UsageError(f"scheme {said} has no {name} `{value}`", code="MC427", hint=f"one of: {values}")
    return {name: given.get(name, values[0]) for name, values in offered.items()}


def check_override(pattern: str, own: Mapping[str, Any], usual: tuple[str, str]) -> None:
    """Refuse what an override says beyond what its schemes offer.

    Args:
        pattern: whose override it is.
        own: ``scheme``, ``a_scheme`` (``float`` for none), ``w_bits``, ``a_bits``, ``per_channel`` and scheme options.
        usual: the schemes of weights and of activations where it names none.

    Raises:
        UsageError: with what is on offer.
    """
    weights = own.get("scheme", usual[0])
    activations = own.get("a_scheme", own.get("scheme", usual[1]))
    named = list(dict.fromkeys(name for name in (weights, activations) if name != FLOAT))
    rules = {name: find_scheme(name) for name in named}
    for side, scheme in (("w_bits", weights), ("a_bits", activations)):
        if side not in own:
            continue
        if scheme == FLOAT and own[side] != OFF:
            raise UsageError(
                f"override `{pattern}` asks float for `{side}: {own[side]}`",
                code="MC427",
                hint="leave the bits out, or name a scheme",
            )
        if scheme != FLOAT:
            found = rules[scheme]
            check_bits(
                own[side], f"{pattern}: {side}", found.weight_bits if side == "w_bits" else found.activation_bits
            )
    if own.get("per_channel") and (weights == FLOAT or rules[weights].per_channel is None):
        raise UsageError(f"scheme `{weights}` has no `per_channel`", code="MC427", hint="leave it out")
    rest = {key: value for key, value in own.items() if key not in _COMMON}
    options = {name for each in rules.values() for name in each.options}
    for key in rest:
        if key not in options:
            meant = did_you_mean(key, [*_COMMON, *options])
            raise UsageError(
                f"override `{pattern}` holds unknown `{key}`",
                code="MC427",
                hint=meant or f"use {', '.join(f'`{name}`' for name in (*_COMMON, *sorted(options)))}",
            )
    complete_options(named, rest)


_COMMON = ("scheme", "a_scheme", "w_bits", "a_bits", "per_channel")


def check_bits(bits: int, what: str, offered: Sequence[int] = USUAL_BITS) -> None:
    """Refuse bits that are not offered: outside 2..16 and 32 unless the scheme says otherwise.

    Raises:
        UsageError: with the name of the option.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in offered:
        known = "2..16" if offered == USUAL_BITS else ", ".join(str(each) for each in offered if each != OFF)
        raise UsageError(f"`{what}` is {bits!r}", code="MC427", hint=f"use {known} bits, or 32 for off")
