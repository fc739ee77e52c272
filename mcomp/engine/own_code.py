"""The code behind a key: a stage's, a model's, the data loader's, and what measures every model. No torch.

Each has two faces. What enters the key is the version that a release vouches for, or the digest of the tokens where
nobody does: plug-ins, a person's own files, editable installs, and all of mcomp under ``--strict-code``. What is
recorded beside the key is always both, file by file, so that `explain` can name the file that changed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mcomp.engine.code_digest import Reader
from mcomp.store.digest import sha256_json

PACKAGE = Path(__file__).resolve().parents[1]

#: Version of mcomp's code beside the stages, by its room. It goes up whenever the same recipe would give other
#: bits or figures; ``tests/golden/stage_code.json`` holds each to its import closure, as it does the stages.
VERSIONS = {"models": 1, "data": 1, "metrics": 1}

_SHORT = 12  # digits of a file's recorded digest: enough to see that it changed


@dataclass(frozen=True)
class Code:
    """Code that an outcome depends on.

    Attributes:
        starts: where its import closure begins: modules, each with its top-level package, None for a file on its own.
        version: what a release of mcomp vouches for it with; None for code that is not mcomp's.
        within: count only modules below this one; what lies outside has a place of its own in the key.
        reader: reads the files.
        alone: files that count without what they import.
        loose: digest of code that lies in no file.
        unsure: what that code uses and cannot be digested, in words; ``loose`` is then no other process's.
    """

    starts: tuple[tuple[Path, str | None], ...]
    version: int | None = None
    within: str = ""
    reader: Reader = field(default_factory=Reader, compare=False, repr=False)
    alone: tuple[Path, ...] = ()
    loose: str = ""
    unsure: str = ""

    def keyed(self, strict: bool = False) -> dict[str, Any]:
        """What enters the key.

        Raises:
            PreflightError: a file cannot be read or is no Python.
        """
        if self.loose:
            return {"kind": "interactive", "digest": self.loose}
        if self.version is not None and not strict and self.reader.mcomp_is_released:
            return {"kind": "release", "version": self.version}
        return {"kind": "tokens", "digest": self.digest}

    def recorded(self) -> dict[str, Any]:
        """What stands beside the key: version, digest, and a short digest of each file, by module."""
        files = {name: digest[:_SHORT] for name, digest in self.files.items()}
        return {"version": self.version, "digest": self.digest, "files": files}

    @property
    def digest(self) -> str:
        """SHA-256 over all of :attr:`files`."""
        return self.loose or sha256_json(self.files)

    @cached_property
    def files(self) -> dict[str, str]:
        """Token digest of each module of the closure, by dotted name."""
        found: dict[str, str] = {}
        for file, package in self.starts:
            found |= self.reader.closure(file, package)
        kept = {name: digest for name, digest in found.items() if name.startswith(self.within)}
        return kept | {file.stem: self.reader.digest(file) for file in self.alone}


def stage_code(cls: type, reader: Reader | None = None) -> Code:
    """The code of a stage's class: its module and what that imports of its own package."""
    package = cls.__module__.partition(".")[0]
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None:  # typed into a notebook
        from mcomp.engine.typed_code import typed_code

        digest, unsure = typed_code(cls, reader or Reader())
        return Code((), loose=digest, unsure=unsure)
    alone = package == "__main__" or package.startswith("mcomp_plugin_")
    version = cls.version if package == "mcomp" else None  # type: ignore[attr-defined]
    return Code(((Path(file), None if alone else package),), version, reader=reader or Reader())


def model_code(name: str, reader: Reader | None = None) -> Code:
    """The code of mcomp that builds the model ``name``."""
    from mcomp.models import registry

    files = ["models/resolve.py"]
    if name in registry.MODELS:
        files.append(_file_of(registry.MODELS[name].module))
    return _ours("models", files, reader)


def data_code(name: str, reader: Reader | None = None) -> Code:
    """The code of mcomp that reads the data set ``name``."""
    from mcomp.data import spec

    return _ours("data", ["data/loading.py", _file_of(spec.entry_of(name).module)], reader)


def measuring_code(reader: Reader | None = None) -> Code:
    """The code of mcomp behind the figures that the engine takes of every stage's model."""
    code = _ours("metrics", ["metrics/cost.py", "metrics/timing.py"], reader)
    return replace(code, alone=(PACKAGE / "engine" / "metering.py",))


def user_code(source: Path, name: str, reader: Reader | None = None) -> Code:
    """The code of a person's factory: the file with its neighbours; of a package, the package.

    Args:
        source: the factory's file.
        name: as in the recipe, ``file.py:factory`` or ``module:factory``.
        reader: reads the files.
    """
    dotted = name.rpartition(":")[0]
    package = None if dotted.endswith(".py") else dotted.partition(".")[0]
    if "." not in dotted and not installed(source):
        package = None  # a module beside the recipe: its neighbours are the person's too
    return Code(((source, package),), reader=reader or Reader())


def _ours(room: str, files: list[str], reader: Reader | None) -> Code:
    starts = tuple((PACKAGE / file, "mcomp") for file in files)
    return Code(starts, VERSIONS[room], f"mcomp.{room}", reader or Reader())


def _file_of(module: str) -> str:
    return "/".join(module.split(".")[1:]) + ".py"


def installed(source: Path) -> bool:
    """Whether a file belongs to an installed package, whose version nobody keys."""
    return not {"site-packages", "dist-packages"}.isdisjoint(source.parts)
