"""A tensor that several readers share: what is done to it for one of them changes nothing for the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.errors import StageError
from mcomp.quantization import calibrate, conversion, describe, quantize, sensitivity
from mcomp.quantization.bypass import bypassed
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.modules import relative_error
from mcomp.quantization.summary import float_layers
from tests.unit.quantization.conversion_nets import Function


def network(forward: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(3, 8, 3, padding=1), "a": nn.Conv2d(8, 8, 3, padding=1), "b": nn.Conv2d(8, 8, 1)}
    return Function(forward, **layers, act=nn.ReLU(inplace=True), act6=nn.ReLU6(), head=nn.Linear(8, 5)).eval()


def ended(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(x.mean((2, 3)))
    return out


def images() -> Tensor:
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def shortcut(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.stem(x))
    return ended(net, net.a(x) + x)


def in_place(net: Any, x: Tensor) -> Tensor:
    x = net.act(net.stem(x))
    return ended(net, net.a(x) + x)


def behind_a_pool(net: Any, x: Tensor) -> Tensor:
    x = F.max_pool2d(net.act(net.stem(x)), 2)
    return ended(net, net.a(x) + net.b(x) + x)


def six(net: Any, x: Tensor) -> Tensor:
    x = net.act6(4 * net.stem(x))
    return ended(net, net.a(x) + x)


def alone(net: Any, x: Tensor) -> Tensor:
    return ended(net, net.b(net.a(F.max_pool2d(net.act6(4 * net.stem(x)), 2))))


NETS = (shortcut, in_place, behind_a_pool, six, alone)


def apart(model: nn.Module, quantised: nn.Module, x: Tensor) -> float:
    with torch.no_grad(), bypassed(quantised):
        return relative_error(quantised.eval()(x), model(x))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("forward", NETS)
def test_a_sign_takes_a_relu_from_nobody_else(forward: Callable[[Any, Tensor], Tensor], scaled: bool) -> None:
    model, x = network(forward), images()
    quantised = quantize(model, (x,), scheme="wbwtab", input_scale=scaled, calibration=[x])
    assert apart(model, quantised, x) < 1e-6


def test_a_layer_with_an_input_scale_reads_what_comes_before_its_relu() -> None:
    quantised: Any = quantize(network(behind_a_pool), (images(),), scheme="wbwtab", input_scale=True)
    seen: list[Tensor] = []
    for name in ("a", "b"):
        quantised.get_submodule(name).register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    quantised(images())
    assert seen[0] is seen[1], "one pool for both"
    assert float(seen[0].detach().min()) < 0


def test_sensitivity_counts_from_the_float_network() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return ended(net, net.b(net.a(F.avg_pool2d(F.relu(net.stem(x)), 2))))

    model, x = network(forward), images()
    quantised = quantize(model, (x,), scheme="wbwtab", calibration=[x])
    assert apart(model, quantised, x) > 0.01, "a ReLU in front of an average is gone for good"
    assert sensitivity(quantised, (x,), [(x, model(x).argmax(1))]).float_top1 == 100


def through_a_view(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    flat = F.relu(x.flatten(2), inplace=True)
    return ended(net, net.b(flat.unflatten(2, (8, 8)))) + x.mean((2, 3))[:, :5]


def through_a_sum(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    same = x.add_(1)
    return ended(net, net.b(net.act(same))) + x.mean((2, 3))[:, :5]


def of_a_view(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    flat = x.flatten(2)
    return ended(net, net.b(net.act(x))) + flat.mean(2)[:, :5]


@pytest.mark.parametrize("scheme", ["iao", "lsq"])
@pytest.mark.parametrize("forward", [through_a_view, through_a_sum, of_a_view])
def test_a_relu_in_place_stays_where_its_work_is_seen(forward: Callable[[Any, Tensor], Tensor], scheme: str) -> None:
    model, x = network(forward), images()
    quantised = quantize(model, (x,), scheme=scheme, route="symbolic", calibration=[x])
    assert apart(model, quantised, x) < 1e-6
    assert not any(quantizer.relu for quantizer in quantizers(quantised).values())


def pooled_copy(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    return ended(net, net.b(net.act(F.max_pool2d(x, 2)))) + x.mean((2, 3))[:, :5]


def read_before(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    y = x.mean((2, 3))[:, :5]
    return ended(net, net.b(net.act(x))) + y


@pytest.mark.parametrize("forward", [pooled_copy, read_before])
def test_a_relu_in_place_that_nobody_sees_goes_into_the_quantiser(forward: Callable[[Any, Tensor], Tensor]) -> None:
    model, x = network(forward), images()
    quantised = quantize(model, (x,), scheme="iao", route="symbolic", calibration=[x])
    assert apart(model, quantised, x) < 1e-6
    assert any(quantizer.relu for quantizer in quantizers(quantised).values())


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
def test_what_a_resizing_may_overshoot_is_signed_however_its_mode_is_written(mode: str) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return ended(net, net.a(F.interpolate(F.relu(net.stem(x)), None, 2, mode)))

    x = images()
    made = quantize(network(forward), (x,), scheme="iao", route="symbolic", calibration=[x])
    signed = [quantizer.signed for name, quantizer in quantizers(made).items() if "interpolate" in name]
    assert signed == [mode == "bicubic"]


def test_a_conversion_that_changes_more_than_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "is_free_relu", lambda _node, _modules: True)
    with pytest.raises(StageError, match="would change more than its precision") as refused:
        quantize(network(through_a_view), (images(),), scheme="iao", route="symbolic")
    assert refused.value.code == "MC420"


def averaged(net: Any, x: Tensor) -> Tensor:
    return ended(net, net.b(net.a(F.avg_pool2d(F.relu(net.stem(x)), 2))))


@pytest.mark.parametrize("options", [{"scheme": "wbwtab"}, {"scheme": "dorefa", "variant": "micronet"}])
def test_what_a_scheme_changes_on_purpose_is_no_reason_to_refuse(options: dict[str, Any]) -> None:
    model, x = network(averaged), images()
    assert apart(model, quantize(model, (x,), **options), x) > 0.01


def twice(net: Any, x: Tensor) -> Tensor:
    x = net.act(net.stem(x))
    return ended(net, net.a(x) + net.b(x))


def pooled_twice(net: Any, x: Tensor) -> Tensor:
    x = F.max_pool2d(net.act(net.stem(x)), 2)
    return ended(net, net.a(x) + net.b(x) + x)


FLOAT: tuple[dict[str, Any], ...] = ({"skip": ["b"]}, {"overrides": {"b": {"a_bits": 32}}})


@pytest.mark.parametrize("scheme", ["iao", "wbwtab"])
@pytest.mark.parametrize("left_out", FLOAT)
@pytest.mark.parametrize("forward", [twice, pooled_twice])
def test_a_layer_left_out_reads_the_float_tensor_that_others_quantise(
    forward: Callable[[Any, Tensor], Tensor], left_out: dict[str, Any], scheme: str
) -> None:
    model, x = network(forward), images()
    made = quantize(model, (x,), scheme=scheme, skip=["stem", *left_out.get("skip", [])], **_overrides(left_out))
    seen: dict[str, list[Tensor]] = {"float": [], "made": []}
    for key, net in (("float", model), ("made", made)):
        net.get_submodule("b").register_forward_pre_hook(lambda _m, args, key=key: seen[key].append(args[0].clone()))
    calibrate(made, [x])
    seen["made"].clear()
    with torch.no_grad():
        model(x)
        made.eval()(x)
    assert torch.equal(seen["made"][0], seen["float"][0])
    assert apart(model, made, x) < 1e-6


def _overrides(left_out: dict[str, Any]) -> dict[str, Any]:
    return {"overrides": left_out["overrides"]} if "overrides" in left_out else {}


def test_a_request_that_another_reader_overruled_is_told() -> None:
    made = quantize(network(twice), (images(),), scheme="iao", overrides={"b": {"a_bits": 4}}, calibration=[images()])
    row = next(row for row in describe(made) if row["readers"] == ["a", "b"])
    assert row["bits"] == 8
    assert "`b` asked for 4 bits by iao" in row["why"]
    agreed = quantize(network(twice), (images(),), scheme="iao", a_bits=4, calibration=[images()])
    assert not any("asked" in row["why"] for row in describe(agreed))


def test_a_layer_left_out_reads_what_was_written_over_the_tensor() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        y = net.a(x)
        x.add_(1)
        return ended(net, y + net.b(x))

    model, x = network(forward), images()
    assert apart(model, quantize(model, (x,), scheme="iao", skip=["b"], route="symbolic"), x) < 1e-6


def test_a_skipped_layer_of_an_overwritten_tensor_is_told_to_read_it_quantised() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        y = net.a(x) + net.b(x)
        return ended(net, y + x.add_(1))

    model, x = network(forward), images()
    quantised = quantize(model, (x,), scheme="iao", route="symbolic", skip=["b"], calibration=[x])
    (row,) = (row for row in describe(quantised) if row["kind"] == "activation" and "a" in row["readers"])
    assert "`b` asked for a float input, which is overwritten in place" in row["why"]
    assert float_layers(quantised)["b"] == "skip `b`"

    def once(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return ended(net, net.a(x) + net.b(x) + x)

    untouched = quantize(network(once), (x,), scheme="iao", skip=["b"], calibration=[x])
    assert all("asked for" not in row["why"] for row in describe(untouched))


@pytest.mark.parametrize(
    ("groups", "outputs", "per_channel"), [(1, 4, True), (2, 4, True), (4, 4, True), (2, 4, False)]
)
def test_groups_of_a_transposed_convolution_share_their_scales_and_the_table_says_so(
    groups: int, outputs: int, per_channel: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(4, outputs, 2, groups=groups)).eval()
    x = torch.randn(2, 4, 5, 5)
    made: Any = quantize(model, (x,), scheme="iao", per_channel=per_channel, calibration=[x])
    (row,) = (row for row in describe(made) if row["kind"] == "weight")
    shared = groups > 1 and per_channel
    assert ("scales shared by its" in row["why"]) is shared
    weight = model[0].weight.detach()
    # one grid for each entry of axis 1, whatever the group
    peaks = weight.abs().amax((0, 2, 3)) if per_channel else weight.abs().amax().expand(1)
    torch.testing.assert_close(made.get_submodule("0").integer_weight().scale, peaks / 127)


def test_a_first_or_last_layer_left_float_is_told_who_quantises_its_input() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        pooled = (net.a(net.stem(x)) + net.side(x)).mean((2, 3))
        return net.head(pooled) * net.gate(pooled)

    torch.manual_seed(0)
    layers: dict[str, nn.Module] = {"stem": nn.Conv2d(3, 8, 1), "side": nn.Conv2d(3, 8, 1), "a": nn.Conv2d(8, 8, 1)}
    model = Function(forward, **layers, gate=nn.Linear(8, 5), head=nn.Linear(8, 5)).eval()
    ends: dict[str, Any] = {"first_layer_float": True, "last_layer_float": True}
    quantised = quantize(model, (images(),), scheme="iao", **ends, calibration=[images()])
    why = float_layers(quantised)
    assert why["stem"] == "first layer (first_layer_float); its input is quantised, as `side` reads it too"
    assert why["gate"] == "last layer (last_layer_float); its input is quantised, as `head` reads it too"
    nobody_else = float_layers(quantize(network(shortcut), (images(),), scheme="iao", **ends))
    assert (nobody_else["stem"], nobody_else["head"]) == (
        "first layer (first_layer_float)",
        "last layer (last_layer_float)",
    )
