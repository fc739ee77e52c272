"""Mutants of composition, branches and conditions: a wrong word in each of their keys."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.corpus.mutation import Mutant, at, typos
from tests.corpus.sheet import Sheet, StageItem, stage_class


def composed(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    """All of them; what a recipe has already is not written a second time."""
    yield from _extends(sheet, chance)
    for key, values in (("override", _override), ("drop", _drop), ("insert", _insert), ("sweep", _sweep)):
        if key not in sheet.top:
            for value, fault, meant in values(sheet, chance):
                yield _appended(f"bad {key}", sheet, key, value, fault, meant)
    if "sweep" not in sheet.top:
        start = len(sheet.text)
        yield at(
            "bad sweep", f"{sheet.text}sweep: {{product: {{seed: [{', '.join(map(str, range(1001)))}]}}}}\n", start
        )
    for item in sheet.stages:
        yield from _from(sheet, item, chance)
        yield from _when(sheet, item, chance)
        yield from _otherwise(sheet, item)


#: A value, the characters in it that are wrong (the last place where they stand), and the name that was meant.
_Wrong = tuple[str, str, str | None]


def _appended(family: str, sheet: Sheet, key: str, value: str, fault: str, meant: str | None) -> Mutant:
    text = f"{sheet.text}{key}: {value}\n"
    index = len(sheet.text) + len(key) + 2 + value.rindex(fault)
    return at(family, text, index, meant, one_edit=meant is not None)


def _misspelled(names: list[str], chance: random.Random) -> Iterator[tuple[str, str]]:
    for name in names:
        for typo in typos(name, chance)[:3]:
            if typo not in names:
                yield typo, name


def _extends(sheet: Sheet, chance: random.Random) -> Iterator[Mutant]:
    values: list[_Wrong] = [
        (one, one, None)
        for one in ("absent_file.yaml", "3", ".", '"https://a.b/c.yaml"', '"${base}"', "{a: 1}", "a.txt")
    ]
    values.append(("[absent_file.yaml]", "absent_file.yaml", None))
    for typo in typos(sheet.file.stem, chance):
        if not (sheet.file.parent / f"{typo}.yaml").exists():
            values.append((f"{typo}.yaml", f"{typo}.yaml", sheet.file.name))
    for spot in sheet.spots:
        if spot.path == ("extends",):
            for value, fault, meant in values:
                text, index = sheet.with_value(spot, value)
                meant = None  # the recipe itself is no base of its own
                yield at("bad extends", text, index + value.rindex(fault), meant)
            return
    for value, fault, meant in values:
        yield _appended("bad extends", sheet, "extends", value, fault, meant)


def _override(sheet: Sheet, chance: random.Random) -> Iterator[_Wrong]:
    ids = list(sheet.changeable)
    yield from ((one, one, None) for one in ("3", "[a]", "some words"))
    yield f"{{{ids[0]}: 3}}", "3", None
    for typo, name in _misspelled(ids, chance):
        yield f"{{{typo}: {{}}}}", f"{typo}:", name
    for name, uses in sheet.changeable.items():
        yield f"{{{name}: {{some: thing}}}}", "some", None
        yield f"{{{name}: {{gates: 3}}}}", "3", None
        yield f"{{{name}: {{seed: -1}}}}", "-1", None
        if "epochs" in _options(uses):
            yield f"{{{name}: {{epochs: many}}}}", "many", None
            yield f"{{{name}: {{epochz: 1}}}}", "epochz", "epochs"


def _options(uses: str) -> set[str]:
    return set(stage_class(uses).Options.model_fields)


def _drop(sheet: Sheet, chance: random.Random) -> Iterator[_Wrong]:
    ids = list(sheet.known)
    yield from ((one, one, None) for one in ("3", "{a: 1}", "some words"))
    free = next(name for name in ids if name not in sheet.overridden)
    yield f"[{free}, {free}]", free, None
    yield "[[a]]", "[a]", None
    for typo, name in _misspelled(ids, chance):
        yield f"[{typo}]", typo, name


def _insert(sheet: Sheet, chance: random.Random) -> Iterator[_Wrong]:
    ids = list(sheet.known)
    yield from ((one, one, None) for one in ("3", "{a: 1}", "some words"))
    yield "[3]", "3", None
    item = f"{{after: {ids[0]}, stages: [evaluate]}}"
    yield f"[{item}]".replace("stages", "stagse"), "stagse", "stages"
    yield f"[{item}]".replace("after", "aftre"), "aftre", "after"
    yield f"[{item}]".replace("[evaluate]", "evaluate"), "evaluate", None
    yield f"[{item}]".replace("[evaluate]", "[evalute]"), "evalute", "evaluate"
    yield f"[{item}]".replace("[evaluate]", "[{evaluate: {some: thing}}]"), "some", None
    yield f"[{{after: {ids[0]}}}]", "{", None
    yield "[{stages: [evaluate]}]", "{", None
    yield f"[{{after: {ids[0]}, before: {ids[-1]}, stages: [evaluate]}}]", "{", None
    for typo, name in _misspelled(ids, chance):
        yield f"[{{before: {typo}, stages: [evaluate]}}]", f"{typo},", name


def _sweep(sheet: Sheet, chance: random.Random) -> Iterator[_Wrong]:
    yield from ((one, one, None) for one in ("3", "[a]", "some words"))
    yield "{product: 3}", "3", None
    yield "{product: {seed: 3}}", "3", None
    yield "{product: {seed: []}}", "[]", None
    yield "{product: {seed: [0, many]}}", "many", None
    yield "{product: {seed: [0, 1, 2, -1]}}", "-1", None
    yield "{prodcut: {seed: [0, 1]}}", "prodcut", "product"
    yield "{zpi: {seed: [0, 1]}}", "zpi", "zip"
    yield "{product: {seed: [0, 1]}, zip: {seed: [0, 1]}}", "seed", None
    yield "{zip: {seed: [0, 1], device: [cpu]}}", "[cpu]", None
    yield "{product: {vars.nobody: [1, 2]}}", "nobody", None
    yield "{product: {'stages[99].train.epochs': [1, 2]}}", "99", None
    yield "{product: {stages.99.epochs: [1, 2]}}", "99", None
    yield "{product: {model: [{name: lenet}], model.num_classes: [10, 20]}}", "model.num_classes", None
    for typo, name in _misspelled(list(sheet.known), chance):
        yield f"{{product: {{stages.{typo}.epochs: [1, 2]}}}}", f"{typo}.epochs", name
    for name, uses in sheet.known.items():
        if "epochs" in _options(uses):
            yield f"{{product: {{stages.{name}.epochz: [1, 2]}}}}", "epochz", "epochs"
            yield f"{{product: {{stages.{name}.epochs: [1, many]}}}}", "many", None


def _keyword(family: str, sheet: Sheet, item: StageItem, name: str, value: str, wrong: _Wrong | None = None) -> Mutant:
    text, index = sheet.with_keyword(item, name, value)
    fault, meant = (value, None) if wrong is None else wrong[1:]
    return at(family, text, index + len(name) + 2 + value.rindex(fault), meant, one_edit=meant is not None)


def _from(sheet: Sheet, item: StageItem, chance: random.Random) -> Iterator[Mutant]:
    values = ["nobody", "3", "[a]", "{a: 1}", *sheet.ids[item.place :]]
    for value in values:
        yield _keyword("bad from", sheet, item, "from", value)
    for typo, name in _misspelled(sheet.ids[: item.place], chance):
        if typo not in sheet.ids:
            yield _keyword("bad from", sheet, item, "from", typo, (typo, typo, name))


def _when(sheet: Sheet, item: StageItem, chance: random.Random) -> Iterator[Mutant]:
    for value in ("3", "yes", "some words", "[a]"):
        yield _keyword("bad when", sheet, item, "when", value)
    # what is wrong with a condition as a whole is said at its key
    text, index = sheet.with_keyword(item, "when", "{}")
    yield at("bad when", text, index)
    text, index = sheet.with_keyword(item, "when", "{device: cpu, backend: cuda}")
    yield at("bad when", text, index)
    for value, fault, meant in (
        ("{backend: tensorrtt}", "tensorrtt", "tensorrt"),
        ("{backendd: tensorrt}", "backendd", "backend"),
        ("{device: gpu}", "gpu", "cuda"),
        ("{device: cpu, present: 3}", "3", None),
        ("{stage: nobody, metric: top1, min: 1}", "nobody", None),
        (f"{{stage: {sheet.ids[item.place]}, metric: top1, min: 1}}", f"{sheet.ids[item.place]},", None),
    ):
        yield _keyword("bad when", sheet, item, "when", value, (value, fault, meant))
    if item.place:
        first = sheet.ids[0]
        for whole in ("metric: top1", "metric: top1, min: 3, max: 2", "metric: top1, max_drop: 1"):
            text, index = sheet.with_keyword(item, "when", f"{{stage: {first}, {whole}}}")
            yield at("bad when", text, index)
        for value, fault, meant in (
            (f"{{stage: {first}, metric: beauty, min: 1}}", "beauty", None),
            (f"{{stage: {first}, metric: top1, min: high}}", "high", None),
            (f"{{stage: {first}, metric: tpo1, min: 1}}", "tpo1", "top1"),
        ):
            yield _keyword("bad when", sheet, item, "when", value, (value, fault, meant))


def _otherwise(sheet: Sheet, item: StageItem) -> Iterator[Mutant]:
    wrong: list[_Wrong] = [
        ("3", "3", None),
        ("[stop]", "[", None),
        ("stpo", "stpo", "stop"),
        ("skipp", "skipp", "skip"),
    ]
    if not any(field.is_required() for field in item.cls.Options.model_fields.values()):
        # another stage in its place could rightly be refused for what it lacks
        wrong.append((f"{{{item.uses}: {{some: thing}}}}", "some", None))
    for value, fault, meant in wrong:
        indent = " " * item.mark.start_mark.column
        text, index = sheet.with_keyword(item, "when", f"{{device: cpu}}\n{indent}otherwise: {value}")
        place = text.index("otherwise: ", index) + len("otherwise: ") + value.rindex(fault)
        yield at("bad otherwise", text, place, meant, one_edit=meant is not None)
    text, index = sheet.with_keyword(item, "otherwise", "stop")
    yield at("bad otherwise", text, index)
