from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mcomp.pruning
import mcomp.quantization
from mcomp import surgery
from mcomp.artifact import load_model, read_manifest, save_artifact, save_model
from mcomp.errors import McompError, StoreError
from mcomp.models import build
from mcomp.store import Store
from mcomp.store.digest import canonical_json
from mcomp.store.tensors import describe, read_tensors, state_digest

SHAPE = (3, 16, 16)


class Small(nn.Module):
    """A network made by hand."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.bn(self.conv(x))).mean((2, 3)))
        return out


@surgery.register_replay("narrow_small")
def narrow_small(model: nn.Module, entry: dict[str, Any], _inputs: tuple[Tensor, ...]) -> nn.Module:
    """Keep only some channels of the convolution: a surgery that changes shapes."""
    assert isinstance(model, Small)
    kept = torch.tensor(entry["kept"])
    narrow = Small(len(kept))
    state = model.state_dict()
    state = {name: value[kept] if value.ndim and len(value) == 4 else value for name, value in state.items()}
    state["head.weight"] = model.head.weight[:, kept]
    narrow.load_state_dict(state)
    return narrow


def example(batch: int = 2) -> tuple[Tensor, ...]:
    return (torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1)),)


def small(seed: int = 0) -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Small()
        model.bn.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = build("nin_gc", num_classes=10, width=0.25, in_shape=SHAPE)
    save_model(model, tmp_path / "nin", example())
    return tmp_path / "nin"


def test_a_built_model_comes_back_with_the_same_bits_and_its_history(tmp_path: Path) -> None:
    model = build("nin_gc", num_classes=10, width=0.25, in_shape=SHAPE)
    origin = surgery.provenance(model)
    origin.input_shape, origin.class_names = list(SHAPE), ["a", "b"]
    origin.preprocessing = {"size": [16, 16], "mean": [0.5], "std": [0.5], "channels": 3}
    save_model(model, tmp_path / "nin", example())
    loaded = load_model(tmp_path / "nin" / "manifest.json")
    assert not loaded.training
    assert torch.equal(loaded(*example()), model(*example()))
    assert surgery.provenance(loaded) == origin
    assert state_digest(loaded.state_dict()) == state_digest(model.state_dict())


LOADER = """
import sys, torch, mcomp
for folder in sys.argv[1:]:
    expected = torch.load(folder + ".pt", weights_only=True)
    assert torch.equal(mcomp.load_model(folder)(expected["x"]), expected["y"]), folder
"""


def compressed() -> list[tuple[str, nn.Module]]:
    """One network after each step of a recipe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build("nin_gc", num_classes=7, width=0.25, in_shape=SHAPE)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.1, 1.0)
                nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    pruned = mcomp.pruning.prune(model, example(), ratio=0.4).model
    quantised = mcomp.quantization.quantize(pruned, example(), w_bits=8, a_bits=8)
    mcomp.quantization.calibrate(quantised, [example()[0]])
    fused = mcomp.quantization.fold_batch_norms(quantised, example()).model
    return [("pruned", pruned), ("quantised", quantised), ("fused", fused)]


def test_a_fresh_process_rebuilds_the_same_logits_without_user_code(tmp_path: Path) -> None:
    models = compressed()
    for name, shape in (("lenet", (1, 32, 32)), ("torchvision:squeezenet1_1", (3, 40, 40))):
        models.append((name.rpartition(":")[2], build(name, num_classes=7, in_shape=shape)))
    folders = []
    for name, model in models:
        shape = {"lenet": (1, 32, 32), "squeezenet1_1": (3, 40, 40)}.get(name, SHAPE)
        x = torch.randn(3, *shape)
        folders.append(tmp_path / name)
        save_model(model.eval(), folders[-1], (x,))
        with torch.inference_mode():
            torch.save({"x": x, "y": model(x)}, f"{folders[-1]}.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([sys.executable, "-c", LOADER, *map(str, folders)], check=True, env=environment)


def test_surgery_is_replayed_before_the_tensors_are_loaded(tmp_path: Path) -> None:
    model = small()
    narrow = narrow_small(model, {"kept": [0, 2]}, example()).eval()
    surgery.inherit(narrow, model)
    surgery.record(narrow, "narrow_small", kept=[0, 2])
    save_model(narrow, tmp_path / "m", example())
    loaded = load_model(tmp_path / "m", model=Small())
    assert torch.equal(loaded(*example()), narrow(*example()))
    assert surgery.provenance(loaded).log == [{"op": "narrow_small", "kept": [0, 2]}]


def test_a_model_made_by_hand_asks_for_a_fresh_one(tmp_path: Path) -> None:
    save_model(small(), tmp_path / "m", example())
    with pytest.raises(StoreError, match=r"made by hand \(`.*test_artifact.Small`\)") as caught:
        load_model(tmp_path / "m")
    assert caught.value.code == "MC317"
    assert "model=" in caught.value.hint
    assert torch.equal(load_model(tmp_path / "m", model=Small())(*example()), small()(*example()))


def test_saving_changes_nothing_of_the_model(tmp_path: Path) -> None:
    model = small().train()
    before = state_digest(model.state_dict())
    save_model(model, tmp_path / "m", example())
    assert model.training
    assert state_digest(model.state_dict()) == before


def test_two_saves_of_one_model_have_one_identity(tmp_path: Path) -> None:
    first = save_model(small(), tmp_path / "a", example())
    second = save_model(small().to(memory_format=torch.channels_last), tmp_path / "b", example(batch=7))
    assert canonical_json(first["identity"]) == canonical_json(second["identity"])
    assert save_model(small(seed=1), tmp_path / "c", example())["identity"] != first["identity"]


def test_a_store_object_is_an_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digests: set[str] = set()
    for _ in range(2):
        with store.staging() as folder:
            manifest = save_artifact(build("lenet", in_shape=(1, 32, 32)), folder, (torch.zeros(2, 1, 32, 32),))
            digests.add(store.commit(folder, {**manifest, "seconds": len(digests)}))
    (digest,) = digests
    found = store.object(digest)
    assert found is not None
    assert isinstance(load_model(found), nn.Module)


def test_half_precision_and_integer_tensors_keep_their_type(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).to(torch.bfloat16)
    model.register_buffer("codes", torch.arange(4, dtype=torch.int8))
    x = torch.zeros(2, 3, 2, 2, dtype=torch.bfloat16)
    save_model(model, tmp_path / "m", (x,))
    fresh = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    fresh.register_buffer("codes", torch.zeros(4, dtype=torch.int8))
    loaded = load_model(tmp_path / "m", model=fresh)
    assert {name: value.dtype for name, value in loaded.state_dict().items()} == {
        "1.weight": torch.bfloat16,
        "1.bias": torch.bfloat16,
        "codes": torch.int8,
    }


def test_a_slice_is_saved_without_the_memory_around_it(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.randn(4000, 4)[:4])
    save_model(model, tmp_path / "m", (torch.zeros(2, 4),))
    assert (tmp_path / "m" / "tensors.pt").stat().st_size < 8000


def test_saving_again_replaces_an_artifact_and_spares_anything_else(tmp_path: Path) -> None:
    save_model(small(), tmp_path / "m", example())
    save_model(small(seed=1), tmp_path / "m", example())
    assert torch.equal(load_model(tmp_path / "m", model=Small())(*example()), small(seed=1)(*example()))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "n.txt").write_text("x")
    with pytest.raises(StoreError, match="exists and is no artifact") as caught:
        save_model(small(), tmp_path / "notes", example())
    assert caught.value.code == "MC319"


def test_a_model_that_fails_on_its_example_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"does not run on its own input of shape \(2, 1, 4, 4\)"):
        save_model(small(), tmp_path / "m", (torch.zeros(2, 1, 4, 4),))
    assert list(tmp_path.iterdir()) == []


class Boom:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return (exec, ("raise SystemExit('code of the file was run')",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_poses_as_tensors_is_refused_without_running_it(saved: Path, zipped: bool) -> None:
    if zipped:
        torch.save({"w": Boom()}, saved / "tensors.pt")
    else:
        (saved / "tensors.pt").write_bytes(pickle.dumps({"w": Boom()}))
    with pytest.raises(StoreError) as caught:
        load_model(saved)
    assert caught.value.code == ("MC313" if zipped else "MC312")


def test_something_else_than_named_tensors_is_refused(saved: Path) -> None:
    torch.save([torch.zeros(1)], saved / "tensors.pt")
    with pytest.raises(StoreError, match="does not hold plain named tensors"):
        load_model(saved)


def test_a_truncated_file_is_named_with_its_size(saved: Path) -> None:
    data = (saved / "tensors.pt").read_bytes()
    (saved / "tensors.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match=rf"\({len(data) // 2} bytes\) is truncated or damaged") as caught:
        load_model(saved)
    assert caught.value.code == "MC312"


def test_a_single_flipped_bit_is_found_and_named(saved: Path) -> None:
    state = read_tensors(saved / "tensors.pt")
    name = next(iter(state))
    data = bytearray((saved / "tensors.pt").read_bytes())
    at = data.find(state[name].numpy().tobytes())
    assert at > 0
    del state
    data[at] ^= 1
    (saved / "tensors.pt").unlink()
    (saved / "tensors.pt").write_bytes(data)
    with pytest.raises(StoreError, match=f"first `{name}`") as caught:
        load_model(saved)
    assert caught.value.code == "MC312"


def test_an_edited_table_of_tensors_is_found(saved: Path) -> None:
    edit(saved, tensors={})
    with pytest.raises(StoreError, match="was changed after it was written"):
        load_model(saved)


def test_a_missing_tensor_file_is_named(saved: Path) -> None:
    (saved / "tensors.pt").unlink()
    with pytest.raises(StoreError, match=r"tensors.pt` is missing"):
        load_model(saved)


def edit(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, **fields}))


def test_a_later_format_is_refused(saved: Path) -> None:
    edit(saved, format=2)
    with pytest.raises(StoreError, match="artifact format 2, this mcomp reads 1") as caught:
        load_model(saved)
    assert caught.value.code == "MC314"


def test_other_logits_than_were_saved_are_refused(tmp_path: Path) -> None:
    class Twice(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 1.001

    save_model(small(), tmp_path / "m", example())
    with pytest.raises(StoreError, match=r"logits differ by 1.0e-03 of the largest \(allowed 0.0001\)") as caught:
        load_model(tmp_path / "m", model=Twice())
    assert caught.value.code == "MC316"


def test_a_difference_in_the_last_bits_is_accepted(tmp_path: Path) -> None:
    class AlmostOnce(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (1 + 1e-6)

    save_model(small(), tmp_path / "m", example())
    load_model(tmp_path / "m", model=AlmostOnce())


def test_tensors_that_do_not_fit_are_refused_with_the_first_fault(tmp_path: Path) -> None:
    save_model(small(), tmp_path / "m", example())
    with pytest.raises(StoreError, match=r"`bn.bias` is \(4,\) in the file, \(6,\) in the model") as caught:
        load_model(tmp_path / "m", model=Small(6))
    assert caught.value.code == "MC315"


def test_a_model_that_diverged_to_nan_is_still_saved_and_loaded(tmp_path: Path) -> None:
    model = small()
    model.head.bias.data.fill_(float("nan"))
    save_model(model, tmp_path / "m", example())
    assert load_model(tmp_path / "m", model=Small())(*example()).isnan().all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("net.onnx", "deployed file"),
        ("net.pt", "mcomp.models.build(name, weights=path)"),
        ("folder", "an artifact is a folder with a manifest.json"),
        ("run", "the folder of a run"),
    ],
)
def test_what_is_no_artifact_is_refused_with_what_to_do_instead(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / name
    if path.suffix:
        path.write_bytes(b"x")
    else:
        path.mkdir()
    if name == "run":
        (path / "result.json").write_text("{}")
    with pytest.raises(StoreError, match="is not an artifact") as caught:
        load_model(path)
    assert caught.value.code == "MC311"
    assert said in caught.value.hint


def test_a_path_that_does_not_exist_and_a_foreign_manifest_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        load_model(tmp_path / "none")
    (tmp_path / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(StoreError, match="is not an artifact") as caught:
        load_model(tmp_path)
    assert caught.value.why == "its manifest.json describes no model"


FACTORY = """
from torch import nn

def net(num_classes, scale=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes), nn.Hardtanh(-scale, scale))
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(FACTORY)
    model = build("own.py:net", num_classes=4, base_dir=tmp_path, trust=True, in_shape=(3, 2, 2))
    save_model(model, tmp_path / "m", (torch.zeros(2, 3, 2, 2),))
    return tmp_path


def test_a_users_factory_runs_only_with_trust(own: Path) -> None:
    with pytest.raises(StoreError, match=r"built by your own code, `own\.py:net`") as caught:
        load_model(own / "m", base_dir=own)
    assert caught.value.code == "MC317"
    assert "trust=True" in caught.value.hint
    assert isinstance(load_model(own / "m", base_dir=own, trust=True), nn.Module)


def test_a_users_file_that_is_gone_is_asked_for(own: Path) -> None:
    (own / "own.py").unlink()
    with pytest.raises(StoreError, match="is missing") as caught:
        load_model(own / "m", base_dir=own, trust=True)
    assert "base_dir=" in caught.value.hint


def test_a_users_file_that_changed_without_effect_loads_with_a_warning(own: Path) -> None:
    (own / "own.py").write_text(FACTORY + "\n# a remark\n")
    with pytest.warns(UserWarning, match="was changed after the model was saved"):
        load_model(own / "m", base_dir=own, trust=True)


def test_a_users_file_that_changed_with_effect_is_refused_and_named(own: Path) -> None:
    (own / "own.py").write_text(FACTORY.replace("scale=1", "scale=0.01"))
    with pytest.raises(StoreError, match="does not compute what was saved") as caught:
        load_model(own / "m", base_dir=own, trust=True)
    assert "was changed after the model was saved" in caught.value.why


def test_where_a_users_file_lies_is_no_part_of_the_identity(own: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    shutil.copy(own / "own.py", tmp_path / "sub" / "net2.py")
    model = build("sub/net2.py:net", num_classes=4, base_dir=tmp_path, trust=True, in_shape=(3, 2, 2))
    manifest = save_model(model, tmp_path / "m2", (torch.zeros(2, 3, 2, 2),))
    assert manifest["identity"] == json.loads((own / "m" / "manifest.json").read_text())["identity"]


def test_an_unknown_surgery_is_refused(tmp_path: Path) -> None:
    model = small()
    surgery.record(model, "never_registered")
    save_model(model, tmp_path / "m", example())
    with pytest.raises(StoreError, match="no way to replay the surgery `never_registered`"):
        load_model(tmp_path / "m", model=Small())


def test_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Stateful(Small):
        def get_extra_state(self) -> Any:
            return {"a": 1}

    with pytest.raises(StoreError, match="`_extra_state` of the model's state is dict"):
        save_model(Stateful(), tmp_path / "m", example())


def test_an_exported_program_lies_beside_the_tensors_on_request(tmp_path: Path) -> None:
    manifest = save_model(small(), tmp_path / "m", example(), export=True)
    assert manifest["exported"] == {"file": "exported.pt2", "why": ""}
    program = torch.export.load(tmp_path / "m" / "exported.pt2")
    torch.testing.assert_close(program.module()(*example()), small()(*example()))


def test_a_tensors_digest_ignores_strides_and_sees_type_shape_and_values() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2)
    assert describe(tensor) == describe(tensor.to(memory_format=torch.channels_last))
    assert describe(torch.tensor(1.5)) == {**describe(torch.tensor([1.5])), "shape": []}
    others = [tensor + 1, tensor.reshape(24), tensor.to(torch.int32), tensor.double()]
    assert all(describe(other) != describe(tensor) for other in others)
    assert describe(torch.zeros(0, 3))["shape"] == [0, 3]


def test_a_full_disk_while_saving_leaves_the_old_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(small(), tmp_path / "m", example())

    def refuse(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(McompError, match="no room left"):
            save_model(small(seed=1), tmp_path / "m", example())
    assert torch.equal(load_model(tmp_path / "m", model=Small())(*example()), small()(*example()))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failed_replacement_puts_the_old_artifact_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(small(), tmp_path / "m", example())
    real, calls = os.rename, 0

    def second_fails(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(5, "Input/output error")
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", second_fails)
        with pytest.raises(StoreError, match="cannot write"):
            save_model(small(seed=1), tmp_path / "m", example())
    assert torch.equal(load_model(tmp_path / "m", model=Small())(*example()), small()(*example()))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize(
    "change",
    [
        {"surgery": [{}]},
        {"surgery": "os.system"},
        {"builder": "x"},
        {"builder": {"name": "lenet"}},
        {"builder": {"name": 3, "kwargs": {}}},
        {"builder": {"name": "lenet", "kwargs": {"trust": True}}},
        {"builder": {"name": "lenet", "kwargs": {"base_dir": "/"}}},
        {"inputs": "x"},
        {"inputs": [{"shape": ["3"], "dtype": "float32"}]},
        {"input_shape": None},
        {"tensors": "x"},
        {"fingerprint": "x"},
        {"identity": "x"},
        {"class_names": 3},
        {"versions": "x"},
    ],
    ids=str,
)
def test_a_manifest_of_another_form_is_refused_and_names_the_key(saved: Path, change: dict[str, Any]) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(StoreError) as caught:
        load_model(saved)
    assert caught.value.code == "MC311"
    assert f"`{next(iter(change))}`" in caught.value.why


def test_a_manifest_of_brackets_in_brackets_is_refused(saved: Path) -> None:
    (saved / "manifest.json").write_text("[" * 1_000_000)
    with pytest.raises(StoreError, match="is not an artifact") as caught:
        load_model(saved)
    assert caught.value.code == "MC311"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_manifest_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(StoreError, match="is not an artifact"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one["builder"]["kwargs"].update(num_classes=10**12),
        lambda one: one["surgery"].append({"op": "prune"}),
        lambda one: one["surgery"].append({"op": "fuse"}),
    ],
    ids=["builder", "prune", "fuse"],
)
def test_a_manifest_from_which_nothing_can_be_built_is_refused_with_the_reason(
    saved: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    change(manifest)
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(McompError) as caught:
        load_model(saved)
    assert caught.value.code == "MC315"
    assert caught.value.why
