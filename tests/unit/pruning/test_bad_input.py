"""Models and inputs as people bring them: pruned exactly, or refused by name; never a wrong network, never a crash."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d

from mcomp.errors import McompError, StageError
from mcomp.pruning import prune
from tests.unit.pruning.named_nets import silenced
from tests.unit.pruning.pruning_nets import Net, block, digest, head, images, seeded

Made = tuple[nn.Module, tuple[Any, ...]]


def plain() -> nn.Module:
    return nn.Sequential(block(3, 16), block(16, 16), head(16))


def between(forward: Callable[[Any, Tensor], Any], **parts: Any) -> Made:
    """A block, something odd, a block and a head: ``s.a``, ``s.b``, ``s.h``."""
    net = Net(forward, **{"a": block(3, 16), "b": block(16, 16), "h": head(16)} | parts)
    return net, (images(),)


def around(layer: nn.Module) -> Made:
    """The odd layer between two blocks."""
    return between(lambda s, x: s.h(s.b(s.odd(s.a(x)))), odd=layer)


def first(conv: nn.Module) -> Made:
    return nn.Sequential(conv, nn.ReLU(), block(16, 16), head(16)), (images(),)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


class Square(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x * x


class Language(nn.Module):
    """Its output projection is its embedding."""

    def __init__(self, by_module: bool) -> None:
        super().__init__()
        self.embedding, self.wide, self.narrow = nn.Embedding(20, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        if by_module:
            self.out = nn.Linear(16, 20, bias=False)
            self.out.weight = self.embedding.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embedding(words)
        x = x + self.narrow(F.relu(self.wide(x)))
        return self.out(x) if hasattr(self, "out") else F.linear(x, self.embedding.weight)  # type: ignore[no-any-return]


def compiled_in_place() -> nn.Module:
    model = plain()
    model.compile(backend="eager")
    return model


def halves(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y[:, :8] = y[:, 8:] * 2
    return s.h(s.b(y))  # type: ignore[no-any-return]


def joined(s: Any, x: Tensor) -> Tensor:
    y = torch.zeros(len(x), 32, 8, 8)
    y[:, :16] = s.a(x)
    y[:, 16:] = s.c(x)
    return s.h(s.b(y))  # type: ignore[no-any-return]


def constant(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y[:, 3] = 1.0
    return s.h(s.b(y))  # type: ignore[no-any-return]


def every_other(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y[:, ::2].mul_(3.0)
    return s.h(s.b(y))  # type: ignore[no-any-return]


def halved(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    while y.abs().max() > 1:
        y = y / 2
    return s.h(s.b(y))  # type: ignore[no-any-return]


def in_bfloat16(s: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return s.h(s.b(s.a(x)))  # type: ignore[no-any-return]


def counted(s: Any, x: Tensor) -> Tensor:
    s.calls = getattr(s, "calls", 0) + 1
    return s.h(s.b(s.a(x) * s.calls))  # type: ignore[no-any-return]


ORDER = torch.randperm(16, generator=torch.Generator().manual_seed(0))

#: What is pruned exactly, and the layers that stay whole.
EXACT: dict[str, tuple[Callable[[], Made], set[str]]] = {
    "weight norm": (lambda: first(parametrizations.weight_norm(nn.Conv2d(3, 16, 3))), {"0"}),
    "spectral norm": (lambda: first(parametrizations.spectral_norm(nn.Conv2d(3, 16, 3))), {"0"}),
    "orthogonal weights": (lambda: first(parametrizations.orthogonal(nn.Conv2d(3, 16, 3))), {"0"}),
    "a parametrization": (
        lambda: first(parametrize.register_parametrization(nn.Conv2d(3, 16, 3), "weight", Doubled())), {"0"}),
    "data parallel": (lambda: (nn.DataParallel(plain()), (images(),)), set()),
    "compiled": (lambda: (torch.compile(plain(), backend="eager"), (images(),)), set()),
    "compiled in place": (lambda: (compiled_in_place(), (images(),)), set()),
    "a graph of fx": (lambda: (torch.fx.symbolic_trace(plain()), (images(),)), set()),
    "frozen batch norm": (lambda: around(FrozenBatchNorm2d(16)), set()),
    "a batch norm without statistics": (lambda: around(nn.BatchNorm2d(16, track_running_stats=False)), set()),
    "a batch norm without scale": (lambda: around(nn.BatchNorm2d(16, affine=False)), set()),
    "a batch norm with nothing": (lambda: around(nn.BatchNorm2d(16, affine=False, track_running_stats=False)), set()),
    "an instance norm without scale": (lambda: around(nn.InstanceNorm2d(16)), set()),
    "a synchronised batch norm": (lambda: (nn.SyncBatchNorm.convert_sync_batchnorm(plain()), (images(),)), set()),
    "dropout of channels": (lambda: around(nn.Dropout2d(0.5)), set()),
    "local response norm": (lambda: around(nn.LocalResponseNorm(5)), {"a.0"}),
    "an input that is not contiguous": (lambda: (plain(), (images().transpose(2, 3)[..., ::2],)), set()),
    "an expanded input": (lambda: (plain(), (images()[:, :1].expand(-1, 3, -1, -1),)), set()),
    "an input with a gradient": (lambda: (plain(), (images().requires_grad_(),)), set()),
    "bytes": (lambda: (between(lambda s, x: s.h(s.b(s.a(x / 255))))[0], ((images() * 50).byte(),)), set()),
    "a batch of one": (lambda: (plain(), (images(count=1),)), set()),
    "a batch of one, one position": (
        lambda: (nn.Sequential(nn.Conv2d(3, 16, 8), nn.BatchNorm2d(16), nn.ReLU(), head(16)), (images(count=1),)),
        set()),
    "outputs in a dict": (lambda: between(lambda s, x: {"y": s.h(s.b(s.a(x))), "n": None}), set()),
    "outputs in a tuple": (lambda: between(lambda s, x: (s.h(s.b(s.a(x))), "y")), set()),
    "features as an output": (lambda: between(lambda s, x: (s.h(s.b(y := s.a(x))), y)), {"a.0"}),
    "a tied embedding": (lambda: (Language(True), (torch.randint(0, 20, (2, 5)),)), {"embedding", "narrow"}),
    "a tied embedding, in the forward": (
        lambda: (Language(False), (torch.randint(0, 20, (2, 5)),)), set()),
    "a branch by value": (lambda: between(lambda s, x: s.h(s.b(y) if float((y := s.a(x)).sum()) > 0 else y)), set()),
    "a loop by value": (lambda: between(halved), {"a.0"}),
    "a number read from a parameter": (
        lambda: between(lambda s, x: s.h(s.b(s.a(x) * s.t.item())), t=nn.Parameter(torch.tensor(2.0))), set()),
    "half a tensor written over": (lambda: between(halves), {"a.0"}),
    "a tensor filled in parts": (lambda: between(joined, b=block(32, 16), c=block(3, 16)), {"a.0", "c.0"}),
    "a channel that is a constant": (lambda: between(constant), set()),
    "every other channel in place": (lambda: between(every_other), set()),
    "rolled channels": (lambda: between(lambda s, x: s.h(s.b(s.a(x).roll(3, 1)))), set()),
    "flipped channels": (lambda: between(lambda s, x: s.h(s.b(s.a(x).flip(1)))), set()),
    "channels in another order": (lambda: between(lambda s, x: s.h(s.b(s.a(x)[:, ORDER]))), {"a.0"}),
    "channels and their negatives": (
        lambda: between(lambda s, x: s.h(s.b(torch.cat([F.relu(y := s.a(x)), F.relu(-y)], 1))),
                        a=nn.Conv2d(3, 16, 3), b=block(32, 16)), set()),
    "channels twice": (lambda: between(lambda s, x: s.h(s.b(s.a(x).repeat(1, 2, 1, 1))), b=block(32, 16)), set()),
    "a custom function": (lambda: between(lambda s, x: s.h(s.b(Square.apply(s.a(x))))), set()),
    "a checkpointed block": (lambda: between(lambda s, x: s.h(checkpoint(s.b, s.a(x), use_reentrant=False))), set()),
    "parameters in lists": (
        lambda: between(lambda s, x: s.h(s.b(s.a(x) * s.p[0])), p=nn.ParameterList([torch.rand(16, 1, 1)])), set()),
    "a frozen network": (lambda: (plain().requires_grad_(False), (images(),)), set()),
    "a layer that is never used": (
        lambda: between(lambda s, x: s.h(s.b(s.a(x))), unused=nn.Conv2d(16, 16, 3)), {"unused"}),
    "a maximum over halves": (
        lambda: between(lambda s, x: s.h(s.b(s.a(x).view(len(x), 2, -1, 8, 8).amax(1))), b=block(8, 16)), set()),
    "a division by the norm": (lambda: between(lambda s, x: s.h(s.b(F.normalize(s.a(x), dim=1)))), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_an_odd_model_is_pruned_exactly(name: str) -> None:
    make, whole = EXACT[name]
    model, inputs = make()
    seeded(model)
    before = digest(model)
    result = prune(model, inputs, ratio=0.5, importance="l1", scope="per_layer")
    assert digest(model) == before
    assert result.kept
    assert not whole & result.kept.keys()
    assert left_whole(result.notes) <= whole
    assert result.max_error <= 1e-5
    with torch.no_grad():
        found, expected = (_first(one(*inputs)) for one in (result.model, silenced(model, result.model)))
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def left_whole(notes: list[str]) -> set[str]:
    """Layers that stayed whole for another reason than that they make the output."""
    heads = [note.partition(": ")[2].partition(": ")[0] for note in notes if "is an output of the network" not in note]
    return {name for names in heads for name in re.findall("`(.+?)`", names)}


def _first(output: Any) -> Tensor:
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


NORMS: dict[str, nn.Module] = {
    "layer norm": nn.LayerNorm(16),
    "layer norm without scale": nn.LayerNorm(16, elementwise_affine=False),
    "root mean square norm": nn.RMSNorm(16),
    "root mean square norm without scale": nn.RMSNorm(16, elementwise_affine=False),
    "group norm": nn.GroupNorm(4, 16),
    "group norm without scale": nn.GroupNorm(4, 16, affine=False),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_over_channels_looks_at_those_that_are_left(name: str) -> None:
    norm = copy.deepcopy(NORMS[name])
    model = nn.Sequential(nn.Linear(8, 16), norm, nn.Tanh(), nn.Linear(16, 4)).double()
    x = torch.randn(5, 8, dtype=torch.float64)
    result = prune(model.eval(), (x,), ratio=0.5, regular=8, importance="l1")
    kept = result.kept["0"]
    wide, out = model[0](x)[:, kept], model[3]
    groups = wide.reshape(5, 4, -1) if isinstance(norm, nn.GroupNorm) else wide[:, None]
    centre = 0 if isinstance(norm, nn.RMSNorm) else groups.mean(2, keepdim=True)
    spread = (groups - centre).square().mean(2, keepdim=True)
    eps = torch.finfo(torch.float64).eps if norm.eps is None else norm.eps
    y = ((groups - centre) / (spread + eps).sqrt()).reshape(5, -1).tanh()
    expected = y @ out.weight[:, kept].T + out.bias
    assert torch.allclose(result.model(x), expected, rtol=1e-9, atol=1e-9)


def masked_by_hand() -> nn.Module:
    model = plain()
    torch.nn.utils.prune.l1_unstructured(model.get_submodule("1.0"), "weight", 0.5)
    return model


def scripted(part: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return torch.jit.script(part.eval())  # type: ignore[no-any-return]


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)))  # type: ignore[no-any-return]


REFUSED: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], str]] = {
    "a scripted model": (lambda: (scripted(plain()), (images(),)), "MC410"),
    "a scripted part": (lambda: (nn.Sequential(block(3, 16), scripted(block(16, 16)), head(16)), (images(),)), "MC410"),
    "integers in place of layers": (lambda: (quantised(), (torch.randn(2, 8),)), "MC411"),
    "a lazy convolution": (lambda: (nn.Sequential(nn.LazyConv2d(16, 3), head(16)), (images(),)), "MC410"),
    "a lazy norm": (lambda: (nn.Sequential(nn.Conv2d(3, 16, 3), nn.LazyBatchNorm2d(), head(16)), (images(),)), "MC410"),
    "masks of torch.nn.utils.prune": (lambda: (masked_by_hand(), (images(),)), "MC410"),
    "no values": (lambda: (plain().to("meta"), (images(),)), "MC410"),
    "no sample": (lambda: (plain(), (images()[:0],)), "MC410"),
    "no input": (lambda: (plain(), ()), "MC410"),
    "an input that is None": (lambda: (plain(), (None,)), "MC410"),
    "a tensor in place of a tuple": (lambda: (plain(), images()), "MC417"),
    "an output that is used up by looking": (lambda: between(lambda s, x: iter(s.b(s.a(x)))), "MC410"),
    "no output": (lambda: between(lambda s, x: None), "MC411"),
    "the best class as the output": (lambda: between(lambda s, x: s.h(s.b(s.a(x))).argmax(1)), "MC414"),
    "noise of a fixed width": (lambda: between(lambda s, x: s.h(s.b(s.a(x) + torch.randn(16, 1, 1)))), "MC413"),
    "a detour through numpy": (
        lambda: (Net(lambda s, x: s.h(torch.from_numpy(s.a(x).numpy())), a=block(3, 16), h=head(16)), (images(),)),
        "MC416"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_pruned_is_refused_by_name(name: str) -> None:
    make, code = REFUSED[name]
    model, inputs = make()
    with pytest.raises(McompError) as caught:
        prune(model.eval(), inputs, ratio=0.5, importance="l1")
    assert caught.value.code == code
    assert "\n" in str(caught.value)  # says why, or what to do


def test_a_forward_that_counts_its_calls_leaves_the_model_alone() -> None:
    model, inputs = between(counted)
    seeded(model)
    before = digest(model)
    try:
        prune(model, inputs, ratio=0.5, importance="l1")
    except McompError as error:
        assert error.code in ("MC413", "MC416")  # noqa: PT017  # either is right, as long as the model is untouched
    assert digest(model) == before


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_stays(training: bool) -> None:
    model = nn.Sequential(block(3, 16), nn.Dropout2d(0.5), block(16, 16), head(16)).train(training)
    state = torch.random.get_rng_state()
    result = prune(model, (images(),), ratio=0.5, importance="l1")
    assert model.training == result.model.training == training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_half_a_network_in_half_precision_stays_so() -> None:
    model, inputs = between(lambda s, x: s.h(s.b(s.a(x).bfloat16()).float()))
    model.get_submodule("b").bfloat16()
    result = prune(model.eval(), inputs, ratio=0.5, importance="l1")
    assert {name: one.dtype for name, one in model.named_parameters()} == {
        name: one.dtype for name, one in result.model.named_parameters()
    }


def test_autocast_inside_the_forward_does_not_hide_a_wrong_cut() -> None:
    result = prune(between(in_bfloat16)[0].eval(), (images(),), ratio=0.5, importance="l1")
    assert set(result.kept) == {"a.0", "b.0"}


@pytest.mark.parametrize(("options", "width"), [({}, 1), ({"min_channels": 3}, 3), ({"regular": 8}, 8)])
def test_a_ratio_near_one_leaves_what_it_must(options: dict[str, int], width: int) -> None:
    model = seeded(plain())
    result = prune(model, (images(),), ratio=0.99, importance="l1", scope="per_layer", **options)  # type: ignore[arg-type]
    assert {layer: len(kept) for layer, kept in result.kept.items()} == {"0.0": width, "1.0": width}


@pytest.mark.parametrize("options", [{"min_channels": 1000}, {"regular": 512}])
def test_more_than_there_is_leaves_everything_whole_and_says_so(options: dict[str, int]) -> None:
    model = seeded(plain())
    result = prune(model, (images(),), ratio=0.5, importance="l1", **options)  # type: ignore[arg-type]
    assert result.kept == {}
    assert left_whole(result.notes) == {"0.0", "1.0"}
    assert torch.equal(result.model(images()), model(images()))


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda s, x: s.h(s.a(x) + torch.rand(2, 1, 8, 8)), "something else each time"),
        (lambda s, x: s.h(s.a(x)) / (x.sum() * 0), "inf or nan"),
    ],
    ids=["random", "nan"],
)
def test_a_network_that_gives_no_steady_answer_is_told_so(forward: Any, why: str) -> None:
    model = Net(forward, a=block(3, 16), h=head(16))
    with pytest.raises(StageError, match="changed what the network computes") as caught:
        prune(seeded(model), (images(),), ratio=0.5)
    assert why in str(caught.value.why)
