"""Starting weights from a file or an artifact, refused unless they fit exactly."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.errors import PreflightError
from mcomp.suggest import did_you_mean
from mcomp.surgery import provenance

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_SHOWN = 4


def load_weights(model: nn.Module, path: Path, name: str) -> None:
    """Fill ``model`` from a state_dict file, whole or not at all.

    A state_dict nested under ``state_dict`` or ``model``, and ``module.`` before every name (as
    DataParallel writes), are understood.

    Args:
        model: changed in place, only if everything fits.
        path: written by ``torch.save(model.state_dict(), path)``.
        name: of the model, for messages.

    Raises:
        PreflightError: the file is missing, unreadable, holds pickled code, or is of another model.
    """
    state = read_state_dict(path)
    own = model.state_dict()
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    reshaped = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or unexpected or reshaped:
        raise PreflightError(
            f"`{path}` is not a checkpoint of `{name}` with these options: {len(missing)} tensors missing, "
            f"{len(unexpected)} unexpected, {len(reshaped)} of another shape",
            code="MC237",
            why=_differences(own, state, missing, unexpected, reshaped),
            hint=_advice(own, state, missing, unexpected, reshaped),
        )
    broken = [key for key in own if state[key].is_floating_point() and not bool(state[key].isfinite().all())]
    if broken:
        raise PreflightError(f"`{path}` holds NaN or infinity in {_names(broken)}", code="MC237")
    model.load_state_dict(dict(state))


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU. Never unpickles code.

    Raises:
        PreflightError: see :func:`load_weights`.
    """
    if not path.exists():
        raise PreflightError(
            f"no checkpoint `{path}`",
            code="MC237",
            hint=did_you_mean(path.name, [beside.name for beside in path.parent.glob("*")])
            or "paths are relative to the recipe; nothing is downloaded",
        )
    try:
        with warnings.catch_warnings():
            # whatever the protocol, a plain state_dict loads and anything else is refused below
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PreflightError(
            f"`{path}` is not a plain state_dict",
            code="MC237",
            why="it holds pickled objects, which could run code, or is no torch file at all",
            hint="save it again with `torch.save(model.state_dict(), path)`",
        ) from error
    except Exception as error:  # damaged bytes make the reader trip in many ways
        said = str(error).partition("\n")[0] or type(error).__name__
        raise PreflightError(
            f"cannot read `{path}` as a checkpoint: {said}",
            code="MC237",
            hint="the file may be cut short; copy it again",
        ) from error
    state = _unwrap(loaded)
    if state is None:
        raise PreflightError(
            f"`{path}` holds {type(loaded).__name__}, not a state_dict",
            code="MC237",
            hint="save it again with `torch.save(model.state_dict(), path)`",
        )
    return state


def model_of_artifact(folder: Path, builder: dict[str, Any], *, trust: bool, base_dir: Path | None) -> nn.Module:
    """The model an artifact holds, surgery included, if it was built as ``builder`` says.

    Raises:
        PreflightError: not an artifact, or one of another model.
    """
    if not (folder / "manifest.json").is_file():
        raise PreflightError(f"`{folder}` is not an artifact: it has no manifest.json", code="MC237")
    from mcomp.artifact import load_artifact  # which itself builds models

    model = load_artifact(folder, trust=trust, base_dir=base_dir)
    found = provenance(model).builder or {}
    if found.get("name") != builder["name"]:
        raise PreflightError(
            f"artifact `{folder}` holds model `{found.get('name')}`, the recipe asks for `{builder['name']}`",
            code="MC237",
            hint=f"set `model.name: {found.get('name')}`",
        )
    differing = {
        key: (value, found.get("kwargs", {}).get(key))
        for key, value in builder["kwargs"].items()
        if found.get("kwargs", {}).get(key, value) != value
    }
    if differing:
        said = ", ".join(
            f"{key} {json.dumps(new)} (artifact: {json.dumps(old)})" for key, (new, old) in differing.items()
        )
        raise PreflightError(f"artifact `{folder}` was built with other options: {said}", code="MC237")
    return model


def _unwrap(loaded: object) -> dict[str, Tensor] | None:
    if not isinstance(loaded, Mapping):
        return None
    if loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        state = {str(key): value for key, value in loaded.items()}
        if all(key.startswith("module.") for key in state):
            return {key.removeprefix("module."): value for key, value in state.items()}
        return state
    return next((found for key in _WRAPPERS if (found := _unwrap(loaded.get(key))) is not None), None)


def _differences(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    reshaped: list[str],
) -> str:
    parts = []
    if missing:
        parts.append(f"missing {_names(missing)}")
    if unexpected:
        parts.append(f"unexpected {_names(unexpected)}")
    if reshaped:
        shown = ", ".join(
            f"`{key}` {_shape(state[key])} in the file, {_shape(own[key])} in the model" for key in reshaped[:_SHOWN]
        )
        parts.append(f"other shapes: {shown}" + (" …" if len(reshaped) > _SHOWN else ""))
    return "; ".join(parts)


def _advice(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    reshaped: list[str],
) -> str:
    if not missing and not unexpected and reshaped:
        last = [key for key in own if own[key].ndim >= 1][-2:]
        if set(reshaped) <= set(list(own)[-7:]) and reshaped[0].endswith("weight"):
            return f"did you mean `num_classes: {state[reshaped[0]].shape[0]}`?"
        if reshaped and set(last).isdisjoint(reshaped):
            return "same layers, other widths: did you mean another `width`?"
        return "same layers, other sizes: check `width` and `num_classes`"
    return "check `model.name`: the layers have other names"


def _names(keys: list[str]) -> str:
    return ", ".join(f"`{key}`" for key in keys[:_SHOWN]) + (
        f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
