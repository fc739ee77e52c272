"""Small networks that the suites of this room share, and a strategy for random ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.models import ChannelShuffle


class Net(nn.Module):
    """Named modules and parameters with a forward given as a function of them."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def block(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def head(inputs: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


def seeded(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, scales and statistics of its own for every layer, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                if module.affine:
                    module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.1)
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) / 2)
                if module.track_running_stats:
                    module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) / 4)
                    module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
            elif isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
    return model.eval()


def images(size: int = 8, count: int = 2, seed: int = 7) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def digest(model: nn.Module) -> list[tuple[str, list[float]]]:
    return [(name, tensor.flatten().tolist()) for name, tensor in model.state_dict().items()]


def masked_output(model: nn.Module, kept: dict[str, list[int]], x: Tensor) -> Tensor:
    """What ``model`` computes when the channels that are not kept are zero behind each block's activation.

    Written without the tracer: works for networks made of :func:`block` whose layers are called ``<block>.0``.
    """
    handles = []
    for layer, indices in kept.items():
        convolution = model.get_submodule(layer)
        assert isinstance(convolution, nn.Conv2d | nn.Linear)
        mask = torch.zeros(convolution.weight.shape[0], dtype=x.dtype)
        mask[indices] = 1

        def multiply(_module: nn.Module, _inputs: Any, output: Tensor, mask: Tensor = mask) -> Tensor:
            return output * mask.reshape([-1, *[1] * (output.ndim - 2)])

        handles.append(model.get_submodule(layer.removesuffix(".0")).register_forward_hook(multiply))
    with torch.no_grad():
        found: Tensor = model(x)
    for handle in handles:
        handle.remove()
    return found


class Blur(nn.Module):
    """Halves a map behind a fixed kernel, which is a buffer (Zhang, arXiv:1904.11486)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", (line[:, None] * line)[None, None].repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        kernel: Tensor = self.kernel
        return F.conv2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


@dataclass(frozen=True)
class Step:
    """One step of a random chain."""

    kind: str
    width: int
    groups: int = 1


class Chain(nn.Module):
    """Blocks with group convolutions, shuffles, residuals, depthwise and shared layers, splits and concatenations."""

    def __init__(self, steps: list[Step], flat: bool) -> None:
        super().__init__()
        self.steps, self.flat = steps, flat
        width = 3
        for index, step in enumerate(steps):
            if step.kind in ("conv", "shuffled"):
                setattr(self, f"step{index}", block(width, step.width, 3, step.groups))
                width = step.width
            elif step.kind in ("residual", "shared"):
                setattr(self, f"step{index}", block(width, width, 1))
            elif step.kind == "depthwise":
                setattr(self, f"step{index}", block(width, width, 3, width))
            elif step.kind == "split":
                setattr(self, f"step{index}", block(width // 2, width // 2))
            elif step.kind == "concat":
                setattr(self, f"step{index}", block(width, step.width))
                width += step.width
        self.hidden = nn.Sequential(nn.Linear(width * 16 if flat else width, 12), nn.BatchNorm1d(12), nn.ReLU())
        self.out = nn.Linear(12, 4)
        self.shuffles = nn.ModuleDict({str(s.groups): ChannelShuffle(s.groups) for s in steps if s.kind == "shuffled"})

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, 8, 8)`` to ``(N, 4)``."""
        for index, step in enumerate(self.steps):
            run = getattr(self, f"step{index}", None)
            if step.kind == "shuffled":
                x = run(self.shuffles[str(step.groups)](x))
            elif step.kind == "residual":
                x = x + run(x)
            elif step.kind == "shared":
                x = run(run(x))
            elif step.kind == "split":
                left, right = x.chunk(2, 1)
                x = torch.cat([run(right), left], 1)
            elif step.kind == "concat":
                x = torch.cat([x, run(x)], 1)
            else:
                x = run(x)
        x = nn.functional.adaptive_max_pool2d(x, 4)
        x = x.flatten(1) if self.flat else x.mean((2, 3))
        y: Tensor = self.out(self.hidden(x))
        return y


KINDS = ["conv", "conv", "shuffled", "shuffled", "residual", "depthwise", "concat", "split", "shared"]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    widths = st.sampled_from([8, 16, 24, 32])
    steps = [Step("conv", draw(widths))]
    width = steps[0].width
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(KINDS))
        new = draw(widths)
        groups = (
            draw(st.sampled_from([g for g in (1, 2, 4, 8) if width % g == 0])) if kind in ("conv", "shuffled") else 1
        )
        steps.append(Step(kind, new, groups))
        width = width + new if kind == "concat" else new if kind in ("conv", "shuffled") else width
    model = Chain(steps, draw(st.booleans()))
    seeded(model, draw(st.integers(0, 1000)))
    return model
