"""From a name to an initialised network."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from mcomp.errors import BackendMissingError, PreflightError, UsageError
from mcomp.models.checkpoint import load_weights, model_of_artifact
from mcomp.models.registry import MODELS, needs_trust, unknown_name, user_file
from mcomp.models.spec import ModelSpec
from mcomp.models.user_factory import build_user_model
from mcomp.models.weightless import Weightless
from mcomp.options import Options
from mcomp.surgery import provenance

DEFAULT_CLASSES = 10


def build(
    spec: str | Options | Mapping[str, Any],
    *,
    num_classes: int | None = None,
    base_dir: Path | str | None = None,
    trust: bool = False,
    seed: int = 0,
    in_shape: tuple[int, ...] | None = None,
    weightless: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Build a network: float32, on the CPU, in eval mode, initialised from ``seed``.

    Args:
        spec: a name, the options of a recipe's ``model:``, or the same as a mapping.
        num_classes: outputs where ``spec`` does not say; usually the data set's number. Ten without either.
        base_dir: folder that relative paths start from; the current one by default.
        trust: allow a user's own ``file.py:factory`` to run.
        seed: of the initial weights.
        in_shape: one sample's ``(C, H, W)``; gives built-in models their input channels, and is checked.
        weightless: leave it on the meta device, shapes without values: enough for counting, and there at once.
        **kwargs: more options of the builder.

    Raises:
        UsageError: unknown name or option, or a user's code without ``trust``.
        BackendMissingError: timm is not installed.
        PreflightError: the builder fails, or does not fit the data or the checkpoint.
    """
    wanted = ModelSpec.of(spec)
    options = {**wanted.kwargs, **kwargs}
    folder = None if base_dir is None else Path(base_dir)
    _check_name(wanted.name, trust)
    classes = wanted.num_classes or num_classes or DEFAULT_CLASSES
    if num_classes is not None and classes < num_classes:
        raise PreflightError(
            f"model `{wanted.name}` has num_classes {classes}, the data set has {num_classes} classes",
            code="MC238",
            hint=f"set `num_classes: {num_classes}`, or leave it out: it follows the data set",
        )
    with torch.random.fork_rng(devices=[]), Weightless() if weightless else nullcontext():
        torch.manual_seed(seed)
        model, options = _make(wanted.name, classes, options, folder, in_shape)
    model = model.to("meta" if weightless else "cpu", torch.float32).eval()
    builder: dict[str, Any] = {"name": wanted.name, "kwargs": {"num_classes": classes, **options}}
    source = user_file(wanted.name, folder)
    if source is not None:
        builder["file_sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
    provenance(model).builder = builder
    if wanted.weights is not None:
        path = (folder or Path()) / Path(wanted.weights).expanduser()
        if path.is_dir():
            model = model_of_artifact(path, builder, trust=trust, base_dir=folder)
        else:
            load_weights(model, path, wanted.name)
    if in_shape is not None:
        _check_input(model, wanted.name, in_shape)
    return model


def _check_name(name: str, trust: bool) -> None:
    fault = unknown_name(name)
    if fault is not None:
        raise UsageError(fault, code="MC230", hint="`mcomp models` lists what can be built")
    if needs_trust(name) and not trust:
        raise UsageError(
            f"model `{name}` is your own code, and running it was not allowed",
            code="MC232",
            hint="pass `--trust` (in Python: `trust=True`) if you wrote it or have read it",
        )


def _make(
    name: str, classes: int, options: dict[str, Any], base_dir: Path | None, in_shape: tuple[int, ...] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The module, and the options as they have to be recorded."""
    if name in MODELS:
        return _built_in(name, classes, options, in_shape)
    zoo, _, rest = name.partition(":")
    if zoo == "torchvision":
        return _torchvision(rest, classes, options), options
    if zoo == "timm":
        return _timm(rest, classes, options), options
    return build_user_model(name, base_dir, classes, options), options


def _built_in(
    name: str, classes: int, options: dict[str, Any], in_shape: tuple[int, ...] | None
) -> tuple[nn.Module, dict[str, Any]]:
    entry = MODELS[name]
    if options.get("in_channels") is None and in_shape is not None:
        options = {**options, "in_channels": in_shape[0]}
    options = {key: value for key, value in options.items() if value is not None}
    try:
        entry.options(name=name, num_classes=classes, **options)
    except ValidationError as error:
        raise UsageError(_first_fault(name, error), code="MC231", hint=_allowed(entry.options)) from error
    function = getattr(importlib.import_module(entry.module), entry.function)
    return function(num_classes=classes, **options), options


def _torchvision(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    from torchvision.models import get_model, get_model_builder

    defaults: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # Their auxiliary heads make the training output a tuple, and they warn when left to choose an initialisation.
        defaults = {"aux_logits": False, "init_weights": True}
    if "weights" in options:
        raise UsageError("torchvision's own weights are not downloaded", code="MC231", hint="give `weights:` a file")
    try:
        model = get_model(name, weights=None, num_classes=classes, **{**defaults, **options})
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"torchvision's `{name}` refused its options: {error}",
            code="MC231",
            why=f"its signature is {inspect.signature(get_model_builder(name))}",
        ) from error
    assert isinstance(model, nn.Module)
    return model


def _timm(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise BackendMissingError(
            f"model `timm:{name}` needs the package timm, which is not installed",
            code="MC612",
            hint="pip install 'mcomp[timm]'",
        ) from error
    try:
        model = timm.create_model(name, pretrained=False, num_classes=classes, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"timm's `{name}` refused its options: {error}", code="MC231") from error
    assert isinstance(model, nn.Module)
    return model


def _check_input(model: nn.Module, name: str, in_shape: tuple[int, ...]) -> None:
    channels = in_shape[0]
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels != channels:
        raise PreflightError(
            f"model `{name}` takes images of {first.in_channels} channels, the data set gives {channels}",
            code="MC238",
            hint=f"set `data.channels: {first.in_channels}`",
        )
    smallest = MODELS[name].min_size if name in MODELS else 1
    if min(in_shape[1:]) < smallest:
        raise PreflightError(
            f"model `{name}` takes images of at least {smallest} x {smallest} pixels, "
            f"the data set gives {' x '.join(map(str, in_shape[1:]))}",
            code="MC238",
            hint=f"set `data.image_size: {smallest}` or more",
        )


def _first_fault(name: str, error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return f"unknown option `{where}` for model `{name}`"
    return f"option `{where}` of model `{name}`: {fault['msg']}, got {fault['input']!r}"


def _allowed(options: type[Options]) -> str:
    return f"its options are {', '.join(f'`{key}`' for key in options.model_fields)}"
