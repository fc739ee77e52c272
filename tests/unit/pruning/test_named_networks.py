"""Vision transformers, encoders, recurrent, 1-D and 3-D networks: cut where they should be, and usable afterwards."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from mcomp import surgery
from mcomp.artifact import load_model, save_model
from mcomp.deploy import to_onnx
from mcomp.pruning import PruneResult, prune
from tests.unit.pruning.named_nets import INPUTS, NETWORKS, built, silenced

EVERY = pytest.mark.parametrize("name", NETWORKS)
# what holds for these holds for their kin: the others take seconds each
KINDS = {"vit", "attention, sequence first", "lstm", "gru", "shufflenet", "3-D convolutions"}
SOME = pytest.mark.parametrize(
    "name", [name if name in KINDS else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)


@functools.cache
def pruned(name: str, **options: Any) -> PruneResult:
    inputs = (INPUTS[NETWORKS[name].inputs],)
    return prune(built(name), inputs, ratio=0.5, regular=4, importance="l1", scope="per_layer", **options)


def run(model: nn.Module, name: str) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(INPUTS[NETWORKS[name].inputs])
    return found


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


@EVERY
def test_the_widths_fall_where_they_should(name: str) -> None:
    result = pruned(name)
    found = {layer: len(kept) for layer, kept in result.kept.items()}
    assert {layer: found.get(layer) for layer in NETWORKS[name].fall} == NETWORKS[name].fall
    assert result.macs_after < 0.7 * result.macs_before
    assert result.max_error <= 1e-5


@EVERY
def test_it_computes_what_the_whole_one_does_once_its_cut_channels_are_silent(name: str) -> None:
    result = pruned(name, ignore=NETWORKS[name].stream)
    model = built(name).double()
    exact = surgery.replay(built(name), surgery.provenance(result.model).log[-1], ())
    exact.load_state_dict(result.model.state_dict())
    x = INPUTS[NETWORKS[name].inputs]
    x = x.double() if x.is_floating_point() else x
    with torch.no_grad():
        assert close(exact.eval().double()(x), silenced(model, result.model)(x), 1e-6)  # rescaled weights are float32


@SOME
def test_it_trains_on(name: str) -> None:
    model = surgery.replay(built(name), surgery.provenance(pruned(name).model).log[-1], ()).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = [parameter.clone() for parameter in model.parameters()]
    (model(INPUTS[NETWORKS[name].inputs]) - 1).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    optimizer.step()
    assert any(not torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


@SOME
def test_its_log_is_json_and_rebuilds_it_in_a_fresh_model(name: str) -> None:
    result = pruned(name)
    entry = json.loads(json.dumps(surgery.provenance(result.model).log[-1]))
    rebuilt = surgery.replay(built(name), entry, (INPUTS[NETWORKS[name].inputs],))
    rebuilt.load_state_dict(result.model.state_dict())
    assert torch.equal(run(rebuilt.eval(), name), run(result.model, name))


@SOME
def test_saved_and_loaded_it_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    result = pruned(name)
    save_model(result.model, tmp_path / "kept", (INPUTS[NETWORKS[name].inputs],))
    loaded = load_model(tmp_path / "kept", model=built(name))
    assert torch.equal(run(loaded, name), run(result.model, name))


@SOME
def test_onnxruntime_computes_the_same(name: str, tmp_path: Path) -> None:
    result = pruned(name)
    x = INPUTS[NETWORKS[name].inputs]
    to_onnx(result.model, (x,), tmp_path / "net.onnx", profile="float")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": x.numpy()})[0]
    assert close(torch.from_numpy(found), run(result.model, name), 1e-4)


@pytest.mark.parametrize("name", ["vit", "encoder", "attention", "cross attention"])
def test_whole_heads_go_where_that_is_asked(name: str) -> None:
    result = prune(
        built(name), (INPUTS[NETWORKS[name].inputs],), importance="l1", scope="per_layer", heads="whole", regular=1
    )
    counts = {
        path: (module.num_heads, result.model.get_submodule(path).num_heads)
        for path, module in built(name).named_modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    assert counts
    assert all(after == before // 2 for before, after in counts.values())
    assert result.max_error <= 1e-5


@pytest.mark.parametrize("name", ["nin_gc", "shufflenet", "1-D convolutions"])
def test_group_counts_stay(name: str) -> None:
    def groups(model: nn.Module) -> dict[str, int]:
        return {path: getattr(module, "groups", 0) for path, module in model.named_modules()}

    before, after = groups(built(name)), groups(pruned(name).model)
    depthwise = {
        path
        for path, module in built(name).named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    }
    assert {path: count for path, count in before.items() if path not in depthwise} == {
        path: count for path, count in after.items() if path not in depthwise
    }


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_width_of_a_recurrent_layer_is_a_multiple_of_regular(name: str) -> None:
    result = prune(
        built(name), (INPUTS[NETWORKS[name].inputs],), ratio=0.3, regular=8, importance="l1", scope="per_layer"
    )
    rnn = result.model.get_submodule("rnn")
    assert isinstance(rnn, nn.RNNBase)
    assert rnn.hidden_size == 24
    assert rnn.input_size == 16
