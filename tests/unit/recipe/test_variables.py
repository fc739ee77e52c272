from __future__ import annotations

import pytest

from mcomp.recipe import Recipe
from tests.unit.recipe.samples import fault, faults, place, stages


def metadata(variables: str, value: str) -> object:
    return Recipe.from_text(stages("train") + f"vars: {variables}\nmetadata: {{x: {value}}}\n").metadata["x"]


@pytest.mark.parametrize(
    ("variables", "value", "expected"),
    [
        ("{a: 1e-3}", '"${a}"', 0.001),
        ("{a: [1, {b: 2}]}", "'${a}'", [1, {"b": 2}]),
        ("{a: true}", '"${a}"', True),
        ("{a: null}", '"${a}"', None),
        ("{a: 0.40}", '"run-${a}-${a}"', "run-0.40-0.40"),
        ("{a: true}", '"is ${a}"', "is true"),
        ("{a: x}", '"$${a} ${a} $a"', "${a} x $a"),
        ("{a: 3}", '" ${a}"', " 3"),
    ],
)
def test_a_variable_alone_keeps_its_type_and_inside_text_is_written_out(
    variables: str, value: str, expected: object
) -> None:
    assert metadata(variables, value) == expected


@pytest.mark.parametrize(
    ("variables", "value", "where", "message"),
    [
        ("{a: 1}", '"${b}"', (7, 15, 6), "unknown variable `b`"),
        ("{abc: 1}", '"x${abd}"', (7, 15, 9), "unknown variable `abd`"),
        ("{a: 1}", '"${}"', (7, 15, 5), "unknown variable ``"),
        ("{a: 1}", '"${a"', (7, 15, 5), "`${` is never closed"),
        ("{a: [1]}", '"x${a}"', (7, 15, 7), "variable `a` is a list"),
        ("{a: {}}", '"x${a}"', (7, 15, 7), "variable `a` is a mapping"),
        ("{a: null}", '"x${a}"', (7, 15, 7), "variable `a` is empty"),
        ('{a: 1, b: "${a}"}', '"${b}"', (6, 17, 6), "variable `b` uses a variable"),
        ("{a b: 1}", "3", (6, 8, 3), "`a b` cannot name a variable"),
        ("[a]", "3", (6, 7, 1), "`vars` must be a mapping"),
    ],
)
def test_a_fault_of_a_variable_is_pointed_at(
    variables: str, value: str, where: tuple[int, int, int], message: str
) -> None:
    found = fault(stages("train") + f"vars: {variables}\nmetadata: {{x: {value}}}\n")
    assert message in found.message
    assert place(found) == where


def test_an_unknown_variable_causes_no_fault_about_the_value_it_would_have_had() -> None:
    text = stages('prune: {ratio: "${ratoi}", regular: "${regular}"}') + "vars: {ratio: 0.4}\n"
    found = faults(text)
    assert [one.message for one in found] == ["unknown variable `ratoi`", "unknown variable `regular`"]
    assert found[0].label == "did you mean `ratio`?"


def test_an_unused_variable_is_a_warning_at_its_name() -> None:
    warnings = Recipe.from_text(stages("train") + "vars: {a: 1, bee: 2}\nmetadata: {x: '${a}'}\n").warnings
    assert [(one.message, *place(one)) for one in warnings] == [("variable `bee` is never used", 6, 14, 3)]


def test_a_whole_section_can_be_a_variable() -> None:
    text = stages("train").replace("{name: digits}", '"${d}"') + "vars: {d: {name: synthetic, samples: 20}}\n"
    assert Recipe.from_text(text).data.samples == 20  # type: ignore[attr-defined]


def test_a_fault_used_twice_is_said_once() -> None:
    text = stages('train: {epochs: "${n}"}', 'finetune: {epochs: "${n}"}') + "vars: {n: 0}\n"
    assert place(fault(text)) == (7, 11, 1)
