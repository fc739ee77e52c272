"""Pruning networks that are awkward in one way each: exact, or left whole with the reason."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mcomp import surgery
from mcomp.errors import McompError, StageError, StoreError, UsageError
from mcomp.models import lenet, nin, nin_gc
from mcomp.pruning import prune, trace
from mcomp.pruning.channel_surgery import Cut, Surgery
from mcomp.pruning.self_check import check
from tests.unit.pruning.patches import Block
from tests.unit.pruning.patchwork import Patchwork, scattered
from tests.unit.pruning.pruning_nets import Net, block, digest, head, images, masked_output, seeded
from tests.unit.pruning.sequence_patches import Attention


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("regular", [1, 8, 16])
@pytest.mark.parametrize("ratio", [0.4, 0.8])
@pytest.mark.parametrize("build", [nin, nin_gc])
def test_nin_computes_the_same_as_with_its_channels_masked(build: Any, ratio: float, regular: int) -> None:
    model = seeded(build(width=0.25)).double()
    x = images(16).double()
    result = prune(model, (x,), ratio=ratio, regular=regular)
    for layer, kept in result.kept.items():
        mask = torch.zeros(1024, 1, 1, dtype=torch.float64)
        mask[kept] = 1
        relu = model.get_submodule(layer.replace("conv", "relu"))
        relu.register_forward_hook(lambda _module, _inputs, y, mask=mask: y * mask[: y.shape[1]])
    with torch.no_grad():
        assert relative(result.model(x), model(x)) < 1e-10
    assert all(len(kept) % regular == 0 for kept in result.kept.values())
    assert result.macs_after < result.macs_before
    assert result.params_after < result.params_before


def test_group_counts_survive_and_widths_follow_the_weights() -> None:
    model = seeded(nin_gc(width=0.25))
    result = prune(model, (images(16),), ratio=0.5, regular=8)
    for name, module in result.model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.groups == model.get_submodule(name).groups
            assert tuple(module.weight.shape[:2]) == (module.out_channels, module.in_channels // module.groups)
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight) == len(module.running_mean)


def test_the_strongest_channels_are_kept() -> None:
    model = seeded(nn.Sequential(block(3, 16), block(16, 8), head(8)))
    result = prune(model, (images(),), ratio=0.5, scope="per_layer")
    gamma = model.get_submodule("0.1").weight.detach()
    assert result.kept["0.0"] == sorted(gamma.sort(descending=True).indices[:7].tolist())


def flat(s: Any, x: Tensor) -> Tensor:
    return s.h(s.b(s.a(x)).view(-1, 16 * 64))


def zeroed(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y[:, :4].zero_()
    return s.h(s.b(y))


def shuffled_concat(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    return s.h(s.b(torch.cat([torch.tanh(y[:, :8]), y[:, 8:]], 1)))


AWKWARD = {
    "a width written into a view": (Net(flat, a=block(3, 8), b=block(8, 16), h=nn.Linear(1024, 5)), {"b.0"}),
    "a width written into a slice": (
        Net(lambda s, x: s.h(s.b(s.a(x)[:, :8])), a=block(3, 16), b=block(8, 16), h=head(16)),
        {"a.0"},
    ),
    "a slice that is written to": (Net(zeroed, a=block(3, 16), b=block(16, 16), h=head(16)), set()),
    "a slice treated apart": (Net(shuffled_concat, a=block(3, 16), b=block(16, 16), h=head(16)), {"a.0"}),
    "a module run twice": (
        Net(lambda s, x: s.h(s.c(s.b(s.b(s.a(x))))), a=block(3, 16), b=block(16, 16), c=block(16, 16), h=head(16)),
        set(),
    ),
    "a scale per channel": (
        Net(lambda s, x: s.h(s.b(s.p(s.a(x)) * s.g)), a=block(3, 16), p=nn.PReLU(16),
            g=nn.Parameter(torch.rand(1, 16, 1, 1)), b=block(16, 16), h=head(16)),
        set(),
    ),
    "a constant per channel": (
        Net(lambda s, x: s.h(s.b(s.a(x) + torch.arange(16.0).view(1, 16, 1, 1))), a=block(3, 16), b=block(16, 16),
            h=head(16)),
        {"a.0"},
    ),
    "an attention map over positions": (
        Net(lambda s, x: s.h(s.a(x) * s.e(x).sigmoid()), a=block(3, 16), e=nn.Conv2d(3, 1, 1), h=head(16)),
        {"e"},
    ),
    "a transposed convolution": (
        Net(lambda s, x: s.h(s.t(s.a(x))), a=block(3, 16),
            t=nn.Sequential(nn.ConvTranspose2d(16, 12, 2, 2), nn.BatchNorm2d(12)), h=head(12)),
        set(),
    ),
    "a pixel shuffle": (Net(lambda s, x: s.h(F.pixel_shuffle(s.a(x), 2)), a=block(3, 16), h=head(4)), set()),
    "a softmax over channels": (
        Net(lambda s, x: s.h(s.b(s.a(x).softmax(1))), a=block(3, 16), b=block(16, 16), h=head(16)), {"a.0"}),
    "a group norm": (
        Net(lambda s, x: s.h(s.b(s.n(s.a(x)))), a=block(3, 16), n=nn.GroupNorm(4, 16), b=block(16, 16), h=head(16)),
        set(),
    ),
    "a division by the width": (
        Net(lambda s, x: s.h(s.b((y := s.a(x)) / y.shape[1])), a=block(3, 16), b=block(16, 16), h=head(16)), set()),
    "a decision by value": (
        Net(lambda s, x: s.h(s.b(y) if (y := s.a(x)).mean() > 0 else s.b(-y)), a=block(3, 16), b=block(16, 16),
            h=head(16)),
        {"a.0"},
    ),
    "several outputs": (
        Net(lambda s, x: {"a": [s.h(s.b(s.a(x)))], "n": 3}, a=block(3, 16), b=block(16, 16), h=head(16)), set()),
    "channels last": (
        Net(lambda s, x: s.h(s.b(s.a(x))), a=block(3, 16), b=block(16, 16), h=head(16)).to(
            memory_format=torch.channels_last),  # type: ignore[call-overload]
        set(),
    ),
    "half precision": (
        Net(lambda s, x: s.h(s.b(s.a(x))), a=block(3, 16), b=block(16, 16), h=head(16)).bfloat16(), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_network_is_pruned_exactly_or_left_whole(name: str) -> None:
    model, whole = AWKWARD[name]
    seeded(model)
    before = digest(model)
    x = images().contiguous(memory_format=torch.channels_last) if name == "channels last" else images()
    result = prune(model, (x,), ratio=0.5, importance="l1")
    assert digest(model) == before
    assert result.kept
    assert not whole & result.kept.keys()
    noted = [note for note in result.notes if "is an output of the network" not in note]
    assert all(any(f"`{layer}`" in note for note in noted) for layer in whole)
    assert len(noted) == len(whole)
    assert result.max_error <= 1e-5


def test_half_precision_stays_half_precision() -> None:
    model = seeded(nn.Sequential(block(3, 16), head(16))).half()
    result = prune(model, (images(),), ratio=0.5)
    assert {parameter.dtype for parameter in result.model.parameters()} == {torch.float16}


def test_a_layer_whose_width_the_code_reads_as_a_number_is_left_whole_and_the_others_are_cut() -> None:
    model = Net(lambda s, x: s.h(s.b((y := s.a(x)) + y.shape[1])), a=block(3, 16), b=block(16, 16), h=head(16))
    result = prune(seeded(model), (images(),), ratio=0.5)
    assert result.kept.keys() == {"b.0"}
    assert any("`a.0`" in note and "did not see" in note for note in result.notes)


def test_a_network_of_which_every_cut_changes_the_output_is_refused() -> None:
    model = Net(lambda s, x: s.h((y := s.a(x)) + y.shape[1]), a=block(3, 16), h=head(16))
    with pytest.raises(StageError, match="pruning changed what the network computes") as caught:
        prune(seeded(model), (images(),), ratio=0.5)
    assert caught.value.code == "MC413"


def test_a_gate_by_the_mean_of_its_channels_is_left_whole() -> None:
    gated = Net(lambda s, x: s.h((y := s.a(x)) * y.mean(1, keepdim=True)), a=block(3, 16), h=head(16))
    with pytest.raises(StageError, match="has a mean over its channels, which `mul` uses"):
        prune(seeded(gated), (images(),), ratio=0.5)


@pytest.mark.parametrize(
    "norm",
    [
        lambda y: y / (y.pow(2).mean(1, keepdim=True) + 1e-5).sqrt(),
        lambda y: y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1e-5),
        lambda y: (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, unbiased=False) + 1e-5) ** 0.5,
        lambda y: (y - y.mean(1, keepdim=True)) * (y.var(1, keepdim=True) + 1e-5).pow(-0.5),
    ],
    ids=["root mean square", "its reciprocal", "centred", "centred, by a power"],
)
def test_a_norm_written_by_hand_is_cut(norm: Any) -> None:
    model = Net(lambda s, x: s.h(norm(s.a(x))), a=block(3, 16), h=head(16))
    result = prune(seeded(model), (images(),), ratio=0.5)
    assert len(result.kept["a.0"]) == 7
    assert result.max_error <= 1e-5


@pytest.mark.parametrize("statistic", ["mean", "var", "std"])
def test_a_statistic_over_channels_that_leaves_the_network_keeps_them_whole(statistic: str) -> None:
    model = Net(
        lambda s, x: (s.h(y := s.b(s.a(x))), getattr(y, statistic)(1)), a=block(3, 16), b=block(16, 16), h=head(16)
    )
    result = prune(seeded(model), (images(),), ratio=0.5)
    assert result.kept.keys() == {"a.0"}


def test_a_softmax_over_channels_keeps_them_whole_however_it_is_written() -> None:
    def by_hand(net: Any, x: Tensor) -> Tensor:
        scores = net.b(net.a(x)).exp()
        return net.h(scores / scores.sum(1, keepdim=True))

    for forward in (by_hand, lambda s, x: s.h(s.b(s.a(x)).softmax(1))):
        model = seeded(Net(forward, a=block(3, 16), b=nn.Conv2d(16, 16, 1), h=head(16)))
        assert prune(model, (images(),), ratio=0.5, importance="l1").kept.keys() == {"a.0"}


def test_no_layer_keeps_fewer_than_the_least_though_it_makes_but_a_part_of_the_channels() -> None:
    net = Net(
        lambda s, x: s.h(torch.cat([s.a(x), s.b(x)], 1) + s.c(x)),
        a=nn.Conv2d(3, 16, 1),
        b=nn.Conv2d(3, 16, 1),
        c=nn.Conv2d(3, 32, 1),
        h=head(32),
    )
    result = prune(seeded(net), (images(),), ratio=0.9, importance="l1", scope="per_layer", min_channels=6)
    assert {name: len(kept) for name, kept in result.kept.items()} == {"a": 6, "b": 6, "c": 12}


def test_odd_halves_of_one_block_do_not_keep_all_the_others_whole() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = seeded(torchvision.models.shufflenet_v2_x1_0(weights=None))
    result = prune(model, (images(32),), ratio=0.5, importance="l1", scope="per_layer")
    assert result.macs_after < 0.35 * result.macs_before


def test_layers_along_positions_let_channels_pass() -> None:
    def mixed(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x).flatten(2)  # channels, positions
        x = x + net.tokens(x)
        return net.head(net.channels(x.transpose(1, 2)).mean(1))

    net = Net(mixed, stem=block(3, 16), tokens=nn.Linear(64, 64), channels=nn.Linear(16, 24), head=nn.Linear(24, 5))
    result = prune(seeded(net), (images(),), ratio=0.5, scope="per_layer", importance="l1")
    assert {name: len(kept) for name, kept in result.kept.items()} == {"stem.0": 7, "channels": 11}
    assert result.model.get_submodule("tokens").weight.shape == (64, 64)


def test_what_a_forward_keeps_for_the_next_one_does_not_disturb() -> None:
    def cached(net: Any, x: Tensor) -> Tensor:
        if "shift" not in net.kept:
            net.kept["shift"] = 2 * net.bias
        return net.head(net.stem(x) + net.kept["shift"].reshape(-1, 1, 1))

    net = Net(cached, stem=block(3, 16), head=head(16), kept={})
    net.bias = nn.Parameter(torch.randn(16))
    result = prune(seeded(net), (images(),), ratio=0.5)
    assert net.kept == {}
    assert len(result.kept["stem.0"]) == 7


def test_tied_weights_are_left_whole_by_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
            self.second.weight = self.first.weight
            self.wide, self.out = nn.Linear(16, 32), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(self.wide(self.second(self.first(self.start(x).relu()).relu()).relu()).relu())
            return y

    result = prune(Tied().eval(), (torch.randn(2, 8),), ratio=0.5, importance="l1")
    assert set(result.kept) == {"wide"}
    assert any("`first.weight` and `second.weight` are one tied tensor" in note for note in result.notes)


def test_an_auxiliary_head_that_only_trains_still_fits() -> None:
    def forward(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        return (s.h(y), s.aux(y)) if s.training else s.h(y)

    model = seeded(Net(forward, a=block(3, 16), h=head(16), aux=head(16)))
    result = prune(model, (images(),), ratio=0.5)
    main, extra = result.model.train()(images())
    assert main.shape == extra.shape == (2, 5)


def test_dead_channels_are_pruned_first_and_change_nothing() -> None:
    model = seeded(nn.Sequential(block(3, 16), block(16, 16), head(16)))
    with torch.no_grad():
        for name in ("0.1", "1.1"):
            norm = model.get_submodule(name)
            norm.weight[:8], norm.bias[:8] = 0, 0
    result = prune(model, (images(),), ratio=0.45)
    with torch.no_grad():
        assert relative(result.model(images()), model(images())) < 1e-5
    assert result.kept["0.0"] == list(range(8, 16))


def test_a_ratio_that_would_empty_a_layer_leaves_its_best_channel() -> None:
    model = seeded(nn.Sequential(block(3, 16), block(16, 16), head(16)))
    with torch.no_grad():
        model.get_submodule("0.1").weight.mul_(1e-3)
    result = prune(model, (images(),), ratio=0.6)
    assert result.kept["0.0"] == [int(model.get_submodule("0.1").weight.argmax())]
    assert len(prune(model, (images(),), ratio=0.6, min_channels=5).kept["0.0"]) == 5


def test_ignored_layers_stay_whole_and_a_pattern_without_a_layer_is_refused() -> None:
    model = seeded(nn.Sequential(block(3, 16), block(16, 16), head(16)))
    result = prune(model, (images(),), ratio=0.5, ignore=["0.*"])
    assert set(result.kept) == {"1.0"}
    assert "left whole: `0.0`: matches `ignore` pattern `0.*`" in result.notes
    with pytest.raises(UsageError, match="matches no layer"):
        prune(model, (images(),), ratio=0.5, ignore=["0.00"])


@pytest.mark.parametrize("ratio", [0, 1, -1, float("nan")])
def test_a_ratio_outside_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        prune(lenet(), (images(32),), ratio=ratio)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regular": 0}, "`regular` is 0"),
        ({"min_channels": 0}, "`min_channels` is 0"),
        ({"importance": "l7"}, "`importance` is `l7`"),
        ({"scope": "local"}, "`scope` is `local`"),
    ],
)
def test_other_arguments_outside_their_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prune(lenet(), (images(32),), **arguments)


@pytest.mark.parametrize(
    ("model", "x", "code"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), images(), "MC411"),
        (nn.Sequential(nn.ReLU()), images(), "MC411"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), head(8)), images(), "MC412"),
        (nn.Sequential(nn.Linear(7, 8), nn.Linear(8, 5)), images(), "MC410"),
        (nn.Sequential(nn.Linear(3, 8, dtype=torch.complex64), nn.Linear(8, 5)), images(), "MC410"),
        (nn.Sequential(nn.LazyLinear(8), nn.Linear(8, 5)), images(), "MC410"),
    ],
    ids=["only an output", "no layer", "no batch norm", "wrong input", "complex", "lazy"],
)
def test_a_model_that_cannot_be_pruned_is_refused_with_a_code(model: nn.Module, x: Tensor, code: str) -> None:
    with pytest.raises(McompError) as caught:
        prune(model, (x,))
    assert caught.value.code == code


def test_a_network_that_diverged_is_refused() -> None:
    model = seeded(nn.Sequential(block(3, 8), head(8)))
    with torch.no_grad():
        model.get_submodule("0.1").weight[3] = float("nan")
    with pytest.raises(StageError, match="NaN or infinite"):
        prune(model, (images(),))


def test_a_network_whose_output_ignores_the_pruned_layers_is_refused() -> None:
    model = Net(lambda s, x: s.h(s.b(s.a(x)) * 0), a=block(3, 8), b=block(8, 8), h=head(8))
    with pytest.raises(StageError, match="blind") as caught:
        prune(seeded(model), (images(),), importance="random")
    assert caught.value.code == "MC414"


def test_a_head_that_begins_with_zeros_does_not_hide_the_layers_before_it() -> None:
    model = seeded(nn.Sequential(block(3, 8), block(8, 8), head(8)))
    with torch.no_grad():
        model.get_submodule("2.2").weight.zero_()
        model.get_submodule("2.2").bias.zero_()
    assert prune(model, (images(),), importance="random").kept


def test_a_surgery_log_is_json_and_replays_on_a_fresh_model() -> None:
    model = seeded(nin_gc(width=0.25))
    result = prune(model, (images(16),), ratio=0.5, regular=8)
    entry = json.loads(json.dumps(surgery.provenance(result.model).log[0]))
    assert entry["op"] == "prune"
    assert entry["kept"] == result.kept
    rebuilt = surgery.replay(copy.deepcopy(model), entry, (images(16),))
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images(16)), result.model(images(16)))
    with pytest.raises(StoreError, match="does not fit"):
        surgery.replay(nin(width=0.25), entry, (images(16),))


def test_a_pruned_network_can_be_pruned_again() -> None:
    model = seeded(nin_gc(width=0.25))
    once = prune(model, (images(16),), ratio=0.3)
    twice = prune(once.model, (images(16),), ratio=0.3)
    assert [entry["op"] for entry in surgery.provenance(twice.model).log] == ["prune", "prune"]
    rebuilt: nn.Module = nin_gc(width=0.25)
    for entry in surgery.provenance(twice.model).log:
        rebuilt = surgery.replay(rebuilt, entry, (images(16),))
    rebuilt.load_state_dict(twice.model.state_dict())


def test_what_is_noted_on_parameters_stays_on_them() -> None:
    model: Any = seeded(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 5)))
    for parameter in (model[0].weight, model[2].weight, model[2].bias):
        parameter._no_weight_decay = True
    pruned: Any = prune(model, (torch.randn(4, 8),), 0.5, importance="l1").model
    noted = [name for name, parameter in pruned.named_parameters() if getattr(parameter, "_no_weight_decay", False)]
    assert noted == ["0.weight", "2.weight", "2.bias"]
    assert not {*map(id, model.parameters())} & {*map(id, pruned.parameters())}


def test_a_pruned_network_trains_on() -> None:
    result = prune(seeded(nn.Sequential(block(3, 16), block(16, 16), head(16))), (images(),), ratio=0.5)
    result.model.train()(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in result.model.parameters())


def test_masking_in_the_tests_agrees_with_the_self_check() -> None:
    model = seeded(nn.Sequential(block(3, 16), block(16, 16), head(16)))
    result = prune(model, (images(),), ratio=0.5)
    with torch.no_grad():
        assert relative(result.model(images()), masked_output(model, result.kept, images())) < 1e-5


def test_a_check_without_a_reader_of_the_channels_is_blind_not_a_crash() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    cut = Cut("0.weight", 0, "rows", torch.arange(8))
    with pytest.raises(StageError) as caught:
        check(model, Surgery((cut,)), (images(),), trace(model, (images(),)).trace)
    assert caught.value.code == "MC414"


def test_what_the_forward_works_on_when_it_asks_for_values_is_an_output() -> None:
    def peaks(net: Any, x: Tensor) -> list[Tensor]:
        maps, sizes = net.maps(net.stem(x)), net.sizes(net.stem(x)).mean((2, 3))
        return [found * int(size.sum() != 0) for found, size in zip(maps, sizes, strict=True)]

    net = seeded(Net(peaks, stem=block(3, 16), maps=nn.Conv2d(16, 12, 1), sizes=nn.Conv2d(16, 4, 1)))
    result = prune(net, (images(),), 0.5, scope="per_layer", importance="l1")
    assert result.kept.keys() == {"stem.0"}
    assert any("`maps`" in note and "output" in note for note in result.notes)


@pytest.mark.parametrize("style", ["packed", "separate", "read", "fused"])
def test_heads_may_become_one_channel_wide(style: str) -> None:
    model = scattered(Patchwork(Block(2, 3, 24), [Attention(24, 2, style, 4)], 0), 0)
    result = prune(model, (torch.randn(3, 3, 6, 6),), 0.7, importance="l1", scope="per_layer")
    makers = {
        name: len(kept) for name, kept in result.kept.items() if name.startswith("patches.0.") and "out" not in name
    }
    assert makers == ({"patches.0.qkv": 6} if style == "packed" else {f"patches.0.{name}": 2 for name in "qkv"})


def test_the_mean_of_a_masked_channel_is_no_nan_behind_a_norm_over_channels() -> None:
    def squeezed(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = x + x.mean((2, 3), keepdim=True)
        return net.head(net.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    net = seeded(Net(squeezed, stem=block(3, 16), norm=nn.LayerNorm(16), head=head(16)))
    result = prune(net, (images(),), 0.5, scope="per_layer")
    assert len(result.kept["stem.0"]) == 7
    assert result.max_error <= 1e-5
