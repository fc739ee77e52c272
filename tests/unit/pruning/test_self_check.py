"""What the self-check sees, and what it leaves alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp import surgery
from mcomp.errors import StageError
from mcomp.pruning import prune, self_check, structured
from tests.unit.pruning.pruning_nets import Net, block, digest, head, images, seeded


class Holder:
    """A container that PyTorch does not know."""

    __slots__ = ("maps",)

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps


def capsules(x: Tensor, parts: int = 10) -> Tensor:
    """Sums over neighbouring channels: other ones are neighbours after a cut, and the trace cannot know."""
    return x.view(len(x), parts, -1, *x.shape[2:]).sum(2)


def scaled(scale: float) -> nn.Module:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(x + net.gamma * net.out(capsules(net.wide(x))))  # type: ignore[no-any-return]

    net = Net(forward, stem=block(3, 32), wide=block(32, 160), out=nn.Conv2d(10, 32, 1), head=head(32))
    net.gamma = nn.Parameter(torch.full((32, 1, 1), scale))
    return seeded(net)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 0.0])
def test_a_wrong_cut_behind_a_small_scale_is_seen(scale: float) -> None:
    result = prune(scaled(scale), (images(),), 0.5, scope="per_layer", regular=10)
    assert result.kept.keys() == {"stem.0", "out"}
    assert any("`wide.0`" in note and "changes what" in note for note in result.notes)


@pytest.mark.parametrize("unit", [1.0, 1e7])
def test_a_large_output_does_not_hide_a_wrong_small_one(unit: float) -> None:
    def forward(net: Any, x: Tensor) -> Any:
        x = net.a(x)
        return {"logits": capsules(net.b(x).mean((2, 3))), "depth": net.depth(x) * unit}

    net = seeded(Net(forward, a=block(3, 16), b=block(16, 160), depth=nn.Conv2d(16, 1, 1)))
    result = prune(net, (images(),), 0.5, scope="per_layer", regular=10)
    assert result.kept.keys() == {"a.0"}


def test_an_output_that_is_nothing_but_rounding_is_not_held_to_its_own_size() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        found = net.h(net.a(x))
        return found, found.softmax(1).sum(1) - 1

    assert prune(seeded(Net(forward, a=block(3, 16), h=head(16))), (images(),), 0.5).kept


def test_infinities_that_both_networks_give_are_no_difference() -> None:
    allowed = torch.tensor([True, False, True, True, False])
    net = Net(lambda s, x: s.h(s.a(x)).masked_fill(~allowed, float("-inf")), a=block(3, 16), h=head(16))
    assert prune(seeded(net), (images(),), 0.5).max_error <= 1e-5


def test_a_tensor_in_an_object_of_any_class_is_an_output() -> None:
    def forward(net: Any, x: Tensor) -> Any:
        x = net.b(net.a(x))
        return net.h(x), Holder(x)

    net = seeded(Net(forward, a=block(3, 16), b=block(16, 32), h=head(32)))
    result = prune(net, (images(),), 0.5, scope="per_layer")
    assert result.kept.keys() == {"a.0"}
    assert result.model(images())[1].maps.shape[1] == 32


def test_a_tensor_that_a_module_keeps_is_left_whole() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        net.features = net.b(net.a(x))
        return net.h(net.features)  # type: ignore[no-any-return]

    net = seeded(Net(forward, a=block(3, 16), b=block(16, 32), h=head(32)))
    result = prune(net, (images(),), 0.5, scope="per_layer")
    assert result.kept.keys() == {"a.0"}
    assert any("kept as `features`" in note for note in result.notes)


def test_an_output_that_cannot_be_looked_into_is_refused_by_name() -> None:
    net = Net(lambda s, x: (one for one in s.h(s.a(x))), a=block(3, 16), h=head(16))
    with pytest.raises(StageError, match="returns a `generator`") as caught:
        prune(seeded(net), (images(),), 0.5)
    assert caught.value.code == "MC410"


def test_whole_numbers_alone_are_refused_with_the_reason() -> None:
    net = Net(lambda s, x: s.h(s.a(x)).argmax(1), a=block(3, 16), h=head(16))
    with pytest.raises(StageError, match="whole numbers") as caught:
        prune(seeded(net), (images(),), 0.5, importance="l1")
    assert caught.value.code == "MC414"


def test_complex_outputs_are_compared() -> None:
    net = Net(lambda s, x: torch.fft.fft(s.h(s.a(x))), a=block(3, 16), h=head(16))
    assert prune(seeded(net), (images(),), 0.5).max_error <= 1e-5


@pytest.mark.parametrize("within", [False, True], ids=["around prune", "around the forward"])
def test_inference_mode_changes_nothing(within: bool) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        found: Tensor = net.h(net.b(net.a(x)))
        return found

    net = Net(torch.inference_mode()(forward) if within else forward, a=block(3, 16), b=block(16, 16), h=head(16))
    expected = prune(seeded(net), (images(),), 0.5)
    with torch.inference_mode(not within):
        result = prune(net, (images(),), 0.5)
    assert result.kept == expected.kept
    assert not any(one.is_inference() for one in [*result.model.parameters(), *result.model.buffers()])


def test_a_network_that_was_made_in_inference_mode_is_pruned() -> None:
    with torch.inference_mode():
        net = seeded(nn.Sequential(block(3, 16), block(16, 16), head(16)))
        result = prune(net, (images(),), 0.5)
    assert result.kept
    assert not any(one.is_inference() for one in [*result.model.parameters(), *result.model.buffers()])


def test_a_forward_that_writes_into_its_input_leaves_the_example_alone() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x.sub_(0.5)
        found: Tensor = net.h(net.a(x))
        return found if float(x.max()) < 1e9 else found * 0  # asks for a value: it runs for real

    x = images()
    for goal in ({"ratio": 0.5}, {"macs": 0.5}):
        prune(seeded(Net(forward, a=block(3, 16), h=head(16))), (x,), importance="l1", **goal)  # type: ignore[arg-type]
    assert torch.equal(x, images())


def in_place(net: Any, x: Tensor) -> Tensor:
    net.last.weight.data.div_(net.last.weight.data.norm(dim=1, keepdim=True) * 2)
    return net.last(F.relu(net.first(x)))  # type: ignore[no-any-return]


def replaced(net: Any, x: Tensor) -> Tensor:
    net.last.weight.data = net.last.weight.data * 0.5
    return net.last(F.relu(net.first(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("forward", [in_place, replaced])
@pytest.mark.parametrize("real", [False, True])
def test_a_forward_that_writes_into_its_weights_leaves_the_model_alone(forward: Any, real: bool) -> None:
    def asking(net: Any, x: Tensor) -> Tensor:
        found: Tensor = forward(net, x)
        return found * float(found.max() < 1e9) if real else found

    model = seeded(Net(asking, first=nn.Linear(8, 32), last=nn.Linear(32, 5)))
    before = digest(model)
    for goal in ({"ratio": 0.5}, {"macs": 0.5}, {"latency_ms": 1e-3}):
        try:
            prune(model, (torch.randn(4, 8),), importance="l1", **goal)  # type: ignore[arg-type]
        except StageError as error:
            assert error.code in ("MC411", "MC413", "MC416", "MC455")  # noqa: PT017  # the model is what counts
        assert digest(model) == before


def test_an_embedding_that_renorms_its_rows_is_what_it_was() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(F.relu(net.hidden(net.words(x)))).mean(1)  # type: ignore[no-any-return]

    words = nn.Embedding(50, 32, max_norm=1.0)
    model = seeded(Net(forward, words=words, hidden=nn.Linear(32, 64), out=nn.Linear(64, 5)))
    before = digest(model)
    result = prune(model, (torch.arange(28).reshape(4, 7),), 0.5, importance="l1")
    assert digest(model) == before
    assert result.kept.keys() == {"hidden"}


def test_a_copy_inherits_provenance_without_marking_its_source() -> None:
    source = nn.Linear(2, 2)
    made = surgery.inherit(copy.deepcopy(source), source)
    assert surgery.ATTRIBUTE in vars(made)
    assert surgery.ATTRIBUTE not in vars(source)


def test_salvage_makes_one_comparison_for_each_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        for wide, out in zip(net.wide, net.out, strict=True):
            x = x + out(capsules(wide(x)))
        return net.head(x)  # type: ignore[no-any-return]

    wide, out = [block(32, 160) for _ in range(6)], [nn.Conv2d(10, 32, 1) for _ in range(6)]
    net = seeded(Net(forward, stem=block(3, 32), wide=nn.ModuleList(wide), out=nn.ModuleList(out), head=head(32)))
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        return lambda *given: function(*given) if calls.append(name) is None else None  # type: ignore[func-returns-value]

    monkeypatch.setattr(structured, "check", counted("check", self_check.check))
    monkeypatch.setattr(self_check, "sight", counted("sight", self_check.sight))
    assert prune(net, (images(),), 0.5, scope="per_layer", regular=10).kept.keys() == {
        "stem.0",
        *(f"out.{i}" for i in range(6)),
    }
    assert calls.count("check") == 2
    assert calls.count("sight") <= 2


def test_a_figure_of_double_precision_is_told() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return (1e4 * net.h(net.a(x))).sin()  # type: ignore[no-any-return]

    result = prune(seeded(Net(forward, a=block(3, 16), h=head(16))), (images(),), 0.5)
    assert result.max_error <= 1e-5
    assert any("double precision" in note for note in result.notes)
