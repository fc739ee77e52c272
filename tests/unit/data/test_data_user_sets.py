from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from mcomp.data import Data, load
from mcomp.data.fingerprint import fingerprint
from mcomp.data.spec import options_for
from mcomp.errors import PreflightError

SETS = """
import random
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

N = 40
RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (N, 6, 8, 3), dtype=np.uint8)
LABELS = np.arange(N) % 4


class Pairs(Dataset):
    classes = ["a", "b", "c", "d"]

    def __init__(self, images=BYTES, labels=LABELS):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


class Triples(Pairs):
    def __getitem__(self, index):
        return self.images[index], 0, 1


class Holder:
    def __init__(self):
        self.train, self.test = Pairs(), Pairs()


class Stream(IterableDataset):
    def __iter__(self):
        yield from Pairs()


def fails(index):
    if index == 7:
        raise KeyError("photo 7")
    return BYTES[index], 0


class Broken(Pairs):
    def __getitem__(self, index):
        return fails(index)


def lists(): return [(image.tolist(), int(label)) for image, label in zip(BYTES, LABELS)]
def arrays(): return BYTES, LABELS
def array_lists(): return list(BYTES), LABELS.tolist()
def column(): return BYTES, LABELS[:, None]
def dataset(): return Pairs()
def loader(): return DataLoader(Pairs(), batch_size=3)
def pictures(): return [(Image.fromarray(image), label) for image, label in zip(BYTES, LABELS)]
def tensors(): return TensorDataset(torch.from_numpy(BYTES).permute(0, 3, 1, 2), torch.from_numpy(LABELS))
def wide(): return BYTES.astype(np.uint16), LABELS.astype(np.uint8)
def three(): return Pairs(), Pairs(), Pairs()
def two(): return lists(), arrays()
def mapping(): return {"train": arrays(), "val": None, "test": lists(), "classes": ["w", "x", "y", "z"]}
def holder(): return Holder()
def floats(): return BYTES.astype(float) / 255, LABELS
def grey(): return BYTES[..., 0], LABELS
def random_set(): return [(random.random() * torch.rand(3, 4, 4) * np.random.rand(), i % 2) for i in range(20)]
def scaled(size, num_classes=None, image_size=None, path=None):
    assert (num_classes, image_size) == (6, 5)
    return np.full((N, size, size), 7, np.uint8), LABELS

def mixed_sizes(): return [(BYTES[i][: 6 - i // 9], LABELS[i]) for i in range(N)]
def mixed_kinds(): return [(BYTES[i] / 255 if i == 5 else BYTES[i], LABELS[i]) for i in range(N)]
def mixed_depth(): return [(BYTES[i][..., 0] if i % 2 else BYTES[i], LABELS[i]) for i in range(N)]
def names(): return BYTES, ["cat", "dog"] * 20
def fractions(): return BYTES, LABELS / 2
def one_hot(): return BYTES, np.eye(4)[LABELS]
def negative(): return BYTES, LABELS - 1
def too_few_labels(): return BYTES, LABELS[:30]
def one_class(): return BYTES, LABELS * 0
def empty(): return []
def empty_arrays(): return [], []
def empty_test(): return {"train": arrays(), "test": []}
def flat(): return BYTES.reshape(N, -1), LABELS
def ragged(): return [([[1, 2], [3]], 0)] * N
def deep(): return BYTES.astype(int) * 300, LABELS
def nan(): return BYTES * np.nan, LABELS
def triples_in_train(): return {"train": Triples()}
def words(): return [("a photo", 0)] * N
def triples(): return [(BYTES[0], 0, 1)] * N
def nothing(): return None
def number(): return 5
def typo(): return {"trian": arrays()}
def only_test(): return {"test": arrays()}
def stream(): return Stream()
def broken(): return Broken()
def raises(): raise OSError("no such disk")
def few_names(): return {"train": arrays(), "classes": ["w"]}
def new_class(): return {"train": (BYTES[:30], LABELS[:30] % 3), "test": arrays()}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user")
    (path / "sets.py").write_text(SETS)
    return path


def of(folder: Path, function: str, **options: Any) -> Data:
    return load(f"sets.py:{function}", base_dir=folder, trust=True, **options)


def pixels(data: Data) -> torch.Tensor:
    """Every image, in the source's order."""
    return data.train.samples.fetch(torch.arange(len(data.train.samples.labels)))


@pytest.mark.parametrize(
    "function", ["lists", "arrays", "array_lists", "column", "dataset", "loader", "pictures", "tensors", "wide"]
)
def test_one_set_of_any_make_is_split_and_holds_the_same_pixels(folder: Path, function: str) -> None:
    data, expected = of(folder, function), of(folder, "arrays")
    assert [len(split) for split in (data.train, data.val, data.test)] == [28, 4, 8]
    assert data.in_shape == (3, 6, 8)
    assert torch.equal(pixels(data), pixels(expected))
    assert torch.equal(data.train.labels, expected.train.labels)


@pytest.mark.parametrize(
    ("function", "sizes", "names"),
    [
        ("three", [40, 40, 40], ("a", "b", "c", "d")),
        ("two", [36, 4, 40], ("0", "1", "2", "3")),
        ("mapping", [36, 4, 40], ("w", "x", "y", "z")),
        ("holder", [36, 4, 40], ("a", "b", "c", "d")),
    ],
)
def test_given_splits_are_kept_and_validation_comes_out_of_train(
    folder: Path, function: str, sizes: list[int], names: tuple[str, ...]
) -> None:
    data = of(folder, function)
    assert [len(split) for split in (data.train, data.val, data.test)] == sizes
    assert data.class_names == names


def test_floats_in_0_to_1_mean_the_same_as_bytes(folder: Path) -> None:
    floats, whole = of(folder, "floats"), of(folder, "arrays")
    assert torch.allclose(floats.example_inputs[0], whole.example_inputs[0], atol=1e-4)
    assert floats.preprocessing["mean"] == pytest.approx(whole.preprocessing["mean"], abs=1e-5)


def test_grey_images_and_a_mixture_with_colour_are_widened(folder: Path) -> None:
    assert of(folder, "grey").in_shape == (3, 6, 8)
    assert of(folder, "grey", channels=1).in_shape == (1, 6, 8)
    assert of(folder, "mixed_depth").example_inputs[0].shape == (2, 3, 6, 8)


def test_images_of_many_sizes_are_resized_where_a_size_is_set(folder: Path) -> None:
    assert of(folder, "mixed_sizes", image_size=5).in_shape == (3, 5, 5)


def test_a_factory_gets_its_own_options_and_those_it_names(folder: Path) -> None:
    data = of(folder, "scaled", size=9, num_classes=6, image_size=5)
    assert (data.num_classes, data.in_shape) == (6, (3, 5, 5))


def test_a_random_factory_is_fixed_by_the_seed_and_disturbs_no_generator(folder: Path) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (pixels(of(folder, "random_set", seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("function", "code", "part"),
    [
        ("mixed_sizes", "MC225", "sample 9 is 5 x 8 pixels, the first sample 6 x 8"),
        ("mixed_kinds", "MC225", "sample 5 holds floats, the first sample bytes"),
        ("names", "MC226", "sample 0 of `sets.py:names` is 'cat'"),
        ("fractions", "MC226", "is 0.0, not a whole number"),
        ("one_hot", "MC226", "of shape (4,)"),
        ("negative", "MC226", "is -1"),
        ("too_few_labels", "MC226", "40 images and 30 labels"),
        ("one_class", "MC222", "one class only"),
        ("empty", "MC221", "is empty"),
        ("empty_arrays", "MC221", "is empty"),
        ("empty_test", "MC221", "`test` is empty"),
        ("flat", "MC225", "shape (144,)"),
        ("ragged", "MC225", "no rectangular array"),
        ("deep", "MC225", "whole numbers from"),
        ("nan", "MC225", "NaN"),
        ("words", "MC225", "is str, not an image"),
        ("triples", "MC227", "whose first element is tuple of length 3"),
        ("triples_in_train", "MC227", "sample 0 of `train` is tuple, not a pair (image, label)"),
        ("nothing", "MC227", "returned NoneType"),
        ("number", "MC227", "returned int"),
        ("typo", "MC227", "key `trian`"),
        ("only_test", "MC227", "no `train`"),
        ("stream", "MC227", "Stream"),
        ("broken", "MC223", "sample 7"),
        ("raises", "MC235", "OSError: no such disk"),
        ("few_names", "MC226", "names 1 classes"),
        ("new_class", "MC226", "`test` has class 3"),
        ("absent", "MC234", "no function `absent`"),
    ],
)
def test_a_users_mistake_is_named(folder: Path, function: str, code: str, part: str) -> None:
    with pytest.raises(PreflightError) as caught:
        of(folder, function)
    assert part in str(caught.value)
    assert caught.value.code == code


def test_a_label_beyond_the_classes_is_refused(folder: Path) -> None:
    with pytest.raises(PreflightError, match="label 3, `num_classes` is 2"):
        of(folder, "arrays", num_classes=2)


def test_a_fingerprint_covers_the_files_that_options_name(folder: Path) -> None:
    name = "sets.py:scaled"
    (folder / "table.bin").write_bytes(b"one")

    def digest(**options: Any) -> str:
        return fingerprint(options_for(name)(name=name, **options), base_dir=folder)

    before = digest(path="table.bin")
    (folder / "table.bin").write_bytes(b"two")
    assert digest(path="table.bin") != before
    assert digest(path="no such file") == digest()
    with pytest.raises(PreflightError, match="no file"):
        fingerprint(options_for("gone.py:make")(name="gone.py:make"), base_dir=folder)


def user_print(base: Path, cache: Path | None = None, **options: Any) -> str:
    return fingerprint(options_for("sets.py:make")(name="sets.py:make", **options), base_dir=base, cache_dir=cache)


def test_files_that_options_name_are_read_once_and_again_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcomp.data import fingerprint as module

    (tmp_path / "sets.py").write_text("def make(**options): ...\n")
    (tmp_path / "images").mkdir()
    for name in ("big.npz", "images/a.bin", "images/b.bin"):
        (tmp_path / name).write_bytes(name.encode())
        os.utime(tmp_path / name, (1_000_000, 1_000_000))
    read: list[str] = []
    real = module._file_digest
    monkeypatch.setattr(module, "_file_digest", lambda path: (read.append(path.name), real(path))[1])
    options = {"file": "big.npz", "folder": ["images"], "word": "train", "long": "x" * 5000, "null": "a\0b"}
    first = user_print(tmp_path, tmp_path / "cache", **options)
    assert sorted(read) == ["a.bin", "b.bin", "big.npz"]
    assert user_print(tmp_path, tmp_path / "cache", **options) == first
    assert user_print(tmp_path, **options) == first
    assert len(read) == 6, "the second call reads nothing, the third has no cache"
    (tmp_path / "images" / "__pycache__").mkdir()
    (tmp_path / "images" / "__pycache__" / "c.pyc").write_bytes(b"changes by itself")
    assert user_print(tmp_path, tmp_path / "cache", **options) == first
    (tmp_path / "images" / "b.bin").write_bytes(b"other")
    os.utime(tmp_path / "images" / "b.bin", (2_000_000, 2_000_000))
    assert user_print(tmp_path, tmp_path / "cache", **options) != first
    assert read[6:] == ["b.bin"]
