"""A digest of a data set's content: equal content, equal digest, wherever it lies. No torch here.

What the options make of the content (size, channels, fractions) is not in it; an action key holds the
options beside the fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from mcomp.data.cache import keep
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

    Files are read once; their digests are kept in ``cache_dir`` by path, size and time of
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
    if options.name == "two_digits":
        return _sha(b"two_digits", DIGITS_TABLE.read_bytes(), b"1")
    if options.name == "synthetic":
        return _sha(b"synthetic", b"1")
    if isinstance(options, FolderOptions):
        return folder_fingerprint(list_images(base / Path(options.root).expanduser()), cache_dir)
    if isinstance(options, DownloadOptions):
        check_present(options, base)
        return _sha(b"torchvision", options.name.encode())
    if needs_trust(options.name):
        return _user_fingerprint(options, base, cache_dir)
    raise PreflightError(f"data set `{options.name}` has no fingerprint", code="MC229")


def folder_fingerprint(listing: Listing, cache_dir: Path | None) -> str:
    """The digest of all paths and contents of a listing; class and split are part of a path."""
    return _content(listing.root, list(listing.files()), cache_dir)


def _content(root: Path, files: list[ImageFile], cache_dir: Path | None, name: str = "") -> str:
    """The digest of ``files`` below ``root``; ``name`` tells several sets of files below one root apart."""
    if cache_dir is None:
        return _combined(files, {file.path: _file_digest(root / file.path) for file in files})
    started = time.time_ns()
    stem = cache_dir / "fingerprints" / hashlib.sha256(os.fsencode(root.resolve() / name)).hexdigest()[:16]
    states, digests = stem.with_suffix(".json"), stem.with_suffix(".files.json")
    # Two files, because the short one answers the usual question at a tenth of the cost.
    state = _sha(*(f"{path}\0{size}\0{mtime}\n".encode() for path, size, mtime in files))
    if _read_json(states).get("state") == state:
        return str(_read_json(states)["content"])
    known = _read_json(digests)
    fresh: dict[str, list[Any]] = {}
    for path, size, mtime in files:
        old = known.get(path)
        digest = old[2] if old is not None and old[:2] == [size, mtime] else _file_digest(root / path)
        fresh[path] = [size, mtime, digest]
    content = _combined(files, {path: entry[2] for path, entry in fresh.items()})
    if max((file.mtime_ns for file in files), default=0) < started - _SETTLED_NS:
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


def _user_fingerprint(options: DataOptions, base: Path, cache_dir: Path | None) -> str:
    file = user_file(options.name, base)
    if file is None or not file.is_file():
        raise PreflightError(
            f"no file `{file or options.name.rpartition(':')[0]}` for data set `{options.name}`",
            code="MC227",
            hint="a path is relative to the recipe",
        )
    parts: list[bytes] = []
    for key, value in sorted(extras(options).items()):
        for text in value if isinstance(value, list) else [value]:
            path = _named_path(text, base)
            if path is not None:
                parts += [key.encode(), _tree_digest(path, cache_dir).encode()]
    return _sha(b"user", *parts)


def _named_path(value: object, base: Path) -> Path | None:
    """The file or folder that an option of a user's factory names, beside the recipe or in the current folder."""
    if not isinstance(value, str) or not value:
        return None
    text = os.path.expanduser(value)
    # os.path answers False where pathlib would raise: a text of 5000 letters, a null byte
    candidates = (os.path.join(base, text), text)
    return next((Path(path) for path in candidates if os.path.isfile(path) or os.path.isdir(path)), None)


def _tree_digest(path: Path, cache_dir: Path | None) -> str:
    if path.is_file():
        return _content(path.parent, [_stamped(path, path.parent)], cache_dir, path.name)
    files: list[ImageFile] = []
    for folder, subfolders, names in os.walk(path):
        # Python's and mcomp's own caches change from run to run
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name != "__pycache__"]
        files += [_stamped(file, path) for name in names if (file := Path(folder, name)).is_file()]
    return _content(path, sorted(files), cache_dir)


def _stamped(file: Path, root: Path) -> ImageFile:
    stat = file.stat()
    return ImageFile(file.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns)


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
    keep(path, lambda stream: stream.write(json.dumps(content, separators=(",", ":")).encode()))
