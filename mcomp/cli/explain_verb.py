"""``mcomp explain RECIPE STAGE``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mcomp.cli.common import (
    add_json,
    add_recipe,
    add_store,
    add_strict_code,
    existing_store,
    load_recipe,
    open_store,
    print_json,
    say,
)
from mcomp.errors import UsageError

if TYPE_CHECKING:
    from mcomp.engine.explaining import Explanation
    from mcomp.recipe import Recipe

EPILOG = """\
examples:
  mcomp explain my.yaml quantize
  mcomp explain my.yaml prune --set vars.ratio=0.5 --against latest
  mcomp explain my.yaml train --variant 2 --json"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_recipe(parser)
    parser.add_argument("stage", metavar="STAGE", help="the id of a stage of the recipe")
    parser.add_argument(
        "--against", metavar="RUN", help="a run's id, the beginning of it, or `latest` (default: the newest that fits)"
    )
    parser.add_argument("--variant", type=int, metavar="N", help="of a recipe with a sweep: its n-th run, from 1")
    add_strict_code(parser)
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what the stage's key is made of, and what differs from an earlier run."""
    from mcomp.engine.core import Engine
    from mcomp.engine.explaining import explain

    recipe = _variant(load_recipe(arguments), arguments.variant)
    store = existing_store(arguments) if arguments.against else open_store(arguments)
    engine = Engine(store, strict_code=arguments.strict_code)
    found = explain(recipe, arguments.stage, engine.store, engine.keys(recipe), arguments.against)
    if arguments.json:
        print_json(found.as_dict())
        return 0
    say(*lines(found))
    return 0


def lines(found: Explanation) -> Iterator[str]:
    """The screen of ``mcomp explain``."""
    uses = "" if found.uses == found.id else f" (`{found.uses}`)"
    yield f"{found.id}{uses}: {found.status}, {found.reason}"
    unknown = "none" if found.status == "skip" else "not known yet: it depends on an artifact that is still to be made"
    yield f"  key        {found.key or unknown}"
    for name, value in found.components.items():
        if name not in ("stage", "format"):
            yield f"  {name:<10} {_component(name, value, found)}"
            yield from _codes_within(name, value, found.code)
    if found.run is not None:
        yield from _comparison(found)
    yield from (f"note: {note}" for note in found.notes)


def _comparison(found: Explanation) -> Iterator[str]:
    old, new = (found.old_key or "")[:12], found.key[:12] if found.key else "not known yet"
    if found.same_key:
        yield f"same key as in run {found.run}"
        return
    yield f"against run {found.run}, key {old} -> {new}:"
    yield from (f"  - {change.text}" for change in found.changes)
    for index, cause in enumerate(found.causes):
        start = "  - the model that it receives, because" if index == 0 else "    and because"
        verb = "differs" if cause.changes else "comes before it"
        yield f"{start} `{cause.stage}` {verb}: {cause.text}"


def _component(name: str, value: Any, found: Explanation) -> str:
    from mcomp.engine.wording import value_text

    if name in found.code:
        return _code(value, found.code[name])
    if name == "upstream":
        if "artifact" in value:
            return f"artifact {value['artifact'][:12]}"
        return "the recipe's own model: " + _facts(value["model"], found.code, "upstream.model.")
    if name == "data" and value is not None:
        return f"content {value['content'][:12]}, " + _facts(value["options"], found.code, "data.")
    if isinstance(value, dict):
        return _facts(value, found.code, f"{name}.") or "none"
    return "none" if value in (None, []) else value_text(value)


def _codes_within(name: str, value: Any, recorded: dict[str, Any]) -> Iterator[str]:
    """The code behind the model or the data, which decides the key as the stage's own does."""
    place = "upstream.model" if name == "upstream" else name
    inner = (value or {}).get("model", {}) if name == "upstream" else value
    for part in ("code", "user_code"):
        if isinstance(inner, dict) and f"{place}.{part}" in recorded:
            whose = "own" if part == "user_code" else "mcomp's"
            yield f"  {'':<10} {whose} code: {_code(inner[part], recorded[f'{place}.{part}'])}"


def _facts(values: dict[str, Any], code: dict[str, Any], place: str) -> str:
    from mcomp.engine.wording import value_text

    plain = {key: value for key, value in values.items() if f"{place}{key}" not in code}
    flat = {**plain.pop("kwargs", {}), **plain} if place == "upstream.model." else plain
    return ", ".join(f"{key} {value_text(value)}" for key, value in flat.items())


def _code(keyed: dict[str, Any], recorded: dict[str, Any]) -> str:
    known = f"digest {recorded['digest'][:12]} of {len(recorded['files'])} files"
    if recorded["version"] is not None:
        known = f"version {recorded['version']}, {known}"
    by = {"release": "the version", "tokens": "the digest"}.get(keyed["kind"], "the byte code")
    return f"{known}; {by} counts"


def _variant(recipe: Recipe, number: int | None) -> Recipe:
    count = len(recipe.variants)
    if number is None and not count:
        return recipe
    if number is None or not 1 <= number <= count:
        what = "has no sweep" if not count else f"is a sweep of {count} runs"
        raise UsageError(
            f"recipe `{recipe.name}` {what}" + ("" if number is None else f", so there is no variant {number}"),
            code="MC292",
            hint="leave `--variant` out" if not count else f"choose one with `--variant N`, 1 to {count}",
        )
    return recipe.variants[number - 1]
