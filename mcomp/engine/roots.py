"""What a recipe's first stage starts from, as it enters a key: the model's origin, the data and the numerics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from mcomp.engine.code_digest import Reader
from mcomp.engine.own_code import Code, data_code, model_code, user_code
from mcomp.errors import PreflightError
from mcomp.models.registry import ZOOS
from mcomp.models.registry import user_file as model_file
from mcomp.store.digest import parse_json, sha256_file, sha256_json

if TYPE_CHECKING:
    from mcomp.recipe import Recipe


@dataclass(frozen=True)
class Root:
    """Everything a recipe's first stage starts from.

    Attributes:
        model: how the model is made.
        data: what it is trained and measured on.
        numerics: what the arithmetic depends on.
        model_codes: the code behind ``model``, under its names there.
        data_codes: the code behind ``data``.
        reader: of source files; all keys of one recipe see the same code.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    numerics: dict[str, Any]
    model_codes: Mapping[str, Code] = field(default_factory=dict)
    data_codes: Mapping[str, Code] = field(default_factory=dict)
    reader: Reader = field(default_factory=Reader)


def root_of(recipe: Recipe, *, cache_dir: Path | None, code_cache: Path | None, strict_code: bool = False) -> Root:
    """Fingerprint the model's origin, the data and the numerics.

    Args:
        recipe: the validated recipe.
        cache_dir: where fingerprints of data are kept; None to keep nothing.
        code_cache: file that remembers code digests; None to remember nothing.
        strict_code: key mcomp's own code by its digest even in a release.

    Raises:
        PreflightError: the data or the checkpoint is missing or unusable.
    """
    from mcomp.data.fingerprint import fingerprint
    from mcomp.data.spec import user_file as data_file

    reader = Reader(code_cache)
    name = recipe.model.name
    model_codes = _codes(name, model_file(name, recipe.base_dir), model_code(name, reader), reader)
    model = recipe.model.model_dump(mode="json", exclude={"weights"})
    model |= {"name": _bare(name), "seed": recipe.seed, **_keyed(model_codes, strict_code)}
    if recipe.model.weights is not None:
        model["weights"] = _weights_digest(recipe.base_dir / Path(recipe.model.weights).expanduser())
    if name.partition(":")[0] in ZOOS:
        model["package"] = metadata.version(name.partition(":")[0])

    options = keyed_options(recipe.data)
    options.pop("root", None)  # the content stands for the path
    name = str(options["name"])
    data_codes = _codes(name, data_file(name, recipe.base_dir), data_code(name, reader), reader)
    data = {
        "options": options | {"name": _bare(name)},
        "content": fingerprint(recipe.data, base_dir=recipe.base_dir, cache_dir=cache_dir),
        **_keyed(data_codes, strict_code),
    }
    return Root(model, data, _numerics(recipe), model_codes, data_codes, reader)


def keyed_options(options: BaseModel, base_dir: Path | None = None) -> dict[str, Any]:
    """Validated options as JSON, without the fields marked ``cache="ignore"``, at any depth.

    Args:
        options: of a stage, a model or a data set.
        base_dir: the recipe's folder; where it is given, the content of what a path option names stands for the path.
    """
    found: dict[str, Any] = options.model_dump(mode="json")
    for name, info in type(options).model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        value = getattr(options, name)
        if extra.get("cache") == "ignore":
            del found[name]
        elif extra.get("path") and base_dir is not None:
            found[name] = content_of(value, base_dir)
        elif isinstance(value, BaseModel):
            found[name] = keyed_options(value, base_dir)
        elif isinstance(value, list):
            found[name] = [_keyed_item(*pair, base_dir) for pair in zip(value, found[name], strict=True)]
        elif isinstance(value, dict):
            found[name] = {key: _keyed_item(item, found[name][str(key)], base_dir) for key, item in value.items()}
    return found


def _keyed_item(value: Any, plain: Any, base_dir: Path | None) -> Any:
    return keyed_options(value, base_dir) if isinstance(value, BaseModel) else plain


def content_of(text: Any, base_dir: Path) -> Any:
    """The digest of the file or folder that a path names; the text itself where there is nothing."""
    if isinstance(text, list):
        return [content_of(item, base_dir) for item in text]
    if not isinstance(text, str):
        return text
    path = base_dir / Path(text).expanduser()
    if path.is_file():
        return {"sha256": sha256_file(path)}
    if not path.is_dir():
        return text
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {"sha256": sha256_json({file.relative_to(path).as_posix(): sha256_file(file) for file in files})}


def torch_series() -> str:
    """``"2.15"``, from the package metadata: patch releases do not change numerics on purpose."""
    return ".".join(metadata.version("torch").split("+")[0].split(".")[:2])


def _numerics(recipe: Recipe) -> dict[str, Any]:
    from mcomp.training.hardware import gpu, resolve_device, resolve_precision

    device = resolve_device(recipe.device)
    card = gpu(int(device.partition(":")[2] or 0)) if device.startswith("cuda") else None
    return {
        "torch": torch_series(),
        "precision": resolve_precision(recipe.precision, device),
        "device": f"cuda:sm_{card['sm']}" if card else "cpu",
    }


def _codes(name: str, source: Path | None, ours: Code, reader: Reader) -> dict[str, Code]:
    return {"code": ours} if source is None else {"code": ours, "user_code": user_code(source, name, reader)}


def _keyed(codes: Mapping[str, Code], strict: bool) -> dict[str, Any]:
    return {name: code.keyed(strict) for name, code in codes.items()}


def _bare(name: str) -> str:
    """``factory`` of ``file.py:factory``, whose digest stands for the file; other names as they are."""
    return name if name.partition(":")[0] in ZOOS else name.rpartition(":")[2]


def _weights_digest(path: Path) -> str:
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
    return _identity(target) if path.is_dir() else sha256_file(path)


def _identity(manifest: Path) -> str:
    """What an artifact is, not when it was written; loading proves that the tensors are those it names."""
    try:
        return sha256_json(parse_json(manifest.read_bytes())["identity"])
    except (ValueError, KeyError, TypeError):  # no artifact: loading says what is wrong with it
        return sha256_file(manifest)
