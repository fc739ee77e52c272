"""Quantising what layers make, for engines whose kernels end in integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mcomp
from mcomp.errors import StageError
from mcomp.quantization import calibrate, fold_batch_norms, quantize
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.outputs import quantize_outputs
from tests.unit.deploy.deploy_networks import Residual, images, quantised


class Pools(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pool = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 5, 1), nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        x = torch.cat([self.pool(x), nn.functional.max_pool2d(x, 2)], 1)
        return nn.functional.adaptive_avg_pool2d(torch.relu(self.b(x)), 1).flatten(1)


def complete(model: nn.Module) -> tuple[nn.Module, list[str]]:
    folded = fold_batch_norms(model, (images(2),)).model
    made, names = quantize_outputs(folded)
    calibrate(made, [images()], "minmax")
    return made, [name.removeprefix("activation_quantizers.") for name in names]


def test_the_branches_of_a_residual_sum_get_grids_and_what_is_on_one_gets_no_second() -> None:
    model = quantised(Residual())
    made, names = complete(model)
    assert names == ["second_0", "relu"]  # the raw branch, and the sum behind its ReLU; the stem and the mean had one
    before, after = (set(quantizers(each)) for each in (model, made))
    assert after - before == {"activation_quantizers.second_0", "activation_quantizers.relu"}


def test_pools_and_joins_of_integers_get_grids_but_not_a_mean_that_makes_the_output() -> None:
    _, names = complete(quantised(Pools()))
    assert names == ["relu", "relu_1"]  # the concatenation had one, which is that of its parts


def test_behind_a_relu_the_grid_is_unsigned_and_starts_at_zero() -> None:
    made, _ = complete(quantised(Pools()))
    grid = quantizers(made)["activation_quantizers.relu_1"].qparams()
    assert (grid.qmin, grid.qmax, grid.zero_point) == (0, 255, 0)


def test_a_new_grid_holds_every_value_that_it_was_calibrated_on() -> None:
    made, _ = complete(quantised(Residual()))
    seen: list[Tensor] = []
    site = made.get_submodule("activation_quantizers.second_0")
    site.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    with torch.no_grad():
        made(images())
    grid = quantizers(made)["activation_quantizers.second_0"].qparams()
    scale, zero = float(grid.scale), int(grid.zero_point)
    assert seen[0].min() >= (grid.qmin - zero - 1) * scale
    assert seen[0].max() <= (grid.qmax - zero + 1) * scale


def test_the_incoming_model_is_left_alone() -> None:
    model = quantised(Residual())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = images(3)
    expected = model(x)
    complete(model)
    assert model.state_dict().keys() == before.keys()
    assert torch.equal(model(x), expected)


def test_the_outcome_is_rebuilt_from_its_record(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mcomp.models.build("nin", width=0.1)
    x = torch.randn(4, 3, 8, 8)
    made = quantize(model, (x,), scheme="iao", calibration=[x]).eval()
    made, names = quantize_outputs(fold_batch_norms(made, (x,)).model)
    calibrate(made, [x], "minmax")
    assert names
    mcomp.save_model(made, tmp_path / "m", (x,))
    assert torch.equal(mcomp.load_model(tmp_path / "m")(x), made(x))


def test_a_float_layer_ends_in_float() -> None:
    model = quantised(Residual(), skip=["second.0"])
    _, names = complete(model)
    assert "second_0" not in names


def test_a_model_without_a_graph_is_refused() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if float(x.sum()) > 0 else -self.layer(x)

    model = quantize(Branching().eval(), (images(2),), route="modules", scheme="iao", calibration=[images()])
    with pytest.raises(StageError, match="cannot be traced"):
        quantize_outputs(model)
