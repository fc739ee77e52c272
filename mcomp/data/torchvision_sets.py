"""CIFAR and Fashion-MNIST from the files that torchvision downloads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from mcomp.data.fingerprint import check_present
from mcomp.data.raw import Place, Raw
from mcomp.data.resize import resized, with_channels
from mcomp.data.samples import TensorSamples
from mcomp.data.spec import DataOptions, DownloadOptions
from mcomp.errors import PreflightError

_READERS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100, "fashion_mnist": datasets.FashionMNIST}


def read(options: DataOptions, place: Place) -> Raw:
    """Both of the source's splits; validation is held out of its train split.

    Raises:
        PreflightError: files are missing and ``download`` is off, damaged, or cannot be downloaded.
    """
    assert isinstance(options, DownloadOptions)
    check_present(options, place.path("."))
    reader, root = _READERS[options.name], place.path(options.root)
    try:
        parts = [reader(root, train=train, download=options.download) for train in (True, False)]
    except (RuntimeError, OSError) as error:  # a failed download is an OSError
        raise PreflightError(
            f"torchvision cannot read `{options.name}` in `{root}`: {error}",
            code="MC228",
            hint="delete the damaged files and set `data.download: true`, or copy whole ones there",
        ) from error
    images = torch.cat([_images(part.data) for part in parts])
    images = with_channels(images, options.channels)
    images = images if options.image_size is None else resized(images, options.image_size)
    labels = torch.cat([torch.as_tensor(part.targets, dtype=torch.int64) for part in parts])
    border, end = len(parts[0]), len(labels)
    return Raw(
        TensorSamples(images, labels),
        tuple(parts[0].classes),
        train=np.arange(border),
        test=np.arange(border, end),
    )


def _images(stored: object) -> Tensor:
    """``(N, H, W)`` or ``(N, H, W, C)`` bytes, numpy or torch, to ``(N, C, H, W)``."""
    images = torch.as_tensor(stored)
    return images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
