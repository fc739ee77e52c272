"""Channels through gates, attention with positions of its own, and recurrent states that are projected."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp import surgery
from mcomp.pruning import prune, trace
from tests.unit.pruning.named_nets import silenced
from tests.unit.pruning.pruning_nets import images, seeded

SEQUENCE = torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(0))
PADDING = torch.zeros(2, 6, dtype=torch.bool)
PADDING[0, 4:] = True


class Conformer(nn.Module):
    """The convolution module of Gulati et al., arXiv:2005.08100."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(24, width), nn.LayerNorm(width)
        self.gated = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.batch_norm, self.last = nn.BatchNorm1d(width), nn.Conv1d(width, width, 1)
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem = self.stem(x)
        y = F.glu(self.gated(self.norm(stem).transpose(1, 2)), 1)
        y = self.last(F.silu(self.batch_norm(self.depthwise(y)))).transpose(1, 2)
        return self.out((stem + y).mean(1))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Attention that may add keys and values of its own."""

    def __init__(self, need_weights: bool, **options: Any) -> None:
        super().__init__()
        self.stem, self.out, self.need_weights = nn.Linear(24, 32), nn.Linear(32, 5), need_weights
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True, **options)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        stem = self.stem(x)
        y, _ = self.attention(stem, stem, stem, key_padding_mask=padding, need_weights=self.need_weights)
        return self.out((stem + y).mean(1))  # type: ignore[no-any-return]


class Projected(nn.Module):
    """An LSTM whose state is projected."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.stem, self.rnn = nn.Linear(24, 32), nn.LSTM(32, 40, proj_size=16, batch_first=True, **options)
        self.out = nn.Linear(32 if options.get("bidirectional") else 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(self.stem(x))[0].mean(1))  # type: ignore[no-any-return]


def made(build: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = build()
        for name, parameter in model.named_parameters():
            if "bias" in name:  # PyTorch begins with zeros
                nn.init.normal_(parameter)
        return model.eval()


def check(model: nn.Module, *inputs: Tensor, **options: Any) -> dict[str, int]:
    """Widths of the pruned layers, after it was seen to compute what the whole network does without them."""
    result = prune(model, inputs, 0.5, **{"importance": "l1", "scope": "per_layer", "regular": 4, **options})
    rebuilt = surgery.replay(copy.deepcopy(model), surgery.provenance(result.model).log[-1], inputs).eval()
    rebuilt.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        expected = silenced(model, result.model)(*inputs)
        torch.testing.assert_close(result.model.eval()(*inputs), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rebuilt(*inputs), expected, rtol=1e-4, atol=1e-5)
    return {layer: len(kept) for layer, kept in result.kept.items()}


def test_the_halves_of_a_gated_layer_are_cut_together() -> None:
    found = check(made(Conformer), SEQUENCE, ignore=["stem"])
    assert found == {"gated": 24, "depthwise": 12}
    kept = prune(made(Conformer), (SEQUENCE,), 0.5, importance="l1").kept["gated"]
    half = len(kept) // 2
    assert [index + 24 for index in kept[:half]] == kept[half:]


def test_a_gate_over_positions_leaves_every_channel_its_own() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(F.glu(self.first(x), 2).mean((2, 3)))  # type: ignore[no-any-return]

    model = seeded(Rows())
    assert trace(model, (images(),)).groups[0].channels == 16
    assert check(model, images()) == {"first": 8}


@pytest.mark.parametrize("need_weights", [True, False], ids=["weights", "fused"])
@pytest.mark.parametrize("inputs", [(SEQUENCE,), (SEQUENCE, PADDING)], ids=["plain", "padded"])
@pytest.mark.parametrize(
    "options",
    [{"add_bias_kv": True}, {"add_zero_attn": True}, {"add_bias_kv": True, "add_zero_attn": True, "bias": False}],
    ids=str,
)
def test_attention_with_positions_of_its_own_is_cut(need_weights: bool, inputs: Any, options: dict[str, bool]) -> None:
    found = check(made(lambda: Attention(need_weights, **options)), *inputs)
    assert found == {"stem": 16, "attention.in_proj_weight": 48, "attention.out_proj": 16}


def test_whole_heads_of_attention_with_positions_of_its_own_go() -> None:
    found = check(made(lambda: Attention(False, add_bias_kv=True)), SEQUENCE, heads="whole", ignore=["stem"])
    assert found == {"attention.in_proj_weight": 48}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}], ids=str)
def test_a_projected_state_is_cut_with_what_reads_it(options: dict[str, Any]) -> None:
    model = made(lambda: Projected(**options))
    found = check(model, SEQUENCE)
    assert {width for name, width in found.items() if "_hr_" in name} == {8}
    rnn: Any = prune(model, (SEQUENCE,), 0.5, regular=4, importance="l1", scope="per_layer").model.rnn
    assert (rnn.input_size, rnn.hidden_size, rnn.proj_size) == (16, 20, 8)
