"""A recipe file to text: what can be wrong before any YAML is looked at."""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.loader import MAX_BYTES
from mcomp.recipe.tree import Mark, Source
from mcomp.suggest import nearest

#: How the name of a recipe ends that another may extend.
SUFFIXES = (".yaml", ".yml")

_TOO_LARGE = "`{}` is larger than 1 MiB; a recipe is a page of text"

#: Device and number of a file, the same by whatever name it is reached.
Identity = tuple[int, int]

_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read(path: Path, name: str, faults: Faults) -> Source | None:
    """The file's text; None when there is none, with the reason recorded.

    A pipe is read to its end, as of ``<(command)``; one that nobody writes to is empty.

    Args:
        path: the file.
        name: the path as given by the person, for messages.
        faults: receives the reason.
    """
    where = Mark(Source(name, ""), 1, 1)
    try:
        with _opened(path) as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        message, hint = _unreadable(path, name, error)
        faults.unreadable(message, name, hint)
        return None
    except ValueError:  # a NUL in the path
        faults.unreadable(f"`{name}` is not a path", name)
        return None
    if len(data) > MAX_BYTES:
        faults.error("MC101", _TOO_LARGE.format(name), where)
        return None
    return decode(data, name, faults)


def from_memory(text: str, name: str, faults: Faults) -> Source | None:
    """A text that is in no file, under the same limits."""
    data = text[: MAX_BYTES + 1].encode("utf-8", "surrogatepass")  # a longer one is not copied whole
    if len(data) > MAX_BYTES:
        faults.error("MC101", _TOO_LARGE.format(name), Mark(Source(name, ""), 1, 1))
        return None
    return decode(data, name, faults)


class BaseFault(Exception):
    """A file that cannot be extended; ``message`` without a position, since the fault is of the file that names it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def read_base(path: Path, name: str, most: int) -> tuple[bytes, Identity]:
    """The bytes of a file that a recipe extends, and which file they are.

    Only a regular file whose own name, symbolic links followed, ends in ``.yaml`` or ``.yml`` is read: a recipe
    cannot be made to open a device, to wait for a pipe, or to show lines of a file that is none.

    Args:
        path: the file.
        name: what messages call it.
        most: how many bytes it may have.

    Raises:
        BaseFault: it is not there, is no such file, or is too large.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if target.suffix not in SUFFIXES:
            raise BaseFault(f"`{name}` leads to `{target.name}`, which is no .yaml or .yml file")
        with _opened(target) as stream:
            status = os.fstat(stream.fileno())  # of what was opened, so that nothing can be swapped
            if not stat.S_ISREG(status.st_mode):
                raise BaseFault(f"`{name}` is no regular file")
            data = stream.read(most + 1)
    except OSError as error:
        raise BaseFault(*_unreadable(path, name, error)) from error
    except ValueError as error:  # a NUL in the path
        raise BaseFault(f"`{name}` is not a path") from error
    if len(data) > most:
        raise BaseFault(f"`{name}` is too large: a recipe and all that it extends have at most 1 MiB of text")
    return data, (status.st_dev, status.st_ino)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file that is open for reading; a pipe is opened without waiting for somebody to write to it."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(handle, True)  # a writer that is there may take its time
        with open(handle, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(handle)


def identity(path: Path) -> Identity | None:
    """Which file a path leads to, by whatever name; None where it leads to none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def decode(data: bytes, name: str, faults: Faults, folder: Path | None = None) -> Source | None:
    """UTF-8 bytes to text; other encodings are named, never guessed. ``folder``: as for :class:`Source`."""
    for bom, encoding in _OTHER_MARKS.items():
        if data.startswith(bom):
            faults.unreadable(f"`{name}` is {encoding}; a recipe is UTF-8", name, "save it as UTF-8")
            return None
    marked = data.startswith(codecs.BOM_UTF8)
    if marked:
        data = data[len(codecs.BOM_UTF8) :]
    try:
        source = Source(name, data.decode("utf-8"), folder=folder)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        place = Source(name, data.decode("utf-8", "replace")).mark_at(len(before))
        faults.error("MC101", f"byte 0x{data[error.start]:02X} is not UTF-8", place, hint="save the file as UTF-8")
        return None
    if marked:
        faults.warning(
            "MC101", "the file starts with a byte-order mark", Mark(source, 1, 1), hint="save it as UTF-8 without one"
        )
    return source


def _unreadable(path: Path, name: str, error: OSError) -> tuple[str, str]:
    if error.errno == errno.ENOENT:
        return f"there is no file `{name}`", _neighbours(path)
    if error.errno == errno.EISDIR or os.path.isdir(path):
        inside = sorted(one.name for one in path.glob("*.y*ml"))[:5]
        return f"`{name}` is a folder, not a recipe", f"it holds {', '.join(inside)}" if inside else ""
    return f"cannot read `{name}`: {(error.strerror or str(error)).lower()}", ""


def _neighbours(path: Path) -> str:
    folder = path.parent
    try:
        names = sorted(one.name for one in folder.iterdir() if one.suffix in (".yaml", ".yml"))
    except OSError:
        return f"the folder `{folder}` does not exist"
    if near := nearest(path.name, names):
        return f"close to it in the same folder: {', '.join(near)}"
    if names:
        return f"the folder holds {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"
    return "`mcomp init` writes a first recipe"
