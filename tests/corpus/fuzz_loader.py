"""Any text is a recipe or a ``RecipeError``: strategies for hypothesis, and an atheris harness.

    pytest tests/corpus/test_fuzz.py -m "slow or not slow"
    python -m tests.corpus.fuzz_loader -max_total_time=600 [folder of inputs to keep]

The harness instruments mcomp's recipe package for coverage. Any exception but ``RecipeError`` is a crash, and so are a
diagnostic that cannot be shown and a recipe that is read but cannot be locked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
SEEDS = {file: file.read_text(encoding="utf-8") for file in sorted((ROOT / "recipes").rglob("*.yaml"))}

#: What edits put in: YAML's own characters, ours, and words that mean something somewhere.
PIECES = (
    *(
        "",
        " ",
        "  ",
        "\n",
        "\n  - ",
        "- ",
        ": ",
        ":",
        "{",
        "}",
        "[",
        "]",
        ",",
        '"',
        "'",
        "#",
        "|",
        ">",
        "?",
        "\t",
        "%",
        "@",
    ),
    *(
        "&a ",
        "*a",
        "!x ",
        "!!python/name:os.system ",
        "<<: ",
        "---\n",
        "...\n",
        "%YAML 1.1\n",
        "\\",
        '"\\ud800"',
        "\\N",
    ),
    *("${", "${ratio}", "$${", "${a", "vars: {a: 1}\n", "null", "true", "~", ".nan", ".inf", "-1", "0", "1e999", "010"),
    *(
        "0x",
        "0o7",
        "1.5",
        "9" * 30,
        "\x00",
        "\x1b[2J",
        "\u202e",
        "\u200b",
        "\ufeff",
        "\ud800",
        "\x85",
        "\u2028",
        "é",
        "日本",
    ),
    *("version", "name", "seed", "model", "data", "stages", "plugins", "metadata", "device", "precision", "vars"),
    *(
        "id: train\n",
        "from: train\n",
        "when: false\n",
        "when: {stage: train, metric: top1, min: 1}\n",
        "otherwise: stop\n",
    ),
    *(
        "otherwise: {finetune: {}}\n",
        "gates: [{metric: top1, min: 1}]\n",
        "cache: false\n",
        "train",
        "prune",
        "quantize",
    ),
    *("extends: lenet_w4a4.yaml\n", "extends: [a.yaml]\n", "override: {train: {epochs: 1}}\n", "drop: [train]\n"),
    *("sweep: {product: {'stages[5].train.epochs': [1, 2]}}\n", "sweep: {zip: {stages.7.epochs: [1, 2]}}\n"),
    *("insert: [{after: train, stages: [evaluate]}]\n", "sweep: {product: {seed: [0, 1]}}\n", "zip: {seed: [0]}\n"),
)
PATHS = (
    *(
        "",
        "stages",
        "stages.prune",
        "stages[2]",
        "stages.train.epochs",
        "vars",
        "vars.ratio",
        "data",
        "model.name",
        "x",
    ),
    *("stages[5].train.epochs", "stages.7.epochs", "stages.train.gates[0].min"),
    *("metadata.a.b", '["a.b"]', "stages.quantize.gates[0].vs", "sweep", "extends", "version", "seed", "plugins[0]"),
)
VALUES = (
    "=",
    "=[]",
    "={}",
    "=null",
    "=${ratio}",
    "=${",
    "=.nan",
    "=[[",
    "==",
    ".x=1",
    "[0]=1",
    "=\n- a",
    "=a: b",
    "=3",
    "=text",
)


def answer(text: str, sets: Sequence[str] = (), folder: Path | None = None) -> str:
    """Read a text as a recipe and look at what came of it.

    Returns:
        ``valid``, or the codes of its faults.
    """
    from mcomp.errors import RecipeError
    from mcomp.recipe import Recipe
    from mcomp.recipe.diagnostics import render, render_github

    try:
        recipe = Recipe.from_text(text, sets, base_dir=folder)
    except RecipeError as error:
        found = error.diagnostics
    else:
        for run in recipe.variants[:2] or [recipe]:
            lock = run.lock()
            again = Recipe.from_text(lock, base_dir=folder).lock()
            assert again.partition("\n")[2] == lock.partition("\n")[2]  # the first line names the source
        render(recipe.warnings)
        return "valid"
    assert any(one.severity == "error" for one in found)
    for one in found:
        assert one.message
        assert one.line is None or one.column is None or 1 <= one.column <= len(one.source_line) + 1, one
        one.as_dict()
    shown = render(found)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert shown.endswith("nothing was run")
    render_github(found)
    return " ".join(one.code for one in found)


def edited(text: str, edits: Sequence[tuple[int, int, str]]) -> str:
    """``text`` with each edit (where, how many characters go, what comes) made in turn."""
    for start, length, piece in edits:
        place = start % (len(text) + 1)
        text = text[:place] + piece + text[place + length :]
    return text


edits = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 12), st.sampled_from(PIECES) | st.text(max_size=4)),
    min_size=1,
    max_size=6,
)
seeds = st.sampled_from(sorted(SEEDS))
sets = st.lists(
    st.builds(str.__add__, st.sampled_from(PATHS), st.sampled_from(VALUES) | st.text(max_size=6)), max_size=3
)
#: Text that may hold half surrogate pairs, as a program may hand it over.
texts = st.text(st.characters(exclude_categories=()), max_size=300)
patchworks = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def _one_input(data: bytes) -> None:
    import atheris

    provider = atheris.FuzzedDataProvider(data)
    kind = provider.ConsumeIntInRange(0, 7)
    if kind == 0:
        answer(provider.ConsumeUnicode(4096))
        return
    file = sorted(SEEDS)[provider.ConsumeIntInRange(0, len(SEEDS) - 1)]
    made = []
    for _ in range(provider.ConsumeIntInRange(0, 6)):
        length, place = provider.ConsumeIntInRange(0, 12), provider.ConsumeIntInRange(0, len(SEEDS[file]))
        literal = provider.ConsumeBool()
        piece = provider.ConsumeUnicode(8) if literal else PIECES[provider.ConsumeIntInRange(0, len(PIECES) - 1)]
        made.append((place, length, piece))
    chosen = []
    for _ in range(provider.ConsumeIntInRange(0, 2) if kind > 5 else 0):
        path = PATHS[provider.ConsumeIntInRange(0, len(PATHS) - 1)]
        chosen.append(path + VALUES[provider.ConsumeIntInRange(0, len(VALUES) - 1)] + provider.ConsumeUnicode(8))
    text = (
        edited(SEEDS[file], made) if kind > 1 else "".join(piece for *_, piece in made) + provider.ConsumeUnicode(512)
    )
    answer(text, chosen, file.parent)


def main() -> None:
    """Fuzz until the time or the number of runs that the arguments give is over."""
    import atheris

    with atheris.instrument_imports(include=["mcomp.recipe", "mcomp.suggest"]):
        import mcomp.recipe.assemble
        import mcomp.recipe.lock
        import mcomp.recipe.model  # noqa: F401
    # inputs of a few bytes say little here: let them be long from the start
    atheris.Setup([sys.argv[0], "-len_control=0", "-max_len=1024", *sys.argv[1:]], _one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
