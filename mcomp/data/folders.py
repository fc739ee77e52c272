"""Which images a folder holds, by split and class. No torch here.

Two layouts are understood: one folder per class, or ``train``, ``val`` and ``test`` with those inside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mcomp.errors import PreflightError
from mcomp.suggest import closest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class ImageFile(NamedTuple):
    """A file's path below the root (with ``/``), its size in bytes and its time of change in nanoseconds."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """All images of a folder.

    Attributes:
        root: the folder.
        classes: names of the class folders, sorted; the labels follow this order.
        splits: ``train``, ``val``, ``test``, or ``all`` where the folder has no splits; class to files, sorted.
    """

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Mapping[str, list[ImageFile]]]

    def files(self) -> Iterator[ImageFile]:
        """Every image, in a fixed order."""
        for classes in self.splits.values():
            for files in classes.values():
                yield from files


def list_images(root: Path) -> Listing:
    """List a folder of images.

    Raises:
        PreflightError: the folder is missing, cannot be read, holds no images, only one class, or an empty one.
    """
    _check_root(root)
    names = _subfolders(root)
    found: dict[str, str] = {_SPLITS[name]: name for name in names if name in _SPLITS}
    if found and "train" not in found:
        raise PreflightError(
            f"`{root}` has {', '.join(f'`{name}`' for name in found.values())} but no `train`",
            code="MC220",
            hint="name a folder with `train` inside, or one with a folder per class",
        )
    folders: dict[str, str] = {split: found[split] for split in ("train", "val", "test") if split in found}
    splits = {split: _classes(root, folder) for split, folder in (folders or {"all": ""}).items()}
    first = next(iter(splits))
    classes = tuple(splits[first])
    for split, members in splits.items():
        strange = sorted(set(members) - set(classes))
        if strange:
            raise PreflightError(
                f"`{root / found[split]}` has a class `{strange[0]}` that `{found['train']}` has not",
                code="MC226",
                hint="the splits need the same class folders",
            )
    if len(classes) == 1:
        raise PreflightError(
            f"`{root}` has one class only, `{classes[0]}`",
            code="MC222",
            hint="a classifier needs at least two; is `root` one level too deep or too high?",
        )
    return Listing(root, classes, splits)


def _check_root(root: Path) -> None:
    if root.is_dir():
        return
    if root.exists():
        packed = root.suffix in (".zip", ".gz", ".tgz", ".tar")
        raise PreflightError(
            f"`{root}` is a file, not a folder of images",
            code="MC220",
            hint="unpack it first, and name the folder" if packed else "name the folder that holds the class folders",
        )
    siblings = [path.name for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
    meant = closest(root.name, siblings)
    raise PreflightError(
        f"no folder `{root}`",
        code="MC220",
        hint=f"did you mean `{root.parent / meant}`?" if meant else "a path is relative to the recipe",
    )


def _classes(root: Path, split: str) -> dict[str, list[ImageFile]]:
    folder = root / split if split else root
    prefix = f"{split}/" if split else ""
    classes = {name: sorted(_images(folder / name, f"{prefix}{name}/")) for name in _subfolders(folder)}
    if not any(classes.values()):
        loose = next(_images(folder, prefix, nested=False), None)
        raise PreflightError(
            f"`{folder}` holds no images in class folders",
            code="MC221",
            why=f"`{loose.path}` lies outside of any class folder" if loose else "",
            hint=f"put each class in a folder of its own; files are read if they end in {', '.join(EXTENSIONS[:4])} …",
        )
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise PreflightError(
            f"class folder `{folder / empty[0]}` holds no images",
            code="MC221",
            hint="put images in; if there is no such class, remove the folder",
        )
    return classes


def _subfolders(folder: Path) -> list[str]:
    with _readable(folder), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images(folder: Path, prefix: str, nested: bool = True) -> Iterator[ImageFile]:
    with _readable(folder), os.scandir(folder) as scanned:
        entries = list(scanned)
    for entry in entries:
        name = entry.name
        if name.startswith("."):
            continue
        if name.lower().endswith(EXTENSIONS):
            with _readable(Path(entry.path)):
                stat = entry.stat()
            yield ImageFile(prefix + name, stat.st_size, stat.st_mtime_ns)
        elif nested and entry.is_dir(follow_symlinks=False):
            yield from _images(Path(entry.path), f"{prefix}{name}/")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which file or folder the system refuses."""
    try:
        yield
    except OSError as error:
        dangling = path.is_symlink() and not path.exists()
        raise PreflightError(
            f"`{path}` is a link to `{os.readlink(path)}`, which does not exist"
            if dangling
            else f"cannot read `{error.filename or path}`: {error.strerror}",
            code="MC223",
            hint="delete the link, or put back what it points to" if dangling else "change its rights, or delete it",
        ) from error
