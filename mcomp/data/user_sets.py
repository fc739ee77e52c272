"""Data sets made by a user's own function: torch Datasets, lists or arrays, with or without splits."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mcomp.data.arrays import image_tensor, is_scalar, label_number
from mcomp.data.raw import Place, Positions, Raw
from mcomp.data.resize import resized, with_channels
from mcomp.data.samples import TensorSamples
from mcomp.data.spec import DataOptions, UserOptions, extras
from mcomp.errors import McompError, PreflightError
from mcomp.models.user_factory import call_factory, load_factory

_SPLITS = ("train", "val", "test")
_NAMES = ("classes", "class_names")


def read(options: DataOptions, place: Place) -> Raw:
    """Call the factory and read everything it returns into memory, once.

    It may return a mapping, an object or a tuple with train, val and test (the last two may be missing), or
    one data set to split. A data set is a ``torch.utils.data.Dataset`` or a list of (image, label) pairs, or a
    pair (images, labels). Random transforms of a Dataset are therefore drawn once; ``data.augment`` is not.

    Raises:
        PreflightError: the factory fails, or returns something that is no data set of images.
    """
    assert isinstance(options, UserOptions)
    factory = load_factory(options.name, place.base_dir)
    offered = {"num_classes": options.num_classes, "image_size": options.image_size, "seed": place.seed}
    named = {key: value for key, value in offered.items() if value is not None and _names_argument(factory, key)}
    with _seeded(place.seed):
        made = call_factory(factory, options.name, named, extras(options))
        parts, class_names = _interpreted(made, options.name)
        images: list[Tensor] = []
        labels: list[int] = []
        positions: dict[str, Positions] = {}
        for split, source in parts.items():
            start = len(labels)
            for image, label in _read(source, f"`{split}`" if split != "all" else f"`{options.name}`"):
                images.append(image)
                labels.append(label)
            if start == len(labels):
                raise PreflightError(f"data set `{options.name}`: `{split}` is empty", code="MC221")
            positions[split] = np.arange(start, len(labels))
    _check_labels(labels, positions, options)
    samples = TensorSamples(_stacked(images, positions, options), torch.tensor(labels, dtype=torch.int64))
    count = options.num_classes or max(labels) + 1
    if class_names is not None and len(class_names) < count:
        raise PreflightError(
            f"data set `{options.name}` names {len(class_names)} classes, its labels go up to {count - 1}", code="MC226"
        )
    return Raw(
        samples,
        tuple(map(str, class_names[:count] if class_names is not None else range(count))),
        train=positions.get("train"),
        val=positions.get("val"),
        test=positions.get("test"),
        test_fraction=options.test_fraction,
    )


def _interpreted(made: Any, name: str) -> tuple[dict[str, Any], list[str] | None]:
    """The sources by split (``all`` where there are no splits), and the class names if it has any."""
    if isinstance(made, Mapping):
        strange = sorted(map(str, set(made) - {*_SPLITS, *_NAMES}))
        if strange:
            raise _not_a_data_set(f"`{name}` returned a mapping with key `{strange[0]}`")
        parts = {split: made[split] for split in _SPLITS if made.get(split) is not None}
        classes = next((made[key] for key in _NAMES if key in made), None)
    elif _is_arrays(made) or _is_pairs(made) or _is_dataset(made):
        parts, classes = {"all": made}, None
    elif isinstance(made, (tuple, list)) and len(made) in (2, 3):
        parts = dict(zip(_SPLITS if len(made) == 3 else ("train", "test"), made, strict=True))
        parts = {split: source for split, source in parts.items() if source is not None}
        classes = None
    elif hasattr(made, "train"):
        parts = {split: getattr(made, split) for split in _SPLITS if getattr(made, split, None) is not None}
        classes = None
    else:
        raise _not_a_data_set(f"`{name}` returned {_described(made)}")
    if "train" not in parts and "all" not in parts:
        raise _not_a_data_set(f"`{name}` returned no `train`")
    holders = (made, *parts.values())
    classes = classes or next((found for holder in holders if (found := _class_names(holder)) is not None), None)
    return parts, None if classes is None else list(classes)


def _read(source: Any, where: str) -> Iterator[tuple[Tensor, int]]:
    if isinstance(source, DataLoader):
        source = source.dataset
    if _is_arrays(source):
        images, labels = source
        if len(images) != len(labels):
            raise PreflightError(f"{where} has {len(images)} images and {len(labels)} labels", code="MC226")
        pairs: Any = zip(images, labels, strict=True)
    elif _is_pairs(source):
        pairs = source
    elif _is_dataset(source):
        pairs = _items(source, where)
    else:
        raise _not_a_data_set(f"{where} is {type(source).__name__}")
    for index, pair in enumerate(pairs):
        which = f"sample {index} of {where}"
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise _not_a_data_set(f"{which} is {type(pair).__name__}, not a pair (image, label)")
        yield image_tensor(pair[0], which), label_number(pair[1], which)


def _items(source: Any, where: str) -> Iterator[Any]:
    for index in range(len(source)):
        try:
            yield source[index]
        except McompError:
            raise
        except Exception as error:
            raise PreflightError(
                f"reading sample {index} of {where} failed: {type(error).__name__}: {error}",
                code="MC223",
                hint="`--traceback` shows where in your file",
            ) from error


def _check_labels(labels: list[int], positions: dict[str, Positions], options: UserOptions) -> None:
    if options.num_classes is not None and max(labels) >= options.num_classes:
        raise PreflightError(
            f"data set `{options.name}` has a label {max(labels)}, `num_classes` is {options.num_classes}",
            code="MC226",
            hint="labels count from 0",
        )
    array = np.asarray(labels)
    learnt = set(array[positions["train"]].tolist()) if "train" in positions else set(labels)
    for split in ("val", "test"):
        strange = sorted(set(array[positions[split]].tolist()) - learnt) if split in positions else []
        if strange:
            raise PreflightError(
                f"data set `{options.name}`: `{split}` has class {strange[0]}, `train` has no image of it", code="MC226"
            )


def _stacked(images: list[Tensor], positions: dict[str, Positions], options: UserOptions) -> Tensor:
    """All images in one tensor: the same kind of numbers, size and channels."""
    first = images[0]
    size = options.image_size
    widest = max(image.size(0) for image in images)
    out = []
    for index, image in enumerate(images):
        if image.dtype != first.dtype:
            raise PreflightError(
                f"{_named(index, positions)} holds {_kind(image)}, the first sample {_kind(first)}",
                code="MC225",
                hint="give all images as bytes, or all as floats",
            )
        if size is None and image.shape[1:] != first.shape[1:]:
            raise PreflightError(
                f"{_named(index, positions)} is {image.size(1)} x {image.size(2)} pixels, "
                f"the first sample {first.size(1)} x {first.size(2)}",
                code="MC225",
                hint="set `data.image_size`: then all are resized to it",
            )
        wide = image if image.size(0) == widest else image.expand(widest, -1, -1)
        out.append(wide if size is None else resized(wide.unsqueeze(0), size)[0])
    return with_channels(torch.stack(out), options.channels)


def _named(index: int, positions: dict[str, Positions]) -> str:
    split = next(split for split, members in positions.items() if members[0] <= index <= members[-1])
    return f"sample {index - int(positions[split][0])}" + ("" if split == "all" else f" of `{split}`")


def _kind(image: Tensor) -> str:
    return "bytes" if image.dtype == torch.uint8 else "floats"


def _is_arrays(source: Any) -> bool:
    """A pair (images, labels): the second is a row of numbers."""
    return (
        isinstance(source, (tuple, list)) and len(source) == 2 and _is_row(source[1]) and hasattr(source[0], "__len__")
    )


def _is_row(labels: Any) -> bool:
    if isinstance(labels, (np.ndarray, Tensor)):
        return labels.ndim in (1, 2)  # two: a column, or one-hot rows, which are refused by name later
    return isinstance(labels, (list, tuple)) and all(is_scalar(label) for label in labels[:1])


def _is_pairs(source: Any) -> bool:
    """A list of (image, label): the first element tells."""
    if not isinstance(source, (list, tuple)):
        return False
    if not source:
        return True
    first = source[0]
    return isinstance(first, (tuple, list)) and len(first) == 2 and is_scalar(first[1])


def _is_dataset(source: Any) -> bool:
    if isinstance(source, (DataLoader, torch.utils.data.Dataset)):
        return not isinstance(source, torch.utils.data.IterableDataset)
    is_array = isinstance(source, (list, tuple, np.ndarray, Tensor, Mapping, str))
    return not is_array and hasattr(source, "__len__") and hasattr(source, "__getitem__")


def _class_names(holder: Any) -> list[str] | None:
    found = next(
        (getattr(holder, key) for key in _NAMES if isinstance(getattr(holder, key, None), (list, tuple))), None
    )
    return None if found is None else list(found)


def _described(made: Any) -> str:
    if not isinstance(made, (list, tuple)) or not made:
        return type(made).__name__
    first = made[0]
    length = f" of length {len(first)}" if isinstance(first, (list, tuple)) else ""
    return f"{type(made).__name__} whose first element is {type(first).__name__}{length}"


def _names_argument(factory: Callable[..., Any], argument: str) -> bool:
    return argument in inspect.signature(factory).parameters


def _not_a_data_set(message: str) -> PreflightError:
    return PreflightError(
        message,
        code="MC227",
        hint='return {"train": …, "val": …, "test": …} (or one data set to split), each a torch Dataset with a length, '
        "a list of (image, label) pairs, or a pair (images, labels)",
    )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Fixed global generators while a user's code runs, and the caller's own back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
