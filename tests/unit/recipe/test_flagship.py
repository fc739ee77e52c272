from __future__ import annotations

import subprocess
import sys

from mcomp.recipe import Recipe
from mcomp.recipe.diagnostics import render
from tests.unit.recipe.samples import FLAGSHIP, fault, stages


def test_the_flagship_loads_with_every_value_where_it_belongs() -> None:
    recipe = Recipe.from_text(FLAGSHIP)
    assert [stage.id for stage in recipe.stages] == [
        "train", "sparse_train", "prune", "finetune", "quantize", "bn_fuse", "trt_int8",
    ]  # fmt: skip
    assert recipe.name == "nin_gc_prune_quant"
    assert recipe.stages[1].options.penalty == 1e-3
    assert recipe.stages[2].options.ratio == 0.4
    assert recipe.stages[2].gates[0].max_ratio == 0.7
    assert recipe.stages[6].options.calibration.method == "entropy"
    assert recipe.model.kwargs["width"] == 0.5
    assert recipe.data.batch_size == 64  # type: ignore[attr-defined]
    assert recipe.warnings == []


def test_the_reference_text_of_a_diagnostic_is_kept_to_the_character() -> None:
    text = FLAGSHIP.replace("regular: 8", "regullar: 8")
    found = fault(
        "# yaml-language-server: $schema=./recipe.schema.json\n" + text, name="recipes/nin_gc_prune_quant.yaml"
    )
    assert render([found]) == (
        "error[MC103]: unknown option `regullar` for stage `prune`\n"
        "  --> recipes/nin_gc_prune_quant.yaml:11:32\n"
        "   |\n"
        '11 |   - prune: {ratio: "${ratio}", regullar: 8}\n'
        "   |                                ^^^^^^^^ did you mean `regular`?\n"
        "   = help: `mcomp stages prune` lists its options\n"
        "1 error; nothing was run"
    )


def test_auto_values_are_resolved_against_the_other_stages() -> None:
    assert Recipe.from_text(FLAGSHIP).stages[4].options.lr == 0.04


def test_surroundings_name_the_stages_before_and_after() -> None:
    prune = Recipe.from_text(FLAGSHIP).stages[2].surroundings
    assert prune.before == ("train", "sparse_train")
    assert prune.after == ("finetune", "quantize", "bn_fuse", "trt_int8")
    assert Recipe.from_text(FLAGSHIP).stages[6].surroundings.have == {"float", "pruned", "quantized"}


def test_the_lock_loads_to_the_same_recipe() -> None:
    text = FLAGSHIP + 'metadata: {note: "a $${x} b\\u2028\\x7f\\"", n: [1, 1e-7, null, .inf]}\n'
    recipe = Recipe.from_text(text, ["stages.prune.regular=4", "stages.train.seed=7", "stages.finetune.cache=false"])
    again = Recipe.from_text(recipe.lock())
    assert again.metadata == recipe.metadata
    assert again.metadata["note"] == 'a ${x} b\u2028\x7f"'
    for one, other in zip(recipe.stages, again.stages, strict=True):
        assert (one.id, one.uses, one.options, one.gates, one.seed, one.cache) == (
            other.id, other.uses, other.options, other.gates, other.seed, other.cache,
        )  # fmt: skip
    assert (again.model, again.data, again.name, again.seed) == (recipe.model, recipe.data, recipe.name, recipe.seed)
    assert again.lock().partition("\n")[2] == recipe.lock().partition("\n")[2]


def test_with_set_gives_another_recipe_and_leaves_the_first_alone() -> None:
    recipe = Recipe.from_text(FLAGSHIP)
    assert recipe.with_set("vars.ratio=0.5").stages[2].options.ratio == 0.5
    assert recipe.stages[2].options.ratio == 0.4


def test_repeated_stages_are_numbered() -> None:
    recipe = Recipe.from_text(stages("train", "train: {epochs: 2}", "finetune", "train"))
    assert [stage.id for stage in recipe.stages] == ["train", "train_2", "finetune", "train_3"]


def test_reading_a_recipe_imports_no_torch() -> None:
    code = (
        "import sys; from mcomp.recipe import Recipe, render, init_text\n"
        "from mcomp.errors import RecipeError\n"
        "try: Recipe.from_text('version: 1\\nmodel: {name: nim}\\ndata: {name: digits}\\nstages: [a]')\n"
        "except RecipeError as error: assert render(error.diagnostics)\n"
        "assert not {'torch', 'torchvision', 'numpy', 'onnx', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
