"""The embedded data set: 1797 scans of handwritten digits, 8 x 8 pixels.

Optical Recognition of Handwritten Digits by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998,
https://doi.org/10.24432/C50P49, CC BY 4.0; see ``tables/LICENSE.digits``.
"""

from __future__ import annotations

import gzip

import numpy as np
import torch
from torch import Tensor

from mcomp.data.fingerprint import DIGITS_TABLE
from mcomp.data.raw import Place, Raw
from mcomp.data.resize import resized
from mcomp.data.samples import TensorSamples
from mcomp.data.spec import DataOptions

_SIDE, _WHITE = 8, 16


def read(options: DataOptions, place: Place) -> Raw:
    """The whole table, resized bilinearly to ``options.image_size`` (8 by default)."""
    pixels, labels = scans()
    images = (pixels * 255).round().to(torch.uint8)
    return Raw(TensorSamples(resized(images, options.image_size or _SIDE), labels), tuple("0123456789"))


def scans() -> tuple[Tensor, Tensor]:
    """All scans ``(1797, 1, 8, 8)``, float32 in 0..1, and their labels, in the table's order."""
    text = gzip.decompress(DIGITS_TABLE.read_bytes()).decode("ascii")
    table = np.array(text.replace("\n", ",").rstrip(",").split(","), dtype=np.int64).reshape(-1, _SIDE**2 + 1)
    pixels = torch.from_numpy(table[:, :-1].copy()).view(-1, 1, _SIDE, _SIDE)
    return pixels.float() / _WHITE, torch.from_numpy(table[:, -1].copy())
