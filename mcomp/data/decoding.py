"""An image file to a tensor."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mcomp.errors import PreflightError

VERSION = 1  # goes up when an image would decode to other pixels


def decode(file: str, size: int, channels: int) -> Tensor:
    """Decode one image: shorter side to ``size`` (bilinear, antialiased), centre crop.

    Args:
        file: anything Pillow reads.
        size: height and width wanted.
        channels: 1 (grey) or 3.

    Returns:
        ``(channels, size, size)`` uint8.

    Raises:
        PreflightError: the file is no image, or a damaged one.
    """
    mode = "RGB" if channels == 3 else "L"
    try:
        with Image.open(file) as image:
            image.draft(mode, (size, size))  # JPEG: let the decoder halve it first
            picture = _eight_bits(image).convert(mode)
    except Exception as error:  # a decoder raises whatever damaged bytes make it trip over
        raise PreflightError(
            f"cannot decode image `{file}`: {error}",
            code="MC223",
            hint="replace or delete the file",
        ) from error
    w, h = picture.size
    if (h, w) != (size, size):
        picture = _cropped(picture, size)
    pixels = np.array(picture, dtype=np.uint8)
    return torch.from_numpy(pixels).view(size, size, channels).permute(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """The forms that Pillow would convert wrongly (16 bits: clipped to white) or with a warning (palettes)."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA")
    return image


def _cropped(picture: Image.Image, size: int) -> Image.Image:
    """Resize and crop in one pass: the largest centred square, straight to the size wanted."""
    w, h = picture.size
    side = min(w, h)
    left, top = (w - side) / 2, (h - side) / 2
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
