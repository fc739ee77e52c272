"""A digest of a data set's content: equal content, equal digest, wherever it lies. No torch here.

What the options make of the content (size, channels, fractions) is not in it; an action key holds the
options beside the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from mcomp.data.folders import ImageFile, Listing, list_images
from mcomp.data.spec import DataOptions, DownloadOptions, FolderOptions, extras, needs_trust, user_file
from mcomp.errors import PreflightError
from mcomp.options import Options

DIGITS_TABLE = Path(__file__).parent / "tables" / "digits.csv.gz"

# torchvision refuses archives with another MD5, so the name stands for the bytes. Each with the files it needs.
TORCHVISION_FILES = {
    "cifar10": ("cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/test_batch"),
    "cifar100": ("cifar-100-python/train", "cifar-100-python/test"),
    "fashion_mnist": ("FashionMNIST/raw/train-images-idx3-ubyte", "FashionMNIST/raw/t10k-images-idx3-ubyte"),
}

_SETTLED_NS = 2_000_000_000  # a file changed more recently could change again without its time changing


def fingerprint(options: Options, base_dir: Path | None = None, cache_dir: Path | None = None) -> str:
    """SHA-256, in hex, of the content that ``options`` names.

    A folder's files are read once; their digests are kept in ``cache_dir`` by path, size and time of
    change. For a user's factory it covers every option that names a file or folder; the code has a digest of its own.

    Args:
        options: validated options of a recipe's ``data:``.
        base_dir: folder that relative paths start from; the current one by default.
        cache_dir: where digests of files are kept; nothing is kept without it.

    Raises:
        PreflightError: the data is missing, empty or of one class.
    """
    base = base_dir or Path()
    assert isinstance(options, DataOptions)
    if options.name == "digits":
        return _sha(b"digits", DIGITS_TABLE.read_bytes())
    if options.name == "synthetic":
        return _sha(b"synthetic", b"1")
    if isinstance(options, FolderOptions):
        return folder_fingerprint(list_images(base / Path(options.root).expanduser()), cache_dir)
    if isinstance(options, DownloadOptions):
        check_present(options, base)
        return _sha(b"torchvision", options.name.encode())
    if needs_trust(options.name):
        return _user_fingerprint(options, base)
    raise PreflightError(f"data set `{options.name}` has no fingerprint", code="MC229")


def folder_fingerprint(listing: Listing, cache_dir: Path | None) -> str:
    """The digest of all paths and contents of a listing; class and split are part of a path."""
    files = list(listing.files())
    if cache_dir is None:
        return _combined(files, {file.path: _file_digest(listing.root / file.path) for file in files})
    started = time.time_ns()
    stem = cache_dir / "fingerprints" / hashlib.sha256(os.fsencode(listing.root.resolve())).hexdigest()[:16]
    states, digests = stem.with_suffix(".json"), stem.with_suffix(".files.json")
    # Two files, because the short one answers the usual question at a tenth of the cost.
    state = _sha(*(f"{path}\0{size}\0{mtime}\n".encode() for path, size, mtime in files))
    if _read_json(states).get("state") == state:
        return str(_read_json(states)["content"])
    known = _read_json(digests)
    fresh: dict[str, list[Any]] = {}
    for path, size, mtime in files:
        old = known.get(path)
        digest = old[2] if old is not None and old[:2] == [size, mtime] else _file_digest(listing.root / path)
        fresh[path] = [size, mtime, digest]
    content = _combined(files, {path: entry[2] for path, entry in fresh.items()})
    if max(file.mtime_ns for file in files) < started - _SETTLED_NS:
        _write_json(digests, fresh)
        _write_json(states, {"state": state, "content": content})
    return content


def check_present(options: DownloadOptions, base: Path) -> None:
    """Refuse before anything runs if torchvision's files are missing and may not be downloaded.

    Raises:
        PreflightError: a file is missing and ``download`` is off.
    """
    root = base / Path(options.root).expanduser()
    missing = [name for name in TORCHVISION_FILES[options.name] if not (root / name).exists()]
    if missing and not options.download:
        raise PreflightError(
            f"data set `{options.name}` is not in `{root}`: no `{missing[0]}`",
            code="MC228",
            why="nothing is downloaded unless you say so",
            hint="set `data.download: true`, or `data.root` to the folder that holds it",
        )


def _user_fingerprint(options: DataOptions, base: Path) -> str:
    file = user_file(options.name, base)
    if file is None or not file.is_file():
        raise PreflightError(
            f"no file `{file or options.name.rpartition(':')[0]}` for data set `{options.name}`",
            code="MC227",
            hint="a path is relative to the recipe",
        )
    parts: list[bytes] = []
    for key, value in sorted(extras(options).items()):
        for path in (base / value, Path(value)) if isinstance(value, str) and value else ():
            if path.exists():
                parts += [key.encode(), _tree_digest(path).encode()]
                break
    return _sha(b"user", *parts)


def _tree_digest(path: Path) -> str:
    if path.is_file():
        return _file_digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return _sha(*(f"{file.relative_to(path).as_posix()}\0{_file_digest(file)}".encode() for file in files))


def _combined(files: list[ImageFile], digests: dict[str, str]) -> str:
    return _sha(*sorted(f"{file.path}\0{digests[file.path]}\n".encode() for file in files))


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise PreflightError(f"cannot read `{path}`: {error.strerror}", code="MC223") from error


def _sha(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    """A cache file's content; an unreadable one is as good as none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, so that two runs at once cannot mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as stream:
        json.dump(content, stream, separators=(",", ":"))
    os.replace(stream.name, path)
