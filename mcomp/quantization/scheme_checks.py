"""Whether what is asked of a scheme is on offer; the refusals name what is, and all faults at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import UsageError
from mcomp.quantization.schemes import FLOAT, OFF, SCHEMES, USUAL_BITS, Scheme
from mcomp.suggest import did_you_mean

#: What is wrong, and what to do about it.
Fault = tuple[str, str]


def refuse(faults: Sequence[Fault]) -> None:
    """Tell all faults at once, where there are any.

    Raises:
        UsageError: MC427.
    """
    if faults:
        said, hints = (dict.fromkeys(column) for column in zip(*faults, strict=True))
        raise UsageError("; ".join(said), code="MC427", hint="; ".join(hint for hint in hints if hint))


def find_scheme(name: str) -> Scheme:
    """The scheme called ``name``.

    Raises:
        UsageError: there is none.
    """
    refuse(scheme_faults(name))
    return SCHEMES[name]


def scheme_faults(name: Any) -> list[Fault]:
    """What is wrong with the name of a scheme."""
    if isinstance(name, str) and name in SCHEMES:
        return []
    meant = did_you_mean(name, SCHEMES) if isinstance(name, str) else ""
    return [(f"no quantisation scheme `{name}`", f"{meant} schemes: {', '.join(SCHEMES)}".strip())]


def complete_options(schemes: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of the schemes: what was given, and defaults.

    Raises:
        UsageError: none of them has such an option, or such a value.
    """
    refuse(option_faults(schemes, given))
    return {name: given.get(name, values[0]) for name, values in _offered(schemes).items()}


def option_faults(schemes: Sequence[str], given: Mapping[str, Any], beside: Sequence[str] = ()) -> list[Fault]:
    """What is wrong with options of schemes; ``beside`` are names that may have been meant."""
    offered = _offered(schemes)
    said = " and ".join(f"`{scheme}`" for scheme in dict.fromkeys(schemes))
    faults: list[Fault] = []
    for name, value in given.items():
        if name not in offered:
            known = ", ".join(f"`{each}`" for each in offered) or "it has none of its own"
            meant = did_you_mean(name, [*offered, *beside])
            faults.append((f"scheme {said} has no option `{name}`", meant or f"options: {known}"))
        elif not _among(value, offered[name]):
            whole = isinstance(offered[name], range)
            values = "whole numbers from 0" if whole else ", ".join(str(each) for each in offered[name])
            meant = did_you_mean(value, map(str, offered[name])) if isinstance(value, str) and not whole else ""
            faults.append((f"scheme {said} has no {name} `{value}`", f"{meant} one of: {values}".strip()))
    return faults


def check_override(pattern: str, own: Mapping[str, Any], usual: tuple[str, str]) -> None:
    """Refuse what an override says beyond what its schemes offer.

    Args:
        pattern: whose override it is.
        own: ``scheme``, ``a_scheme`` (``float`` for none), ``w_bits``, ``a_bits``, ``per_channel`` and scheme options.
        usual: the schemes of weights and of activations where it names none.

    Raises:
        UsageError: with what is on offer.
    """
    refuse(override_faults(pattern, own, usual))


def override_faults(pattern: Any, own: Any, usual: tuple[str, str]) -> list[Fault]:
    """What is wrong with one override, see :func:`check_override`."""
    if not isinstance(own, Mapping) or not isinstance(pattern, str):
        example = f"{{{str(pattern)!r}: {{'w_bits': {own if isinstance(own, int) else 4}}}}}"
        return [(f"override `{pattern}` is `{own!r}`", f"a pattern goes with a mapping: `overrides={example}`")]
    weights = own.get("scheme", usual[0])
    activations = own.get("a_scheme", own.get("scheme", usual[1]))
    named = list(dict.fromkeys(name for name in (weights, activations) if name != FLOAT))
    faults = [fault for name in named for fault in scheme_faults(name)]
    if faults:
        return faults
    for side, scheme in (("w_bits", weights), ("a_bits", activations)):
        if side in own and scheme == FLOAT and own[side] != OFF:
            asked = f"override `{pattern}` asks float for `{side}: {own[side]}`"
            faults.append((asked, "leave the bits out, or name a scheme"))
        elif side in own and scheme != FLOAT:
            found = SCHEMES[scheme]
            offered = found.weight_bits if side == "w_bits" else found.activation_bits
            faults += bits_faults(own[side], f"{pattern}: {side}", offered)
    if own.get("per_channel") and (weights == FLOAT or SCHEMES[weights].per_channel is None):
        faults.append((f"scheme `{weights}` has no `per_channel`", "leave it out"))
    options = _offered(named)
    for key in own:
        if key not in _COMMON and key not in options:
            meant = did_you_mean(key, [*_COMMON, *options])
            known = ", ".join(f"`{name}`" for name in (*_COMMON, *sorted(options)))
            faults.append((f"override `{pattern}` holds unknown `{key}`", meant or f"use {known}"))
    return faults + option_faults(named, {key: value for key, value in own.items() if key in options})


_COMMON = ("scheme", "a_scheme", "w_bits", "a_bits", "per_channel")


def check_bits(bits: int, what: str, offered: Sequence[int] = USUAL_BITS) -> None:
    """Refuse bits that are not offered: outside 2..16 and 32 unless the scheme says otherwise.

    Raises:
        UsageError: with the name of the option.
    """
    refuse(bits_faults(bits, what, offered))


def bits_faults(bits: Any, what: str, offered: Sequence[int] = USUAL_BITS) -> list[Fault]:
    """What is wrong with a number of bits, see :func:`check_bits`."""
    if isinstance(bits, int) and not isinstance(bits, bool) and bits in offered:
        return []
    return [(f"`{what}` is {bits!r}", f"use {listed_bits(offered)}, or 32 for off")]


def listed_bits(offered: Sequence[int]) -> str:
    """The bits on offer as a person says them, 32 left out: ``1 bit``, ``1 or 2 bits``, ``2..16 bits``."""
    if tuple(offered) == USUAL_BITS:
        return "2..16 bits"
    known = [str(bits) for bits in offered if bits != OFF]
    return f"{' or '.join(known)} {'bit' if known == ['1'] else 'bits'}"


def _offered(schemes: Sequence[str]) -> dict[str, Sequence[Any]]:
    return {name: values for scheme in schemes for name, values in SCHEMES[scheme].options.items()}


def _among(value: Any, offered: Sequence[Any]) -> bool:
    """Whether the value is on offer as it stands: neither 1 for true nor something that cannot be compared."""
    kinds = {int} if isinstance(offered, range) else {type(each) for each in offered}
    return type(value) in kinds and value in offered
