"""Whole networks in every scheme: state survives disk and resuming, eval moves nothing, dead channels do no harm."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcomp
from mcomp.deploy import OnnxSession, to_onnx
from mcomp.quantization import calibrate, fold_batch_norms, freeze, quantize
from mcomp.quantization.schemes import SCHEMES

HOW: dict[str, dict[str, Any]] = {
    **{scheme: {"scheme": scheme} for scheme in SCHEMES},
    "iao asymmetric": {"scheme": "iao", "symmetric_activations": False, "symmetric_weights": False},
    "iao min-max": {"scheme": "iao", "observer": "minmax"},
    "dorefa paper": {"scheme": "dorefa", "variant": "paper", "w_bits": 4},
    "lsq 2": {"scheme": "lsq", "w_bits": 2, "a_bits": 2},
    "ristretto saturate": {"scheme": "ristretto", "overflow": "saturate"},
    "ternary scaled": {"scheme": "wbwtab", "w_bits": 2, "input_scale": True},
}
every = pytest.mark.parametrize("how", HOW.values(), ids=HOW)


def images(seed: int, count: int = 6) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Module:
    return mcomp.models.build("nin", num_classes=5, width=0.1, seed=3)


def converted(how: dict[str, Any], model: nn.Module | None = None) -> nn.Module:
    return quantize(model or network(), (images(0, 2),), **how)


def train(model: nn.Module, optimiser: torch.optim.Optimizer, steps: range) -> None:
    model.train()
    for step in steps:
        torch.manual_seed(step)  # dropout
        optimiser.zero_grad()
        F.cross_entropy(model(images(step)), torch.arange(6) % 5).backward()
        optimiser.step()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)


@every
@pytest.mark.parametrize("calibrated", [True, False])
def test_training_that_was_interrupted_ends_with_the_same_bits(
    how: dict[str, Any], calibrated: bool, tmp_path: Path
) -> None:
    whole = converted(how)
    if calibrated:
        calibrate(whole, [images(90), images(91)])
    optimiser = sgd(whole)
    train(whole, optimiser, range(2))
    torch.save({"model": whole.state_dict(), "optimiser": optimiser.state_dict()}, tmp_path / "snapshot.pt")
    train(whole, optimiser, range(2, 4))

    snapshot = torch.load(tmp_path / "snapshot.pt", weights_only=True)
    again = converted(how)
    again.load_state_dict(snapshot["model"])
    other = sgd(again)
    other.load_state_dict(snapshot["optimiser"])
    train(again, other, range(2, 4))
    own, theirs = whole.state_dict(), again.state_dict()
    assert own.keys() == theirs.keys()
    assert [key for key in own if not torch.equal(own[key], theirs[key])] == []
    assert torch.equal(whole.eval()(images(7)), again.eval()(images(7)))


@every
def test_every_bit_of_state_survives_an_artifact(how: dict[str, Any], tmp_path: Path) -> None:
    model = converted(how)
    calibrate(model, [images(90)])
    train(model, sgd(model), range(2))
    mcomp.save_model(model.eval(), tmp_path / "model", (images(0, 2),))
    loaded = mcomp.load_model(tmp_path / "model")
    own, theirs = model.state_dict(), loaded.state_dict()
    assert own.keys() == theirs.keys()
    assert [key for key in own if not torch.equal(own[key], theirs[key])] == []
    assert torch.equal(model(images(7)), loaded(images(7)))
    more = [sgd(each) for each in (model, loaded)]
    for each, optimiser in zip((model, loaded), more, strict=True):  # moving ranges go on from the same place
        train(each, optimiser, range(2, 3))
    assert torch.equal(model.eval()(images(7)), loaded.eval()(images(7)))


@every
def test_eval_never_changes_state_whatever_it_is_shown(how: dict[str, Any]) -> None:
    model = converted(how)
    calibrate(model, [images(90)])
    train(model, sgd(model), range(1))
    before = copy.deepcopy(model.eval().state_dict())
    first = model(images(7)).detach()
    model(images(5) * 1000)
    F.cross_entropy(model(images(6)), torch.arange(6) % 5).backward()
    fold_batch_norms(model, (images(0, 2),))
    assert [key for key, value in model.state_dict().items() if not torch.equal(before[key], value)] == []
    assert torch.equal(model(images(7)).detach(), first)


def with_dead_channels() -> nn.Module:
    """Channels without weights, with gamma 0, with a constant output, and one that no image ever lights."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 5),
    )
    with torch.no_grad():
        model[0].weight[0] = 0
        model[1].weight[1:3] = 0
        model[1].bias[2] = -1
        model[3].weight[3:5] = 0
        model[4].weight[4] = 0
        model[6].weight[:] = 0  # a whole layer
        model[6].bias[:] = -1  # and the tensor behind it is zero
        model.train()(images(1))
    return model.eval()


@every
def test_dead_channels_and_dead_tensors_make_no_nan(how: dict[str, Any], tmp_path: Path) -> None:
    model = converted({**how, "first_layer_float": False, "last_layer_float": False}, with_dead_channels())
    calibrate(model, [images(90)])
    assert model.eval()(images(7)).isfinite().all()
    train(model, sgd(model), range(3))
    assert all(value.isfinite().all() for value in model.state_dict().values())
    freeze(model)
    with torch.no_grad():
        output = model.eval()(images(7))
        folded = fold_batch_norms(model, (images(0, 2),))
        assert output.isfinite().all()
        assert folded.model(images(7)).isfinite().all()
    assert folded.error < 1e-4
    lowering = to_onnx(folded.model, (images(0, 2),), tmp_path / "m.onnx")
    assert torch.as_tensor(OnnxSession(lowering.path, simulate=True).predict(images(7))).isfinite().all()


@every
def test_images_without_any_light_make_no_nan(how: dict[str, Any]) -> None:
    model = converted({**how, "first_layer_float": False})
    model.train()(torch.zeros(4, 3, 16, 16)).sum().backward()  # the first batch sets every range
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.eval()(images(7)).isfinite().all()
