"""One sample of a user's data set, whatever it is made of, to a tensor and a label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcomp.errors import PreflightError


def image_tensor(image: Any, where: str) -> Tensor:
    """An image as ``(C, H, W)``, uint8 in 0..255 or float32.

    Channels may come first or last; where both ends are 1 or 3, a torch tensor is taken as channels
    first and anything else as channels last. Whole numbers are bytes; true and false are white and black.

    Args:
        image: tensor, array, Pillow image or nested lists; ``(H, W)`` is grey.
        where: which sample it is, for messages.

    Raises:
        PreflightError: no such image can be made of it.
    """
    tensor = _as_tensor(image, where)
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(0)
    elif tensor.ndim == 3 and _channels_last(tensor, prefer_first=isinstance(image, Tensor)):
        tensor = tensor.permute(2, 0, 1)
    if tensor.ndim != 3 or tensor.size(0) not in (1, 3) or tensor.numel() == 0:
        raise PreflightError(
            f"{where} has shape {tuple(tensor.shape)}, which is no image",
            code="MC225",
            hint="give (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels",
        )
    return _as_pixels(tensor, where).contiguous()


def label_number(label: Any, where: str) -> int:
    """A label as an int of at least 0.

    Raises:
        PreflightError: it is not one whole number.
    """
    number = label.item() if isinstance(label, (Tensor, np.ndarray, np.generic)) and _size(label) == 1 else label
    if isinstance(number, bool) or not isinstance(number, int):
        said = f"{number!r}" if is_scalar(label) else f"a {type(label).__name__}{_shape(label)}"
        raise PreflightError(
            f"the label of {where} is {said}, not a whole number",
            code="MC226",
            hint="labels are class numbers 0, 1, 2, …, not names, fractions or one-hot rows",
        )
    if number < 0:
        raise PreflightError(f"the label of {where} is {number}", code="MC226", hint="labels count from 0")
    return number


def _as_tensor(image: Any, where: str) -> Tensor:
    if isinstance(image, Tensor):
        return image.detach().cpu()
    try:
        array = np.asarray(image)
    except ValueError as error:  # ragged lists
        raise PreflightError(f"{where} is no rectangular array: {error}", code="MC225") from error
    if array.dtype.kind not in "buif":
        raise PreflightError(
            f"{where} is {type(image).__name__}, not an image",
            code="MC225",
            hint="give an array or tensor of numbers, or a Pillow image",
        )
    if array.dtype.kind == "u" and array.dtype != np.uint8:
        array = array.astype(np.int64)  # torch has little arithmetic for the wider unsigned types
    return torch.from_numpy(np.array(array))  # a copy: the user's may be read-only, or reused


def _channels_last(tensor: Tensor, prefer_first: bool) -> bool:
    first, last = tensor.size(0) in (1, 3), tensor.size(2) in (1, 3)
    return last and not (first and prefer_first)


def _as_pixels(tensor: Tensor, where: str) -> Tensor:
    if tensor.dtype == torch.uint8:
        return tensor
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8) * 255
    if tensor.is_floating_point():
        if not bool(tensor.isfinite().all()):
            raise PreflightError(f"{where} holds NaN or infinity", code="MC225")
        return tensor.to(torch.float32)
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high > 255:
        raise PreflightError(
            f"{where} holds whole numbers from {low} to {high}, pixels are 0 to 255",
            code="MC225",
            hint="scale them to bytes, or to floats in 0..1",
        )
    return tensor.to(torch.uint8)


def is_scalar(value: Any) -> bool:
    """Whether this could be one label: a number, a string, an array of one element. Never fails."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return _size(value) == 1
    return not isinstance(value, (list, tuple, dict, set))


def _size(value: Any) -> int:
    return int(value.numel()) if isinstance(value, Tensor) else int(value.size)


def _shape(value: Any) -> str:
    return f" of shape {tuple(value.shape)}" if isinstance(value, (Tensor, np.ndarray)) else ""
