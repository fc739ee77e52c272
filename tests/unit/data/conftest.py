from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# a busy machine is slow at times, and no test here is about time
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write a folder of PNGs: ``make_folder("photos", classes=2, images=8, splits=("train", "test"), size=(6, 6))``."""

    def make(
        name: str = "photos",
        classes: int = 2,
        images: int = 8,
        splits: tuple[str, ...] = ("",),
        size: tuple[int, int] = (6, 6),
    ) -> Path:
        for split in splits:
            for label in range(classes):
                folder = tmp_path / name / split / f"class{label}"
                folder.mkdir(parents=True)
                for index in range(images):
                    pixels = np.full((size[1], size[0], 3), (100 * label, 10 * index, len(split)), np.uint8)
                    Image.fromarray(pixels).save(folder / f"{index:03}.png")
        return tmp_path / name

    return make
