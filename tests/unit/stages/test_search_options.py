"""Mistakes in the options of a search, and of those who take its result: found at the characters that hold them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcomp.recipe import Recipe
from tests.unit.recipe.samples import fault, place, stages

BITS = "w_bits: [2, 8], budgets: {avg_bit_weights: 4}"


@pytest.mark.parametrize(
    ("entry", "message", "hint"),
    [
        ("search: {w_bits: [3, 8], budgets: {avg_bit_weights: «2.5»}}", "no mean is below the fewest bits, 3", ""),
        ("search: {w_bits: «[»8, 2], budgets: {avg_bit_weights: 4}}", "[8, 2] is no range", ""),
        ("search: {w_bits: «[»2, 4, 8], budgets: {avg_bit_weights: 4}}", "[2, 4, 8] is no range", ""),
        ("search: {w_bits: «[»1, 8], budgets: {avg_bit_weights: 4}}", "(lsq) has 2 to 16", ""),
        ("search: {a_bits: «[»2, 20], budgets: {avg_bit_fm: 4}}", "(lsq) has 2 to 16", ""),
        ("search: {keep: «[»0.3, 1.5], budgets: {macs: 0.5}}", "no shares in (0, 1]", ""),
        ("search: {keep: «[»0.0, 1.0], budgets: {macs: 0.5}}", "no shares in (0, 1]", ""),
        ("search: {w_bits: [2, 8], budgets: {macs: «0.5»}}", "`macs` is bounded, and nothing", "`keep` a range"),
        ("search: {keep: [0.3, 1], budgets: {avg_bit_fm: «5»}}", "`avg_bit_fm` is bounded", "`a_bits` a range"),
        ("search: {a_bits: [2, 8], budgets: {bytes: «0.2»}}", "`bytes` is bounded", "`w_bits` or `keep` a range"),
        ("search: {keep: [0.3, 1], budgets: {macs: «50%»}}", "'50%' is no quantity; write `0.5`", ""),
        ("search: {keep: [0.3, 1], budgets: {params: «1»}}", "write `0.99` or a count", ""),
        (f"search: {{{BITS}, objectives: «[»bytes, top1]}}", "the first objective is `top1`", ""),
        (f"search: {{{BITS}, objectives: «[»]}}", "the first objective is `top1`", ""),
        (f"search: {{{BITS}, algorithm: nsga2, objectives: «[»top1, bytes, bytes]}}", "each stands once", ""),
        (
            f"search: {{{BITS}, algorithm: tpe, objectives: «[»top1, macs]}}",
            "nothing that is searched changes `macs`",
            "",
        ),
        (f"search: {{{BITS}, algorithm: pso, objectives: «[»top1, bytes]}}", "`nsga2` and `tpe` weigh several", ""),
        (f"search: {{{BITS}, algorithm: «sa»}}", "`algorithm`", ""),
        (f"search: {{{BITS}, study: a.journal, ray: «auto»}}", "exclude one another", ""),
        (f"search: {{{BITS}, workers: «0»}}", "leaves all to others", ""),
        (f"search: {{{BITS}, candidates: «3»}}", "`candidates`", ""),
        (f"search: {{{BITS}, first_last_bits: «1»}}", "`first_last_bits`", ""),
        (f"search: {{{BITS}, pins: {{head: {{a_bits: «4»}}}}}}", "`a_bits` is pinned, and not searched", "range"),
        (f"search: {{{BITS}, pins: {{head: {{keep: «0.5»}}}}}}", "`keep` is pinned, and not searched", "range"),
        (f"search: {{{BITS}, pins: {{head: {{w_bits: «24»}}}}}}", "24 bits: a learned step size", ""),
        (f"search: {{{BITS}, pins: {{head: {{w_bits: «1»}}}}}}", "`pins.head.w_bits`", ""),
        ("prune: {keep: «search»}", "`keep: search` takes what a `search` found", "`keep_file`"),
        ("quantize: {bits: «search»}", "`bits: search` takes what a `search` found", "`overrides_file`"),
        ("calibrate: {bits: «search»}", "`bits: search` takes what a `search` found", "`overrides_file`"),
        ("prune: {keep: {a: 0.5}, keep_file: «best.yaml»}", "exclude one another", ""),
        ("prune: {keep: «serach»}", "`keep", ""),
    ],
)
def test_a_mistake_is_found_at_the_very_value(entry: str, message: str, hint: str) -> None:
    first, _, rest = entry.partition("«")
    wrong, _, last = rest.partition("»")
    found = fault(stages(first + wrong + last))
    assert (found.line, found.column) == (5, 5 + len(first))
    assert message in found.message
    assert hint in f"{found.message} {found.hint}"
    if wrong not in "[{":
        assert place(found)[2] == len(wrong)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("search: {candidates: 10}", "nothing says what is searched"),
        ("search: {w_bits: [2, 8]}", "without a budget the largest network is the best"),
    ],
)
def test_a_search_of_nothing_or_for_nothing_is_refused_with_what_to_write(entry: str, message: str) -> None:
    found = fault(stages(entry))
    assert found.line == 5
    assert message in found.message
    assert "[2, 8]" in found.message or "avg_bit_weights: 4" in found.message


def test_a_front_needs_no_budget() -> None:
    entry = "search: {w_bits: [2, 8], algorithm: nsga2, objectives: [top1, bytes]}"
    assert not Recipe.from_text(stages(entry)).warnings


@pytest.mark.parametrize(
    "entries",
    [
        (f"search: {{{BITS}}}", "quantize: {bits: search}"),
        ("search: {keep: [0.3, 1], budgets: {macs: 0.5}}", "prune: {keep: search}", "finetune: {epochs: 1}"),
        (f"search: {{{BITS}}}", "finetune: {epochs: 1}", "calibrate: {bits: search}"),
    ],
)
def test_a_stage_behind_a_search_may_take_its_result(entries: tuple[str, ...]) -> None:
    Recipe.from_text(stages(*entries))


def test_a_search_on_another_branch_is_none() -> None:
    quantize = "quantize: {bits: search}"
    found = fault(stages("train: {epochs: 1}\n    id: base", f"search: {{{BITS}}}", f"{quantize}\n    from: base"))
    assert "`bits: search` takes what a `search` found" in found.message
    assert found.line == 8


def test_a_file_of_channels_is_read_before_anything_runs(tmp_path: Path) -> None:
    best = tmp_path / "best.yaml"
    best.write_text("overrides: {features.0: {w_bits: 4}}\n")
    for name, message in (("best.yaml", "holds no channels to keep"), ("nowhere.yaml", "nowhere.yaml")):
        found = fault(stages(f"prune: {{keep_file: {name}}}"), base_dir=tmp_path)
        assert (found.line, found.column) == (5, 5 + len("prune: {keep_file: "))
        assert message in found.message
    best.write_text("keep: {features.0: 24, head: 0.5}\n")
    Recipe.from_text(stages("prune: {keep_file: best.yaml}"), base_dir=tmp_path)
