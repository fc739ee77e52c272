"""Encoders that are given padded sequences: PyTorch packs these into nested tensors, which cut layers cannot read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcomp import surgery
from mcomp.pruning import prune
from mcomp.pruning.attention import free_attention
from mcomp.pruning.channel_surgery import cut_channels, restored
from tests.unit.pruning.named_nets import silenced

# PyTorch's own, of the whole encoder
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")

SEQUENCE = torch.randn(2, 6, 24, generator=torch.Generator().manual_seed(0))
PADDING = torch.zeros(2, 6, dtype=torch.bool)
PADDING[0, 4:] = True


class Reader(nn.Module):
    """The first position of an encoded sequence, which may be padded, to five scores."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.0, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(24, 5)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.out(self.encoder(x, src_key_padding_mask=padding)[:, 0])  # type: ignore[no-any-return]


@pytest.fixture
def reader() -> Reader:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Reader().eval()


@pytest.mark.parametrize("inputs", [(SEQUENCE,), (SEQUENCE, PADDING)], ids=["without a mask", "with one"])
def test_a_pruned_encoder_takes_padding_and_computes_what_the_whole_one_does(reader: Reader, inputs: Any) -> None:
    result = prune(reader, inputs, 0.5, importance="l1", scope="per_layer")
    assert "encoder.layers.0.self_attn.in_proj_weight" in result.kept
    twin = silenced(reader, result.model)
    with torch.no_grad():  # the whole one runs on nested tensors here
        torch.testing.assert_close(result.model.eval()(SEQUENCE, PADDING), twin.eval()(SEQUENCE, PADDING))
    torch.testing.assert_close(result.model.train()(SEQUENCE, PADDING), twin.train()(SEQUENCE, PADDING))


def test_a_pruned_encoder_takes_padding_when_its_log_is_replayed(reader: Reader) -> None:
    result = prune(reader, (SEQUENCE,), 0.5, importance="l1", scope="per_layer")
    rebuilt = surgery.replay(Reader(), surgery.provenance(result.model).log[-1], ()).eval()
    rebuilt.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(SEQUENCE, PADDING), result.model.eval()(SEQUENCE, PADDING))


def test_surgery_that_is_undone_gives_an_encoder_its_nested_tensors_back(reader: Reader) -> None:
    result = prune(reader, (SEQUENCE,), 0.5, importance="l1", scope="per_layer")
    assert (reader.encoder.use_nested_tensor, result.model.encoder.use_nested_tensor) == (True, False)  # type: ignore
    with restored(reader):
        free_attention(reader)
        assert not reader.encoder.use_nested_tensor
    assert reader.encoder.use_nested_tensor
    assert reader.encoder.enable_nested_tensor


def test_an_encoder_whose_attention_stays_keeps_its_nested_tensors(reader: Reader) -> None:
    result = prune(reader, (SEQUENCE, PADDING), 0.5, importance="l1", ignore=["*.self_attn*"])
    assert result.model.encoder.use_nested_tensor  # type: ignore[union-attr]
    assert cut_channels(reader, []) is reader
    with torch.no_grad():
        torch.testing.assert_close(
            result.model.eval()(SEQUENCE, PADDING), silenced(reader, result.model).eval()(SEQUENCE, PADDING)
        )
