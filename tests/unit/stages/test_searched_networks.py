"""What is cut behind a search is the network that was searched, also where groups are wider than their first layer."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from mcomp.metrics import count
from mcomp.pruning import prune
from mcomp.pruning.repeated import RepeatedPruning

NETWORKS = {
    "packed attention": lambda: pytest.importorskip("timm").create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, depth=1, embed_dim=24, num_heads=3, num_classes=5
    ),
    "concatenation": lambda: torchvision.models.squeezenet1_1(num_classes=5),
    "residual": lambda: torchvision.models.regnet_y_400mf(num_classes=5),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shares_of_groups_cut_what_a_candidate_was(name: str) -> None:
    torch.manual_seed(0)
    model: nn.Module = NETWORKS[name]().eval()
    inputs = (torch.randn(2, 3, 16 if name == "packed attention" else 32, 16 if name == "packed attention" else 32),)
    cuts = RepeatedPruning(model, inputs)
    drawn = torch.rand(len(cuts.layers), generator=torch.Generator().manual_seed(0)) * 0.6 + 0.35
    keep = dict(zip(cuts.layers, drawn.tolist(), strict=True))
    whole, widths = cuts.channels(), cuts.widths(keep)
    shares = {group: width / whole[group] for group, width in widths.items() if width < whole[group]}
    told, once = count(cuts.cut(keep), inputs), prune(model, inputs, keep=shares, importance="l1")
    assert (told.params, told.macs) == (once.params_after, once.macs_after)
    assert cuts.params(keep) == pytest.approx(told.params, abs=0.5)
    assert cuts.macs(keep) == pytest.approx(told.macs, abs=0.5)
