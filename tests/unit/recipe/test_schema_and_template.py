from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from mcomp.errors import UsageError
from mcomp.recipe import Recipe, init_text, recipe_json_schema
from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.loader import parse
from mcomp.recipe.tree import Source, plain
from tests.unit.recipe.samples import FLAGSHIP, stages


@cache
def _validator() -> Any:
    """For the toy stages, which are the same in every test."""
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(recipe_json_schema())
    validator.check_schema(validator.schema)
    return validator


def test_the_schema_is_json_and_holds_every_stage_with_its_help() -> None:
    schema = json.loads(json.dumps(recipe_json_schema()))
    names = ["train", "sparse_train", "prune", "finetune", "quantize", "bn_fuse", "trt_int8"]
    bare, *entries = schema["$defs"]["stage"]["anyOf"]
    assert bare == {"enum": names}
    assert [next(iter(one["properties"])) for one in entries[: len(names)]] == names
    assert entries[2]["description"] == "Cut channels."
    assert schema["additionalProperties"] is False


def test_every_reference_of_the_schema_has_a_definition() -> None:
    text = json.dumps(recipe_json_schema())
    schema = json.loads(text)
    for part in text.split('"$ref": "')[1:]:
        assert part.partition('"')[0].removeprefix("#/$defs/") in schema["$defs"]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (FLAGSHIP, True),
        (FLAGSHIP.replace("regular", "regullar"), False),
        (FLAGSHIP.replace("regular: 8", "regular: 0"), False),
        (FLAGSHIP.replace("width: 0.5", "widht: 0.5"), False),
        (FLAGSHIP.replace("name: nin_gc,", "name: nin_cg,"), False),
        (FLAGSHIP.replace("nin_gc, num_classes: 10, width: 0.5", "'torchvision:resnet18', anything: 1"), True),
        (FLAGSHIP.replace("metric: params", "metrc: params"), False),
        (FLAGSHIP.replace("samples: 512", "samples: '${n}'"), True),
        (stages("train:", "bn_fuse"), True),
        (stages("prune"), False),
        (stages("train: {}\n    when: x"), False),
        (stages("train: {}\n    when: true\n    otherwise: skpi"), False),
        (stages("train: {}\n    when: {backend: cuda}\n    otherwise: {finetune: {epochs: 2}, seed: 3}"), True),
        (stages("train: {}\n    when: {backend: cuda}\n    otherwise: {finetune: {epochs: 2}, id: x}"), False),
        (stages("train: {}\n    when: {backend: cuda}\n    otherwise: prune"), False),
        (stages("train: {}\n    otherwise: stop"), False),
        (stages("train: {}\n    when: {stage: a, metric: top1}"), False),
        (stages("train: {}\n    when: {stage: a, metric: top1, min: '${m}'}"), True),
        (stages("train: {}\n    when: {stage: a, metric: top1, max_drop: 3}"), False),
        (stages("train: {}\n    when: {backend: cuda, device: cpu}"), False),
        (stages("train: {}\n    from: 3"), False),
        (stages("train: {}\n    gates: [{metric: top1}]"), False),
        (stages("train: {}\n    gates: [{metric: top1, max_drop: 1}]"), False),
        (stages("magic: {}"), False),
        (stages("magic: {}") + "plugins: [a.py]\n", True),
        (stages("magic: 3") + "plugins: [a.py]\n", False),
        (stages("prune: {}") + "override: {prune: {ratio: 0.4}}\n", True),
        (stages("prune: {}") + "sweep: {product: {stages.prune.ratio: [0.4]}}\n", True),
        (stages("prune: {}") + "sweep: {product: {stages.prune.ratio: []}}\n", False),
        (stages("prune: {}") + "sweep: {porduct: {stages.prune.ratio: [0.4]}}\n", False),
        ("extends: a.yaml\n", True),
        ("extends: [a.yaml, b.yaml]\nmodel: {width: 0.5}\ndrop: [train]\n", True),
        ("extends: a.yaml\nmodel: {name: nin, widht: 0.5}\n", False),
        ("extends: a.yaml\ninsert: [{after: train, stages: [bn_fuse]}]\n", True),
        ("extends: a.yaml\ninsert: [{after: train, before: train, stages: [bn_fuse]}]\n", False),
        ("extends: a.yaml\ninsert: [{after: train, stages: [bn_fuse: {tolerance: no}]}]\n", False),
        ("extends: a.yaml\noverride: {train: {lr: 3, gates: [{metrc: top1}]}}\n", False),
        ("extends: []\n", False),
        ("drop: [train]\n", False),
    ],
)
def test_the_schema_agrees_with_the_loader(text: str, valid: bool) -> None:
    node = parse(Source("r", text), Faults())
    assert node is not None
    assert _validator().is_valid(plain(node)) is valid


def test_the_template_bears_the_name_it_is_given() -> None:
    assert "\nname: first.try\n" in init_text("first.try")
    with pytest.raises(UsageError):
        init_text("../x")


def test_the_template_validates_as_it_is() -> None:
    text = init_text().replace("onnx_int8", "trt_int8")  # of the toy stages here
    recipe = Recipe.from_text(text)
    assert recipe.name == "my_recipe"
    assert recipe.warnings == []


@pytest.mark.parametrize(
    "more",
    [
        "drop: [1e3]\n",
        "drop: [true]\n",
        "insert: [{after: 1e3, stages: [finetune]}]\n",
        "insert: [{before: true, stages: [finetune]}]\n",
        "sweep: {product: {'[\"stages\"].prune.ratio': [0.2, 0.3]}}\n",
        "sweep: {product: {'[\"model\"].name': [lenet, nin]}}\n",
    ],
)
def test_ids_that_look_like_values_and_paths_in_brackets_are_taken_by_the_schema_too(more: str) -> None:
    swept = "sweep" in more
    listed = ("{train: {}, id: 1e3}", "{train: {}, id: true}", "{prune: {}}" if swept else "{prune: {ratio: 0.4}}")
    text = stages(*listed) + more
    if "model" in more:
        text = text.replace("{name: nin}", "{num_classes: 10}").replace("{prune: {}}", "{prune: {ratio: 0.4}}")
    Recipe.from_text(text)
    node = parse(Source("x", text), Faults())
    assert node is not None
    assert [one.message for one in _validator().iter_errors(plain(node))] == []


def test_a_name_with_a_line_break_behind_it_is_refused_by_the_schema_too() -> None:
    node = parse(Source("x", stages("train") + 'name: "a\\n"\n'), Faults())
    assert node is not None
    assert not _validator().is_valid(plain(node))
