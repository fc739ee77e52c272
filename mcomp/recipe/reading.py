"""A recipe file to text: what can be wrong before any YAML is looked at."""

from __future__ import annotations

import codecs
import errno
from pathlib import Path

from mcomp.recipe.diagnostics import Faults
from mcomp.recipe.loader import MAX_BYTES
from mcomp.recipe.tree import Mark, Source
from mcomp.suggest import nearest

_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it starts with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read(path: Path, name: str, faults: Faults) -> Source | None:
    """The file's text; None when there is none, with the reason recorded.

    Args:
        path: the file.
        name: the path as given by the person, for messages.
        faults: receives the reason.
    """
    where = Mark(Source(name, ""), 1, 1)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        message, hint = _unreadable(path, name, error)
        faults.error("MC101", message, None, hint=hint)
        return None
    except ValueError:  # a NUL in the path
        faults.error("MC101", f"`{name}` is not a path", None)
        return None
    if len(data) > MAX_BYTES:
        faults.error("MC101", f"`{name}` is larger than 1 MiB; a recipe is a page of text", where)
        return None
    return decode(data, name, faults)


def decode(data: bytes, name: str, faults: Faults) -> Source | None:
    """UTF-8 bytes to text; other encodings are named, never guessed."""
    for bom, encoding in _OTHER_MARKS.items():
        if data.startswith(bom):
            faults.error("MC101", f"`{name}` is {encoding}; a recipe is UTF-8", None, hint="save it as UTF-8")
            return None
    marked = data.startswith(codecs.BOM_UTF8)
    if marked:
        data = data[len(codecs.BOM_UTF8) :]
    try:
        source = Source(name, data.decode("utf-8"))
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
    if error.errno == errno.EISDIR or path.is_dir():
        inside = sorted(one.name for one in path.glob("*.y*ml"))[:5]
        return f"`{name}` is a folder, not a recipe", f"it holds {', '.join(inside)}" if inside else ""
    return f"cannot read `{name}`: {(error.strerror or str(error)).lower()}", ""


def _neighbours(path: Path) -> str:
    folder = path.parent
    try:
        names = sorted(one.name for one in folder.iterdir() if one.suffix in (".yaml", ".yml"))
    except OSError:
        return f"the folder `{folder}` does not exist"
    near = nearest(path.name, names) or names[:3]
    if near:
        return f"close to it in the same folder: {', '.join(near)}"
    return "`mcomp init` writes a first recipe"
