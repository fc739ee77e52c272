from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mcomp.data import load, torchvision_sets
from mcomp.data.fingerprint import TORCHVISION_FILES, fingerprint
from mcomp.data.spec import options_for
from mcomp.errors import PreflightError


class Reader:
    """Stands for a torchvision data set: the attributes that are read, and no download."""

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        n = 40 if train else 20
        self.data: Any = np.full((n, 8, 8, 3), 7 if train else 9, np.uint8)
        self.targets = [index % 4 for index in range(n)]
        self.classes = ["a", "b", "c", "d"]

    def __len__(self) -> int:
        return len(self.targets)


class GreyReader(Reader):
    def __init__(self, root: Path, train: bool, download: bool) -> None:
        super().__init__(root, train, download)
        self.data, self.targets = torch.from_numpy(self.data[..., 0].copy()), torch.tensor(self.targets)  # type: ignore[assignment]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for names in TORCHVISION_FILES.values():
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(("name", "reader"), [("cifar10", Reader), ("fashion_mnist", GreyReader)])
def test_the_sources_splits_are_kept_and_validation_comes_out_of_train(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, reader: type[Reader]
) -> None:
    monkeypatch.setitem(torchvision_sets._READERS, name, reader)
    data = load(name, root=str(root), image_size=16, mean=[0.0], std=[1 / 255])
    assert [len(split) for split in (data.train, data.val, data.test)] == [36, 4, 20]
    assert data.in_shape == (3, 16, 16)
    assert next(data.test.batches(20))[0].round().unique().tolist() == [9]
    assert data.class_names == ("a", "b", "c", "d")


def test_damaged_files_are_reported_with_torchvisions_words(root: Path) -> None:
    with pytest.raises(PreflightError, match="corrupted"):
        load("cifar10", root=str(root))


def test_missing_files_are_refused_before_torch_is_needed_and_digests_do_not_follow_the_folder(root: Path) -> None:
    make = options_for("cifar10")
    assert fingerprint(make(name="cifar10", root=str(root))) == fingerprint(
        make(name="cifar10", root="/nowhere", download=True)
    )
    with pytest.raises(PreflightError) as caught:
        fingerprint(make(name="cifar10", root="/nowhere"))
    assert "data.download: true" in caught.value.hint
