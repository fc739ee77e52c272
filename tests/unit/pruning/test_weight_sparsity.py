"""Masks on single weights: what is cut, what the pattern promises, and that training keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mcomp
from mcomp.errors import StageError, StoreError, UsageError
from mcomp.metrics import count, effective_macs
from mcomp.pruning import GroupLasso, GrowingPenalty, prune, sparsify
from mcomp.pruning.weight_masks import LayerWeight, block_scores, largest_of_each, layer_weights, smallest
from mcomp.pruning.weight_sparsity import _check
from mcomp.quantization import calibrate, quantize
from mcomp.quantization.fold import fold_batch_norms
from mcomp.surgery import provenance, replay
from tests.unit.pruning.pruning_nets import block, head, images, seeded
from tests.unit.training.toys import ToyData, toy_net, train


def net() -> nn.Module:
    return seeded(nn.Sequential(block(3, 12), block(12, 12, groups=12), block(12, 10, groups=2), head(10)))


def zeros(model: nn.Module) -> dict[str, Tensor]:
    """Where the masked weights are zero."""
    names = [name for entry in provenance(model).log if entry["op"] == "sparsify" for name in entry["weights"]]
    return {name: model.get_parameter(name).detach() == 0 for name in names}


def still_zero(before: dict[str, Tensor], model: nn.Module) -> bool:
    return all(bool((model.get_parameter(name)[cut] == 0).all()) for name, cut in before.items())


def alive(before: dict[str, Tensor], model: nn.Module) -> bool:
    return all(bool((model.get_parameter(name)[~cut] != 0).any()) for name, cut in before.items())


WIDTHS = st.integers(1, 13)
LAYERS = st.one_of(
    st.builds(
        lambda out, wide, kernel: nn.Conv2d(wide, out, kernel),
        st.integers(1, 7),
        WIDTHS,
        st.integers(1, 3),
    ),
    st.builds(lambda width, kernel: nn.Conv1d(width, width, kernel, groups=width), WIDTHS, st.integers(1, 3)),
    st.builds(lambda groups, each: nn.Conv2d(groups * each, groups * 2, 3, groups=groups), st.integers(1, 3), WIDTHS),
    st.builds(lambda wide, out: nn.ConvTranspose2d(wide, out, 2), WIDTHS, st.integers(1, 5)),
    st.builds(lambda wide, out: nn.Linear(wide, out), WIDTHS, st.integers(1, 6)),
)


def batch_for(layer: nn.Module) -> tuple[Tensor, ...]:
    if isinstance(layer, nn.Linear):
        return (torch.zeros(1, layer.in_features),)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d)
    return (torch.zeros(1, layer.in_channels, *[4] * len(layer.kernel_size)),)


@settings(max_examples=60, deadline=None)
@given(LAYERS, st.sampled_from(["2:4", "1:4", "1:2", "3:5"]))
def test_no_n_of_m_neighbours_hold_more_than_n_and_the_largest_stay(layer: nn.Module, pattern: str) -> None:
    n, m = map(int, pattern.split(":"))
    result = sparsify(layer, batch_for(layer), pattern=pattern)
    before, after = (each.get_parameter("weight").detach() for each in (layer, result.model))
    axis = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
    for old, new in zip(before.movedim(axis, 0).split(m), after.movedim(axis, 0).split(m), strict=True):
        assert int((new != 0).sum(0).max()) <= n
        assert int((new != 0).sum(0).min()) == min(n, len(old))
        cut = torch.where(new == 0, old.abs(), torch.zeros(()))
        kept = torch.where(new != 0, old.abs(), torch.full((), torch.inf))
        assert bool((cut.amax(0) <= kept.amin(0)).all())
        assert torch.equal(new[new != 0], old[new != 0])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 0.5, 1.0, 2.0]), min_size=1, max_size=30), min_size=1, max_size=4),
    st.floats(0.01, 0.99),
)
def test_the_share_that_goes_is_exact_with_ties_and_the_smallest(scores: list[list[float]], ratio: float) -> None:
    tensors = [torch.tensor(each) for each in scores]
    cut = torch.cat(smallest(tensors, ratio))
    flat = torch.cat(tensors)
    assert int(cut.sum()) == round(ratio * len(flat))
    if cut.any() and not cut.all():
        assert float(flat[cut].max()) <= float(flat[~cut].min())


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.83])
def test_global_and_per_layer_cut_the_share_they_are_asked_for(ratio: float) -> None:
    model = net()
    total = sum(model.get_parameter(where.name).numel() for where in layer_weights(model))
    together = sparsify(model, (images(),), ratio=ratio)
    assert together.sparsity == pytest.approx(100 * round(ratio * total) / total)
    each = sparsify(model, (images(),), ratio=ratio, scope="per_layer")
    for where in layer_weights(model):
        size = model.get_parameter(where.name).numel()
        assert each.layers[where.layer] == pytest.approx(100 * round(ratio * size) / size)
    assert max(together.layers.values()) > max(each.layers.values())


@settings(max_examples=30, deadline=None)
@given(LAYERS, st.integers(1, 4), st.integers(1, 5), st.floats(0.1, 0.9))
def test_a_block_is_cut_whole_or_not_at_all(layer: nn.Module, rows: int, columns: int, ratio: float) -> None:
    (where,) = layer_weights(layer)
    matrices = where.matrices(layer.get_parameter("weight").detach())
    size = matrices[..., 0, 0].numel() * -(-matrices.shape[-2] // rows) * -(-matrices.shape[-1] // columns)
    assume(round(ratio * size) < size)
    result = sparsify(layer, batch_for(layer), ratio=ratio, pattern="block", block=(rows, columns))
    matrices = where.matrices(result.model.get_parameter("weight").detach())
    strips = matrices.reshape(-1, *matrices.shape[-2:]).split(rows, 1)
    blocks = [one == 0 for strip in strips for column in strip.split(columns, 2) for one in column]
    assert all(bool(one.all()) or not bool(one.any()) for one in blocks)
    assert sum(bool(one.all()) for one in blocks) == round(ratio * size)


def test_the_score_of_a_block_at_the_edge_is_the_mean_of_what_is_there() -> None:
    scores = block_scores(torch.tensor([[1.0, 1.0, 4.0], [1.0, 1.0, 2.0]]), (2, 2))
    assert scores.tolist() == [[1.0, 3.0]]


def test_of_equal_weights_the_first_stay() -> None:
    assert largest_of_each(torch.ones(1, 6), 2, 4).tolist() == [[True, True, False, False, True, True]]


OPTIMISERS: list[dict[str, Any]] = [
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1, "decay_norm": True},
    {"optimizer": "sgd", "momentum": 0.9, "nesterov": False},
    {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1},
    {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1, "grad_clip": None},
]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("how", OPTIMISERS, ids=lambda how: f"{how['optimizer']}{len(how)}")
def test_masks_hold_after_every_step_of_every_optimiser(how: dict[str, Any], precision: str, pattern: str) -> None:
    ratio = 0.6 if pattern == "unstructured" else None
    model = sparsify(toy_net(), ToyData().example_inputs, ratio=ratio, pattern=pattern).model
    before, start = zeros(model), [parameter.detach().clone() for parameter in model.parameters()]
    held: list[bool] = []
    train(model, settings=how, precision=precision, after_step=lambda now, _: held.append(still_zero(before, now)))
    assert held == [True] * 18
    assert alive(before, model)
    assert all(not torch.equal(old, new) for old, new in zip(start, model.parameters(), strict=True))


@pytest.mark.parametrize("penalty", [GroupLasso(1e-3), GrowingPenalty(0.1)])
def test_masks_hold_under_a_penalty(penalty: Any) -> None:
    model = sparsify(toy_net(), ToyData().example_inputs, ratio=0.6).model
    before = zeros(model)
    train(model, penalty=penalty)
    assert still_zero(before, model)


def test_gradients_of_cut_weights_do_not_count_to_the_norm_that_is_clipped() -> None:
    data = ToyData()
    model = sparsify(toy_net(dropout=0.0), data.example_inputs, ratio=0.9, scope="per_layer").model
    norms: list[float] = []

    def watch(now: nn.Module, _step: int) -> None:
        norms.append(float(torch.cat([p.grad.flatten() for p in now.parameters() if p.grad is not None]).norm()))

    train(model, data, settings={"grad_clip": 1e-3}, after_step=watch)
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-2)


def test_a_model_that_was_never_masked_trains_through_its_zeros() -> None:
    model = toy_net()
    with torch.no_grad():
        model.get_parameter("6.weight")[0].zero_()
    train(model)
    assert bool((model.get_parameter("6.weight")[0] != 0).any())


def test_a_mask_survives_the_disk_and_holds_in_training_behind_it(tmp_path: Path) -> None:
    data = ToyData()
    model = sparsify(toy_net(), data.example_inputs, pattern="2:4").model
    before = zeros(model)
    mcomp.save_model(model, tmp_path / "model", data.example_inputs)
    again = mcomp.load_model(tmp_path / "model", model=toy_net())
    assert zeros(again).keys() == before.keys()
    train(again)
    assert still_zero(before, again)


def test_zeros_survive_pruning_and_hold_in_training_behind_it() -> None:
    data = ToyData()
    masked = sparsify(toy_net(), data.example_inputs, ratio=0.5).model
    pruned = prune(masked, data.example_inputs, ratio=0.5, importance="l1")
    before = zeros(pruned.model)
    assert torch.equal(before["0.weight"], zeros(masked)["0.weight"][pruned.kept["0"]])
    train(pruned.model)
    assert still_zero(before, pruned.model)


def test_zeros_stay_zeros_through_quantisation_its_training_and_folding() -> None:
    data = ToyData()
    model = sparsify(toy_net(), data.example_inputs, ratio=0.5).model
    before = zeros(model)
    folded = fold_batch_norms(model, data.example_inputs).model
    assert still_zero(before, folded)
    quantised = quantize(model, data.example_inputs, w_bits=4, a_bits=8, first_layer_float=False)
    calibrate(quantised, data.train.batches(8), "mse")
    train(quantised)
    assert still_zero(before, quantised)
    integers = fold_batch_norms(quantised, data.example_inputs).model
    for name, cut in before.items():
        codes = integers.get_buffer(f"{name.removesuffix('weight')}weight_int")
        assert bool((codes[cut] == 0).all())
        assert bool((codes[~cut] != 0).any())


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("mobilenet_v3_small", 64), ("vit_b_16", 224)])
def test_effective_macs_fall_with_the_share_of_weights_and_dense_ones_do_not(name: str, size: int) -> None:
    model = torchvision.models.get_model(name)
    if name == "vit_b_16":
        del model.encoder.layers[2:]
        nn.init.normal_(model.heads.head.weight)
    x = torch.randn(2, 3, size, size)
    dense = count(model, (x,)).macs
    assert effective_macs(model, (x,)) == pytest.approx(dense, rel=1e-5)  # a few of many random weights are zero
    result = sparsify(model, (x,), ratio=0.5, scope="per_layer")
    assert result.macs == dense
    products = dense - sum(_weight_macs(model, x))  # of activations with one another: they have no weight
    assert result.effective_macs == pytest.approx((dense - products) / 2 + products, rel=2e-3)


def _weight_macs(model: nn.Module, x: Tensor) -> list[int]:
    """MACs of every module with a weight, told by its output's size."""
    found: list[int] = []

    def conv(layer: nn.Module, _inputs: Any, out: Tensor) -> None:
        found.append(out[0].numel() * layer.get_parameter("weight")[0].numel())

    def attention(layer: Any, inputs: Any, _out: Any) -> None:
        tokens = inputs[0].shape[1]
        found.append(tokens * (layer.in_proj_weight.numel() + layer.out_proj.weight.numel()))

    def linear(layer: nn.Module, _inputs: Any, out: Tensor) -> None:
        found.append(out[0].numel() // out.shape[-1] * layer.get_parameter("weight").numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(conv)
        elif isinstance(module, nn.MultiheadAttention):
            module.register_forward_hook(attention)
        elif type(module) is nn.Linear:
            module.register_forward_hook(linear)
    with torch.no_grad():
        model.eval()(x)
    for module in model.modules():
        module._forward_hooks.clear()
    return found


def test_effective_macs_of_a_forward_that_reads_values_are_the_same() -> None:
    class Peeks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = net()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layers(x if x.sum().item() < 1e9 else -x)
            return y

    masked = sparsify(net(), (images(),), pattern="2:4")
    peeking = Peeks()
    peeking.layers = masked.model
    assert effective_macs(peeking, (images(),)) == masked.effective_macs < masked.macs


def test_recurrent_layers_and_attention_are_masked_too() -> None:
    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(6, 8, batch_first=True)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x, _ = self.lstm(x)
            x, _ = self.attend(x, x, x)
            y: Tensor = self.out(x.mean(1))
            return y

    model, x = Speech(), torch.randn(2, 5, 6)
    result = sparsify(model, (x,), ratio=0.5, scope="per_layer")
    recurrent = {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}
    assert set(result.layers) == {*recurrent, "attend.in_proj_weight", "attend.out_proj", "out"}
    assert result.effective_macs < 0.6 * result.macs


def test_the_input_model_is_not_changed() -> None:
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sparsify(model, (images(),), ratio=0.5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert provenance(model).log == []


def test_ignored_layers_and_untrained_ones_stay_as_they_are() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("3.2.weight").zero_()
    result = sparsify(model, (images(),), ratio=0.5, ignore=["0.*"])
    assert torch.equal(result.model.get_parameter("0.0.weight"), model.get_parameter("0.0.weight"))
    assert provenance(result.model).log[0]["weights"] == ["1.0.weight", "2.0.weight"]
    assert "`3.2.weight`" in result.notes[0]


def test_a_layer_too_narrow_for_the_pattern_is_named() -> None:
    result = sparsify(net(), (images(),), pattern="2:4")
    assert result.layers["1.0"] == 0.0
    assert result.notes == ["`1.0` stays dense: too few input channels for the pattern 2:4"]


def test_a_layer_that_would_vanish_is_refused_by_name() -> None:
    model = net()
    with torch.no_grad():
        model.get_parameter("3.2.weight").mul_(1e-4)
    with pytest.raises(StageError, match=r"`3\.2`") as caught:
        sparsify(model, (images(),), ratio=0.5)
    assert caught.value.code == "MC450"
    assert sparsify(model, (images(),), ratio=0.5, scope="per_layer").layers["3.2"] == 50.0


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({}, "MC417"),
        ({"ratio": 1.0}, "MC417"),
        ({"ratio": 0.5, "pattern": "2:4"}, "MC417"),
        ({"pattern": "4:4"}, "MC417"),
        ({"pattern": "0:4"}, "MC417"),
        ({"ratio": 0.5, "pattern": "blocks"}, "MC417"),
        ({"ratio": 0.5, "pattern": "block", "block": (0, 4)}, "MC417"),
        ({"ratio": 0.5, "scope": "everywhere"}, "MC417"),
        ({"ratio": 0.5, "ignore": ["featurs"]}, "MC418"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(how: dict[str, Any], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        sparsify(net(), (images(),), **how)
    assert caught.value.code == code


@pytest.mark.parametrize(("model", "code"), [(nn.Sequential(nn.ReLU()), "MC450"), (net(), "MC415")])
def test_a_network_that_cannot_be_masked_is_refused(model: nn.Module, code: str) -> None:
    if code == "MC415":
        model.get_parameter("0.0.weight").data[0, 0, 0, 0] = torch.nan
    with pytest.raises(StageError) as caught:
        sparsify(model, (images(),), ratio=0.5)
    assert caught.value.code == code


@pytest.mark.parametrize("fault", ["not zero", "changed", "pattern"])
def test_the_self_check_sees_every_kind_of_fault(fault: str) -> None:
    where, weight = LayerWeight("fc", "fc.weight"), torch.arange(1.0, 9.0).reshape(1, 8)
    kept = largest_of_each(weight, 2, 4)
    before = weight[kept]
    weight = weight * kept
    _check({where: weight}, {where: kept}, {where: before}, "2:4")
    if fault == "not zero":
        weight[0, 0] = 1.0
    elif fault == "changed":
        weight[0, 7] = 1.0
    else:
        kept, before, weight = torch.ones_like(kept), torch.ones(8), torch.ones(1, 8)
    with pytest.raises(StageError, match=fault) as caught:
        _check({where: weight}, {where: kept}, {where: before}, "2:4")
    assert caught.value.code == "MC451"


def test_an_entry_of_another_model_is_refused() -> None:
    with pytest.raises(StoreError) as caught:
        replay(net(), {"op": "sparsify", "pattern": "2:4", "weights": ["nowhere.weight"]}, (images(),))
    assert caught.value.code == "MC419"
