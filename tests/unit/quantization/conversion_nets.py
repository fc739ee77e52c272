"""Networks of every construction that conversion has to cope with, each small, seeded and float."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.unit.quantization.quantization_nets import Residual


class Function(nn.Module):
    """Layers by name and one function that calls them."""

    def __init__(self, function: Callable[[Any, Any], Any], **layers: Any) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class HandWrittenAttention(nn.Module):
    """One linear layer makes queries, keys and values; softmax and products by hand, or torch's own function."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        qkv = self.qkv(x).reshape(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = self.drop((q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(-1)) @ v
        return self.out(y.transpose(1, 2).reshape(n, length, width))


class HandWrittenTransformer(nn.Module):
    """Two blocks with layer norms in front, a learned position and a class token."""

    def __init__(self, fused: bool = False, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Linear(12, width)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, width)), nn.Parameter(torch.randn(1, 7, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attention = nn.ModuleList(HandWrittenAttention(width, 4, fused) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1) + self.place
        for index, (attention, mlp) in enumerate(zip(self.attention, self.mlp, strict=True)):
            x = x + attention(self.norms[2 * index](x))
            x = x + mlp(self.norms[2 * index + 1](x))
        return self.head(x[:, 0])


class Encoder(nn.Module):
    """``nn.TransformerEncoder`` between an embedding and a classifier; tokens ``[batch, length]``."""

    def __init__(self, norm_first: bool, batch_first: bool, activation: str = "relu") -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embed = nn.Embedding(20, 32, padding_idx=0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, activation, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(32), enable_nested_tensor=False)
        self.head = nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        if not self.batch_first:
            return self.head(self.encoder(x.transpose(0, 1), src_key_padding_mask=tokens == 0).mean(0))
        return self.head(self.encoder(x, src_key_padding_mask=tokens == 0).mean(1))


class Translator(nn.Module):
    """``nn.Transformer`` with a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 32)
        self.core = nn.Transformer(32, 4, 1, 2, 64, batch_first=True, dropout=0.1)
        self.head = nn.Linear(32, 20)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        mask = torch.full((tokens.shape[1], tokens.shape[1]), float("-inf"), device=x.device).triu(1)
        return self.head(self.core(x, x, tgt_mask=mask))


class Recurrent(nn.Module):
    """Tokens, a recurrent layer of two levels both ways, and a classifier on the last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.core = kind(16, 24, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1)  # type: ignore[call-arg]
        self.head = nn.Linear(48, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.core(self.embed(tokens))
        return self.head(out.mean(1))


class Steps(nn.Module):
    """A bag of tokens starts a cell that is stepped by a loop, and a bilinear form reads both."""

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.bag, self.embed = nn.EmbeddingBag(20, 16), nn.Embedding(20, 16)
        self.cell = kind(16, 16)  # type: ignore[call-arg]
        self.form = nn.Bilinear(16, 16, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        bag = self.bag(tokens)
        state = (bag, bag) if isinstance(self.cell, nn.LSTMCell) else bag
        x = self.embed(tokens)
        for step in range(4):
            state = self.cell(x[:, step], state)
        return self.form(state[0] if isinstance(state, tuple) else state, bag)


class UNet(nn.Module):
    """Skip connections by cat, an interpolation and a transposed convolution with groups and output padding."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 16, 3, stride=2, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.mix = nn.Conv2d(16, 8, 3, padding=1)
        self.last = nn.ConvTranspose2d(8, 3, 2, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.norm(self.down(x)))
        y = F.relu(self.deep(skip))
        y = torch.cat([F.interpolate(self.up(y), size=skip.shape[-2:], mode="bilinear"), skip], 1)
        return self.last(F.leaky_relu(self.mix(y)))


class DenseBlock(nn.Module):
    """Batch norm and ReLU in front of each convolution, everything concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 4 * index) for index in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 4 * index, 4, 3, padding=1, bias=False) for index in range(3))
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return self.head(F.adaptive_avg_pool2d(F.relu(x), 1).flatten(1))


class BareParameters(nn.Module):
    """No layer at all: convolutions and products with parameters of the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.back = nn.Parameter(torch.randn(8, 4, 2, 2) / 5)
        self.matrix = nn.Parameter(torch.randn(4, 6) / 2)
        self.rows = nn.Parameter(torch.randn(5, 6) / 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, self.kernel, stride=2, padding=1))
        y = F.relu(F.conv_transpose2d(y, self.back, stride=2)).mean((2, 3))
        return F.linear(F.relu(y @ self.matrix), self.rows)


class Branches(nn.Module):
    """Control flow that depends on values: no graph holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(8), nn.Dropout(0.5)
        self.deep = nn.Conv2d(8, 8, 3, padding=1)
        self.core = nn.LSTM(8, 8, batch_first=True)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)
        self.matrix = nn.Parameter(torch.randn(5, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.stem(x)))
        if y.mean() > -1:
            y = F.relu(self.deep(y))
        y = self.attention(self.core(y.flatten(2).transpose(1, 2))[0])
        return torch.matmul(self.head(self.drop(y.mean(1))), self.matrix)


def _images(count: int) -> Tensor:
    return torch.randn(count, 3, 12, 12)


def _tokens(count: int) -> Tensor:
    tokens = torch.randint(1, 20, (count, 9))
    tokens[:, -1] = 0
    return tokens


def _volumes(count: int) -> Tensor:
    return torch.randn(count, 2, 6, 6, 6)


def _rows(count: int) -> Tensor:
    return torch.randn(count, 6, 12)


@dataclass(frozen=True)
class Case:
    """A network, its inputs by batch size, the least SQNR at W8A8, and the route it has to take."""

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor] = _images
    sqnr: float = 25.0
    route: str = "symbolic"


def _shared() -> nn.Module:
    return Function(
        lambda net, x: net.head(F.relu(net.twice(F.relu(net.twice(F.relu(net.stem(x)))))).mean((2, 3))),
        stem=nn.Conv2d(3, 8, 3),
        twice=nn.Conv2d(8, 8, 3, padding=1),
        head=nn.Linear(8, 5),
    )


def _tied() -> nn.Module:
    """A table that is looked up as a layer and multiplied with as a bare weight."""
    return Function(
        lambda net, tokens: F.linear(torch.tanh(net.core(net.table(tokens))), net.table.weight),
        table=nn.Embedding(20, 16),
        core=nn.Linear(16, 16),
    )


def _structured() -> nn.Module:
    return Function(
        lambda net, x: {
            "classes": net.head(net.drop(net.stem(x).relu().mean((2, 3)))),
            "maps": (net.stem(x), x.shape[0]),
        },
        stem=nn.Conv2d(3, 8, 3),
        drop=nn.Dropout(0.2),
        head=nn.Linear(8, 5),
    )


def _value_dependent_shape() -> nn.Module:
    """``torch.fx`` stops at the loop over a shape, ``torch.export`` does not."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.drop(F.relu(net.norm(net.stem(x))))
        rows = [net.head(y[:, :, index].mean(-1)) for index in range(y.shape[2])]
        return torch.stack(rows).mean(0)

    return Function(
        forward, stem=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), drop=nn.Dropout(0.2), head=nn.Linear(8, 5)
    )


class Computed(nn.Module):
    """Weights that forward() computes: standardised, taken from a stack, transposed, and by a parametrisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.stack, self.rows = nn.Parameter(torch.randn(2, 8, 8) / 3), nn.Parameter(torch.randn(6, 8) / 3)
        self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.stem.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        y = F.relu(F.conv2d(x, weight, self.stem.bias)).mean((2, 3))
        return self.normed(F.relu(torch.einsum("nc,cd->nd", y, self.stack[1]) @ self.rows.t()))


def _exported_attention() -> nn.Module:
    """The composite layers of torch.nn as ``torch.export`` takes them apart."""

    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.embed(x)
        for _ in range(int(y.shape[1] > 3)):
            y = net.encoder(y)
        return net.head(net.core(y)[0][:, -1])

    return Function(
        forward,
        embed=nn.Linear(12, 16),
        encoder=nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        core=nn.GRU(16, 16, batch_first=True),
        head=nn.Linear(16, 5),
    )


CASES: dict[str, Case] = {
    "attention_by_hand": Case(HandWrittenTransformer, _rows),
    "attention_function": Case(lambda: HandWrittenTransformer(fused=True), _rows),
    **{
        f"encoder_{'pre' if norm_first else 'post'}_{'batch' if batch_first else 'length'}_first": Case(
            lambda norm_first=norm_first, batch_first=batch_first: Encoder(norm_first, batch_first), _tokens
        )
        for norm_first in (False, True)
        for batch_first in (False, True)
    },
    "translator": Case(Translator, _tokens),
    "lstm": Case(lambda: Recurrent(nn.LSTM), _tokens),
    "gru": Case(lambda: Recurrent(nn.GRU), _tokens),
    "rnn": Case(lambda: Recurrent(nn.RNN), _tokens),
    "lstm_cell": Case(lambda: Steps(nn.LSTMCell), _tokens, route="export"),
    "gru_cell": Case(lambda: Steps(nn.GRUCell), _tokens),
    "rnn_cell": Case(lambda: Steps(nn.RNNCell), _tokens),
    "unet": Case(UNet),
    "dense_block": Case(DenseBlock),
    "shared_relu": Case(Residual),
    "bare_parameters": Case(BareParameters),
    "shared_layer": Case(_shared),
    "tied_weight": Case(_tied, _tokens),
    "computed_weights": Case(Computed),
    "structured_output": Case(_structured),
    "volumes": Case(
        lambda: nn.Sequential(
            nn.Conv3d(2, 8, 3, padding=1),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.ConvTranspose3d(8, 4, 2, stride=2),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(4, 5),
        ),
        _volumes,
    ),
    "signals": Case(
        lambda: nn.Sequential(
            nn.Conv1d(6, 8, 3, padding=1, padding_mode="replicate"),
            nn.BatchNorm1d(8),
            nn.Hardswish(),
            nn.ConvTranspose1d(8, 4, 4, stride=2, dilation=2),
            nn.ReLU6(),
            nn.Flatten(),
            nn.Linear(4 * 29, 5),
        ),
        _rows,
    ),
    "depthwise": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 3, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 16, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        )
    ),
    "padding_and_pools": Case(
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=2, dilation=2, padding_mode="reflect"),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, ceil_mode=True),
            nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
            nn.SiLU(),
            nn.AvgPool2d(4, stride=3, ceil_mode=True, count_include_pad=False),
            nn.Flatten(),
            nn.Linear(32, 5),
        )
    ),
    "loop_over_a_shape": Case(_value_dependent_shape, route="export"),
    "exported_attention": Case(_exported_attention, _rows, route="export"),
    "control_flow": Case(Branches, sqnr=20.0, route="modules"),
}


def build(name: str) -> nn.Module:
    """The network of a case, in eval mode, its batch norms warm."""
    torch.manual_seed(0)
    model = CASES[name].build()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        model.train()(CASES[name].inputs(16))
    return model.eval()
