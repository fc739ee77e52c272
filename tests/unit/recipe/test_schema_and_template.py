from __future__ import annotations

import json

import pytest

from mcomp.errors import UsageError
from mcomp.recipe import Recipe, init_text, recipe_json_schema
from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.loader import parse
from mcomp.recipe.tree import Source, plain
from tests.unit.recipe.samples import FLAGSHIP, stages


def test_the_schema_is_json_and_holds_every_stage_with_its_help() -> None:
    schema = json.loads(json.dumps(recipe_json_schema()))
    items = schema["properties"]["stages"]["items"]["anyOf"]
    assert items[0] == {"enum": ["train", "sparse_train", "finetune", "quantize", "bn_fuse", "trt_int8"]}
    assert [next(iter(one["properties"])) for one in items[1:]] == [
        "train", "sparse_train", "prune", "finetune", "quantize", "bn_fuse", "trt_int8",
    ]  # fmt: skip
    assert items[3]["description"] == "Cut channels."
    assert schema["required"] == ["version", "model", "data", "stages"]
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
    ],
)
def test_the_schema_agrees_with_the_loader(text: str, valid: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    node = parse(Source("r", text), Faults())
    assert node is not None
    validator = jsonschema.Draft202012Validator(recipe_json_schema())
    validator.check_schema(recipe_json_schema())
    assert validator.is_valid(plain(node)) is valid


def test_the_template_bears_the_name_it_is_given() -> None:
    assert "\nname: first.try\n" in init_text("first.try")
    with pytest.raises(UsageError):
        init_text("../x")


def test_the_template_validates_as_it_is() -> None:
    text = init_text().replace("onnx_int8", "trt_int8")  # of the toy stages here
    recipe = Recipe.from_text(text)
    assert recipe.name == "my_recipe"
    assert recipe.warnings == []
