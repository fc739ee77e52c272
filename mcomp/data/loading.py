"""From options to splits."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from mcomp.data.augment import Augmentation
from mcomp.data.normalise import Normalisation, measure
from mcomp.data.raw import Place, Positions, Raw
from mcomp.data.samples import Samples
from mcomp.data.spec import DataOptions, entry_of, needs_trust, options_for, unknown_name
from mcomp.data.splits import Data, Split
from mcomp.data.stratify import choose, hold_out
from mcomp.errors import PreflightError, UsageError
from mcomp.options import Options
from mcomp.suggest import did_you_mean


def load(
    source: str | Options | Mapping[str, Any] | None = None,
    *,
    base_dir: Path | str | None = None,
    trust: bool = False,
    seed: int = 0,
    cache_dir: Path | str | None = None,
    **options: Any,
) -> Data:
    """Load a data set: ``load("digits", image_size=16)``, or ``load(options)`` with validated options.

    The splits are fixed: they depend on the data alone, never on a seed. Validation is held out of train.

    Args:
        source: a name, the options of a recipe's ``data:``, or the same as a mapping.
        base_dir: folder that relative paths start from; the current one by default.
        trust: allow a user's own ``file.py:factory`` to run.
        seed: torch's and numpy's while a user's factory runs; nothing else depends on it.
        cache_dir: where decoded images are kept; nothing is kept without it.
        **options: as under ``data:`` in a recipe, ``name`` among them if ``source`` is left out.

    Raises:
        UsageError: unknown name or option, or a user's code without ``trust``.
        PreflightError: the data is missing, empty, of one class, damaged, or too little.
    """
    chosen = _validated(source, options)
    if needs_trust(chosen.name) and not trust:
        raise UsageError(
            f"data set `{chosen.name}` is your own code, and running it was not allowed",
            code="MC232",
            hint="pass `--trust` (in Python: `trust=True`) if you wrote it or have read it",
        )
    place = Place(
        None if base_dir is None else Path(base_dir), None if cache_dir is None else Path(cache_dir), trust, seed
    )
    raw: Raw = importlib.import_module(entry_of(chosen.name).module).read(chosen, place)
    return _assemble(raw, chosen)


def _validated(source: str | Options | Mapping[str, Any] | None, options: dict[str, Any]) -> DataOptions:
    if isinstance(source, DataOptions) and not options:
        return source
    if isinstance(source, Options):
        source = source.model_dump(exclude_unset=True)
    flat = {**({"name": source} if isinstance(source, str) else source or {}), **options}
    name = flat.get("name")
    if not isinstance(name, str):
        raise UsageError("no data set named", code="MC229", hint='e.g. `mcomp.data.load("digits")`')
    fault = unknown_name(name)
    if fault is not None:
        raise UsageError(fault, code="MC229", hint="`digits` needs no files; `image_folder` reads a folder of images")
    try:
        return options_for(name)(**flat)
    except ValidationError as error:
        faults = error.errors()
        # an option that is misspelled is often the one that is then missing
        first = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
        where = ".".join(map(str, first["loc"])) or "options"
        keys = options_for(name).model_fields
        known = ", ".join(f"`{key}`" for key in keys)
        unknown = first["type"] == "extra_forbidden"
        said = "unknown option" if unknown else first["msg"]
        meant = did_you_mean(where, keys) if unknown else ""
        raise UsageError(
            f"data set `{name}`, `{where}`: {said}", code="MC229", hint=meant or f"its options are {known}"
        ) from error


def _assemble(raw: Raw, options: DataOptions) -> Data:
    labels = raw.samples.labels.numpy()
    if len(labels) == 0:
        raise PreflightError(f"data set `{options.name}` is empty", code="MC221")
    if len(np.unique(labels)) < 2:
        raise PreflightError(
            f"data set `{options.name}` has one class only, `{raw.class_names[int(labels[0])]}`",
            code="MC222",
            hint="a classifier needs at least two",
        )
    parts = [_tensor(part) for part in _limited(_split(raw, labels, options), labels, options)]
    used = torch.cat(parts).sort().values
    samples = raw.samples.narrowed(used)
    train, val, test = (torch.searchsorted(used, part) for part in parts)
    normalise = _normalisation(raw, samples, train, options)
    _, h, w = samples.shape
    augmentation = _augmentation(options, w)
    train_split, val_split, test_split = (
        Split(samples, part, normalise, augmentation, options.batch_size) for part in (train, val, test)
    )
    preprocessing = {
        "size": [h, w],
        "mean": list(normalise.mean),
        "std": list(normalise.std),
        "channels": options.channels,
        # how a pixel gets there: without these a reader of the file would guess, and measure another accuracy
        "resize": "shorter side",
        "interpolation": "bilinear, antialiased",
        "crop": "center",
        "range": "0..255 / 255" if samples.fetch(train[:1]).dtype == torch.uint8 else "as given",
        "layout": "NCHW, RGB" if options.channels == 3 else "NCHW, grey",
    }
    return Data(
        options.name,
        raw.class_names,
        (options.channels, h, w),
        options.batch_size,
        preprocessing,
        train_split,
        val_split,
        test_split,
    )


def _split(raw: Raw, labels: Positions, options: DataOptions) -> tuple[Positions, Positions, Positions]:
    train = raw.train
    if train is None:
        taken = [part for part in (raw.val, raw.test) if part is not None]
        train = np.setdiff1d(np.arange(len(labels)), np.concatenate(taken) if taken else [])
    test, val = raw.test, raw.val
    if test is None:
        stay, held = hold_out(labels[train], raw.test_fraction, "test")
        train, test = train[stay], train[held]
    if val is None:
        stay, held = hold_out(labels[train], options.val_fraction, "val")
        train, val = train[stay], train[held]
    return train, val, test


def _limited(
    splits: tuple[Positions, Positions, Positions], labels: Positions, options: DataOptions
) -> tuple[Positions, Positions, Positions]:
    limit = options.limit
    if limit is None:
        return splits
    largest = max(map(len, splits))
    if limit > largest:
        raise PreflightError(
            f"`limit: {limit}` is more than data set `{options.name}` has",
            code="MC224",
            why=f"train, val and test hold {', '.join(str(len(part)) for part in splits)} images",
            hint=f"leave `limit` out, or set at most {largest}",
        )
    train, val, test = (part[choose(labels[part], min(limit, len(part)))] for part in splits)
    return train, val, test


def _normalisation(raw: Raw, samples: Samples, train: Tensor, options: DataOptions) -> Normalisation:
    mean, std = options.mean or raw.mean, options.std or raw.std
    if not mean or not std:
        measured = measure(samples, train)
        mean, std = mean or measured[0], std or measured[1]
    channels = options.channels
    widened = [list(figures) * channels if len(figures) == 1 else list(figures) for figures in (mean, std)]
    return Normalisation(tuple(widened[0]), tuple(widened[1]))


def _augmentation(options: DataOptions, width: int) -> Augmentation:
    kind = entry_of(options.name).augment if options.augment == "auto" else options.augment
    return Augmentation(shift=max(1, width // 8) if "shift" in kind else 0, flip="flip" in kind)


def _tensor(positions: Positions) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(positions, dtype=np.int64))
