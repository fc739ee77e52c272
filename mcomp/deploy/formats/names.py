"""Which formats there are, what they need and offer. Importable without torch."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

FormatName = Literal["onnx", "pt2", "torchscript", "openvino", "ncnn", "mnn"]

#: What must be installed beside torch: name to import, name of the distribution.
PACKAGES: dict[str, dict[str, str]] = {
    "onnx": {"onnxruntime": "onnxruntime"},
    "openvino": {"openvino": "openvino"},
    "ncnn": {"ncnn": "ncnn", "pnnx": "pnnx"},
    "mnn": {"MNN": "MNN"},
}

#: Bits that weights alone can be stored in.
WEIGHT_BITS: dict[str, tuple[int, ...]] = {"ncnn": (16,), "mnn": (8, 4, 2)}


def file_stem(name: str) -> str:
    """What the files of a format are called in a folder of several: ``onnx.model``, then their suffix."""
    return f"{name}.model"


def missing_packages(name: str) -> list[str]:
    """What to install before a model can be exported as ``name``, by the names to import."""
    return [module for module in PACKAGES.get(name, {}) if find_spec(module) is None]
