"""Images that are nothing but learnable: one smooth pattern per class, shifted a little, under noise."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mcomp.data.raw import Place, Raw
from mcomp.data.samples import TensorSamples
from mcomp.data.spec import DataOptions, SyntheticOptions

_CELLS = 4  # a pattern is a random grid of this side, enlarged


def read(options: DataOptions, place: Place) -> Raw:
    """``samples`` images of ``num_classes`` patterns; labels go round, so the classes are balanced."""
    assert isinstance(options, SyntheticOptions)
    size = options.image_size or 16
    random = torch.Generator().manual_seed(options.pattern_seed)
    cells = torch.rand(options.num_classes, options.channels, _CELLS, _CELLS, generator=random)
    patterns = F.interpolate(cells, (size, size), mode="bilinear", align_corners=False)
    labels = torch.arange(options.samples) % options.num_classes
    reach = max(1, size // 8)
    shifts = torch.randint(-reach, reach + 1, (options.samples, 2), generator=random).tolist()
    images = torch.empty(options.samples, options.channels, size, size, dtype=torch.uint8)
    for index, (down, right) in enumerate(shifts):
        clean = patterns[labels[index]].roll((down, right), (1, 2))
        noisy = clean + options.noise * torch.randn(clean.shape, generator=random)
        images[index] = (noisy.clamp(0, 1) * 255).round().to(torch.uint8)
    names = tuple(f"pattern_{label}" for label in range(options.num_classes))
    return Raw(TensorSamples(images, labels), names)
