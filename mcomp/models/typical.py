"""What a model was published for: the image it takes and the classes it tells apart."""

from __future__ import annotations

import importlib
from typing import NamedTuple

from mcomp.models.registry import MODELS


class Typical(NamedTuple):
    """One sample's ``(C, H, W)``, and the number of outputs."""

    shape: tuple[int, int, int]
    classes: int


def typical(name: str) -> Typical | None:
    """The usual input of a built-in model, or of one of torchvision's or timm's; None for a person's own.

    torchvision's weights say which crops they were measured with; the smallest counts. Nothing is downloaded.
    """
    zoo, colon, rest = name.partition(":")
    if name in MODELS:
        entry = MODELS[name]
        return Typical((3, entry.image_size, entry.image_size), entry.classes)
    if colon and zoo == "torchvision":
        from torchvision.models import get_model_weights

        crops = [int(weights.transforms.keywords.get("crop_size", 0)) for weights in get_model_weights(rest)]
        size = min((crop for crop in crops if crop), default=224)
        return Typical((3, size, size), 1000)
    if colon and zoo == "timm":
        config = importlib.import_module("timm.models").get_pretrained_cfg(rest)
        channels, height, width = getattr(config, "input_size", None) or (3, 224, 224)
        return Typical((channels, height, width), getattr(config, "num_classes", None) or 1000)
    return None
