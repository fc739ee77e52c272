from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import mcomp
from mcomp.errors import PreflightError
from mcomp.models import build


class Pickled:
    """Something that only unpickling code could bring back."""


def lenet(**options: Any) -> torch.nn.Module:
    return build({"name": "lenet", "width": 0.5, **options})


@pytest.mark.parametrize("wrap", ["plain", "nested", "data_parallel"])
def test_weights_come_back_exactly_in_the_forms_people_save(tmp_path: Path, wrap: str) -> None:
    source = lenet(num_classes=4)
    state: dict[str, Any] = dict(source.state_dict())
    if wrap == "data_parallel":
        state = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 3, "state_dict": state} if wrap == "nested" else state, tmp_path / "net.pt")
    model = build({"name": "lenet", "width": 0.5, "weights": "net.pt", "num_classes": 4}, seed=9, base_dir=tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[key])


@pytest.mark.parametrize(
    ("spec", "part"),
    [
        ({"name": "lenet", "width": 0.5, "num_classes": 3}, "did you mean `num_classes: 4`?"),
        ({"name": "lenet", "width": 0.25, "num_classes": 4}, "`width`"),
        ({"name": "nin", "width": 0.1}, "check `model.name`"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_with_a_guess(tmp_path: Path, spec: dict[str, Any], part: str) -> None:
    torch.save(lenet(num_classes=4).state_dict(), tmp_path / "net.pt")
    with pytest.raises(PreflightError) as caught:
        build({**spec, "weights": "net.pt"}, base_dir=tmp_path)
    assert caught.value.code == "MC237"
    assert part in str(caught.value)


def test_an_artifact_is_a_starting_point_for_the_model_it_holds(tmp_path: Path) -> None:
    source = build({"name": "lenet", "width": 0.5}, num_classes=4, seed=5, in_shape=(3, 8, 8))
    mcomp.save_model(source, tmp_path / "saved", (torch.randn(2, 3, 8, 8),))
    spec = {"name": "lenet", "width": 0.5, "weights": "saved"}
    model = build(spec, num_classes=4, in_shape=(3, 8, 8), base_dir=tmp_path)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in model.state_dict().items())
    for other, part in (({"name": "nin"}, "holds model `lenet`"), ({"width": 0.25}, "width 0.25 (artifact: 0.5)")):
        with pytest.raises(PreflightError) as caught:
            build({**spec, **other}, num_classes=4, base_dir=tmp_path)
        assert part in str(caught.value)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a torch file")
    (tmp_path / "empty.pt").touch()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": Pickled()}, tmp_path / "code.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps({"model": Pickled()}))
    whole = (tmp_path / "list.pt").read_bytes()
    (tmp_path / "short.pt").write_bytes(whole[: len(whole) // 2])
    broken = lenet().state_dict()
    broken["fc3.bias"][0] = float("nan")
    torch.save(broken, tmp_path / "nan.pt")
    (tmp_path / "folder").mkdir()
    for name, part in {
        "text.pt": "text.pt",
        "empty.pt": "empty.pt",
        "list.pt": "holds list",
        "code.pt": "could run code",
        "raw.pt": "could run code",
        "short.pt": "cannot read",
        "nan.pt": "NaN",
        "folder": "no manifest.json",
        "nam.pt": "did you mean `nan.pt`?",
    }.items():
        with pytest.raises(PreflightError) as caught:
            build({"name": "lenet", "width": 0.5, "weights": name}, base_dir=tmp_path)
        assert part in str(caught.value)


def test_weights_may_lie_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    source = lenet(num_classes=4)
    torch.save(source.state_dict(), tmp_path / "net.pt")
    model = lenet(num_classes=4, weights="~/net.pt")
    assert torch.equal(model.state_dict()["fc3.weight"], source.state_dict()["fc3.weight"])
