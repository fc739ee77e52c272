"""The lists that searches of the lineage print: ``best_candidates_prune=[…]``, ``w_bit=[…]``, ``a_bit=[…]``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from mcomp.errors import UsageError, plural
from mcomp.search.genes import MOST_BITS, Kind
from mcomp.search.network import Layer
from mcomp.suggest import did_you_mean, listed

#: Kind to the name of its list, in the order in which the lines are printed.
NAMES: dict[Kind, str] = {"keep": "best_candidates_prune", "w_bits": "w_bit", "a_bits": "a_bit"}
#: What a layer has of which a choice says nothing: all of its channels, and floating point.
UNSEARCHED: dict[Kind, int | float] = {"keep": 1.0, "w_bits": 32, "a_bits": 32}

_LIST = re.compile(rf"(?<!\w)({'|'.join(NAMES.values())})\s*=\s*\[([^\[\]]*)(\]?)")


def legacy_lines(
    layers: Sequence[Layer],
    choice: Mapping[str, Mapping[str, float]],
    coupled: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """A choice as lines of lists, one entry for each layer; no line where no layer has that kind.

    Args:
        layers: in order of execution.
        choice: layer to kind to value. Shares are those that are KEPT.
        coupled: where a share goes by the name of a group, the layers that have it:
            :attr:`mcomp.pruning.repeated.RepeatedPruning.layers`.

    Raises:
        UsageError: MC481, the choice names a layer or kind that is not there.
    """
    names = [layer.name for layer in layers]
    groups = coupled or {}
    said: dict[str, dict[str, float]] = {name: {} for name in names}
    for name, kinds in choice.items():
        for kind, value in kinds.items():
            grouped = kind == "keep" and name in groups
            if kind not in NAMES or not (grouped or name in said):
                raise UsageError(
                    f"the choice has `{kind}` of `{name}`, for which the lists have no place",
                    code="MC481",
                    hint=did_you_mean(name, names) or f"layers: {listed(names)}",
                )
            for layer in groups[name] if grouped else [name]:
                if layer in said:  # a group may have producers that are no layers, such as a norm
                    said[layer][kind] = value
    lines = []
    for kind, name in NAMES.items():
        if any(kind in own for own in said.values()):
            values = [said[layer].get(kind, UNSEARCHED[kind]) for layer in names]
            lines.append(f"{name}=[{', '.join(_written(kind, value) for value in values)}]")
    return lines


def read_legacy(text: str) -> dict[Kind, list[int | float]]:
    """The lists in a text, by kind: a log, or what :func:`legacy_lines` gave. Nothing of it is evaluated.

    Other lines may stand between them. Of two lists of one kind the later counts: a search prints its best again
    whenever it finds a better one.

    Raises:
        UsageError: MC480, there is no such list, one does not end, or an entry is no number that its kind allows.
    """
    found: dict[Kind, list[int | float]] = {}
    kinds = {name: kind for kind, name in NAMES.items()}
    for name, inside, end in _LIST.findall(text):
        if not end:
            raise UsageError(f"the list `{name}` does not end", code="MC480", hint=f"write `{name}=[…]`, all of it")
        entries = inside.split(",") if inside.strip() else []
        if entries and not entries[-1].strip():
            entries.pop()  # a comma behind the last one
        found[kinds[name]] = [_value(kinds[name], entry, place) for place, entry in enumerate(entries, start=1)]
    if not found:
        raise UsageError(
            "the text holds no list of a search",
            code="MC480",
            hint=f"it has lines such as `w_bit=[8, 4, 8]`; names: {listed(list(kinds))}",
        )
    return found


def choice_of(
    lists: Mapping[Kind, Sequence[int | float]], layers: Sequence[Layer]
) -> dict[str, dict[str, int | float]]:
    """Layer to kind to value: the entries of each list go to the layers in order of execution.

    Raises:
        UsageError: MC480, a list has another length than the network has layers.
    """
    choice: dict[str, dict[str, int | float]] = {layer.name: {} for layer in layers}
    for kind, values in lists.items():
        if len(values) != len(layers):
            names = [layer.name for layer in layers]
            raise UsageError(
                f"`{NAMES[kind]}` lists {plural(len(values), 'layer')}; the network calls {len(layers)}",
                code="MC480",
                why="it was searched on a network of another depth, or one with another number of projections",
                hint=f"give one entry for each of {', '.join(names[:3])} … {names[-1]}",
            )
        for layer, value in zip(layers, values, strict=True):
            choice[layer.name][kind] = value
    return choice


def _written(kind: Kind, value: float) -> str:
    return repr(float(value)) if kind == "keep" else str(int(value))


def _value(kind: Kind, entry: str, place: int) -> int | float:
    try:
        value = float(entry)
    except ValueError:
        value = math.nan
    fits = 0 < value <= 1 if kind == "keep" else value in range(1, MOST_BITS + 1)
    if not fits:
        allowed = "a share to keep, above 0 and at most 1" if kind == "keep" else f"1 to {MOST_BITS} bits"
        raise UsageError(
            f"entry {place} of `{NAMES[kind]}` is `{entry.strip()[:40]}`", code="MC480", hint=f"it must be {allowed}"
        )
    return value if kind == "keep" else int(value)
