"""Action keys: what a stage's outcome depends on, and nothing else. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.options import Options
from mcomp.store.atomic import make_folder
from mcomp.store.digest import sha256_file, sha256_json

if TYPE_CHECKING:
    from mcomp.recipe import Recipe
    from mcomp.recipe.model import RecipeStage

FORMAT = 1
CODE_CACHE = "code.json"
Preimage = dict[str, Any]


def keyed_options(options: Options) -> dict[str, Any]:
    """Validated options as JSON, without the fields marked ``cache="ignore"``."""
    dumped = options.model_dump(mode="json")
    for name, info in type(options).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("cache") == "ignore":
            dumped.pop(name, None)
    return dumped


def stage_seed(recipe_seed: int, uses: str, ordinal: int) -> int:
    """A 31-bit seed for the ``ordinal``-th use of a stage; names given by the person do not enter."""
    digest = hashlib.sha256(f"{recipe_seed}:{uses}:{ordinal}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def torch_series() -> str:
    """``"2.15"``, from the package metadata: patch releases do not change numerics on purpose."""
    return ".".join(metadata.version("torch").split("+")[0].split(".")[:2])


@dataclass(frozen=True)
class Root:
    """Everything a recipe's first stage starts from."""

    model: dict[str, Any]
    data: dict[str, Any]
    numerics: dict[str, Any]


@dataclass
class KeyMaker:
    """Builds the preimage of each stage of one recipe.

    Args:
        recipe: the validated recipe.
        root: from :func:`root_of`.
        code_cache: file that remembers code digests by path, size and mtime; None to remember nothing.
    """

    recipe: Recipe
    root: Root
    code_cache: Path | None = None
    _codes: dict[str, Any] = field(default_factory=dict)

    def preimage(self, stage: RecipeStage, upstream: str | None, artifacts: Mapping[str, str]) -> Preimage:
        """The full preimage.

        Args:
            stage: what runs.
            upstream: the incoming artifact's digest, None for the first stage.
            artifacts: digests of all earlier stages by id.
        """
        return {
            "format": FORMAT,
            "stage": stage.uses,
            "version": stage.cls.version,
            "code": self._code(stage),
            "options": keyed_options(stage.options),
            "upstream": {"model": self.root.model} if upstream is None else {"artifact": upstream},
            "data": self.root.data if stage.cls.traits.needs_data else None,
            "seed": self.seed(stage),
            "numerics": self.root.numerics,
            "parts": stage.cls.key_parts(stage.options),
            "earlier": [artifacts.get(wanted) for wanted in stage.cls.reads(stage.options)],
        }

    def seed(self, stage: RecipeStage) -> int:
        """The recipe's own seed for this stage, or one derived from its place."""
        if stage.seed is not None:
            return stage.seed
        ordinal = stage.surroundings.before.count(stage.uses)
        return stage_seed(self.recipe.seed, stage.uses, ordinal)

    def remember_code(self, folder: Path) -> None:
        """Keep the code digests there, where the store was only made during this run: the next start is faster."""
        if self.code_cache is None:
            make_folder(folder)
            for stage in self.recipe.stages:
                stage_code(stage.cls, folder / CODE_CACHE)

    def _code(self, stage: RecipeStage) -> Any:
        if stage.uses not in self._codes:
            self._codes[stage.uses] = stage_code(stage.cls, self.code_cache)
        return self._codes[stage.uses]


def key_of(preimage: Preimage) -> str:
    """SHA-256 of the canonical JSON."""
    return sha256_json(preimage)


def stage_code(cls: type, cache: Path | None) -> dict[str, str]:
    """How the code behind a stage enters its key.

    A released mcomp stands behind its stages' ``version``; a plug-in or an editable checkout is
    keyed by the token digest of its module and first-party imports.
    """
    import sys

    from mcomp.engine.code_digest import code_digest, is_released

    package = cls.__module__.partition(".")[0]
    if package == "mcomp" and is_released("mcomp"):
        return {"kind": "release"}
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        return {"kind": "interactive", "name": f"{cls.__module__}.{cls.__qualname__}"}
    return {"kind": "tokens", "digest": code_digest(Path(file), _root_package(package), cache_path=cache)}


def _root_package(package: str) -> str | None:
    return None if package.startswith("mcomp_plugin_") else package


def root_of(recipe: Recipe, *, cache_dir: Path | None, code_cache: Path | None) -> Root:
    """Fingerprint the model's origin, the data and the numerics.

    Raises:
        PreflightError: the data or the checkpoint is missing or unusable.
    """
    from mcomp.training.hardware import gpu, resolve_device, resolve_precision

    device = resolve_device(recipe.device)
    precision = resolve_precision(recipe.precision, device)
    card = gpu(int(device.partition(":")[2] or 0)) if device.startswith("cuda") else None
    numerics = {
        "torch": torch_series(),
        "precision": precision,
        "device": f"cuda:sm_{card['sm']}" if card else "cpu",
    }
    return Root(_model_part(recipe, code_cache), _data_part(recipe, cache_dir, code_cache), numerics)


def _model_part(recipe: Recipe, code_cache: Path | None) -> dict[str, Any]:
    from mcomp.engine.code_digest import code_digest
    from mcomp.models import registry

    part = recipe.model.model_dump(mode="json", exclude={"weights"})
    part["seed"] = recipe.seed
    if recipe.model.weights is not None:
        part["weights"] = _weights_digest(recipe.base_dir / recipe.model.weights)
    source = registry.user_file(recipe.model.name, recipe.base_dir)
    origin = recipe.model.name.partition(":")[0]
    if source is not None:
        part["code"] = code_digest(source, None, cache_path=code_cache)
        part["name"] = recipe.model.name.rpartition(":")[2]  # the file's digest stands for its path
    elif origin in ("torchvision", "timm"):
        part["package"] = metadata.version(origin)
    elif recipe.model.name in registry.MODELS:
        part["code"] = _own_code(registry.MODELS[recipe.model.name].module, code_cache)
    return part


def _own_code(module: str, code_cache: Path | None) -> str:
    """How a built-in model or loader enters the key: by version when released, else by its tokens."""
    from mcomp import __version__
    from mcomp.engine.code_digest import code_digest, is_released

    if is_released("mcomp"):
        return f"release {__version__}"
    root = Path(__file__).parents[1]
    file = root.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return code_digest(file, "mcomp", cache_path=code_cache)


def _weights_digest(path: Path) -> str:
    from mcomp.errors import PreflightError

    target = path / "manifest.json" if path.is_dir() else path
    if not target.is_file():
        inside = (path / "model" / "manifest.json").is_file()
        raise PreflightError(
            f"`model.weights` names `{path}`, which " + ("is no artifact" if path.is_dir() else "does not exist"),
            code="MC237",
            hint=f"did you mean `{path / 'model'}`?"
            if inside
            else "give a state_dict file or an artifact folder; a path is relative to the recipe",
        )
    return sha256_file(target)


def _data_part(recipe: Recipe, cache_dir: Path | None, code_cache: Path | None) -> dict[str, Any]:
    from mcomp.data import spec
    from mcomp.data.fingerprint import fingerprint
    from mcomp.engine.code_digest import code_digest

    part: dict[str, Any] = {
        "options": keyed_options(recipe.data),
        "content": fingerprint(recipe.data, base_dir=recipe.base_dir, cache_dir=cache_dir),
    }
    part["options"].pop("root", None)  # the content stands for the path
    name = str(part["options"]["name"])
    source = spec.user_file(name, recipe.base_dir)
    if source is not None:
        part["code"] = code_digest(source, None, cache_path=code_cache)
        part["options"]["name"] = name.rpartition(":")[2]
    else:
        part["code"] = _own_code("mcomp.data.loading", code_cache)
    return part
