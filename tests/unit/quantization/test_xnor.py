"""XNOR-Net's input scale, in quantised layers, through folding, on disk and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mcomp
from mcomp.quantization import calibrate, fold_batch_norms, quantize
from mcomp.quantization.quantizers import BinaryActivation, XNORInputScale


class Net(nn.Module):
    """Strided, grouped, dilated and padded convolutions with batch norms and ReLUs before pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2)
        self.bn = nn.BatchNorm2d(12)
        self.b = nn.Conv2d(12, 8, 3, padding="same", dilation=2, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8, 6)
        self.end = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.pool(torch.relu(self.bn(self.a(x))))
        x = self.b(x).mean((2, 3))
        out: Tensor = self.end(torch.relu(self.fc(x)))
        return out


def images(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def net() -> Net:
    torch.manual_seed(3)
    model = Net()
    model.train()(images(32))
    nn.init.normal_(model.bn.weight)
    return model.eval()


def converted(route: Any = "symbolic", **options: Any) -> nn.Module:
    made = quantize(net(), (images(),), scheme="wbwtab", input_scale=True, route=route, **options)
    calibrate(made, [images()])
    return made.eval()


@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), [(1, 0, 1, 1), (2, 1, 1, 3), (1, 2, 2, 2)])
def test_k_is_the_mean_magnitude_of_a_groups_channels_in_each_window(
    stride: int, padding: int, dilation: int, groups: int
) -> None:
    x = torch.randn(2, 6, 9, 9)
    windows = F.unfold(x.abs(), 3, dilation, padding, stride)  # [2, 6 * 9, places], channels outermost
    expected = windows.view(2, groups, -1, windows.shape[-1]).mean(2)
    found = XNORInputScale((3, 3), stride, padding, dilation, groups)(x)
    torch.testing.assert_close(found.flatten(2), expected)


@pytest.mark.parametrize(("size", "dilation"), [(3, 2), (5, 1), (3, 3)])
def test_same_padding_is_that_of_the_convolution(size: int, dilation: int) -> None:
    layer = nn.Conv2d(4, 4, (size, 3), padding="same", dilation=dilation, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1 / layer.weight[0].numel())
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(XNORInputScale.of(layer)(x), layer(x.abs())[:, :1].detach())


def test_a_convolution_of_signs_is_multiplied_by_k_before_its_bias() -> None:
    made = converted()
    layer: Any = made.get_submodule("a")
    x = torch.randn(2, 8, 10, 10)
    signs, k = BinaryActivation()(x), XNORInputScale((3, 3), 2, 1, 1, 2)(x).repeat_interleave(6, 1)
    plain = F.conv2d(signs, layer.quantized_weight(), None, 2, 1, 1, 2)
    torch.testing.assert_close(layer(x), plain * k + layer.bias.view(1, -1, 1, 1))


def test_the_relu_in_front_gives_way_to_the_sign() -> None:
    made: Any = converted()
    left = [node for node in made.graph.nodes if getattr(node.target, "__name__", "") == "relu"]
    assert len(left) == 1, "the one in front of the last layer, which is float"
    seen: list[Tensor] = []
    made.get_submodule("b").register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    made(images())
    assert float(seen[0].detach().min()) < 0, "a sign of what a ReLU left would be 1 everywhere"


def test_the_input_gets_a_gradient_through_its_sign_and_through_k() -> None:
    made = converted().train()
    x = images(8).requires_grad_()
    F.cross_entropy(made(x), torch.arange(8) % 5).backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    assert all(parameter.grad is not None for parameter in made.parameters())


@pytest.mark.parametrize("route", ["symbolic", "export", "modules"])
def test_it_comes_back_from_disk_as_it_was(route: Any, tmp_path: Path) -> None:
    model = mcomp.models.lenet(num_classes=5)
    x = torch.randn(4, 3, 32, 32)
    made = quantize(model, (x,), scheme="wbwtab", input_scale=True, route=route).eval()
    calibrate(made, [x])
    mcomp.save_model(made, tmp_path / "saved", (x,))
    assert torch.equal(mcomp.load_model(tmp_path / "saved")(x), made(x))


def test_folded_and_deployed_it_predicts_what_was_trained(tmp_path: Path) -> None:
    made = converted()
    folded = fold_batch_norms(made, (images(),))
    assert folded.count == 1
    assert folded.error < 1e-5
    path = tmp_path / "net.onnx"
    mcomp.deploy.to_onnx(folded.model, (images(),), path, profile="onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images().numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), made(images()).detach(), rtol=1e-4, atol=1e-4)
