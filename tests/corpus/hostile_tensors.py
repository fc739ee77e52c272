"""Attacks by way of checkpoints, artifacts and the store."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from mcomp.artifact import load_model, save_model
from mcomp.models import build
from mcomp.recipe import Recipe
from mcomp.store import Store
from mcomp.store.snapshot import NEWEST, load_snapshot
from tests.corpus.hostile import GOOD, Case


class Touch:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def tensors(folder: Path, canary: Path) -> Iterator[Case]:
    """Everything that is read with torch, or stands beside it."""
    model = build("lenet", num_classes=10, in_shape=(3, 16, 16))
    model(torch.zeros(2, 3, 16, 16))  # what the first call of a process costs is not a case's
    save_model(model, folder / "good", example_inputs=(torch.zeros(2, 3, 16, 16),))
    load_model(folder / "good")
    yield from _checkpoints(folder, canary)
    yield from _artifacts(folder, canary)
    yield from _snapshots(folder, canary)
    yield from _stores(folder)


def _checkpoints(folder: Path, canary: Path) -> Iterator[Case]:
    evil = Touch(canary)
    (folder / "plain.pt").write_bytes(pickle.dumps(evil))
    (folder / "old.pt").write_bytes(pickle.dumps({"a": evil}, protocol=0))
    torch.save({"conv.weight": evil}, folder / "zipped.pt")
    torch.save([evil], folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), folder / "module.pt")
    (folder / "noise.pt").write_bytes(bytes(range(256)) * 50)
    (folder / "empty.pt").touch()
    with zipfile.ZipFile(folder / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02" + b"N0" * 200_000_000)
        archive.writestr("bomb/version", "3")
    with zipfile.ZipFile(folder / "climbing.pt", "w") as archive:
        archive.writestr("../../climbing", "x")
    (folder / "zero.pt").symlink_to("/dev/zero")
    for name in ("plain", "old", "zipped", "legacy", "module", "noise", "empty", "bomb", "climbing"):
        spec = {"name": "lenet", "num_classes": 10, "weights": str(folder / f"{name}.pt")}
        yield Case(f"weights {name}", _call(build, spec, in_shape=(3, 16, 16)))


def _call(function: Callable[..., object], *arguments: Any, **named: Any) -> Callable[[], object]:
    return lambda: function(*arguments, **named)


def _artifacts(folder: Path, canary: Path) -> Iterator[Case]:
    good = folder / "good"
    manifest = json.loads((good / "manifest.json").read_text())

    def variant(name: str, change: Callable[[dict[str, Any]], object]) -> Path:
        place = folder / name
        shutil.copytree(good, place)
        changed = copy.deepcopy(manifest)
        change(changed)
        (place / "manifest.json").write_text(json.dumps(changed))
        return place

    tensor_file = next(path.name for path in good.iterdir() if path.suffix == ".pt")
    for name in ("plain", "zipped", "bomb", "noise"):
        place = variant(f"tensors_{name}", lambda _: None)
        shutil.copy(folder / f"{name}.pt", place / tensor_file)
        yield Case(f"artifact's tensors {name}", _call(load_model, place))
    for name in ("os:system", "subprocess:Popen", "evil.py:build", "nobody", "../../x", ""):
        place = variant(f"builder_{abs(hash(name))}", lambda one, name=name: one["builder"].update(name=name))  # type: ignore[misc]
        yield Case(f"artifact's builder {name or 'empty'}", _call(load_model, place))
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "surgery nobody knows": lambda one: one["surgery"].append({"op": "os.system", "command": "true"}),
        "surgery without a kind": lambda one: one["surgery"].append({}),
        "surgery of text": lambda one: one.update(surgery="os.system"),
        "huge input": lambda one: one.update(inputs=[{**one["inputs"][0], "shape": [2, 3, 10**6, 10**6]}]),
        "inputs of text": lambda one: one.update(inputs="x"),
        "huge width": lambda one: one["builder"]["kwargs"].update(width=1e9),
        "huge classes": lambda one: one["builder"]["kwargs"].update(num_classes=10**12),
        "a keyword of its own": lambda one: one["builder"]["kwargs"].update(trust=True),
        "tensors of text": lambda one: one.update(tensors="x"),
        "no builder": lambda one: one.update(builder=None),
        "a builder of text": lambda one: one.update(builder="x"),
        "a later format": lambda one: one.update(format=10**30),
        "a fingerprint of text": lambda one: one.update(fingerprint="x"),
    }
    for name, change in changes.items():
        yield Case(f"artifact with {name}", _call(load_model, variant(name.replace(" ", "_"), change)))
    for name, content in (("deep", "[" * 1_000_000), ("of a list", "[]"), ("of nothing", ""), ("of noise", "\x00\x01")):
        place = variant(f"manifest_{abs(hash(name))}", lambda _: None)
        (place / "manifest.json").write_text(content)
        yield Case(f"artifact's manifest {name}", _call(load_model, place))
        text = GOOD.replace("lenet}", f'lenet, weights: "{place}"}}')
        yield Case(f"weights whose manifest is {name}", _call(Recipe.from_text, text), "either")


def _snapshots(folder: Path, canary: Path) -> Iterator[Case]:
    for name in ("plain", "zipped", "bomb", "noise", "empty"):
        work = folder / f"work_{name}"
        work.mkdir()
        shutil.copy(folder / f"{name}.pt", work / NEWEST)
        yield Case(f"snapshot {name}", _call(load_snapshot, work), "valid")  # set aside: training starts over


def _stores(folder: Path) -> Iterator[Case]:
    root = folder / "store"
    store = Store(root)
    with store.staging():
        pass
    deep = "[" * 1_000_000
    for name in ("../../evil", "/etc/passwd", "a/b", "..", "", "a\0b"):
        yield Case(f"object {name or 'empty'}", _call(_stays_inside, store.object, name, root), "either")
        yield Case(f"action {name or 'empty'}", _call(_stays_inside, store.action, name, root), "either")
        yield Case(
            f"run {name or 'empty'}",
            _call(_stays_inside, lambda name: store.new_run(name, "0" * 8).path, name, root),
            "either",
        )
    key = "ab" + "0" * 62
    action = root / "actions" / "ab" / f"{key}.json"
    action.parent.mkdir(parents=True, exist_ok=True)
    action.write_text(deep)
    yield Case("an action that is deep", _call(store.action, key), "either")
    thing = root / "objects" / "ab" / key
    thing.mkdir(parents=True)
    (thing / "manifest.json").write_text(deep)
    yield Case("an object that is deep", _call(store.manifest, key), "either")
    yield Case("an object that is deep, verified", _call(store.verify, key), "either")
    run = root / "runs" / "20200101T000000Z-x-00000000"
    run.mkdir(parents=True)
    (run / "result.json").write_text(deep)
    yield Case("a run that is deep", _call(store.runs), "either")


def _stays_inside(function: Callable[[str], object], name: str, root: Path) -> None:
    """A name that is no key finds nothing, or is refused; no path that it makes leaves the store."""
    from mcomp.errors import StoreError

    try:
        found = function(name)
    except ValueError as error:
        raise StoreError(str(error)) from error
    if found is not None and not (isinstance(found, Path) and found.resolve().is_relative_to(root.resolve())):
        raise AssertionError(f"{name!r} leads to {found}")
