"""Where a model came from and what was done to it, carried on the module itself.

Every algorithm that changes a network's structure records one JSON-able entry here. A model is then
rebuilt in a fresh process, without pickle, by calling its builder and replaying the entries in order;
tensors are loaded last. Algorithms register how their entry is replayed; :func:`replay` imports the
module that registers a built-in entry when it first meets one.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcomp.errors import StoreError

if TYPE_CHECKING:
    from torch import Tensor, nn

ATTRIBUTE = "_mcomp_provenance"
Entry = dict[str, Any]
Replay = Callable[["nn.Module", Entry, "tuple[Tensor, ...]"], "nn.Module"]

_REPLAYS: dict[str, Replay] = {}
_BUILT_IN = {
    "prune": "mcomp.pruning",
    "sparsify": "mcomp.pruning",
    "quantize": "mcomp.quantization",
    "fuse": "mcomp.quantization",
    "quantize_outputs": "mcomp.quantization",
    "sensitivity": "mcomp.search.recorded",
    "search": "mcomp.search.recorded",
}


@dataclass
class Provenance:
    """How to rebuild a model and how to feed it.

    Attributes:
        builder: ``{"name", "kwargs", …}`` as written by :func:`mcomp.models.build`; None for a model made by hand.
        log: surgery entries in order, each ``{"op": name, …}``, JSON-able.
        input_shape: one sample's shape, without the batch, e.g. ``[3, 16, 16]``.
        preprocessing: ``{"size", "mean", "std", "channels"}`` or empty.
        class_names: in the order of the model's outputs, or empty.
    """

    builder: dict[str, Any] | None = None
    log: list[Entry] = field(default_factory=list)
    input_shape: list[int] | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)


def provenance(model: nn.Module) -> Provenance:
    """The model's provenance; a fresh, attached one if it has none yet."""
    found = model.__dict__.get(ATTRIBUTE)
    if found is None:
        found = Provenance()
        model.__dict__[ATTRIBUTE] = found
    assert isinstance(found, Provenance)
    return found


def inherit(model: nn.Module, source: nn.Module) -> nn.Module:
    """Give ``model`` a copy of the provenance of ``source``, the module it was made from, and return it."""
    origin = source.__dict__.get(ATTRIBUTE)  # looked at, not made: the source stays as it is
    model.__dict__[ATTRIBUTE] = Provenance() if origin is None else copy.deepcopy(origin)
    return model


def record(model: nn.Module, op: str, **detail: Any) -> None:
    """Append a surgery entry; ``detail`` must be JSON-able."""
    provenance(model).log.append({"op": op, **detail})


def register_replay(op: str) -> Callable[[Replay], Replay]:
    """Decorate the function that repeats a recorded entry: ``(model, entry, example_inputs) -> model``.

    It restores structure (modules, shapes, buffers), not values; tensors are loaded afterwards.
    """

    def register(function: Replay) -> Replay:
        _REPLAYS[op] = function
        return function

    return register


def replay(model: nn.Module, entry: Entry, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    """Repeat one recorded entry on a freshly built model.

    Raises:
        StoreError: nothing is registered for this kind of entry.
    """
    op = entry["op"]
    if op not in _REPLAYS and op in _BUILT_IN:
        importlib.import_module(_BUILT_IN[op])
    if op not in _REPLAYS:
        raise StoreError(
            f"no way to replay the surgery `{op}`",
            code="MC310",
            hint="import the plug-in that made this artifact before loading it",
        )
    return _REPLAYS[op](model, entry, example_inputs)
