from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.quantization import calibrate
from mcomp.quantization.layers import QuantConv2d
from mcomp.quantization.quantizers import AffineQuantizer, LSQPlusQuantizer, LSQuantizer, PACTQuantizer
from mcomp.quantization.quantizers.base import Quantizer


class Branches(nn.Module):
    """Three quantisers of which the last never runs, and a weight that gets its range from calibration too."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.read, self.written, self.never = make(), make(), make()
        self.layer = QuantConv2d(3, 4, 3, scheme="lsq", a_bits=32)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.written(self.layer(self.read(x)))
        return made


def _per_channel() -> Quantizer:
    return AffineQuantizer(8, False, 1, "minmax")


@pytest.mark.parametrize("make", [LSQuantizer, LSQPlusQuantizer, PACTQuantizer, _per_channel])
def test_a_calibration_that_fails_sets_no_range_at_all(make: Any) -> None:
    torch.manual_seed(0)
    model = Branches(make)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with pytest.raises(StageError, match="never"):
        calibrate(model, [torch.randn(2, 3, 8, 8)])
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    made = [each for each in model.modules() if isinstance(each, Quantizer) and each.bits != 32]
    assert not any(each.ready for each in made)


def test_a_calibration_may_be_tried_again() -> None:
    torch.manual_seed(0)
    model, x = Branches(_per_channel), torch.randn(2, 3, 8, 8)
    with pytest.raises(StageError):
        calibrate(model, [x])
    model.never = nn.Identity()
    assert calibrate(model, [x]) == ["read", "written"]
    assert torch.isfinite(model.eval()(x)).all()
