"""What stands in an artifact's manifest: it may have been edited, damaged, or made by somebody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: Bytes of a manifest; that of ResNet-152, pruned and quantised, has less than 2 MiB.
LARGEST = 64 * 2**20

#: Arguments of :func:`mcomp.models.build` that loading gives, and no manifest may.
_OURS = {"spec", "trust", "base_dir", "in_shape"}


def malformed(manifest: Mapping[str, Any]) -> str | None:
    """The first key whose value has another form than mcomp writes; None for a sound manifest."""
    return next((key for key, fits in _FORMS.items() if not fits(manifest.get(key))), None)


def _is_builder(value: Any) -> bool:
    if value is None:
        return True
    kwargs = value.get("kwargs") if isinstance(value, dict) else None
    return isinstance(kwargs, dict) and not _OURS & kwargs.keys() and isinstance(value.get("name"), str)


def _is_log(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) and isinstance(one.get("op"), str) for one in value)


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _are_inputs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and isinstance(one.get("dtype"), str) and _is_shape(one.get("shape")) for one in value
    )


def _is_fingerprint(value: Any) -> bool:
    texts = isinstance(value, dict) and isinstance(value.get("digest"), str) and isinstance(value.get("dtype"), str)
    return texts and isinstance(value.get("values"), list)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


_FORMS: dict[str, Callable[[Any], bool]] = {
    "builder": _is_builder,
    "surgery": _is_log,
    "input_shape": _is_shape,
    "inputs": _are_inputs,
    "preprocessing": _is_mapping,
    "class_names": lambda value: isinstance(value, list),
    "tensors": _is_mapping,
    "fingerprint": _is_fingerprint,
    "identity": lambda value: isinstance(value, dict) and isinstance(value.get("tensors"), str),
    "versions": _is_mapping,
}
