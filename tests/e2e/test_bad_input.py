"""Bad input: an exit code, a message with the fix in it, and nothing written to the store."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from mcomp.cli.main import main
from tests.conftest import run_mcomp

HEAD = """\
version: 1
name: bad
model: {name: lenet}
data: {name: digits, image_size: 16}
"""

TRAIN = "  - train: {epochs: 1}\n"


def refused(text: str, folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    recipe = folder / "bad.yaml"
    recipe.write_text(text)
    store = folder / "store"
    code = main(["apply", str(recipe), "--store", str(store), *words])
    assert not store.exists(), "a refusal wrote to the store"
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "line_column", "says"),
    [
        ("prune: {ratio: 0}", "7:20", "ratio"),
        ("prune: {ratio: 1}", "7:20", "ratio"),
        ("prune: {ratio: -1}", "7:20", "ratio"),
        ("prune: {ratio: .nan}", "7:20", "ratio"),
        ("prune: {ratio: wide}", "7:20", "ratio"),
        ("prune: {ratio: '0.5'}", "7:20", "ratio"),
        ("prune: {ratio: 0.5, regular: 0}", "7:34", "regular"),
        ("prune: {ratio: 0.5, regullar: 8}", "7:25", "did you mean `regular`?"),
        ("prune: {}", "7:5", "ratio"),
        ("prine: {ratio: 0.5}", "7:5", "did you mean `prune`?"),
        ("quantize: {w_bits: 0}", "7:24", "w_bits"),
        ("quantize: {w_bits: 1}", "7:24", "w_bits"),
        ("quantize: {a_bits: 33}", "7:24", "a_bits"),
        ("quantize: {scheme: dorefi}", "7:24", "dorefa"),
        ("finetune: {epochs: 0}", "7:24", "epochs"),
        ("finetune: {epochs: 1.5}", "7:24", "epochs"),
    ],
)
def test_a_wrong_option_is_shown_where_it_is(
    stage: str, line_column: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = refused(f"{HEAD}stages:\n{TRAIN}  - {stage}\n", tmp_path, capsys)
    assert code == 3
    assert f"bad.yaml:{line_column}" in printed
    assert says in printed
    assert "1 error; nothing was run" in printed


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ("[train, bn_fuse, {prune: {ratio: 0.5}}]", "bn_fuse"),
        ("[train, bn_fuse, quantize]", "bn_fuse"),
        ("[train, bn_fuse, {sparse_train: {}}]", "bn_fuse"),
        ("[train, trt_int8]", "calibration"),
        ("[train, trt_int8, quantize]", "calibration"),
        ("[train, quantize, trt_int8, trt_int8]", "trt_int8"),
        ("[train, quantize, {prune: {ratio: 0.5}}]", "quantize"),
        ("[]", "stages"),
        ("train", "stages"),
        ("[{train: {}, prune: {ratio: 0.5}}]", "prune"),
        ("[{trt_int8: {}, trt_int8: {}}]", "trt_int8"),
        ("[{id: x}]", "stage"),
        ("[{train: {}, id: a}, {evaluate: {}, id: a}]", "`a`"),
        ("[{train: {}, gates: [{metric: top2, min: 1}]}]", "top1"),
        ("[{train: {}, gates: [{metric: top1, max_drop: 1, vs: nobody}]}]", "nobody"),
    ],
)
def test_an_impossible_list_of_stages_is_refused(
    stages: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, printed = refused(f"{HEAD}stages: {stages}\n", tmp_path, capsys)
    assert code == 3, printed
    assert says in printed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("{[", "MC1"),
        ("just words", "mapping"),
        ("- a\n- list\n", "mapping"),
        ("\x00\x01", "MC1"),
        (HEAD.replace("version: 1", "version: 2") + f"stages:\n{TRAIN}", "version"),
        (HEAD.replace("lenet", "lenett") + f"stages:\n{TRAIN}", "did you mean `lenet`?"),
        (HEAD.replace("lenet", "torchvision:resnet81") + f"stages:\n{TRAIN}", "torchvision:resnet18"),
        (HEAD.replace("name: digits", "name: digit") + f"stages:\n{TRAIN}", "did you mean `digits`?"),
        (HEAD.replace("16", "sixteen") + f"stages:\n{TRAIN}", "image_size"),
        (HEAD.replace("bad", "../up") + f"stages:\n{TRAIN}", "name"),
        (f"stages:\n{TRAIN}", "model"),
        (HEAD.replace("lenet", "net.py:build") + f"stages:\n{TRAIN}", "net.py"),
    ],
)
def test_a_wrong_recipe_is_refused(text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = refused(text, tmp_path, capsys)
    assert code == 3, printed
    assert says in printed


def test_a_missing_recipe_names_its_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "flagship.yaml").write_text(HEAD)
    assert main(["apply", str(tmp_path / "flagshp.yaml"), "--store", str(tmp_path / "store")]) == 3
    assert "flagship.yaml" in capsys.readouterr().err


def folder_of_images(root: Path, classes: int = 2, images: int = 8) -> Path:
    for label in range(classes):
        (root / f"class{label}").mkdir(parents=True)
        for index in range(images):
            Image.new("RGB", (16, 16), (100 * label, 10 * index, 50)).save(root / f"class{label}" / f"{index}.png")
    return root


IMAGES = HEAD.replace("name: digits", "name: image_folder, root: photos") + f"stages:\n{TRAIN}"


def test_an_absent_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, printed = refused(IMAGES, tmp_path, capsys)
    assert (code, "photos" in printed) == (4, True)


def test_an_empty_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    code, printed = refused(IMAGES, tmp_path, capsys)
    assert (code, "photos" in printed) == (4, True)


def test_one_class_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_images(tmp_path / "photos", classes=1)
    code, printed = refused(IMAGES, tmp_path, capsys)
    assert code == 4
    assert "class" in printed


def test_a_corrupt_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_images(tmp_path / "photos")
    (tmp_path / "photos" / "class1" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    code, printed = refused(IMAGES, tmp_path, capsys)
    assert code == 4
    assert "broken.jpg" in printed


def test_an_image_of_another_size_is_resized(tmp_path: Path) -> None:
    folder_of_images(tmp_path / "photos")
    Image.new("RGB", (40, 23), (0, 0, 255)).save(tmp_path / "photos" / "class1" / "wide.png")
    (tmp_path / "ok.yaml").write_text(IMAGES)
    assert main(["apply", str(tmp_path / "ok.yaml"), "--store", str(tmp_path / "store"), "--json"]) == 0


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    text = HEAD.replace("{name: lenet}", "{name: lenet, weights: other.pt}") + f"stages:\n{TRAIN}"
    code, printed = refused(text, tmp_path, capsys)
    assert code == 4
    assert "fc.weight" in printed


def test_a_pickle_posing_as_a_checkpoint_is_not_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (Path(tmp_path / "exploded"),))  # type: ignore[return-value]

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Bomb()))
    text = HEAD.replace("{name: lenet}", "{name: lenet, weights: evil.pt}") + f"stages:\n{TRAIN}"
    code, _ = refused(text, tmp_path, capsys)
    assert code == 4
    assert not (tmp_path / "exploded").exists()


def test_fewer_outputs_than_classes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = HEAD.replace("{name: lenet}", "{name: lenet, num_classes: 3}") + f"stages:\n{TRAIN}"
    code, printed = refused(text, tmp_path, capsys)
    assert code == 4
    assert "num_classes: 10" in printed


def test_a_full_disk_fails_the_stage_and_keeps_the_store_sound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from mcomp.store import atomic

    recipe = tmp_path / "full.yaml"
    recipe.write_text(f"{HEAD}stages:\n{TRAIN}")
    real = atomic.os.fsync
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", full)
    words = ["apply", str(recipe), "--store", str(tmp_path / "store")]
    assert main(words) == 8
    assert "space" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(words) == 0


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    recipe = tmp_path / "cuda.yaml"
    recipe.write_text(f"{HEAD}device: cuda\nstages:\n{TRAIN}")
    done = run_mcomp("apply", str(recipe), "--store", str(tmp_path / "store"))
    assert done.returncode in (4, 7)
    assert "cpu" in done.stderr
    assert not (tmp_path / "store").exists()
