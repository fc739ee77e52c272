"""Mutants of the shipped recipes: one mistake each, and where it is.

Which mutants are wrong is decided by the declarations (schemas, names, traits), never by what mcomp says of them.
``python -m tests.corpus.mutation`` prints the figures, ``… findings`` each kind of failure with an example.
"""

from __future__ import annotations

import random
import string
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mcomp.data import spec
from mcomp.errors import Diagnostic, RecipeError
from mcomp.models import registry as models
from mcomp.recipe import Recipe
from mcomp.stages.base import COMMON_METRICS
from tests.corpus.sheet import COMPOSITION, Schema, Sheet, Spot, place_of

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml"))
PER_EDIT = 2
LETTERS = string.ascii_lowercase + "_"


@dataclass(frozen=True)
class Mutant:
    """One wrong recipe.

    Attributes:
        family: the kind of mistake.
        text: the recipe.
        line: where the diagnostic has to point.
        column: likewise.
        meant: the name that has to be suggested; None where nothing was misspelled.
        sets: ``--set`` texts.
        source: what the diagnostic has to name, where that is not the recipe.
        one_edit: a typo of one letter, which counts in the share of right suggestions.
    """

    family: str
    text: str
    line: int
    column: int
    meant: str | None = None
    sets: tuple[str, ...] = ()
    source: str = ""
    one_edit: bool = False


def at(family: str, text: str, index: int, meant: str | None = None, **more: Any) -> Mutant:
    """A mutant whose fault starts at a character of its text."""
    return Mutant(family, text, *place_of(text, index), meant=meant, **more)


def typos(name: str, chance: random.Random) -> list[str]:
    """A few words one edit away: a letter lost, added, replaced, two swapped."""
    found: list[str] = []
    for _ in range(PER_EDIT):
        place, letter = chance.randrange(len(name)), chance.choice(LETTERS)
        found.append(name[:place] + name[place + 1 :])
        found.append(name[:place] + letter + name[place:])
        found.append(name[:place] + letter + name[place + 1 :])
        if len(name) > 1:
            left = chance.randrange(len(name) - 1)
            found.append(name[:left] + name[left + 1] + name[left] + name[left + 2 :])
    return [one for one in dict.fromkeys(found) if one and one != name]


def _variable(spot: Spot) -> str | None:
    text = spot.written or ""
    return text[2:-1] if text.startswith("${") and text.endswith("}") else None


def misspelled_keys(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    for spot in sheet.spots:
        if not spot.names:
            continue
        held = {str(key.value) for key, _ in spot.holder.value}
        for typo in typos(spot.name, chance):
            if typo in spot.names or typo in held:
                continue
            start = spot.key.start_mark.index
            yield at("typo in a key", sheet.replaced(spot.key, typo), start, spot.name, one_edit=True)
    for item in sheet.stages:
        if isinstance(item.node, yaml.ScalarNode):
            for typo in typos(item.uses, chance):
                yield at(
                    "typo in a key",
                    sheet.replaced(item.node, typo),
                    item.node.start_mark.index,
                    item.uses,
                    one_edit=True,
                )


def misspelled_values(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    for spot in sheet.spots:
        known = _known_words(sheet, spot)
        if not known or spot.written is None:
            continue
        for typo in typos(spot.written, chance):
            if typo not in known and typo not in ("null", "true", "false"):
                start = spot.value.start_mark.index
                yield at("typo in a value", sheet.replaced(spot.value, typo), start, spot.written, one_edit=True)


def _known_words(sheet: Sheet, spot: Spot) -> list[str]:
    """The names a value is one of, by what is declared."""
    parent = spot.path[0]
    if spot.path == ("model", "name"):
        return list(models.MODELS)
    if spot.path == ("data", "name"):
        return list(spec.DATASETS)
    if parent == "stages" and spot.name == "metric":
        return sorted(sheet.stages[int(spot.path[1])].cls.traits.metrics | COMMON_METRICS)
    if parent == "stages" and spot.name == "vs":
        return sheet.ids
    return [] if spot.schema is None else spot.schema.words


WRONG = {
    "some words": "some words",
    "1.5": 1.5,
    "true": True,
    "null": None,
    "[1, 2]": [1, 2],
    "{some: thing}": {"some": "thing"},
    "12345": 12345,
}


def wrong_types(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    for spot in sheet.spots:
        if spot.schema is None or spot.path[-1] == "vars":
            continue
        for written, value in WRONG.items():
            if not _is_wrong(spot.schema, value) or _is_open(spot, value):
                continue
            text, index = sheet.with_value(spot, written)
            yield at("wrong type", text, index)
            used = _variable(spot)
            if used is not None:
                yield from _through_variable(sheet, used, written)
    for slot in sheet.slots:
        for name, schema in slot.unwritten.items():
            wrong = [written for written, value in WRONG.items() if _is_wrong(schema, value)]
            if wrong:
                yield _inserted("wrong type", sheet, slot.holder, name, chance.choice(wrong))


def _is_wrong(schema: Schema, value: Any) -> bool:
    """True for a value of no type that is allowed there; a mapping or list may be wrong for what it holds instead."""
    kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else None
    inside = kind is not None and any(one.get("type") == kind for one in schema.choices)
    return not inside and not schema.accepts(value)


def _is_open(spot: Spot, value: Any) -> bool:
    """Options of a stage may be left out; a mapping of them has faults of its own, not of its type."""
    return "stages" in spot.path and len(spot.path) == 3 and value is None


def _through_variable(sheet: Sheet, name: str, written: str) -> Iterator[Mutant]:
    for spot in sheet.spots:
        if spot.path == ("vars", name):
            text, index = sheet.with_value(spot, written)
            yield at("wrong type of a variable", text, index)


def _inserted(family: str, sheet: Sheet, holder: yaml.Node, name: str, written: str) -> Mutant:
    text, index = sheet.with_entry(holder, name, written)
    return at(family, text, index + len(name) + 2)


def out_of_range(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    for spot in sheet.spots:
        for written in _beyond(spot.schema):
            text, index = sheet.with_value(spot, written)
            yield at("out of range", text, index)
    for slot in sheet.slots:
        for name, schema in slot.unwritten.items():
            beyond = _beyond(schema)
            for written in chance.sample(beyond, min(3, len(beyond))):
                yield _inserted("out of range", sheet, slot.holder, name, written)


def _beyond(schema: Schema | None) -> list[str]:
    """Numbers past the declared bounds, spelled for YAML."""
    found: list[str] = []
    for one in [] if schema is None else schema.choices:
        low, high = one.get("minimum"), one.get("maximum")
        found += [] if low is None else [f"{low - 1:g}", "-1000000"]
        found += [] if high is None else [f"{high + 1:g}", "1000000000"]
        found += [f"{one[name]:g}" for name in ("exclusiveMinimum", "exclusiveMaximum") if name in one]
        found += ["-7", "99"] if one.get("type") == "integer" and "enum" in one else []
        found += [".nan", ".inf", "1e999"] if one.get("type") == "number" else []
        found += ["123456789012345678901234567890"] if one.get("type") == "integer" else []
    return [one for one in dict.fromkeys(found) if _is_special(one) or not schema.accepts(float(one))]  # type: ignore[union-attr]


def _is_special(written: str) -> bool:
    return written in (".nan", ".inf", "1e999") or len(written) > 20


def wrong_order(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    """One stage moved to another place, gates left out: each has a place of its own in :func:`bad_vs`."""
    if not sheet.stages:
        return
    lines = sheet.text.split("\n")
    starts = [item.node.start_mark.line for item in sheet.stages]
    last = sheet.span(sheet.stages[-1].node)[1]
    ends = [*starts[1:], sheet.text[:last].count("\n") + 1]
    gates = {spot.key.start_mark.line for spot in sheet.spots if spot.name == "gates"}
    blocks = [
        [lines[line] for line in range(start, end) if line not in gates]
        for start, end in zip(starts, ends, strict=True)
    ]
    taught = _taught(sheet)
    for moved in range(len(blocks)):
        for target in range(len(blocks)):
            if moved == target:
                continue
            order = [place for place in range(len(blocks)) if place != moved]
            order.insert(target, moved)
            culprit = _first_misplaced([sheet.stages[place].cls for place in order])
            if culprit is None or any(order.index(teacher) > order.index(reader) for reader, teacher in taught):
                continue  # a teacher that comes too late is an error of its own
            rest = [place for place in order if place != order[culprit]]
            other = _first_misplaced([sheet.stages[place].cls for place in rest])
            if other is not None and rest[other] == moved:
                continue  # two are out of place, each for a reason of its own
            before = [*lines[: starts[0]], *(line for place in order[:culprit] for line in blocks[place])]
            after = [line for place in order[culprit:] for line in blocks[place]]
            text = "\n".join([*before, *after]) + "\n"
            column = sheet.stages[order[culprit]].mark.start_mark.column + 1
            yield Mutant("wrong order", text, len(before) + 1, column)


def _taught(sheet: Sheet) -> list[tuple[int, int]]:
    """Places of the stages that name a teacher or take what a search found, and of what they need."""
    found = []
    searches = [place for place, item in enumerate(sheet.stages) if item.uses == "search"]
    for spot in sheet.spots:
        if spot.name == "teacher":
            held = spot.value
            if isinstance(held, yaml.MappingNode):
                held = next(value for key, value in held.value if key.value == "stage")
            found.append((int(spot.path[1]), sheet.ids.index(held.value)))
        elif spot.name in ("bits", "keep") and spot.written == "search":
            found.append((int(spot.path[1]), searches[0]))
    return found


def _first_misplaced(order: list[Any]) -> int | None:
    have = {"float", "bn"}
    for place, cls in enumerate(order):
        traits = cls.traits
        if not traits.requires <= have or traits.conflicts & have:
            return place
        have = (have - set(traits.destroys)) | set(traits.provides)
    return None


def duplicates(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    for spot in sheet.spots:
        start, end = sheet.span(spot.key)[0], sheet.span(spot.value)[1]
        written = sheet.text[start:end]
        if spot.holder.flow_style:
            text, again = f"{sheet.text[:end]}, {written}{sheet.text[end:]}", end + 2
        else:
            added = f"\n{' ' * spot.key.start_mark.column}"
            text, again = f"{sheet.text[:end]}{added}{written}{sheet.text[end:]}", end + len(added)
        yield at("duplicate key", text, again)
    compared = {spot.written for spot in sheet.spots if spot.name == "vs"}
    named = {int(spot.path[1]) for spot in sheet.spots if spot.name == "id" and len(spot.path) == 3}
    for later in sheet.stages[1:]:
        if sheet.ids[later.place] in compared or later.place in named:
            continue  # its gates would rightly miss it, or it would have two keys `id`
        name = sheet.ids[chance.randrange(later.place)]
        text, index = sheet.with_keyword(later, "id", name)
        yield at("duplicate id", text, index + 4)


def bad_vs(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    for spot in sheet.spots:
        if spot.name == "vs":
            place = int(spot.path[1])
            for name in ["nobody", *sheet.ids[place:]]:
                yield at("bad vs", sheet.replaced(spot.value, name), spot.value.start_mark.index)
        if spot.name == "metric":
            yield at("bad metric", sheet.replaced(spot.value, "beauty"), spot.value.start_mark.index)
    for spot in sheet.spots:
        if spot.name == "gates":
            at_vs = "[{metric: top1, max_drop: 1, vs: "
            text, index = sheet.with_value(spot, f"{at_vs}nobody}}]")
            yield at("bad vs", text, index + len(at_vs))
            text, index = sheet.with_value(spot, "[{metric: top1}]")
            yield at("a gate without a limit", text, index + 1)


def bad_variables(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    for spot in sheet.spots:
        start = spot.value.start_mark.index
        used = _variable(spot)
        if used is not None:
            for typo in typos(used, chance):
                text = sheet.replaced(spot.value, f'"${{{typo}}}"')
                yield at("typo in a variable", text, start, used, one_edit=True)
        if spot.written is None or spot.path[0] in ("vars", "metadata"):
            continue
        for wrong in ('"${nobody}"', '"${"', '"${}"', '"a ${nobody} b"'):
            yield at("bad variable", sheet.replaced(spot.value, wrong), start)
    for spot in sheet.spots:
        if spot.path[0] == "vars" and len(spot.path) == 2:
            start = spot.value.start_mark.index
            yield at("bad variable", sheet.replaced(spot.value, f'"${{{spot.name}}}"'), start)


def bad_sets(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    def wrong(text: str, column: int, meant: str | None = None, *, one_edit: bool = False) -> Mutant:
        return Mutant("bad --set", sheet.text, 1, column, meant, (text,), "--set #1", one_edit)

    for spot in sheet.spots:
        path = _set_path(sheet, spot)
        if path is None or "gates" in spot.path:
            continue
        head = path[: len(path) - len(spot.name)]
        names = spot.names or {other.name for other in sheet.spots if other.path[:-1] == spot.path[:-1]}
        for typo in typos(spot.name, chance)[:3]:
            if typo not in names:
                yield wrong(f"{head}{typo}=1", len(head) + 1, spot.name, one_edit=True)
        if spot.schema is not None and spot.name != "vars":
            for written, value in WRONG.items():
                if _is_wrong(spot.schema, value):
                    yield wrong(f"{path}={written}", len(path) + 2)
    for name in sheet.known:
        for typo in typos(name, chance)[:2]:
            if typo not in sheet.known:
                yield wrong(f"stages.{typo}.epochs=1", 8, name, one_edit=True)
    yield wrong("epochs", 7)
    yield wrong("=3", 1)
    yield wrong("", 1)
    yield wrong("stages[99].train.epochs=3", 8)
    yield wrong("vars.nobody=3", 6)
    yield wrong("seed=[1", 6)
    yield wrong("seed=${nobody}", 6)
    yield wrong("seed=a: b", 6)
    yield wrong("version.x=1", 9)


def _set_path(sheet: Sheet, spot: Spot) -> str | None:
    """The path of an option as ``--set`` spells it."""
    if spot.path[0] in ("metadata", *COMPOSITION):
        return None
    if spot.path[0] != "stages":
        return ".".join(map(str, spot.path))
    if len(spot.path) < 4:
        return None
    return ".".join(["stages", sheet.ids[int(spot.path[1])], *map(str, spot.path[3:])])


FAMILIES: tuple[Callable[[Sheet, random.Random], Iterator[Mutant]], ...] = (
    misspelled_keys,
    misspelled_values,
    wrong_types,
    out_of_range,
    wrong_order,
    duplicates,
    bad_vs,
    bad_variables,
    bad_sets,
)


def mutants(file: Path) -> Iterator[Mutant]:
    """Every mutant of one recipe; the same ones each time."""
    from tests.corpus.composing import composed

    sheet = Sheet(file.read_text(encoding="utf-8"), file)
    for family in (*FAMILIES, composed):
        yield from family(sheet, random.Random(f"{file.stem} {family.__name__}"))


def faults_of(mutant: Mutant, file: Path) -> list[Diagnostic] | None:
    """The errors that mcomp finds; None when it accepts the recipe."""
    try:
        Recipe.from_text(mutant.text, mutant.sets, trust=True, name="recipe.yaml", base_dir=file.parent)
    except RecipeError as error:
        return [one for one in error.diagnostics if one.severity == "error"]
    return None


def complaint(mutant: Mutant, file: Path) -> str | None:
    """What is wrong with mcomp's answer; None when it is one error, in the right place, with the right advice."""
    found = faults_of(mutant, file)
    if found is None:
        return "accepted"
    if len(found) != 1:
        return f"{len(found)} errors"
    one = found[0]
    if (one.file, one.line, one.column) != (mutant.source or "recipe.yaml", mutant.line, mutant.column):
        return "another place"
    if mutant.meant is not None and f"`{mutant.meant}`" not in one.label + one.hint:
        return "no suggestion" if mutant.one_edit else "another suggestion"
    return None


def main(words: list[str]) -> None:
    """Run the whole corpus and print its figures."""
    cases: Counter[str] = Counter()
    wrong: defaultdict[tuple[str, str], list[tuple[Path, Mutant]]] = defaultdict(list)
    edits = missed = 0
    for file in RECIPES:
        for mutant in mutants(file):
            cases[mutant.family] += 1
            said = complaint(mutant, file)
            edits += mutant.one_edit
            missed += said == "no suggestion"
            if said is not None:
                wrong[mutant.family, said].append((file, mutant))
    failures = sum(len(found) for (_, said), found in wrong.items() if said != "no suggestion")
    print(f"{sum(cases.values())} mutants of {len(RECIPES)} recipes, {failures} answered wrongly")
    print(f"{edits} typos of one edit, {100 * (1 - missed / edits):.2f} % with the right suggestion")
    for family, number in cases.items():
        print(f"  {number:5} {family}")
    for (family, said), found in wrong.items():
        print(f"  {len(found):5} {family}: {said}")
        for file, mutant in found[: 3 if "findings" in words else 0]:
            _show(file, mutant)


def _show(file: Path, mutant: Mutant) -> None:
    wanted = f"{mutant.source or file.name}:{mutant.line}:{mutant.column}"
    line = mutant.sets[0] if mutant.sets else mutant.text.split("\n")[mutant.line - 1]
    print(f"        {wanted} wanted{f', `{mutant.meant}`' if mutant.meant else ''}: {line.strip()}")
    for one in faults_of(mutant, file) or ():
        print(f"          {one.code} {one.line}:{one.column} {one.message} | {one.label} | {one.hint}")


if __name__ == "__main__":
    main(sys.argv[1:])
