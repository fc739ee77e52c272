"""One mistake in a good recipe: one diagnostic, at the right characters, with the right advice."""

from __future__ import annotations

import re

import pytest

from tests.unit.recipe.samples import FLAGSHIP, fault, faults, place, stages

# every key of the flagship, as (line, column, name)
_KEYS = [
    (number, found.start(1) + 1, found[1])
    for number, line in enumerate(FLAGSHIP.split("\n"), 1)
    for found in re.finditer(r"([a-z_0-9]+):(?=[ \n]|$)", line)
]
_BARE = (15, 5, "bn_fuse")


def _typos(name: str) -> list[str]:
    doubled = name[0] + name[0] + name[1:]
    swapped = name[1] + name[0] + name[2:]
    longer = name + "s"
    shorter = name[:-1]
    return [one for one in dict.fromkeys((doubled, swapped, longer, shorter)) if one != name and len(one) > 1]


_CASES = [(line, column, name, typo) for line, column, name in [*_KEYS, _BARE] for typo in _typos(name)]


@pytest.mark.parametrize(("line", "column", "name", "typo"), _CASES)
def test_a_typo_in_any_key_is_found_where_it_is(line: int, column: int, name: str, typo: str) -> None:
    lines = FLAGSHIP.split("\n")
    old = lines[line - 1]
    lines[line - 1] = old[: column - 1] + typo + old[column - 1 + len(name) :]
    found = fault("\n".join(lines))
    if line == 4 and name == "ratio":  # the definition is as good as the use: the use is pointed at
        assert place(found) == (10, 20, 10)
        assert found.label == f"did you mean `{typo}`?"
        return
    assert place(found) == (line, column, len(typo))
    assert found.label == f"did you mean `{name}`?"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "epochs: 5}\n  - sparse",
            "epochs: «five»}\n  - sparse",
            '`epochs` must be a whole number, got the text "five"',
        ),
        ("penalty: 1e-3", "penalty: «0»", "`penalty` must be greater than 0, got 0"),
        ("penalty: 1e-3", "penalty: «.nan»", "`penalty` must be a number greater than 0, got `.nan` (not a number)"),
        ("penalty: 1e-3", "penalty: «1e999»", "`penalty` must be a number greater than 0, got 1e999"),
        ("ratio: 0.4", "ratio: «1.5»", "`ratio` must be greater than 0 and less than 1, got 1.5"),
        ("ratio: 0.4", "ratio: «-1»", "`ratio` must be greater than 0 and less than 1, got -1"),
        ("regular: 8", "regular: «0»", "`regular` must be at least 1, got 0"),
        ("regular: 8", "regular: «8.0»", "`regular` must be a whole number, got 8.0"),
        ("regular: 8", 'regular: «"8"»', '`regular` must be a whole number, got the text "8"'),
        ("regular: 8", "«regular»:  ", "`regular` must be a whole number, got nothing"),
        ("w_bits: 8", "w_bits: «33»", "`w_bits` must be at least 2 and at most 16, got 33"),
        ("scheme: dorefa", "scheme: «dorfea»", 'one of `dorefa`, `lsq`, got the text "dorfea"'),
        ("method: entropy", "method: «3»", "`calibration.method` must be one of `minmax`, `entropy`, got 3"),
        ("samples: 512", "samples: «0»", "`calibration.samples` must be at least 1, got 0"),
        ("samples: 512", "«seed»: 512", "unknown option `seed` in `calibration` of stage `trt_int8`"),
        ("width: 0.5", "width: «wide»", '`width` must be a number, got the text "wide"'),
        ("batch_size: 64", "batch_size: «0»", "`batch_size` must be at least 1, got 0"),
        ("seed: 0", "seed: «-1»", "`seed` must be at least 0, got -1"),
        ("version: 1", "version: «2»", "`version` must be `1`, got 2"),
        ("name: nin_gc_prune_quant", "name: «/etc»", "`name` must be letters"),
        ("seed: 0", "device: «tpu»", "`device` must be `auto`, `cpu`, `cuda` or `cuda:<n>`"),
        ("seed: 0", "plugins: «x.py»", '`plugins` must be a list (`[…]`), got the text "x.py"'),
        ("name: nin_gc,", "name: «nin_cg»,", "unknown model `nin_cg`"),
        ("name: digits", "name: «digit»", "unknown data set `digit`"),
        ("name: nin_gc,", "name: «3»,", "`name` of `model` must be text, got 3"),
        ("vs: sparse_train", "vs: «sparse_trian»", "no earlier stage has the id `sparse_trian`"),
        ("vs: sparse_train", "vs: «finetune»", "`vs: finetune` is a later stage"),
        ("vs: sparse_train", "vs: «prune»", "`vs: prune` is this very stage"),
        ("metric: params", "metric: «pramas»", "stage `prune` reports no metric `pramas`"),
        ("unit: points", "unit: «point»", "`unit` must be one of `points`, `percent`"),
        ("max_drop: 1.0", "max_drop: «small»", "`max_drop` must be a number"),
        ('- prune: {ratio: "${ratio}", ', "- «prune»: {", "stage `prune` needs the option `ratio`"),
        ("model: {name: nin_gc, ", "«model»: {", "`model` needs the option `name`"),
        ("[{metric: params, ", "[«{»", "a gate of stage `prune` needs the key `metric`"),
        (
            "[{metric: params, max_ratio: 0.7, vs",
            "[«{»metric: params, vs",
            "a gate of stage `prune`: a gate needs a limit",
        ),
        (
            "[{metric: params, max_ratio: 0.7, vs: sparse_train",
            "[«{»metric: params, max_ratio: 0.7",
            "`max_ratio` needs `vs`",
        ),
        (
            "{epochs: 5}\n  - sparse",
            "«[»5]\n  - sparse",
            "the options of stage `train` must be a mapping, got a list of 1",
        ),
    ],
)
def test_one_wrong_value_gives_one_diagnostic(old: str, new: str, message: str) -> None:
    assert old in FLAGSHIP
    text = FLAGSHIP.replace(old, new, 1)
    before, _, rest = text.partition("«")
    expected = (before.count("\n") + 1, len(before) - before.rfind("\n"), rest.index("»"))
    found = fault(text.replace("«", "").replace("»", ""))
    assert message in found.message
    assert place(found) == expected


def test_a_union_speaks_of_every_choice_once() -> None:
    assert (
        fault(stages("train", "quantize: {lr: fast}")).message == '`lr` must be `auto` or a number, got the text "fast"'
    )


def test_a_union_of_a_mapping_speaks_of_the_mapping_that_was_written() -> None:
    text = stages("quantize", "trt_int8: {skip: {method: none}}")
    found = fault(text)
    assert found.message == '`skip.method` must be one of `minmax`, `entropy`, got the text "none"'
    assert place(found)[:2] == (6, 31)


@pytest.mark.parametrize(
    ("entries", "place_", "message", "advice"),
    [
        (
            ["prune:\n    ratio: 0.4"],
            (6, 5),
            "unknown keyword `ratio` beside stage `prune`",
            "it is an option of `prune`",
        ),
        (
            ["bn_fuse: {}\n    quantize: {}"],
            (6, 5),
            "one entry names two stages, `bn_fuse` and `quantize`",
            "- quantize",
        ),
        (["train: {}\n    train: {}"], (6, 5), "duplicate key `train`", ""),
        (["[train]"], (5, 5), "a stage cannot be a list", ""),
        (["{seed: 1}"], (5, 6), "this entry names no stage", ""),
        (["3"], (5, 5), "a stage is named by text", ""),
        (["train: {}\n    gate: []"], (6, 5), "unknown keyword `gate` beside stage `train`", "did you mean `gates`?"),
        (["train: {}\n    seed: -1"], (6, 11), "`seed` must be at least 0, got -1", ""),
        (["train: {}\n    cache: yes"], (6, 12), "`cache` must be true or false", "YAML 1.2"),
        (["train: {}\n    id: a/b"], (6, 9), "an `id` is letters", ""),
        (
            ["train: {}\n    id: a", "finetune: {}\n    id: a"],
            (8, 9),
            "two stages have the id `a`: line 5 and line 7",
            "",
        ),
        (["train: {}\n    when: x"], (6, 11), "`when` ", ""),
        (["train: {}\n    gates: {metric: top1}"], (6, 12), "`gates` must be a list", ""),
        (["train: {}\n    gates: [top1]"], (6, 13), "a gate must be a mapping", ""),
        (["train: {}\n    gates: [{metric: top1, min: 3, max: 2}]"], (6, 13), "`min` 3 is above `max` 2", ""),
        (
            ["quantize: {}", "bn_fuse: {}\n    gates: [{metric: max_abs_error, max_ratio: 1, vs: quantize}]"],
            (7, 55),
            "stage `quantize` reports no metric `max_abs_error` to compare with",
            "top1",
        ),
    ],
)
def test_a_malformed_entry_is_explained(entries: list[str], place_: tuple[int, int], message: str, advice: str) -> None:
    text = stages(*entries)
    found = faults(text)
    if "ratio" in entries[0]:
        found = [one for one in found if one.code == "MC103"]
    assert len(found) == 1, found
    assert (found[0].line, found[0].column) == place_
    assert message in found[0].message
    assert advice in f"{found[0].label}{found[0].hint}"


def test_all_faults_are_reported_at_once_and_in_order() -> None:
    text = (
        FLAGSHIP.replace("version: 1", "version: one").replace("nin_gc,", "nin_cg,").replace("epochs: 4}", "epochz: 4}")
    )
    found = faults(text.replace("bn_fuse", "bn_fuze"))
    assert [one.line for one in found] == [1, 5, 12, 13, 15]


def test_an_unknown_stage_causes_no_other_fault() -> None:
    text = FLAGSHIP.replace("- quantize:", "- quantise:").replace("- sparse_train:", "- sparse:")
    assert [one.code for one in faults(text)] == ["MC106", "MC106"]


def test_a_stage_with_a_wrong_option_still_counts_in_the_order() -> None:
    assert [one.code for one in faults(stages("quantize: {w_bits: 99}", "trt_int8"))] == ["MC104"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "MC101"),
        ("# nothing\n", "MC101"),
        ("- a\n", "MC104"),
        ("hello", "MC104"),
        ("3", "MC104"),
        ("null", "MC104"),
    ],
)
def test_what_is_no_mapping_is_no_recipe(text: str, code: str) -> None:
    assert fault(text).code == code


def test_an_empty_mapping_lacks_everything_in_one_sentence() -> None:
    assert fault("{}").message == "a recipe needs the keys `version` and `model` and `data` and `stages`"


def test_an_empty_list_of_stages_is_refused() -> None:
    assert "at least one stage" in fault("version: 1\nmodel: {name: nin}\ndata: {name: digits}\nstages: []\n").message


@pytest.mark.parametrize("value", ["true", "1.0", "3.0", "2"])
def test_channels_are_one_or_three_and_nothing_that_equals_them(value: str) -> None:
    found = fault(stages("train").replace("{name: digits}", f"{{name: digits, channels: {value}}}"))
    assert found.code == "MC104"
    assert place(found) == (3, 32, len(value))
    assert "`1`" in found.message
    assert "`3`" in found.message


@pytest.mark.parametrize("keyword", ["id", "from", "gates", "seed"])
def test_a_keyword_among_the_options_is_told_where_it_belongs(keyword: str) -> None:
    value = {"id": "q", "from": "train", "gates": "[]", "seed": "1"}[keyword]
    found = fault(stages("train: {epochs: 1}", f"quantize: {{epochs: 0, {keyword}: {value}}}"))
    assert found.code == "MC103"
    assert "stands beside it" in found.message
    assert place(found)[2] == len(keyword)
