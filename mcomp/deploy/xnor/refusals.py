"""What layers that count bits cannot read, told before compiled loops meet it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mcomp.deploy.xnor.extension import Size
from mcomp.errors import UsageError


def refuse_moved(step: nn.Module) -> None:
    """Refuse buffers that were moved or converted: compiled loops would read whatever lies there.

    Raises:
        UsageError: MC621.
    """
    for name, tensor in step.named_buffers():
        if tensor.device.type != "cpu" or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UsageError(
                f"`{name}` of a layer that counts bits is a {kind} tensor on `{tensor.device}`",
                code="MC621",
                why="its loops run on the CPU, with scales in float32",
                hint="do not move or convert an accelerated model",
            )


def refuse_small(size: Size, least: Size) -> None:
    """Refuse images that no window fits on.

    Args:
        size: rows and columns of an image.
        least: that it needs.

    Raises:
        UsageError: MC621.
    """
    if size[0] < least[0] or size[1] < least[1]:
        raise UsageError(
            f"an image of {size[0]} x {size[1]} is too small for a layer that works on packed signs",
            code="MC621",
            why=f"its window, less the padding, covers {max(least[0], 1)} x {max(least[1], 1)}",
            hint="give the model larger images, of the size that it was trained with",
        )


def refuse_channels(found: int, wanted: int) -> None:
    """Refuse floats of other channels, or features, than the filters have.

    Raises:
        UsageError: MC621.
    """
    if found != wanted:
        raise UsageError(
            f"a layer that counts bits was given {found} channels, and has {wanted}",
            code="MC621",
            why="bits beyond its own would be compared with nothing, and missing ones count as -1",
            hint=f"give it {wanted} channels (the second dimension of an image, the last one of a linear input)",
        )


def refuse_input(x: Tensor, dtype: torch.dtype, channels: int) -> None:
    """Refuse what the loops cannot read.

    Args:
        x: floats ``(N, C, H, W)`` or packed signs.
        dtype: that it should have.
        channels: likewise; 0 for packed signs, which are words.

    Raises:
        UsageError: MC621.
    """
    kind = str(dtype).removeprefix("torch.")
    wrong, hint = "", f"call the model with {kind} CPU tensors under `torch.inference_mode()`; train the simulated one"
    if x.dtype != dtype:
        wrong = f"{str(x.dtype).removeprefix('torch.')} tensor"
    elif x.device.type != "cpu":
        wrong = f"tensor on `{x.device}`"
    elif x.dim() != 4:
        wrong, hint = f"tensor of {x.dim()} dimensions", "give it a batch of images: a single one is `image[None]`"
    elif x.requires_grad and torch.is_grad_enabled():
        wrong = "tensor that asks for a gradient"
    if wrong:
        raise UsageError(
            f"a layer that counts bits was given a {wrong}",
            code="MC621",
            why=f"its loops read batches of four dimensions in {kind} on the CPU, and know no backward pass",
            hint=hint,
        )
    if channels:
        refuse_channels(x.shape[1], channels)
