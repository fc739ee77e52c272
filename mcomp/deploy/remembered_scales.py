"""Calibrated ranges, kept with a fingerprint of the model and the images they were found on.

A stage that runs again with other options of its engine, on the same model and images, does not calibrate again. What
is reused is what calibrating again would find: model, images, method and the code that calibrates are all in the
fingerprint, and the images themselves are read and compared.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mcomp.data.cache import keep
from mcomp.deploy.cache_folder import cache_folder
from mcomp.quantization.calibration import calibrate, quantizers
from mcomp.quantization.inputs import Batch
from mcomp.quantization.quantizers.base import Quantizer

FORMAT = 1
Entry = dict[str, Any]
Batches = Callable[[], Iterable[Batch]]


class RememberedScales:
    """:func:`mcomp.quantization.calibrate`, spared where its result is known.

    Args:
        file: of an earlier run, looked at first; None to know only the person's cache folder.

    Attributes:
        notes: what was reused, and what was not and why.
        entries: one per calibration of this run, found or reused: the content of the file to keep.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.notes: list[str] = []
        self.entries: list[Entry] = []
        self._file = file
        self._given = _read(file) if file is not None else []
        if file is not None and not self._given:
            self.notes.append(f"`{file}` holds no calibrated ranges: they were found anew")

    def __call__(self, model: nn.Module, batches: Batches, method: str | None) -> list[str]:
        """Set every range that is missing, as :func:`mcomp.quantization.calibrate` does.

        Returns:
            Names of the activation quantisers that were set.
        """
        origin = {"model_sha256": _model_digest(model), "code_sha256": _code_digest(), "method": method or ""}
        entry = self._known(origin, batches)
        if entry is not None:
            names = _restore(model, entry["ranges"])
        else:
            missing = [(name, module) for name, module in _all(model) if not module.ready]
            seen = hashlib.sha256()
            names = calibrate(model, _watched(batches(), seen), method)
            ranges = {name: _state(module) for name, module in missing if module.ready}
            entry = {"format": FORMAT, **origin, "data_sha256": seen.hexdigest(), "names": names, "ranges": ranges}
            keep(_place(origin), lambda stream: stream.write(json.dumps([entry]).encode()))
        self.entries.append(entry)
        return names

    def write(self, path: Path) -> Path:
        """Keep what this run calibrated or reused, for a later run's ``scales``."""
        path.write_text(json.dumps(self.entries, indent=1))
        return path

    def _known(self, origin: dict[str, str], batches: Batches) -> Entry | None:
        for source, entries in (("given", self._given), ("cache", _read(_place(origin)))):
            fitting = [entry for entry in entries if all(entry.get(name) == value for name, value in origin.items())]
            if source == "given" and entries and not fitting:
                self.notes.append(f"`{self._file}` is of another model, method or mcomp: ranges were found anew")
            if not fitting:
                continue
            seen = hashlib.sha256()
            for _ in _watched(batches(), seen):
                pass
            for entry in fitting:
                if entry.get("data_sha256") == seen.hexdigest():
                    where = f"`{self._file}`" if source == "given" else "an earlier run"
                    self.notes.append(f"{len(entry['names'])} ranges are those of {where}: same model and images")
                    return entry
            if source == "given":
                self.notes.append(f"`{self._file}` was made of other images: ranges were found anew")
        return None


def _all(model: nn.Module) -> list[tuple[str, Quantizer]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Quantizer)]


def _state(module: Quantizer) -> dict[str, Any]:
    return {
        name: {"dtype": str(tensor.dtype).removeprefix("torch."), "values": tensor.tolist()}
        for name, tensor in module.state_dict().items()
    }


def _restore(model: nn.Module, ranges: dict[str, Any]) -> list[str]:
    waiting = [name for name, module in quantizers(model).items() if not module.ready]
    modules = dict(_all(model))
    for name in waiting:
        modules[name].name = modules[name].name or name
    for name, state in ranges.items():
        tensors = {
            part: torch.tensor(held["values"], dtype=getattr(torch, held["dtype"])) for part, held in state.items()
        }
        modules[name].load_state_dict(tensors)
    return waiting


def _read(path: Path) -> list[Entry]:
    """The entries of a file; none where it is missing or something else."""
    try:
        read = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return []
    entries = read if isinstance(read, list) else []
    wanted = {"format": int, "names": list, "ranges": dict}
    return [
        entry
        for entry in entries
        if isinstance(entry, dict)
        and entry.get("format") == FORMAT
        and all(isinstance(entry.get(name), kind) for name, kind in wanted.items())
    ]


def _place(origin: dict[str, str]) -> Path:
    key = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    return cache_folder("calibration", f"{key[:32]}.json")


def _watched(batches: Iterable[Batch], seen: Any) -> Iterator[Batch]:
    for batch in batches:
        for tensor in (batch,) if isinstance(batch, Tensor) else batch:
            _add(seen, tensor)
        yield batch


def _add(seen: Any, tensor: Tensor) -> None:
    held = tensor.detach().cpu().contiguous()
    seen.update(f"{held.dtype} {tuple(held.shape)}\n".encode())
    seen.update(held.reshape(-1).view(torch.uint8).numpy())


def _model_digest(model: nn.Module) -> str:
    """Of its structure, of every tensor in it, and of the source of a person's own layers."""
    seen = hashlib.sha256(f"{torch.__version__}\n{model}\n".encode())
    for name in sorted({type(module).__module__ for module in model.modules()}):
        source = getattr(sys.modules.get(name), "__file__", None)
        if not name.startswith("torch.") and source is not None:
            seen.update(Path(source).read_bytes())
    for name, tensor in model.state_dict().items():
        seen.update(name.encode())
        _add(seen, tensor)
    return seen.hexdigest()


@lru_cache(maxsize=1)
def _code_digest() -> str:
    """Of the code that calibrates."""
    import mcomp.quantization

    folder = Path(mcomp.quantization.__file__).parent
    seen = hashlib.sha256()
    for source in sorted(folder.rglob("*.py")):
        seen.update(source.relative_to(folder).as_posix().encode())
        seen.update(source.read_bytes())
    return seen.hexdigest()
