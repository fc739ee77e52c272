from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp import surgery
from mcomp.errors import StageError, UsageError
from mcomp.quantization import QuantConv2d, QuantLinear, calibrate, freeze, quantize
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.summary import describe, float_layers, quantized_layers
from tests.unit.quantization.quantization_nets import Residual, batch, chain, warm


def ready(model: nn.Module, **options: Any) -> nn.Module:
    quantised = quantize(model, (batch(),), **options)
    calibrate(quantised, [batch(16)])
    return quantised


def near(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


class Stepwise(nn.Module):
    """A model made of one function, for graphs that need only a line."""

    def __init__(self, function: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


@pytest.mark.parametrize("build", [chain, Residual])
@pytest.mark.parametrize("options", [{}, {"per_channel": True}, {"levels": 127}, {"first_layer_float": False}])
def test_eight_bits_keep_the_output_of_a_float_model(build: Any, options: dict[str, Any]) -> None:
    model = warm(build())
    quantised = ready(model, **options).eval()
    assert near(quantised(batch(seed=9)), model(batch(seed=9))) < 0.05


def test_sixteen_bits_are_next_to_exact() -> None:
    model = warm(Residual())
    assert near(ready(model, w_bits=16, a_bits=16).eval()(batch()), model(batch())) < 2e-3


def test_the_input_model_is_not_changed() -> None:
    model = warm(Residual())
    before = copy.deepcopy(model.state_dict())
    training = [module.training for module in model.modules()]
    ready(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == training
    assert not any(isinstance(module, QuantConv2d) for module in model.modules())


def test_one_quantiser_per_tensor_and_all_readers_share_it() -> None:
    quantised = quantize(warm(Residual()), (batch(),))
    # stem's relu (read by `first` and by the add), the inner relu, the sum's relu in front of pool and flatten
    assert len(quantizers(quantised)) == 3
    graph: Any = quantised.graph
    for node in graph.nodes:
        if node.op == "call_module" and str(node.target).startswith("activation_quantizers"):
            assert len(node.all_input_nodes[0].users) == 1


def test_the_first_layer_and_its_input_stay_float_by_default() -> None:
    quantised = quantize(warm(chain()), (batch(),))
    assert list(float_layers(quantised)) == ["0"]
    assert "first layer" in float_layers(quantised)["0"]
    assert not any("input" in name for name in quantizers(quantised))
    signs = [
        module.signed for module in quantizers(quantize(warm(chain()), (batch(),), first_layer_float=False)).values()
    ]
    assert signs == [True, False, False, False]


def test_patterns_skip_layers_and_set_bits() -> None:
    quantised = quantize(
        warm(Residual()),
        (batch(),),
        skip=["he*"],
        overrides={"first": {"w_bits": 4, "a_bits": 6}, "stem": {"w_bits": 5}},
    )
    layers: dict[str, Any] = quantized_layers(quantised)
    assert {name: layer.weight_quantizer.bits for name, layer in layers.items()} == {"stem": 5, "first": 4, "second": 8}
    assert float_layers(quantised) == {"head": "skip `he*`"}
    assert [module.bits for module in quantizers(quantised).values()] == [8, 6, 8]


def test_weights_only_and_activations_only() -> None:
    model = warm(chain())
    assert quantizers(quantize(model, (batch(),), a_bits=32)) == {}
    activations = quantize(model, (batch(),), w_bits=32)
    assert len(quantizers(activations)) == 3
    assert quantized_layers(activations) == {}
    assert "w_bits is 32" in float_layers(activations)["3"]


def test_options_of_a_replaced_layer_survive() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, (3, 1), stride=(2, 1), padding=(2, 0), dilation=(2, 1), groups=2, padding_mode="reflect"),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding="same", bias=False),
    ).eval()
    x = torch.rand(2, 4, 9, 9)
    quantised = quantize(model, (x,), w_bits=16, a_bits=16, first_layer_float=False)
    calibrate(quantised, [x])
    assert near(quantised(x), model(x)) < 1e-3
    assert quantised.get_submodule("0").padding_mode == "reflect"


def test_one_dimensional_convolutions_are_quantised() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 4, 3)).eval()
    x = torch.rand(2, 2, 12)
    quantised = quantize(model, (x,), calibration=[x])
    assert list(quantized_layers(quantised)) == ["2"]
    assert near(quantised(x), model(x)) < 0.03


def test_the_sign_of_a_tensor_is_read_from_the_graph() -> None:
    conv = {"a": nn.Conv2d(3, 3, 1), "b": nn.Conv2d(3, 3, 1)}

    def signed(between: Any) -> bool:
        model = Stepwise(lambda net, x: net.b(between(net.a(x))), **conv).eval()
        (found,) = quantizers(quantize(model, (batch(),))).values()
        return found.signed

    unsigned = (
        F.relu,
        F.relu6,
        torch.sigmoid,
        lambda x: F.avg_pool2d(F.relu(x), 2),
        lambda x: F.hardtanh(x, 0, 6),
        lambda x: F.relu(x) + F.relu(-x) + 1,
        lambda x: torch.cat([F.relu(x), x.abs()], 2),
        lambda x: F.relu(x).view(x.size(0), 3, -1, 1),
        lambda x: F.interpolate(F.relu(x), scale_factor=2.0),
        lambda x: F.pad(F.relu(x), (1, 1)),
        lambda x: x.clamp(min=0),
        lambda x: F.relu(x).chunk(1, 1)[0],
    )
    signs = (
        lambda x: x,
        F.gelu,
        F.silu,
        F.hardswish,
        torch.tanh,
        lambda x: F.relu(x) + x,
        lambda x: F.relu(x) * -2,
        lambda x: F.relu(x) - 1,
        lambda x: F.pad(F.relu(x), (1, 1), value=-1.0),
        lambda x: x.clamp(min=-1),
        lambda x: F.leaky_relu(x, 0.1),
    )
    assert [signed(between) for between in unsigned] == [False] * len(unsigned)
    assert [signed(between) for between in signs] == [True] * len(signs)


def test_a_shuffle_is_crossed_so_that_no_shape_operation_stands_between_two_grids() -> None:
    def shuffled(net: Stepwise, x: Tensor) -> Tensor:
        y = F.relu(net.a(x))
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return net.b(y).flatten(1)

    model = Stepwise(shuffled, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 4, 1, groups=2)).eval()
    quantised: Any = ready(model)
    (name,) = quantizers(quantised)
    node = next(node for node in quantised.graph.nodes if node.target == name)
    assert node.all_input_nodes[0].name == "a"  # straight behind the layer: the quantiser applies its ReLU
    assert near(quantised(batch()), model(batch())) < 0.03


def test_a_layer_called_twice_is_quantised_in_both_places() -> None:
    model = Stepwise(lambda net, x: net.a(F.relu(net.a(x))), a=nn.Conv2d(3, 3, 1)).eval()
    quantised = ready(model, first_layer_float=False)
    assert len(quantizers(quantised)) == 2
    assert near(quantised(batch()), model(batch())) < 0.03


def test_tied_weights_stay_tied() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)).eval()
    model[4].weight = model[2].weight
    quantised = quantize(model, (batch(),))
    assert quantised.get_submodule("4").weight is quantised.get_submodule("2").weight


def test_functional_dropout_follows_train_and_eval() -> None:
    model = Stepwise(
        lambda net, x: net.b(F.dropout(F.relu(net.a(x)), 0.5, net.training)), a=nn.Conv2d(3, 3, 1), b=nn.Conv2d(3, 3, 1)
    ).eval()
    quantised = ready(model)
    assert near(quantised.eval()(batch()), model(batch())) < 0.03
    quantised.train()
    assert not torch.equal(quantised(batch()), quantised(batch()))


def test_layers_that_stay_float_are_named_with_the_reason() -> None:
    class Own(nn.Conv2d):
        """Its weight meets the input in a function that nobody knows."""

        def forward(self, input: Tensor) -> Tensor:
            return torch.nn.functional.unfold(input, 1) * self.weight.sum()

    layers = {"first": nn.Conv2d(3, 4, 1), "own": Own(4, 4, 1), "hooked": nn.Conv1d(4, 4, 1), "aux": nn.Linear(3, 3)}
    layers["hooked"].register_forward_hook(lambda *_: None)
    model = Stepwise(lambda net, x: net.hooked(net.own(net.first(x))), **layers)
    why = float_layers(quantize(model.eval(), (batch(),), route="symbolic", first_layer_float=False))
    assert why["own"] == "its weight goes into the function `sum`"
    assert why["hooked"] == "it has forward hooks"
    assert "eval mode" in why["aux"]


def test_an_untraceable_model_is_refused_with_the_users_own_line() -> None:
    def branches(net: Stepwise, x: Tensor) -> Tensor:
        y = net.a(x)
        if y.sum() > 0:
            return y
        return -y

    with pytest.raises(StageError, match=r"test_conversion\.py:\d+: `if y\.sum\(\) > 0:`") as caught:
        quantize(Stepwise(branches, a=nn.Conv2d(3, 3, 1)), (batch(),), route="symbolic")
    assert caught.value.code == "MC420"
    assert "control flow" in caught.value.why
    with pytest.raises(StageError, match=r"test_conversion\.py:\d+: `if y\.sum\(\) > 0:`") as caught:
        quantize(Stepwise(branches, a=nn.Conv2d(3, 3, 1)), (batch(),), route="export")
    assert caught.value.code == "MC420"


def test_a_graph_that_froze_a_changing_value_is_refused() -> None:
    count = iter(range(100))
    with pytest.raises(StageError, match="computes something else"):
        quantize(Stepwise(lambda net, x: net.a(x) * next(count), a=nn.Conv2d(3, 3, 1)), (batch(),), route="symbolic")


def test_patterns_that_match_nothing_are_refused_with_a_guess() -> None:
    with pytest.raises(StageError, match="matches no layer") as caught:
        quantize(warm(Residual()), (batch(),), skip=["haed"])
    assert "`head`" in caught.value.hint


@pytest.mark.parametrize(
    "options",
    [
        {"w_bits": 1},
        {"a_bits": 0},
        {"w_bits": 33},
        {"a_bits": True},
        {"scheme": "dorefo"},
        {"levels": 0},
        {"variant": "paperr"},
        {"overrides": {"head": {"bits": 4}}},
        {"overrides": {"head": {"w_bits": 1}}},
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        quantize(warm(Residual()), (batch(),), **options)


def test_a_quantised_model_is_not_quantised_again() -> None:
    with pytest.raises(StageError, match="quantised already"):
        quantize(ready(warm(chain())), (batch(),))


def test_the_first_step_of_training_starts_from_the_float_models_loss() -> None:
    model = warm(Residual())
    quantised = ready(model).train()
    x, y = batch(16), torch.arange(16) % 5
    expected = F.cross_entropy(model.train()(x), y)
    torch.testing.assert_close(F.cross_entropy(quantised(x), y), expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("variant", ["int_exact", "paper", "micronet"])
def test_every_variant_trains(variant: str) -> None:
    quantised = ready(warm(Residual()), variant=variant, w_bits=4, a_bits=4).train()
    optimizer = torch.optim.SGD(quantised.parameters(), lr=0.02)
    x, y = batch(16), torch.arange(16) % 5
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(quantised(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    gradients = {name for name, parameter in quantised.named_parameters() if parameter.grad is not None}
    assert gradients == {name for name, _ in quantised.named_parameters()}


def test_a_bfloat16_channels_last_step_runs_and_is_close() -> None:
    quantised = ready(warm(Residual())).train()
    x, y = batch(16), torch.arange(16) % 5
    expected = F.cross_entropy(quantised(x), y)
    quantised = quantised.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output = quantised(x.contiguous(memory_format=torch.channels_last))
    loss = F.cross_entropy(output.float(), y)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.01)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in quantised.parameters())


def test_provenance_and_bits_survive_deepcopy() -> None:
    quantised = ready(warm(Residual()))
    copied = copy.deepcopy(quantised)
    assert surgery.provenance(copied).log == surgery.provenance(quantised).log
    assert surgery.provenance(copied) is not surgery.provenance(quantised)
    assert torch.equal(copied(batch()), quantised(batch()))
    assert surgery.provenance(copy.copy(quantised)).log


def test_a_state_dict_carries_ranges_and_whether_they_are_known() -> None:
    model = warm(Residual())
    trained, fresh = ready(model), quantize(model, (batch(),))
    fresh.load_state_dict(trained.state_dict())
    assert calibrate(fresh, []) == []
    assert torch.equal(fresh.eval()(batch()), trained.eval()(batch()))


def test_eval_never_changes_state() -> None:
    quantised = ready(warm(Residual())).eval()
    before = copy.deepcopy(quantised.state_dict())
    quantised(batch(seed=7))
    assert all(torch.equal(before[key], value) for key, value in quantised.state_dict().items())


def test_calibration_touches_only_ranges_that_are_not_known() -> None:
    quantised = quantize(warm(Residual()), (batch(),))
    names = list(quantizers(quantised))
    quantizers(quantised)[names[1]].set_clip(0.5)
    assert calibrate(quantised.train(), [batch(), (batch(), torch.zeros(4))], "percentile") == [names[0], names[2]]
    assert quantizers(quantised)[names[1]].clip == pytest.approx(0.5)
    assert quantised.training
    assert calibrate(quantised, [batch()]) == []


@pytest.mark.parametrize("poison", [float("inf"), float("nan")])
def test_calibration_refuses_data_that_are_not_numbers_and_sets_nothing(poison: float) -> None:
    quantised = quantize(warm(chain()), (batch(),))
    with pytest.raises(StageError, match="inf or nan at `activation_quantizers"):
        calibrate(quantised, [batch(), batch() * poison])
    assert not any(module.ready for module in quantizers(quantised).values())


def test_calibration_without_data_is_refused_and_a_wrong_method_before_the_data_runs() -> None:
    quantised = quantize(warm(chain()), (batch(),))
    with pytest.raises(StageError, match="saw no data"):
        calibrate(quantised, [])
    with pytest.raises(UsageError):
        calibrate(quantised, iter([1]), "median")  # type: ignore[arg-type,list-item]


def test_freezing_needs_known_ranges() -> None:
    quantised = quantize(warm(chain()), (batch(),))
    with pytest.raises(StageError, match="no range to freeze"):
        freeze(quantised)
    calibrate(quantised, [batch()])
    assert freeze(quantised) is quantised


def test_the_table_names_every_weight_and_tensor_once() -> None:
    rows = describe(ready(warm(Residual())))
    assert [row["name"] for row in rows if row["kind"] == "weight"] == ["first", "second", "head", "stem"]
    assert sum(row["kind"] == "activation" for row in rows) == 3
    assert all(row["scale"] for row in rows if row["bits"] < 32)


class TestKeptWeight:
    """The quantised weight is computed once in eval mode, and never served stale."""

    def layer(self) -> QuantLinear:
        found = ready(warm(chain())).eval().get_submodule("11")
        assert isinstance(found, QuantLinear)
        return found

    def test_it_is_kept_while_nothing_changes(self) -> None:
        layer = self.layer()
        with torch.no_grad():
            assert layer.quantized_weight() is layer.quantized_weight()

    def test_it_follows_every_kind_of_change(self) -> None:
        layer = self.layer()
        with torch.no_grad():
            for change in (
                lambda: layer.weight.mul_(2),
                lambda: layer.load_state_dict({**layer.state_dict(), "weight": layer.weight * 3}),
                lambda: (layer.weight.data.mul_(5), layer.train().eval()),
                lambda: setattr(layer, "weight", nn.Parameter(layer.weight * 7)),
            ):
                layer.quantized_weight()
                change()
                assert torch.equal(layer.quantized_weight(), layer.weight_quantizer(layer.weight))

    def test_a_backward_pass_after_inference_mode_works(self) -> None:
        layer = self.layer()
        with torch.inference_mode():
            layer.quantized_weight()
        layer.weight.requires_grad_(False)
        x = torch.rand(2, 8, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad is not None

    def test_gradients_reach_the_weight_in_eval_mode(self) -> None:
        layer = self.layer()
        layer(torch.rand(2, 8)).sum().backward()
        assert layer.weight.grad is not None
