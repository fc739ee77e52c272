"""Small networks of every family that people prune, each with an input and what has to fall."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlock,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import VisionTransformer

from mcomp import surgery
from mcomp.models import nin_gc


class Words(nn.Module):
    """Words through an encoder of PyTorch's own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embedding, self.table = nn.Embedding(30, 32), nn.Parameter(torch.zeros(1, 10, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(32, 5)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.encoder(self.embedding(words) + self.table).mean(1))  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` around which the stream goes on."""

    def __init__(self, batch_first: bool = True, need_weights: bool = True) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(12, 32), nn.Linear(32, 5)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=batch_first)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y + self.attention(y, y, y, need_weights=self.need_weights)[0]
        return self.out(y.mean(1))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Queries from one stream, keys and values from another of another width."""

    def __init__(self, other: int) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(12, 32), nn.Linear(12, other), nn.Linear(32, 5)
        self.attention = nn.MultiheadAttention(32, 4, kdim=other, vdim=other, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        other = self.second(x)
        return self.out(self.attention(self.first(x), other, other)[0].mean(1))  # type: ignore[no-any-return]


class Speech(nn.Module):
    """Frames through a convolution and a recurrent layer, in two directions and two layers, to a label each."""

    def __init__(self, kind: Any, layers: int = 2, both: bool = True, batch_first: bool = True) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv1d(13, 24, 3, padding=1), nn.BatchNorm1d(24), nn.ReLU())
        self.rnn = kind(24, 32, layers, bidirectional=both, batch_first=batch_first)
        self.out, self.batch_first = nn.Linear(64 if both else 32, 7), batch_first

    def forward(self, x: Tensor) -> Tensor:
        y = self.front(x).transpose(1, 2)
        y = self.rnn(y)[0] if self.batch_first else self.rnn(y.transpose(0, 1))[0].transpose(0, 1)
        return self.out(y)  # type: ignore[no-any-return]


class LastState(nn.Module):
    """The last state of each direction, joined, to one label."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.rnn, self.out = kind(13, 32, 2, bidirectional=True, batch_first=True), nn.Linear(64, 7)

    def forward(self, x: Tensor) -> Tensor:
        state = self.rnn(x.transpose(1, 2))[1]
        state = state[0] if isinstance(state, tuple) else state
        return self.out(torch.cat([state[-2], state[-1]], 1))  # type: ignore[no-any-return]


def _conv_net(dims: int) -> nn.Module:
    conv: Any = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    norm: Any = {1: nn.BatchNorm1d, 3: nn.BatchNorm3d}[dims]
    pool: Any = {1: nn.MaxPool1d, 3: nn.MaxPool3d}[dims]
    mean: Any = {1: nn.AdaptiveAvgPool1d, 3: nn.AdaptiveAvgPool3d}[dims]
    return nn.Sequential(
        nn.Sequential(conv(3, 16, 3, padding=1), norm(16), nn.ReLU(), pool(2)),
        nn.Sequential(conv(16, 32, 3, padding=1, groups=4), norm(32), nn.ReLU()),
        nn.Sequential(conv(32, 32, 3, padding=1), nn.InstanceNorm3d(32, affine=True) if dims == 3 else norm(32)),
        mean(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def _swin(block: Any = SwinTransformerBlock, **more: Any) -> nn.Module:
    return SwinTransformer([4, 4], 32, [2, 2], [2, 4], [2, 2], num_classes=5, block=block, **more)


@dataclass(frozen=True)
class Named:
    """One network.

    Attributes:
        build: it, with PyTorch's own random weights.
        inputs: ``image``, ``words``, ``frames`` …, a key of :data:`INPUTS`.
        fall: layer to the width it must come to at ratio 0.5, per layer, by L1, in multiples of 4.
        stream: patterns of layers that make what norms look at together; the law of silent channels leaves them whole.
    """

    build: Callable[[], nn.Module]
    inputs: str
    fall: dict[str, int]
    stream: tuple[str, ...] = ()


def _noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


INPUTS = {
    "image": _noise(2, 3, 32, 32),
    "words": torch.randint(0, 30, (2, 10), generator=torch.Generator().manual_seed(0)),
    "frames": _noise(2, 13, 20),
    "vectors": _noise(2, 10, 12),
    "signal": _noise(2, 3, 32),
    "volume": _noise(2, 3, 8, 8, 8),
}

_VIT = "encoder.layers.encoder_layer_0"


def _gates(count: int, layers: int = 2, both: bool = True) -> dict[str, int]:
    ends = ["", "_reverse"] if both else [""]
    return {f"rnn.weight_hh_l{layer}{end}": count * 16 for layer in range(layers) for end in ends}


NETWORKS = {
    "vit": Named(
        lambda: VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5), "image",
        {"conv_proj": 16, f"{_VIT}.self_attention.in_proj_weight": 48, f"{_VIT}.mlp.0": 32}, ("conv_proj",)),
    "swin": Named(
        _swin, "image", {"features.0.0": 16, "features.1.1.attn.qkv": 48, "features.3.0.mlp.0": 128},
        ("features.0.0", "features.2.reduction")),
    "swin v2": Named(
        lambda: _swin(SwinTransformerBlockV2, downsample_layer=PatchMergingV2), "image",
        {"features.0.0": 16, "features.1.1.attn.qkv": 48, "features.3.0.mlp.0": 128},
        ("features.0.0", "features.2.reduction")),
    "encoder": Named(
        Words, "words", {"embedding": 16, "encoder.layers.0.self_attn.in_proj_weight": 48,
                         "encoder.layers.1.linear1": 32}, ("embedding",)),
    "encoder, norm first": Named(
        lambda: Words(norm_first=True, activation="gelu"), "words",
        {"embedding": 16, "encoder.layers.0.self_attn.in_proj_weight": 48, "encoder.layers.1.linear1": 32},
        ("embedding",)),
    "attention": Named(SelfAttention, "vectors", {"first": 16, "attention.in_proj_weight": 48}),
    "attention, fused": Named(
        lambda: SelfAttention(need_weights=False), "vectors", {"first": 16, "attention.in_proj_weight": 48}),
    "attention, sequence first": Named(
        lambda: SelfAttention(batch_first=False), "vectors", {"first": 16, "attention.in_proj_weight": 48}),
    "cross attention": Named(
        lambda: CrossAttention(24), "vectors",
        {"first": 16, "second": 12, "attention.q_proj_weight": 16, "attention.v_proj_weight": 16}),
    "cross attention, one width": Named(lambda: CrossAttention(32), "vectors", {"first": 16, "second": 16}),
    "lstm": Named(lambda: Speech(nn.LSTM), "frames", {"front.0": 12, **_gates(4)}),
    "gru": Named(lambda: Speech(nn.GRU), "frames", {"front.0": 12, **_gates(3)}),
    "rnn": Named(lambda: Speech(nn.RNN), "frames", {"front.0": 12, **_gates(1)}),
    "lstm, one direction": Named(lambda: Speech(nn.LSTM, 1, False), "frames", _gates(4, 1, False)),
    "gru, sequence first": Named(lambda: Speech(nn.GRU, batch_first=False), "frames", _gates(3)),
    "lstm, last state": Named(lambda: LastState(nn.LSTM), "frames", _gates(4)),
    "gru, last state": Named(lambda: LastState(nn.GRU), "frames", _gates(3)),
    "1-D convolutions": Named(lambda: _conv_net(1), "signal", {"0.0": 8, "1.0": 16, "2.0": 16}),
    "3-D convolutions": Named(lambda: _conv_net(3), "volume", {"0.0": 8, "1.0": 16, "2.0": 16}),
    "nin_gc": Named(lambda: nin_gc(width=0.25), "image", {}),
    "shufflenet": Named(
        lambda: ShuffleNetV2([1, 1, 1], [8, 16, 32, 64, 128], num_classes=5), "image",
        {"conv1.0": 4, "conv5.0": 64, "stage2.0.branch1.2": 4}),
}  # fmt: skip


def built(name: str) -> nn.Module:
    """The network with seeded weights, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return NETWORKS[name].build().eval()


def silenced(model: nn.Module, pruned: nn.Module) -> nn.Module:
    """A copy of ``model`` in which everything that makes the channels cut from ``pruned`` is zero.

    Where zeros stay zeros on the way to their readers, it computes what ``pruned`` does; no tracer has part in it.
    """
    quiet = copy.deepcopy(model)
    tensors = {**dict(quiet.named_parameters()), **dict(quiet.named_buffers())}
    for cut in surgery.provenance(pruned).log[-1]["cuts"]:
        tensor = tensors[cut["parameter"]].detach()
        if cut["role"] == "columns" or cut["parameter"].endswith("running_var"):
            continue
        gone = torch.ones(tensor.shape[cut["axis"]], dtype=torch.bool)
        for start, stop in cut["runs"]:
            gone[start:stop] = False
        tensor.index_fill_(cut["axis"], gone.nonzero().flatten(), 0)
    return quiet
