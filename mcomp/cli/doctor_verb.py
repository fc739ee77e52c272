"""``mcomp doctor``."""

from __future__ import annotations

import argparse
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from mcomp.cli.common import add_json, add_store, open_store, print_json

REQUIRED = ("torch", "torchvision", "pydantic", "pyyaml", "rich", "numpy", "onnx", "onnxscript", "onnxruntime")
OPTIONAL = ("tensorrt", "pycuda", "openvino", "optuna", "timm", "tensorboard", "mlflow", "mlflow-skinny", "wandb")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_store(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; 7 if a required package is missing."""
    found = examine(arguments)
    if arguments.json:
        print_json(found)
    else:
        from mcomp.report.table import print_table

        body = [(name, str(value)) for name, value in found.items() if not isinstance(value, dict)]
        body += [(name, one["version"] or one["why_absent"]) for name, one in found["backends"].items()]
        body += [(name, version or "not installed") for name, version in found["packages"].items()]
        print_table("this machine", ("what", "found"), body)
    missing = [name for name in REQUIRED if found["packages"][name] is None]
    if missing:
        sys.stderr.write(f"missing: {', '.join(missing)}; install with `pip install mcomp`\n")
        return 7
    return 0


def examine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Versions, devices, precision and disk, without importing torch."""
    from mcomp.engine.backends import backends
    from mcomp.training.hardware import gpu, resolve_device, resolve_precision, threads

    device = resolve_device("auto")
    card = gpu()
    root = open_store(arguments).root
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "gpu": f"{card['name']} (sm_{card['sm']})" if card else "none",
        "precision": resolve_precision("auto", device),
        "threads": threads(),
        "store": str(root),
        "free disk": f"{shutil.disk_usage(Path(place)).free / 1e9:.1f} GB",
        "tensorrt engine": "can be built" if backends()["tensorrt"].present else "cannot be built here",
        "backends": {name: vars(found) for name, found in backends().items()},
        "packages": {name: _version(name) for name in (*REQUIRED, *OPTIONAL)},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
