from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcomp.data import cache, folders, load, samples
from mcomp.data.fingerprint import fingerprint
from mcomp.data.spec import options_for
from mcomp.errors import PreflightError

MakeFolder = Callable[..., Path]


def print_of(root: Path, cache: Path | None = None) -> str:
    return fingerprint(options_for("image_folder")(name="image_folder", root=str(root)), cache_dir=cache)


def age(root: Path) -> None:
    """Make every file look as if it had been written a minute ago."""
    for file in root.rglob("*.png"):
        os.utime(file, (time.time() - 60, time.time() - 60))


def test_class_folders_are_split_into_train_val_and_test(make_folder: MakeFolder) -> None:
    data = load("image_folder", root=str(make_folder(images=50)), image_size=6)
    assert [len(split) for split in (data.train, data.val, data.test)] == [72, 8, 20]
    assert data.class_names == ("class0", "class1")
    assert data.in_shape == (3, 6, 6)


@pytest.mark.parametrize(
    ("splits", "sizes"),
    [
        (("train",), [28, 4, 8]),
        (("train", "test"), [36, 4, 40]),
        (("train", "valid"), [32, 40, 8]),
        (("train", "val", "test"), [40, 40, 40]),
    ],
)
def test_split_folders_are_kept_and_missing_ones_come_out_of_train(
    make_folder: MakeFolder, splits: tuple[str, ...], sizes: list[int]
) -> None:
    data = load("image_folder", root=str(make_folder(images=20, splits=splits)))
    assert [len(split) for split in (data.train, data.val, data.test)] == sizes


def test_imagenets_val_is_what_is_reported(make_folder: MakeFolder) -> None:
    data = load("imagenet", root=str(make_folder(images=20, splits=("train", "val"))), image_size=8)
    assert [len(split) for split in (data.train, data.val, data.test)] == [36, 4, 40]
    assert data.preprocessing["mean"] == [0.485, 0.456, 0.406]


def test_pixels_arrive_unchanged_with_their_labels(make_folder: MakeFolder) -> None:
    data = load("image_folder", root=str(make_folder(images=20)), image_size=6, mean=[0.0], std=[1.0])
    for split in (data.train, data.val, data.test):
        images, labels = next(split.batches(100))
        assert torch.equal((images[:, 0, 0, 0] * 255).round(), 100.0 * labels)


def test_images_of_any_size_kind_and_depth_become_squares(make_folder: MakeFolder) -> None:
    root = make_folder(images=4)
    Image.new("L", (40, 20), 200).save(root / "class0" / "grey.jpg")
    Image.new("RGBA", (7, 33), (1, 2, 3, 4)).save(root / "class1" / "clear.PNG")
    Image.new("P", (6, 6)).save(root / "class1" / "palette.gif")
    (root / "class1" / "deeper").mkdir()
    Image.new("1", (6, 6)).save(root / "class1" / "deeper" / "bits.bmp")
    (root / "class1" / "notes.txt").write_text("not an image, and not read")
    (root / "class1" / ".hidden.png").write_text("not read either")
    data = load("image_folder", root=str(root), image_size=8)
    assert sum(map(len, (data.train, data.val, data.test))) == 12
    assert load("image_folder", root=str(root), image_size=8, channels=1).in_shape == (1, 8, 8)


def test_sixteen_bits_are_scaled_and_a_transparent_palette_needs_no_warning(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(tmp_path / "deep.png")
    assert samples.decode(str(tmp_path / "deep.png"), 4, 3).unique().tolist() == [0x80]
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x80")
    assert samples.decode(str(tmp_path / "palette.png"), 4, 3)[:, 0, 0].tolist() == [10, 20, 30]


def test_a_centre_square_is_cut_from_a_wide_image(make_folder: MakeFolder) -> None:
    root = make_folder(images=4)
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 255
    Image.fromarray(wide).save(root / "class1" / "wide.png")
    image = samples.decode(str(root / "class1" / "wide.png"), 4, 3)
    assert image.unique().tolist() == [255]


def test_a_damaged_image_is_named_before_anything_runs(make_folder: MakeFolder) -> None:
    root = make_folder()
    whole = (root / "class0" / "000.png").read_bytes()
    for content in (b"", b"not an image", whole[:40]):
        (root / "class1" / "003.png").write_bytes(content)
        with pytest.raises(PreflightError) as caught:
            load("image_folder", root=str(root))
        assert caught.value.code == "MC223"
        assert "class1/003.png" in caught.value.message


@pytest.mark.parametrize(
    ("break_it", "code", "part"),
    [
        (shutil.rmtree, "MC220", "no folder"),
        (lambda root: root.rename(root.with_name("photo")), "MC220", "did you mean"),
        (lambda root: (shutil.rmtree(root), root.write_text("")), "MC220", "is a file"),
        (lambda root: shutil.rmtree(root / "class1"), "MC222", "one class only, `class0`"),
        (lambda root: [file.unlink() for file in root.rglob("*.png")], "MC221", "holds no images"),
        (lambda root: [file.unlink() for file in (root / "class1").glob("*")], "MC221", "class1` holds no images"),
        (lambda root: [shutil.rmtree(root / f"class{n}") for n in (0, 1)], "MC221", "holds no images"),
        (lambda root: (root / "class1").rename(root / "test"), "MC220", "no `train`"),
    ],
)
def test_a_folder_that_is_no_data_set_is_explained(
    make_folder: MakeFolder, break_it: Callable[[Path], object], code: str, part: str
) -> None:
    root = make_folder()
    break_it(root)
    for attempt in (lambda: load("image_folder", root=str(root)), lambda: print_of(root)):
        with pytest.raises(PreflightError) as caught:
            attempt()
        assert caught.value.code == code
        assert part in str(caught.value)


def test_loose_images_are_pointed_at(make_folder: MakeFolder) -> None:
    root = make_folder()
    for number in (0, 1):
        shutil.rmtree(root / f"class{number}")
    Image.new("RGB", (4, 4)).save(root / "loose.png")
    with pytest.raises(PreflightError) as caught:
        print_of(root)
    assert "loose.png" in caught.value.why


def test_a_class_that_train_has_not_is_refused(make_folder: MakeFolder) -> None:
    root = make_folder(splits=("train", "test"))
    (root / "test" / "class1").rename(root / "test" / "klass1")
    with pytest.raises(PreflightError, match="klass1"):
        load("image_folder", root=str(root))


def test_sets_too_large_for_memory_are_decoded_on_demand_to_the_same_batches(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(make_folder(images=30))
    held = load("image_folder", root=root)
    monkeypatch.setattr(samples, "MEMORY_LIMIT", 10)
    lazy = load("image_folder", root=root)
    assert isinstance(lazy.train.samples, samples.FileSamples)
    options = {"seed": 1, "epoch": 1, "augment": True, "skip": 1}
    pairs = zip(held.train.batches(8, **options), lazy.train.batches(8, **options), strict=True)
    for (x, y), (again, labels) in pairs:
        assert torch.equal(x, again)
        assert torch.equal(y, labels)


def test_decoded_images_are_kept_and_a_damaged_cache_is_replaced(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = make_folder(images=20), tmp_path / "cache"
    first = load("image_folder", root=str(root), cache_dir=cache)
    (kept,) = (cache / "images").iterdir()
    monkeypatch.setattr(samples, "decode", None)  # a second decoding would fail
    second = load("image_folder", root=str(root), cache_dir=cache)
    assert torch.equal(first.train.samples.fetch(first.train.indices), second.train.samples.fetch(second.train.indices))
    monkeypatch.undo()
    del second
    kept.write_bytes(b"damaged")
    third = load("image_folder", root=str(root), cache_dir=cache)
    assert torch.equal(first.train.samples.fetch(first.train.indices), third.train.samples.fetch(third.train.indices))
    load("image_folder", root=str(root), cache_dir=cache, image_size=8)
    assert len(list((cache / "images").iterdir())) == 2


def test_a_full_disk_costs_the_cache_not_the_data(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(samples.torch, "save", full)
    root = make_folder(images=20)
    assert len(load("image_folder", root=str(root), cache_dir=tmp_path / "cache").train) == 28
    assert not list((tmp_path / "cache" / "images").iterdir())


def test_an_unwritable_cache_costs_a_fingerprint_nothing_but_time(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder()
    age(root)
    expected = print_of(root)
    (tmp_path / "taken").write_text("a file where the cache's folder should be")
    assert print_of(root, tmp_path / "taken") == expected

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.os, "replace", full)
    assert print_of(root, tmp_path / "cache") == expected
    assert not list((tmp_path / "cache" / "fingerprints").iterdir())


def test_an_interrupted_cache_file_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.keep(tmp_path / "images" / "a.pt", interrupt)
    assert not list((tmp_path / "images").iterdir())


def test_a_link_to_nowhere_is_named(make_folder: MakeFolder) -> None:
    root = make_folder()
    (root / "class1" / "999.png").symlink_to(root / "gone.png")
    with pytest.raises(PreflightError, match=r"999\.png.*gone\.png.*does not exist") as caught:
        print_of(root)
    assert caught.value.code == "MC223"


def test_a_folder_that_may_not_be_read_is_named(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root, real = make_folder(), os.scandir

    def refuses(path: Path) -> object:
        if Path(path).name == "class1":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(folders.os, "scandir", refuses)
    with pytest.raises(PreflightError, match="class1`: Permission denied") as caught:
        print_of(root)
    assert caught.value.code == "MC223"


def test_whether_a_download_is_allowed_is_no_part_of_the_data() -> None:
    extra = options_for("cifar10").model_fields["download"].json_schema_extra
    assert extra == {"cache": "ignore"}


def test_a_fingerprint_follows_content_and_names_and_nothing_else(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder()
    first = print_of(root)
    copy = shutil.copytree(root, tmp_path / "elsewhere")
    age(copy)
    assert print_of(copy) == first
    (copy / "class0" / "000.png").rename(copy / "class0" / "100.png")
    renamed = print_of(copy)
    pixel = Image.new("RGB", (6, 6), (9, 9, 9))
    pixel.save(root / "class1" / "002.png")
    assert len({first, renamed, print_of(root)}) == 3


def test_a_cached_fingerprint_reads_no_file_again_until_one_changes(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcomp.data import fingerprint as module

    root, cache = make_folder(), tmp_path / "cache"
    age(root)
    read: list[Path] = []
    real = module._file_digest
    monkeypatch.setattr(module, "_file_digest", lambda path: (read.append(path), real(path))[1])
    first = print_of(root, cache)
    assert len(read) == 16
    assert print_of(root, cache) == first
    assert len(read) == 16
    Image.new("RGB", (6, 6), (9, 9, 9)).save(root / "class1" / "002.png")
    os.utime(root / "class1" / "002.png", (time.time() - 30, time.time() - 30))
    second = print_of(root, cache)
    assert second != first
    assert read[16:] == [root / "class1" / "002.png"]
    for file in (cache / "fingerprints").iterdir():
        file.write_text("damaged")
    assert print_of(root, cache) == second


def test_a_file_written_a_moment_ago_is_not_trusted_by_its_time(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, cache = make_folder(), tmp_path / "cache"
    print_of(root, cache)
    assert not (cache / "fingerprints").exists()


def test_fingerprints_need_no_torch_and_no_numpy(make_folder: MakeFolder) -> None:
    code = (
        "import sys\nfrom mcomp.data.fingerprint import fingerprint\nfrom mcomp.data.spec import options_for\n"
        f"fingerprint(options_for('image_folder')(name='image_folder', root={str(make_folder())!r}))\n"
        "fingerprint(options_for('digits')(name='digits'))\n"
        "assert not {'torch', 'numpy', 'PIL', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
