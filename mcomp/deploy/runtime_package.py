"""A runtime's Python package: whether it is there, and what it says where importing it fails. Imports no torch."""

from __future__ import annotations

import importlib
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from mcomp.errors import BackendMissingError

#: Module to what a person calls it, the code of its error, and what brings it.
_KNOWN = {
    "onnxruntime": ("ONNX Runtime", "MC610", "pip install onnxruntime"),
    "openvino": ("OpenVINO", "MC618", "pip install 'mcomp[openvino]'"),
    "ncnn": ("ncnn", "MC618", "pip install 'mcomp[ncnn]'"),
    "pnnx": ("pnnx", "MC618", "pip install 'mcomp[ncnn]'"),
    "MNN": ("MNN", "MC618", "pip install 'mcomp[mnn]'"),
}


def absent(module: str) -> str:
    """That the package is not installed, and what installs it; empty where it is. Nothing is imported."""
    name, _, install = _KNOWN[module]
    return "" if find_spec(module) is not None else f"{name} is not installed ({install})"


def install_command(modules: list[str]) -> str:
    """What brings all of ``modules``."""
    return " && ".join(dict.fromkeys(_KNOWN[module][2] for module in modules))


def load_runtime(module: str) -> Any:
    """Import a runtime.

    Raises:
        BackendMissingError: MC610 for ONNX Runtime, else MC618: it is not installed, or cannot be imported.
    """
    name, code, install = _KNOWN[module]
    if find_spec(module) is None:
        raise BackendMissingError(f"{name} is not installed", code=code, hint=install)
    try:
        return importlib.import_module(module)
    except Exception as error:  # a library that does not load, another version of numpy: whatever it meets
        raise BackendMissingError(
            f"{name}{_version(module)} is installed, and importing it fails",
            code=code,
            why=f"{type(error).__name__}: {error}",
            hint=f"mend what it says, or install it anew: pip install --force-reinstall {module}",
        ) from error


def _version(package: str) -> str:
    try:
        return f" {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return ""
