"""A quantiser that applies the ReLU before it computes what both did one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.deploy import to_onnx
from mcomp.deploy.onnx_session import OnnxSession
from mcomp.quantization import QuantReLU, calibrate, quantize
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.fake_quantize import relu_fake_quantize
from mcomp.quantization.pieces import PIECE
from mcomp.quantization.quantizers import (
    AffineQuantizer,
    DoReFaActivation,
    LSQPlusQuantizer,
    LSQuantizer,
    PACTQuantizer,
    Quantizer,
    RistrettoQuantizer,
)
from mcomp.quantization.quantizers.held_range import HeldRangeQuantizer
from tests.unit.quantization.quantization_nets import Residual, batch, chain, tensors, warm

TAKES: dict[str, Callable[[], Quantizer]] = {
    "affine": lambda: AffineQuantizer(4, observer="mse", signed=False, nonnegative_input=True),
    "affine moving": lambda: AffineQuantizer(4, observer="moving_average", signed=False, nonnegative_input=True),
    "affine 16 bits": lambda: AffineQuantizer(16, observer="minmax", signed=False),
    "dorefa": lambda: DoReFaActivation(4, nonnegative_input=True),
    "dorefa paper": lambda: DoReFaActivation(4, "paper"),
    "lsq": lambda: LSQuantizer(4, False, nonnegative_input=True),
    "pact": lambda: PACTQuantizer(4, nonnegative_input=True),
}
LEAVES: dict[str, Callable[[], Quantizer]] = {
    "signed": lambda: AffineQuantizer(8, observer="mse"),
    "asymmetric": lambda: AffineQuantizer(8, False, observer="mse", signed=False),
    "per channel": lambda: AffineQuantizer(8, observer="minmax", signed=False, channel_axis=1),
    "range of each tensor": lambda: AffineQuantizer(8, signed=False),
    "off": lambda: AffineQuantizer(32, observer="mse", signed=False),
    "micronet": lambda: DoReFaActivation(8, "micronet"),
    "learned offset": lambda: LSQPlusQuantizer(8),
    "ristretto": lambda: RistrettoQuantizer(8, observer="minmax"),
}


@given(tensors(), st.sampled_from([1, 3, 15, 255]), st.floats(2.0**-12, 4, width=32))
def test_values_and_gradient_are_those_of_the_formula(x: Tensor, high: int, scale: float) -> None:
    step, leaf, upstream = torch.tensor(scale), x.clone().requires_grad_(), torch.randn_like(x)
    found = relu_fake_quantize(leaf, step, high)
    ratio = x.numpy() / np.float32(scale)
    expected = np.rint(np.clip(ratio, 0, high)).astype(np.float32) * np.float32(scale)
    assert np.array_equal(found.detach().numpy(), expected)
    assert torch.equal(relu_fake_quantize(x, step, high), found.detach())
    found.backward(upstream)
    assert leaf.grad is not None
    normal = ratio >= np.finfo(np.float32).tiny  # or exactly 0: a quotient between may count as 0
    passes = (ratio > 0) & (ratio <= high)
    assert np.array_equal(leaf.grad.numpy()[normal | (ratio <= 0)], (upstream.numpy() * passes)[normal | (ratio <= 0)])


def test_zero_and_the_upper_end_decide_as_in_the_formula() -> None:
    x = torch.tensor([-1.0, -0.0, 0.0, 1e-6, 0.2, 0.25, 1.5, 1.5000001, 9.0, float("nan")], requires_grad=True)
    relu_fake_quantize(x, torch.tensor(0.5), 3).backward(torch.ones(10))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert relu_fake_quantize(x, torch.tensor(0.5), 3).isnan().tolist() == [False] * 9 + [True]


def strided(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", ["rows", "channels last", "with gaps", "transposed"])
def test_every_type_and_layout_gives_the_same(dtype: torch.dtype, place: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 24, 60, PIECE // 24 // 60).to(dtype)  # more than one piece
    x = {"rows": x, "channels last": x.contiguous(memory_format=torch.channels_last)}.get(place, x)
    x = strided(x) if place == "with gaps" else x.transpose(1, 3) if place == "transposed" else x
    leaf = x.detach().requires_grad_()
    upstream = torch.randn(x.shape).to(dtype)  # in rows, whatever the layout of x
    found = relu_fake_quantize(leaf, torch.tensor(0.01), 200)
    found.backward(upstream)
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    ratio = x.to(kind) / torch.tensor(0.01).to(kind)
    expected = ratio.clamp(0, 200).round() * torch.tensor(0.01).to(kind)
    assert found.dtype == dtype
    assert found.stride() == torch.empty_like(x).stride()
    assert torch.equal(found, expected.to(dtype))
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, upstream * ((ratio > 0) & (ratio <= 200)))


@pytest.mark.parametrize("build", TAKES.values(), ids=TAKES)
def test_a_quantiser_that_took_its_relu_goes_on_as_the_two_did(build: Callable[[], Quantizer]) -> None:
    alone, taken = build().train(), build().train()
    assert taken.take_relu()
    for seed in range(3):
        x = torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(seed)) * (seed + 1)
        mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        found, expected = taken(mine), alone(F.relu(theirs))
        upstream = torch.randn_like(x)
        found.backward(upstream)
        expected.backward(upstream)
        assert torch.equal(found, expected)
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad)
    pairs = zip(taken.named_parameters(), alone.named_parameters(), strict=True)
    assert all(torch.allclose(one.grad, other.grad, rtol=1e-5) for (_, one), (_, other) in pairs)  # type: ignore[arg-type]
    own, other = taken.state_dict(), alone.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in other)
    with torch.no_grad():
        assert torch.equal(taken.eval()(x), alone.eval()(F.relu(x)))
    assert isinstance(taken.warp(), nn.ReLU)


@pytest.mark.parametrize("build", LEAVES.values(), ids=LEAVES)
def test_where_the_grid_does_not_end_at_zero_the_relu_stays(build: Callable[[], Quantizer]) -> None:
    quantizer = build()
    assert not quantizer.take_relu()
    assert not quantizer.relu


def kept_bytes(run: Callable[[], Any]) -> int:
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    assert kept.requires_grad
    return sum(sizes.values())


def test_one_byte_per_element_is_kept_for_the_backward_pass() -> None:
    x = torch.randn(10_000, requires_grad=True)
    quantizer = AffineQuantizer(8, observer="mse", signed=False).train()
    quantizer.set_range(0, 2)
    assert quantizer.take_relu()
    assert kept_bytes(lambda: quantizer(x)) == x.numel()
    assert kept_bytes(lambda: QuantReLU(scheme="wbwtab")(x)) == x.numel()


@pytest.mark.parametrize("scheme", ["iao", "dorefa", "lsq", "pact"])
@pytest.mark.parametrize(("build", "relus"), [(chain, 2), (Residual, 3)])  # the chain averages behind its last one
def test_a_converted_network_trains_and_ships_as_with_its_relus(
    scheme: str, build: Callable[[], nn.Module], relus: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = warm(build())

    def trained() -> Any:
        torch.manual_seed(0)
        made = quantize(copy.deepcopy(model), (batch(),), scheme=scheme)
        calibrate(made, [batch(16)])
        optimizer = torch.optim.SGD(made.parameters(), lr=0.01)
        for seed in range(3):
            optimizer.zero_grad()
            made.train()(batch(8, seed=seed)).square().mean().backward()
            optimizer.step()
        return made.eval()

    taken = trained()
    assert sum(quantizer.relu for quantizer in quantizers(taken).values()) == relus
    with monkeypatch.context() as patch:
        patch.setattr(HeldRangeQuantizer, "take_relu", lambda self: False)
        plain = trained()
    own, other = taken.state_dict(), plain.state_dict()
    assert own.keys() == other.keys()
    for name, tensor in other.items():
        torch.testing.assert_close(own[name], tensor, rtol=1e-4, atol=1e-6)
    taken.load_state_dict(other)
    assert torch.equal(taken(batch(seed=9)), plain(batch(seed=9)))
    answers = []
    for number, made in enumerate((taken, plain)):
        for profile in ("onnxruntime", "tensorrt"):
            lowering = to_onnx(made, (batch(2),), tmp_path / f"{number}{profile}.onnx", profile=profile)
            answers.append(torch.as_tensor(OnnxSession(lowering.path, simulate=True).predict(batch(seed=9))))
    assert torch.equal(answers[0], answers[2])
    assert torch.equal(answers[1], answers[3])


class Stems(nn.Module):
    """Reads the input of a ReLU beside its output."""

    def __init__(self, relu: nn.Module) -> None:
        super().__init__()
        self.stem, self.relu = nn.Conv2d(3, 4, 1), relu
        self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.left(self.relu(y)).mean((2, 3)) + self.right(y).mean((2, 3))


def test_a_relu_that_somebody_watches_or_that_writes_over_what_others_read_stays() -> None:
    def taken(model: nn.Module) -> list[bool]:
        made = quantize(model.eval(), (batch(),), scheme="iao", route="symbolic", calibration=[batch()])
        with torch.no_grad():
            assert (made(batch()) - model(batch())).norm() < 0.05 * model(batch()).norm()
        return [quantizer.relu for quantizer in quantizers(made).values()]

    assert taken(Stems(nn.ReLU())).count(True) == 1
    assert not any(taken(Stems(nn.ReLU(inplace=True))))
    assert not any(taken(Stems(nn.ReLU6())))
    watched = Stems(nn.ReLU())
    seen = []
    watched.relu.register_forward_hook(lambda *_: seen.append(1))
    assert not any(taken(watched))
    assert seen


def test_a_relu_written_by_hand_is_taken_too() -> None:
    layer, x = QuantReLU(scheme="iao").train(), batch()
    assert layer.output_quantizer.relu
    reference = AffineQuantizer(8, observer="moving_average", signed=False).train()
    assert torch.equal(layer(x), reference(F.relu(x)))
    assert torch.equal(layer.eval()(x), reference.eval()(F.relu(x)))
