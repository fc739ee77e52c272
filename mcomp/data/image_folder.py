"""Folders of images: decoded once into memory where they fit, on demand where they do not."""

from __future__ import annotations

import numpy as np
import torch

from mcomp.data.fingerprint import folder_fingerprint
from mcomp.data.folders import list_images
from mcomp.data.raw import Place, Positions, Raw
from mcomp.data.samples import FileSamples
from mcomp.data.spec import DataOptions, FolderOptions

# As measured on ImageNet's train split, and used by every network published for it.
_IMAGENET_MEAN, _IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def read(options: DataOptions, place: Place) -> Raw:
    """List the images; nothing is decoded yet.

    Raises:
        PreflightError: see :func:`mcomp.data.folders.list_images`.
    """
    assert isinstance(options, FolderOptions)
    listing = list_images(place.path(options.root))
    labels: list[int] = []
    positions: dict[str, Positions] = {}
    for split, classes in listing.splits.items():
        start = len(labels)
        for name, files in classes.items():
            labels += [listing.classes.index(name)] * len(files)
        positions[split] = np.arange(start, len(labels))
    samples = FileSamples(
        [f"{listing.root}/{file.path}" for file in listing.files()],
        torch.tensor(labels, dtype=torch.int64),
        options.image_size or 32,
        options.channels,
        content=folder_fingerprint(listing, place.cache_dir) if place.cache_dir is not None else "",
        cache_dir=place.cache_dir,
    )
    raw = Raw(samples, listing.classes, test_fraction=options.test_fraction)
    raw.train, raw.val, raw.test = positions.get("train"), positions.get("val"), positions.get("test")
    if options.name == "imagenet":
        if raw.test is None:  # ImageNet's test labels are not public: its `val` is what everyone reports
            raw.test, raw.val = raw.val, None
        if options.channels == 3:
            raw.mean, raw.std = _IMAGENET_MEAN, _IMAGENET_STD
    return raw
