"""Which change re-runs which stages: one row per component of a key, and one per thing that is in none.

The rows are planned, not run: a store is filled with finished actions of a recipe, the change is made, and the keys
tell which stages miss by themselves and the plan which ones run, those behind a miss included.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mcomp.cli.main import main
from mcomp.engine import Engine
from mcomp.engine.keys import KeyMaker, key_of, root_of
from mcomp.engine.own_code import VERSIONS
from mcomp.recipe import Recipe
from mcomp.stages import registry
from mcomp.store import Store

RECIPE = """\
version: 1
name: matrix
seed: 3
vars: {lr: 0.1}
plugins: [./touch.py]
model: {name: "net.py:build", width: 8, weights: start.pt}
data: {name: image_folder, root: photos, image_size: 8, batch_size: 4}
metadata: {author: somebody}
stages:
  - train: {epochs: 2, lr: "${lr}", checkpoint_every: 1}
  - touch: {teacher: teacher.txt}
  - finetune: {epochs: 1}
    id: recover
    gates: [{metric: top1, max_drop: 5, unit: points, vs: train}]
  - evaluate
  - quantize: {epochs: 1, overrides: {"head*": {w_bits: 4}}}
    from: recover
  - trt_int8: {calibration: {method: minmax, samples: 8}}
"""

TOUCH = '''\
from __future__ import annotations

from pydantic import Field

from mcomp.stages import Stage, StageOptions, StageResult, Traits, register


@register
class Touch(Stage):
    """Hand the model on."""

    name, version = "touch", 1
    traits = Traits(needs_data=False)

    class Options(StageOptions):
        teacher: str = Field("", json_schema_extra={"path": True})

    def run(self, ctx, options):
        return StageResult(model=ctx.model)
'''

NET = "from blocks import block\n\n\ndef build(num_classes, width=8):\n    return block(num_classes, width)\n"
BLOCKS = "def block(num_classes, width):\n    return None  # never built here\n"

ALL = {"train", "touch", "recover", "evaluate", "quantize", "trt_int8"}
SEE_DATA = ALL - {"touch"}


class Place:
    """A folder with a recipe and everything that it names, and a store in which every stage of it is finished."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = monkeypatch
        self.sets: list[str] = []
        self.strict = False
        for name, text in {"matrix.yaml": RECIPE, "touch.py": TOUCH, "net.py": NET, "blocks.py": BLOCKS}.items():
            self.write(name, text)
        self.write("teacher.txt", "teacher")
        self.write("start.pt", "weights")
        for index in range(6):
            self.write(f"photos/{'ab'[index % 2]}/{index}.png", f"pixels {index}")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text, f"{old!r} is not in {name}"
        self.write(name, text.replace(old, new))

    def load(self) -> tuple[Recipe, KeyMaker]:
        recipe = Recipe.load(self.folder / "matrix.yaml", self.sets, trust=True)
        root = root_of(recipe, cache_dir=None, code_cache=None, strict_code=self.strict)
        return recipe, KeyMaker(recipe, root, None, self.strict)

    def finish(self, store: Store) -> dict[str, str]:
        """Put a finished action of every stage into the store; returns the artifacts by id."""
        recipe, keys = self.load()
        artifacts: dict[str, str] = {}
        for stage in recipe.stages:
            preimage = keys.preimage(stage, None if stage.source is None else artifacts[stage.source], artifacts)
            with store.staging() as folder:
                (folder / "tensors.pt").write_text(stage.id)
                artifacts[stage.id] = store.commit(folder, {"identity": {"of": stage.id}})
            record = {"artifact": artifacts[stage.id], "metrics": {"top1": 90.0}, "seconds": 1.0, "files": {}}
            store.put_action(key_of(preimage), {**record, "notes": [], "preimage": preimage})
        return artifacts

    def misses(self, store: Store, artifacts: dict[str, str]) -> set[str]:
        """Ids of the stages whose own key is new, were every incoming model the same as before."""
        recipe, keys = self.load()
        known = dict(zip((stage.id for stage in recipe.stages), artifacts.values(), strict=True))
        found = set()
        for stage in recipe.stages:
            preimage = keys.preimage(stage, None if stage.source is None else known[stage.source], known)
            if store.action(key_of(preimage)) is None:
                found.add(stage.id)
        return found

    def runs(self, store: Store) -> set[str]:
        """Ids of the stages that a run would execute."""
        plan = Engine(store).plan(self.load()[0])
        return {planned.stage.id for planned in plan.stages if planned.status != "hit"}

    def behind(self, ids: set[str]) -> set[str]:
        """These stages and all that follow them."""
        found = set(ids)
        for stage in self.load()[0].stages:
            if stage.source in found:
                found.add(stage.id)
        return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    built_in = {name: registry.get(name) for name in registry.BUILT_IN}
    monkeypatch.setattr(registry, "_STAGES", built_in)  # `touch` is registered anew by each test's own file
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path / "here", monkeypatch)


Change = Callable[[Place], Any]


def in_recipe(old: str, new: str) -> Change:
    return lambda place: place.edit("matrix.yaml", old, new)


def sets(*texts: str) -> Change:
    return lambda place: place.sets.extend(texts)


def in_file(name: str, old: str, new: str) -> Change:
    return lambda place: place.edit(name, old, new)


def package(name: str, version: str) -> Change:
    def change(place: Place) -> None:
        real = metadata.version
        place.patch.setattr(metadata, "version", lambda asked: version if asked == name else real(asked))

    return change


def on_a_gpu(place: Place) -> None:
    place.patch.setattr("mcomp.training.hardware.resolve_device", lambda device: "cuda")
    place.patch.setattr("mcomp.training.hardware.gpu", lambda index=0: {"name": "RTX 9000", "sm": 90})
    place.sets.append("precision=fp32")


def stage_version(name: str) -> Change:
    return lambda place: place.patch.setattr(registry.get(name), "version", 99)


def tensorrt(place: Place) -> None:
    place.patch.setattr("mcomp.deploy.tensorrt.api.installed_version", lambda: "10.99")


REAL = {
    "an integer option": (in_recipe("{epochs: 2,", "{epochs: 3,"), {"train"}),
    "a number option": (sets("stages.recover.weight_decay=0.001"), {"recover"}),
    "a boolean option": (sets("stages.recover.nesterov=false"), {"recover"}),
    "a choice": (sets("stages.quantize.calibration=entropy"), {"quantize"}),
    "an option set to null": (sets("stages.train.grad_clip=null"), {"train"}),
    "a list option": (sets("stages.quantize.skip=[conv1]"), {"quantize"}),
    "an option inside a mapping": (sets("stages.trt_int8.calibration.samples=9"), {"trt_int8"}),
    "an option below a person's own key": (in_recipe("w_bits: 4", "w_bits: 2"), {"quantize"}),
    "a variable": (in_recipe("{lr: 0.1}", "{lr: 0.2}"), {"train"}),
    "a variable with --set": (sets("vars.lr=0.2"), {"train"}),
    "the recipe's seed": (in_recipe("seed: 3", "seed: 4"), ALL),
    "a stage's seed": (in_recipe("    id: recover", "    id: recover\n    seed: 9"), {"recover"}),
    "one byte of the data": (in_file("photos/a/0.png", "pixels 0", "pixels O"), SEE_DATA),
    "an image more": (lambda place: place.write("photos/a/9.png", "pixels 9"), SEE_DATA),
    "an image of another class": (
        lambda place: (place.folder / "photos/a/0.png").rename(place.folder / "photos/b/0.png"),
        SEE_DATA,
    ),
    "a data option": (sets("data.batch_size=8"), SEE_DATA),
    "a model option": (sets("model.width=16"), {"train"}),
    "the number of classes": (sets("model.num_classes=5"), {"train"}),
    "a token of the model's file": (in_file("net.py", "width=8", "width=9"), {"train"}),
    "a token of its neighbour": (in_file("blocks.py", "return None", "return 1"), {"train"}),
    "the starting weights": (lambda place: place.write("start.pt", "other"), {"train"}),
    "a token of a plug-in": (in_file("touch.py", "model=ctx.model)", "model=ctx.model, notes=['x'])"), {"touch"}),
    "the file that an option names": (lambda place: place.write("teacher.txt", "another"), {"touch"}),
    "a built-in stage's version": (stage_version("finetune"), {"recover"}),
    "torch's minor version": (package("torch", "9.9.0"), ALL),
    "the precision": (sets("precision=bf16"), ALL),
    "the class of device": (on_a_gpu, ALL),
    "the version of TensorRT": (tensorrt, {"trt_int8"}),
    "the version of ONNX Runtime": (package("onnxruntime", "9.9.0"), {"trt_int8"}),
}

IDLE = {
    "a comment in the recipe": in_recipe("seed: 3", "seed: 3  # lucky"),
    "its formatting": in_recipe("{name: image_folder, root: photos,", "{\n  name: 'image_folder',\n  root: photos,"),
    "the order of keys": in_recipe("image_size: 8, batch_size: 4", "batch_size: 4, image_size: 8"),
    "the order of options": in_recipe('{epochs: 2, lr: "${lr}"', '{lr: "${lr}", epochs: 2'),
    "the recipe's name": sets("name=other"),
    "its metadata": sets("metadata.author=another"),
    "a gate": in_recipe("max_drop: 5", "max_drop: 1"),
    "one gate more": in_recipe("  - evaluate", "  - evaluate:\n    gates: [{metric: top1, min: 10}]"),
    "a stage's id": in_recipe("recover", "again"),
    "how often snapshots are taken": in_recipe("checkpoint_every: 1", "checkpoint_every: 2"),
    "how often they are taken, in steps": in_recipe("checkpoint_every: 1", "checkpoint_every: {steps: 9}"),
    "a default written out": in_recipe("  - evaluate", "  - evaluate: {}"),
    "an option written as an integer": in_recipe("{lr: 0.1}", "{lr: 1.0e-1}"),
    "a variable written out": in_recipe('"${lr}"', "0.1"),
    "a condition that holds": in_recipe("  - evaluate", "  - evaluate:\n    when: true"),
    "a comment in a plug-in": in_file("touch.py", "    def run", "    # nothing\n    def run"),
    "a comment in the model's file": in_file("net.py", "    return", "    # why\n    return"),
    "layout of its neighbour": in_file("blocks.py", "(num_classes, width)", "(\n    num_classes, width\n)"),
    "a file that nobody imports": lambda place: place.write("notes.py", "x = 1\n"),
    "torch's patch version": package("torch", f"{'.'.join(metadata.version('torch').split('.')[:2])}.99+cpu"),
    "another data path to the same content": lambda place: (
        shutil.copytree(place.folder / "photos", place.folder / "pictures"),
        place.sets.append(f"data.root={place.folder / 'pictures'}"),
    ),
    "another path of an option's file": lambda place: (
        place.write("deep/t.txt", "teacher"),
        place.edit("matrix.yaml", "teacher: teacher.txt", "teacher: deep/t.txt"),
    ),
    "--strict-code in a checkout": lambda place: setattr(place, "strict", True),
}


@pytest.mark.parametrize("what", REAL)
def test_a_change_reruns_exactly_the_stages_that_depend_on_it(what: str, place: Place, tmp_path: Path) -> None:
    change, expected = REAL[what]
    place.sets.append("precision=fp32")
    store = Store(tmp_path / "store")
    artifacts = place.finish(store)
    assert place.misses(store, artifacts) == set()
    change(place)
    assert place.misses(store, artifacts) == expected
    assert place.runs(store) == place.behind(expected)


@pytest.mark.parametrize("what", IDLE)
def test_what_changes_no_outcome_reruns_nothing(what: str, place: Place, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifacts = place.finish(store)
    IDLE[what](place)
    assert place.misses(store, artifacts) == set()
    if not place.strict:
        assert place.runs(store) == set()


def test_a_folder_moved_as_a_whole_reruns_nothing(place: Place, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    artifacts = place.finish(store)
    place.folder = place.folder.rename(tmp_path / "there")
    assert place.misses(store, artifacts) == place.runs(store) == set()


def test_a_stage_inserted_before_others_leaves_those_on_other_branches_alone(place: Place, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    place.finish(store)
    place.edit("matrix.yaml", "  - quantize:", "  - prune: {ratio: 0.5}\n    from: recover\n  - quantize:")
    place.edit("matrix.yaml", "    from: recover\n  - trt", "  - trt")
    assert place.runs(store) == {"prune", "quantize", "trt_int8"}


class TestRelease:
    """mcomp installed from an archive: its versions stand for its code."""

    @pytest.fixture(autouse=True)
    def released(self, place: Place) -> None:
        place.patch.setattr("mcomp.engine.code_digest.is_released", lambda package="mcomp": True)

    def test_mcomps_own_code_counts_by_version(self, place: Place, tmp_path: Path) -> None:
        store = Store(tmp_path / "store")
        artifacts = place.finish(store)
        place.patch.setattr("mcomp.engine.code_digest.token_digest", lambda source: "0" * 64)
        place.patch.setattr("mcomp.engine.code_digest._KNOWN", {})
        assert place.misses(store, artifacts) == {"touch", "train"}  # those that hold the person's own code

    @pytest.mark.parametrize(("room", "expected"), [("models", {"train"}), ("data", SEE_DATA), ("metrics", ALL)])
    def test_a_version_beside_the_stages_counts(
        self, room: str, expected: set[str], place: Place, tmp_path: Path
    ) -> None:
        store = Store(tmp_path / "store")
        artifacts = place.finish(store)
        place.patch.setitem(VERSIONS, room, 99)
        assert place.misses(store, artifacts) == expected

    def test_strict_code_counts_by_digest_even_here(self, place: Place, tmp_path: Path) -> None:
        store = Store(tmp_path / "store")
        artifacts = place.finish(store)
        place.strict = True
        assert place.misses(store, artifacts) == ALL


REAL_RECIPE = """\
version: 1
name: real
model: {{name: lenet}}
data: {{name: digits, limit: 60}}
stages:
  - train: {{epochs: {epochs}{more}}}
  - prune: {{ratio: {ratio}, importance: l1}}{gates}
  - evaluate
"""


def test_real_runs_agree_with_the_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def statuses(*, epochs: int = 1, ratio: float = 0.3, more: str = "", gates: str = "") -> list[str]:
        Path("real.yaml").write_text(REAL_RECIPE.format(epochs=epochs, ratio=ratio, more=more, gates=gates))
        capsys.readouterr()
        assert main(["apply", "real.yaml", "--json"]) == 0
        return [stage["status"] for stage in json.loads(capsys.readouterr().out)["stages"]]

    assert statuses() == ["run", "run", "run"]
    assert statuses(ratio=0.4) == ["hit", "run", "run"]
    gate = "\n    gates: [{metric: params, min: 1}]"
    assert statuses(more=", checkpoint_every: 5", gates=gate) == ["hit", "hit", "hit"]
    assert statuses(epochs=2) == ["run", "run", "run"]
    assert statuses() == ["hit", "hit", "hit"]


LOOKING = TOUCH.replace("Traits(needs_data=False)", 'Traits(metrics={"seen"}, needs_data=False)').replace(
    "model=ctx.model)", 'model=ctx.model, metrics={"seen": float(ctx.example_inputs[0].double().sum())})'
)


def test_what_a_stage_sees_that_needs_no_data_does_not_depend_on_the_data(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    place.write("touch.py", LOOKING)
    head = "version: 1\nname: look\nplugins: [./touch.py]\nmodel: {name: lenet}\nstages: [evaluate, touch]\n"
    place.write(
        "look.yaml", head + "data: {name: synthetic, samples: 60, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}\n"
    )
    words = ["apply", str(place.folder / "look.yaml"), "--trust", "--json", "--store"]
    found = []
    for seed in (0, 1):
        capsys.readouterr()
        assert main([*words, f"store{seed}", "--set", f"data.pattern_seed={seed}"]) == 0
        found.append(json.loads(capsys.readouterr().out)["stages"])
    first, second = found
    assert first[0]["metrics"]["loss"] != second[0]["metrics"]["loss"]
    assert (first[1]["key"], first[1]["metrics"]["seen"]) == (second[1]["key"], second[1]["metrics"]["seen"])
