"""The JSON Schema against validation, on the real stages: it refuses nothing that is accepted, and all that it can."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcomp.errors import Diagnostic, RecipeError
from mcomp.recipe import Recipe, recipe_json_schema
from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.loader import parse
from mcomp.recipe.lock import flow
from mcomp.recipe.tree import Source, plain
from mcomp.stages import registry

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parents[3] / "recipes"
SHIPPED = sorted(ROOT.rglob("*.yaml"))
PLUGIN = ROOT / "custom_stage" / "clip_weights.py"
VALUES = (
    None,
    True,
    False,
    0,
    1,
    -1,
    8,
    0.5,
    1.5,
    -0.25,
    "x",
    "",
    "auto",
    "7",
    "${ratio}",
    [],
    [1],
    ["a"],
    {},
    {"a": 1},
)

#: Every key of branches and conditions, which few shipped recipes need.
CONDITIONS = """\
version: 1
model: {name: lenet}
data: {name: synthetic, samples: 100}
vars: {ratio: 0.5, flag: true}
device: auto
stages:
  - train: {epochs: 3, checkpoint_every: {epochs: 3}}
    id: base
  - prune: {ratio: "${ratio}"}
    when: {stage: base, metric: top1, min: 3, max: 99}
    otherwise: {sparse_train: {epochs: 3}, seed: 4}
  - finetune
  - quantize: {overrides: {"fc*": {w_bits: 4}}, skip: [conv1]}
    from: base
    id: q
    seed: 3
    cache: false
    gates: [{metric: top1, max_drop: 3, vs: base, unit: percent}, {metric: loss, max: 3}]
  - bn_fuse
  - onnx_int8:
    when: {backend: onnxruntime, present: true}
    otherwise: stop
  - evaluate:
    when: "${flag}"
    otherwise: evaluate
"""

#: A recipe of which other files hold the rest.
COMPOSED = """\
extends: lenet_w4a4.yaml
vars: {flag: true}
model: {name: lenet, width: 0.5}
drop: [onnx_int8]
override: {train: {epochs: 2, seed: 3, gates: [{metric: top1, min: 90}]}}
insert:
  - after: train
    stages: [{prune: {ratio: 0.3}, when: "${flag}"}]
sweep:
  product: {"stages.quantize.w_bits": [8, 4]}
  zip: {seed: [0, 1], "metadata.note": [first, second]}
"""

#: What validation knows and JSON Schema cannot say, by the codes of the fault, or by its words where MC104 says more.
BEYOND = {
    "MC108": "variables exist and are used",
    "MC111": "ids differ",
    "MC112": "ids and metrics of gates",
    "MC113": "the order of stages",
    "MC115": "files exist",
    "MC120": "a stage's own check",
    "MC122": "bases exist",
    "MC124": "ids of edits",
    "MC125": "a sweep's lists are of one length",
    "MC126": "paths of a sweep",
    "MC130": "ids of branches",
    "MC132": "ids and metrics of conditions",
    "MC135": "ids of teachers",
}
BEYOND_WORDS = (
    re.compile(r"must be a whole number.*, got -?[0-9.e+]+$"),  # 8.0, a whole number to JSON
    re.compile(r"milestone|checkpoint_every|says neither|levels|mean has|std has|is above `max"),
    re.compile(r"has no (?:weights|activations) of|has no option|has no scale per|holds unknown"),  # of a scheme
    re.compile(
        r"need one another|is searched|nothing that is searched|without a budget|no mean is below|leaves none of"
    ),
    re.compile(r"is no range|are no shares|a learned step size|objective"),  # two numbers, or names that differ
)


@pytest.fixture(autouse=True)
def toy_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the toys of this folder: the stages that ship, and no plug-in that another test has loaded."""
    for name in registry.BUILT_IN:
        registry.get(name)
    monkeypatch.setattr(registry, "_STAGES", {name: registry.get(name) for name in registry.BUILT_IN})


@pytest.fixture(scope="module")
def shipped() -> Any:
    for name in registry.BUILT_IN:
        registry.get(name)
    schema = recipe_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def _read(text: str) -> Any:
    node = parse(Source("r", text), Faults())
    assert node is not None
    return plain(node)


def _errors(data: Any, folder: Path) -> list[Diagnostic]:
    try:
        Recipe.from_text(flow(data).replace("$${", "${"), base_dir=folder, trust=True)
    except RecipeError as error:
        return [one for one in error.diagnostics if one.severity == "error"]
    return []


def _paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if here:
        yield here
    for step in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from _paths(value[step], (*here, step))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def _with_key(data: Any, path: tuple[Any, ...], name: str | None) -> Any:
    """The key at ``path`` renamed, or removed."""
    changed = copy.deepcopy(data)
    holder = _at(changed, path[:-1])
    items = [(name if key == path[-1] else key, value) for key, value in holder.items() if name or key != path[-1]]
    holder.clear()
    holder.update(items)
    return changed


def _mutations(data: Any, seed: int, each: int) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every key misspelled and left out, every value replaced by ``each`` others."""
    chooser = random.Random(seed)
    for path in _paths(data):
        if isinstance(_at(data, path[:-1]), dict):
            for name in (f"{path[-1]}s", None):
                yield path, _with_key(data, path, name)
        for value in chooser.sample(VALUES, each):
            changed = copy.deepcopy(data)
            _at(changed, path[:-1])[path[-1]] = value
            yield path, changed


def _may_pass(path: tuple[Any, ...], found: list[Diagnostic], data: Any) -> bool:
    """True where the schema need not refuse: the fault is of a kind that it cannot express."""
    if path[0] in ("vars", "override", "sweep", "plugins") or data.get("plugins") or data.get("extends"):
        return True  # values that are used elsewhere, by ids; stages and options of files that the schema cannot see
    if "${" in str(_at(data, path) if path[-1] in _keys(data, path) else ""):
        return True  # whatever the variable holds
    return all(one.code in BEYOND or any(words.search(one.message) for words in BEYOND_WORDS) for one in found)


def _keys(data: Any, path: tuple[Any, ...]) -> Any:
    holder = _at(data, path[:-1])
    return holder if isinstance(holder, dict) else range(len(holder))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_schema_takes_every_shipped_recipe(file: Path, shipped: Any) -> None:
    assert [one.message for one in shipped.iter_errors(_read(file.read_text(encoding="utf-8")))] == []


def test_the_shipped_schema_is_up_to_date() -> None:
    written = (ROOT / "recipe.schema.json").read_text(encoding="utf-8")
    assert written == json.dumps(recipe_json_schema(), indent=2) + "\n", "run `mcomp schema --write` on it"


def _judge(text: str, folder: Path, validator: Any, each: int) -> tuple[list[Any], list[Any], int]:
    """Mutants that only the schema refuses, mutants that only validation refuses, and how many there are."""
    data = _read(text)
    strict, loose, count = [], [], 0
    for path, mutant in _mutations(data, len(text), each):
        count += 1
        found, valid = _errors(mutant, folder), validator.is_valid(mutant)
        if not found and not valid:
            strict.append((path, flow(mutant)))
        if found and valid and not _may_pass(path, found, mutant):
            loose.append((path, found[0].message, flow(mutant)))
    return strict, loose, count


@pytest.mark.parametrize(
    "file",
    [file for file in SHIPPED if file.parent == ROOT or file.parent.name == "sweeps"],
    ids=lambda file: file.name,
)
def test_schema_and_validation_agree_on_mutants_of_a_shipped_recipe(file: Path, shipped: Any) -> None:
    strict, loose, count = _judge(file.read_text(encoding="utf-8"), file.parent, shipped, each=1)
    assert (strict, loose) == ([], [])
    assert count > 10


@pytest.mark.parametrize("text", [CONDITIONS, COMPOSED], ids=["conditions", "composed"])
def test_schema_and_validation_agree_on_mutants_of_the_rarer_keys(text: str, shipped: Any) -> None:
    assert _errors(_read(text), ROOT) == []
    strict, loose, _ = _judge(text, ROOT, shipped, each=2)
    assert (strict, loose) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("text", [*(file.read_text(encoding="utf-8") for file in SHIPPED), CONDITIONS, COMPOSED])
def test_schema_and_validation_agree_on_every_mutant(text: str, shipped: Any) -> None:
    folder = next((file.parent for file in SHIPPED if file.read_text(encoding="utf-8") == text), ROOT)
    if "plugins" in text:
        pytest.skip("its stage is checked with the schema that knows it")
    strict, loose, _ = _judge(text, folder, shipped, each=len(VALUES))
    assert (strict, loose) == ([], [])


def test_the_schema_with_a_plug_in_knows_its_options_and_no_other_stage() -> None:
    registry.load_file(PLUGIN)
    validator = jsonschema.Draft202012Validator(recipe_json_schema(complete=True))
    data = _read((PLUGIN.parent / "recipe.yaml").read_text(encoding="utf-8"))
    assert validator.is_valid(data)
    for options in ({"deviationz": 3}, {"deviations": 0}, {"deviations": "x"}, []):
        changed = copy.deepcopy(data)
        changed["stages"][1] = {"clip_weights": options}
        assert not validator.is_valid(changed)
        assert _errors(changed, PLUGIN.parent)
    changed["stages"][1] = {"clip_weight": {}}
    assert not validator.is_valid(changed)


def _of_type(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that an option's own schema suggests, some of them just outside of it."""
    if "$ref" in schema:
        return _of_type(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return st.one_of([_of_type(one, root) for one in schema["anyOf"]])
    if "enum" in schema or "const" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "integer":
            return st.integers(-1, 300) | st.just(255)
        case "number":
            return st.floats(0, 2, allow_nan=False) | st.integers(-1, 3) | st.just(1e-3)
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(_of_type(schema.get("items", {}), root), max_size=3)
        case "object" if "properties" in schema:
            return _mapping(schema, root)
        case "object":
            return st.dictionaries(st.sampled_from(["fc1", "conv*"]), _of_type(schema["additionalProperties"], root))
        case "null":
            return st.none()
    return st.sampled_from(["x", "conv1", "7", "${ratio}"])


def _mapping(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    known = {name: _of_type(one, root) for name, one in schema["properties"].items()}
    needed = {name: known[name] for name in schema.get("required", ())}
    return st.fixed_dictionaries(needed, optional={name: one for name, one in known.items() if name not in needed})


def _entries() -> st.SearchStrategy[dict[str, Any]]:
    def one(name: str) -> st.SearchStrategy[dict[str, Any]]:
        schema = registry.get(name).Options.model_json_schema()
        schema["properties"] = {
            key: value for key, value in schema["properties"].items() if key not in ("teacher", "resume_from")
        }
        few = _mapping(schema, schema).map(
            lambda options: dict(list(options.items())[:3] + [(k, options[k]) for k in schema.get("required", ())])
        )
        return few.map(lambda options: {name: options})

    return st.sampled_from(registry.BUILT_IN).flatmap(one)


_keywords = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(["a", 3, "b.c", True, None, "-"]),
        "from": st.sampled_from([None, "train", "x", 3]),
        "when": st.sampled_from(
            [True, False, None, {"backend": "cuda"}, {"device": "cpu", "present": False}, "${flag}", {}]
        )
        | st.fixed_dictionaries(
            {"stage": st.just("train"), "metric": st.sampled_from(["top1", "loss"])},
            optional={
                "min": st.sampled_from([None, 1, "${ratio}"]),
                "max": st.sampled_from([None, 2.5]),
                "max_drop": st.sampled_from([None, 1]),
                "vs": st.sampled_from([None, "train"]),
                "unit": st.sampled_from([None, "points", "percent"]),
                "present": st.booleans(),
            },
        ),
        "otherwise": st.sampled_from(
            [None, "skip", "stop", "fail", "evaluate", {"evaluate": None}, {"finetune": {"epochs": 1}, "seed": 2}]
        ),
        "gates": st.sampled_from([None, [], "x"])
        | st.lists(
            st.fixed_dictionaries(
                {"metric": st.just("params")},
                optional={
                    "min": st.sampled_from([None, 1]),
                    "max": st.sampled_from([None, 2.5, "${ratio}"]),
                    "max_ratio": st.sampled_from([None, 1, 0]),
                    "vs": st.sampled_from([None, "train"]),
                    "unit": st.sampled_from([None, "points"]),
                },
            ),
            max_size=2,
        ),
        "seed": st.sampled_from([None, 0, 5, -1]),
        "cache": st.sampled_from([True, False, None]),
    },
)


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_the_schema_never_refuses_what_validation_accepts(shipped: Any, data: st.DataObject) -> None:
    entry = data.draw(_entries())
    if data.draw(st.booleans()):
        entry |= data.draw(_keywords)
    recipe = {
        "version": 1,
        "vars": {"ratio": 0.5, "flag": True},
        "model": {"name": "lenet"},
        "data": {"name": "digits"},
        "stages": ["train", entry],
    }
    found, valid = _errors(recipe, ROOT), shipped.is_valid(recipe)
    assert valid or found, [one.message for one in shipped.iter_errors(recipe)]
    if valid and "${" not in flow(entry):
        expressible = [
            one
            for one in found
            if one.code in ("MC103", "MC105", "MC106") and not any(words.search(one.message) for words in BEYOND_WORDS)
        ]
        assert expressible == []
