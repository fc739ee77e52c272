"""What differs between two preimages, in words. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mcomp.recipe.diagnostics import shown
from mcomp.suggest import listed

Recorded = Mapping[str, Any]
"""Place of code in a preimage to its version, digest and files, as :meth:`KeyMaker.recorded` makes it."""

_LONGEST = 48  # letters of a value that is quoted whole

#: Places of single values, in words; ``{old}`` and ``{new}`` are filled in.
_PLACES = {
    "format": "the format of keys {old} -> {new}",
    "stage": "the stage behind this id: `{old}` -> `{new}`",
    "version": "the stage's version {old} -> {new}",
    "data.content": "the content of the data",
    "seed": "its seed {old} -> {new}",
    "upstream.model.name": "the model `{old}` -> `{new}`",
    "upstream.model.num_classes": "model option `num_classes` {old} -> {new}",
    "upstream.model.seed": "the recipe's `seed` {old} -> {new}, which draws the first weights",
    "upstream.model.weights": "the weights that the model starts from",
    "upstream.model.package": "the package that makes the model {old} -> {new}",
    "numerics.torch": "torch {old} -> {new}",
    "numerics.precision": "precision {old} -> {new}",
    "numerics.device": "device {old} -> {new}",
    "earlier": "an earlier stage's model that it reads",
}
#: Beginnings of places whose last part is a name of the person's.
_NAMED = {
    "options.": "option",
    "data.options.": "data option",
    "upstream.model.kwargs.": "model option",
    "parts.": "version or device of",
}
_CODE = {
    "code": "code of the stage",
    "measuring": "code that measures models",
    "data.code": "code that reads the data",
    "data.user_code": "your data set's code",
    "upstream.model.code": "code that builds the model",
    "upstream.model.user_code": "your model's code",
}
_KINDS = {
    "release": "by version",
    "tokens": "by digest",
    "interactive": "by byte code",
    "older": "by an older mcomp",
}


@dataclass(frozen=True)
class Change:
    """One component of a key that differs.

    Attributes:
        place: dotted path in the preimage.
        old: the value then.
        new: the value now.
        text: the same in words.
        files: modules of the closure that differ, for code.
    """

    place: str
    old: Any
    new: Any
    text: str
    files: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        found = {"component": self.place, "old": self.old, "new": self.new, "text": self.text}
        return found | ({"files": list(self.files)} if self.files else {})


def changes(
    old: Mapping[str, Any], new: Mapping[str, Any], then: Recorded | None = None, now: Recorded | None = None
) -> list[Change]:
    """Every component that differs between two preimages, the incoming artifact left out.

    Args:
        old: the preimage then.
        new: the preimage now.
        then: what was recorded of the code then, to name the files.
        now: the same of the code now.
    """
    found = []
    for place, before, after in _leaves(old, new):
        if place in _CODE:
            found.append(_code(place, before, after, (then or {}).get(place), (now or {}).get(place)))
        elif place != "upstream.artifact":
            found.append(Change(place, before, after, _words(place, before, after)))
    return found


def is_code(place: str) -> bool:
    """Whether the component at this place of a preimage is code."""
    return place in _CODE


def value_text(value: Any) -> str:
    """A value on one line, cut where it is long."""
    return shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _LONGEST)


def _leaves(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    if json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True):  # as the key sees them: 1 is not true
        return
    if place in _CODE or not isinstance(old, dict) or not isinstance(new, dict):
        yield place, old, new
        return
    for name in sorted({*old, *new}):
        yield from _leaves(old.get(name), new.get(name), f"{place}.{name}" if place else name)


def _words(place: str, old: Any, new: Any) -> str:
    values = {"old": value_text(old), "new": value_text(new)}
    if place in _PLACES:
        return _PLACES[place].format(**values)
    for start, noun in _NAMED.items():
        if place.startswith(start):
            return f"{noun} `{place.removeprefix(start)}` {values['old']} -> {values['new']}"
    if place == "data":
        return "it looks at the data now" if old is None else "it does not look at the data any more"
    if place == "upstream.model":
        return "it starts from the recipe's own model now" if old is None else "it follows another stage now"
    return f"{place} {values['old']} -> {values['new']}"


def _code(place: str, old: Any, new: Any, then: Recorded | None, now: Recorded | None) -> Change:
    subject = _CODE[place]
    kinds = [None if code is None else code["kind"] if isinstance(code, dict) else "older" for code in (old, new)]
    if kinds[0] != kinds[1]:
        words = " -> ".join("nothing" if kind is None else _KINDS.get(kind, kind) for kind in kinds)
        return Change(place, old, new, f"{subject} is keyed another way: {words}")
    if kinds[0] == "release":
        return Change(place, old, new, f"{subject}: version {old.get('version')} -> {new.get('version')}")
    if then is None or now is None:
        return Change(place, old, new, f"{subject} (its files were not recorded)")
    before, after = then["files"], now["files"]
    files = tuple(name for name in sorted({*before, *after}) if before.get(name) != after.get(name))
    return Change(place, old, new, f"{subject}: {listed(files, 6)}" if files else subject, files)
