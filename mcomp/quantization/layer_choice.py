"""What one layer gets: a scheme, bits and options for its weights and for the tensors it reads."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcomp.errors import StageError
from mcomp.quantization.schemes import FLOAT, OFF, SCHEMES
from mcomp.suggest import nearest

if TYPE_CHECKING:
    from mcomp.quantization.config import QuantizeConfig

TYPE, POSITION = "type:", "position:"
FIRST, LAST = "first", "last"


@dataclass(frozen=True)
class Choice:
    """What one weight or tensor gets.

    Attributes:
        scheme: by name; ``float`` for none.
        bits: 32 for float.
        per_channel: of a weight: a scale per output channel.
        options: of the scheme, complete.
    """

    scheme: str
    bits: int
    per_channel: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def off(self) -> bool:
        """Whether it stays float."""
        return self.bits == OFF

    @property
    def why_off(self) -> str:
        """Why a weight with this choice stays float."""
        return "scheme float" if self.scheme == FLOAT else "w_bits is 32"


@dataclass(frozen=True)
class Layer:
    """A layer or call that multiplies, as patterns see it.

    Attributes:
        name: dotted.
        kind: the class of a module, or the name of a function.
        position: ``first`` or ``last`` among those with weights, both in a network of one layer, or empty.
    """

    name: str
    kind: str
    position: tuple[str, ...] = ()

    def matches(self, pattern: str) -> bool:
        """Whether ``pattern`` means this layer: a name with wildcards, ``type:Linear`` or ``position:first``."""
        if pattern.startswith(TYPE):
            return fnmatch.fnmatchcase(self.kind, pattern.removeprefix(TYPE))
        if pattern.startswith(POSITION):
            return pattern.removeprefix(POSITION) in self.position
        return fnmatch.fnmatchcase(self.name, pattern)


def layers_in_order(kinds: Mapping[str, str], order: Sequence[str]) -> dict[str, Layer]:
    """Layers by name.

    Args:
        kinds: of all layers and calls, by name.
        order: names of those with weights, in the order of execution.
    """
    ends: dict[str, tuple[str, ...]] = {}
    if order:
        ends[order[0]] = (FIRST,)
        ends[order[-1]] = (*ends.get(order[-1], ()), LAST)
    return {name: Layer(name, kind, ends.get(name, ())) for name, kind in kinds.items()}


def choose(config: QuantizeConfig, layer: Layer) -> tuple[Choice, Choice]:
    """What ``config`` asks for a layer's weights and for what it reads: the first override that matches counts."""
    own = next((given for pattern, given in config.overrides.items() if layer.matches(pattern)), {})
    return choice_of(config, own, "w"), choice_of(config, own, "a")


def choice_of(config: QuantizeConfig, own: Mapping[str, Any], side: str) -> Choice:
    """The choice for weights (``side`` ``w``) or activations (``a``) under an override ``own``.

    An override that names another scheme starts from that scheme's own bits and options.
    """
    usual = config.scheme if side == "w" else config.a_scheme or config.scheme
    name = own.get("a_scheme", own.get("scheme", usual)) if side == "a" else own.get("scheme", usual)
    if name == FLOAT:
        return Choice(FLOAT, OFF)
    rules = SCHEMES[name]
    inherits = name == usual
    default = rules.default_bits[0 if side == "w" else 1]
    bits = own.get(f"{side}_bits", getattr(config, f"{side}_bits") if inherits else default)
    given = {key: own[key] for key in rules.options if key in own}
    options = {key: config.options[key] if inherits else values[0] for key, values in rules.options.items()}
    per_channel = own.get("per_channel", config.per_channel if inherits else bool(rules.per_channel))
    return Choice(name, bits, bool(per_channel and rules.per_channel is not None), {**options, **given})


def ends_left_float(config: QuantizeConfig, layer: Layer) -> str:
    """Why a first or last layer stays float, or nothing."""
    if config.first_layer_float and FIRST in layer.position:
        return "first layer (first_layer_float)"
    if config.last_layer_float and LAST in layer.position:
        return "last layer (last_layer_float)"
    return ""


def check_patterns(patterns: Sequence[str], layers: Mapping[str, Layer]) -> None:
    """Refuse a pattern that matches no layer.

    Raises:
        StageError: with the nearest names.
    """
    for pattern in patterns:
        if any(layer.matches(pattern) for layer in layers.values()):
            continue
        if pattern.startswith(TYPE):
            known = sorted({f"{TYPE}{layer.kind}" for layer in layers.values()})
        elif pattern.startswith(POSITION):
            known = [f"{POSITION}{FIRST}", f"{POSITION}{LAST}"]
        else:
            known = list(layers)
        close = nearest(pattern, known, cutoff=0.4) or known[:3]
        raise StageError(
            f"the pattern `{pattern}` matches no layer",
            code="MC421",
            why=f"the model has {len(layers)} layers with weights",
            hint=f"did you mean {', '.join(f'`{name}`' for name in close)}?" if close else "",
        )
