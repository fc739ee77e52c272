"""What was found out about a network, kept on it: in its surgery log, as entries that change nothing when replayed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mcomp.search.sensitivity_map import SensitivityMap
from mcomp.surgery import Entry, provenance, record, register_replay

if TYPE_CHECKING:
    from torch import Tensor, nn

SENSITIVITY, SEARCH = "sensitivity", "search"


def record_sensitivity(model: nn.Module, found: SensitivityMap) -> None:
    """Note on ``model`` what each of its layers alone costs; its weights stay as they are."""
    record(model, SENSITIVITY, map=found.as_dict())


def recorded_sensitivity(model: nn.Module) -> SensitivityMap | None:
    """The map that was measured last; None where none was."""
    entry = _newest(model, SENSITIVITY)
    return None if entry is None else SensitivityMap.from_dict(entry["map"])


def record_choice(
    model: nn.Module, choice: Mapping[str, Mapping[str, float]], *, pruning: Mapping[str, Any] | None = None
) -> None:
    """Note on ``model`` what a search chose for it.

    Args:
        model: its weights stay as they are.
        choice: layer to kind (``w_bits``, ``a_bits``, ``keep``) to value.
        pruning: how the candidates were cut, as options of a pruning; None where none was.
    """
    record(
        model,
        SEARCH,
        choice={layer: dict(kinds) for layer, kinds in choice.items()},
        pruning=None if pruning is None else dict(pruning),
    )


def recorded_choice(model: nn.Module) -> dict[str, dict[str, float]] | None:
    """What the last search chose, layer to kind to value; None where there was none."""
    entry = _newest(model, SEARCH)
    return None if entry is None else {layer: dict(kinds) for layer, kinds in entry["choice"].items()}


def recorded_pruning(model: nn.Module) -> dict[str, Any]:
    """How the candidates of the last search were cut; empty where none was."""
    entry = _newest(model, SEARCH)
    return {} if entry is None else dict(entry.get("pruning") or {})


@register_replay(SENSITIVITY)
@register_replay(SEARCH)
def _unchanged(model: nn.Module, _entry: Entry, _example_inputs: tuple[Tensor, ...]) -> nn.Module:
    return model


def _newest(model: nn.Module, op: str) -> dict[str, Any] | None:
    return next((entry for entry in reversed(provenance(model).log) if entry["op"] == op), None)
