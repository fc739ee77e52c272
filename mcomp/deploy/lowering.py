"""The table of a written file: every tensor, its integers' type and scale, and how exact that is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class TensorLowering:
    """How one tensor was turned into integers.

    Attributes:
        name: the quantiser's or weight's name in the model.
        kind: what the tensor is.
        bits: of the simulated grid.
        scale: one number, or one per output channel.
        zero_point: of the stored integers.
        dtype: ``int8``, ``uint8``, ``int16``, ``uint16``, ``int32`` or ``float32``.
        exact: True if every simulated value is represented as it is.
        max_abs_error: the largest difference to the simulated value inside its range.
        why: the reason where it is not exact.
    """

    name: str
    kind: Literal["activation", "weight", "bias"]
    bits: int
    scale: float | list[float]
    zero_point: int
    dtype: str
    exact: bool = True
    max_abs_error: float = 0.0
    why: str = ""


@dataclass
class Lowering:
    """A written file and what it holds. ``exact`` speaks of activations and weights; biases have their own rows.

    ``bytes`` is the file's size on disk.
    """

    path: Path
    profile: str
    tensors: list[TensorLowering] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bytes: int = 0

    @property
    def exact(self) -> bool:
        """True if every activation and weight is represented as simulated."""
        return all(tensor.exact for tensor in self.tensors if tensor.kind != "bias")

    @property
    def max_abs_error(self) -> float:
        """The largest error of an activation or weight."""
        return max((tensor.max_abs_error for tensor in self.tensors if tensor.kind != "bias"), default=0.0)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able: the content of ``qparams.json``."""
        return {
            "profile": self.profile,
            "file": self.path.name,
            "bytes": self.bytes,
            "exact": self.exact,
            "max_abs_error": self.max_abs_error,
            "notes": self.notes,
            "tensors": [asdict(tensor) for tensor in self.tensors],
        }


def inexact_notes(tensors: Iterable[TensorLowering]) -> list[str]:
    """A sentence for each reason why activations or weights are not exact, however many tensors share it."""
    reasons: dict[str, list[TensorLowering]] = {}
    for row in tensors:
        if not row.exact and row.kind != "bias":
            for why in row.why.split("; "):
                reasons.setdefault(why, []).append(row)
    notes = []
    for why, rows in reasons.items():
        error = max(row.max_abs_error for row in rows)
        if len(rows) == 1:
            notes.append(f"`{rows[0].name}` is not exact (max error {error:.2g}): {why}")
        else:
            notes.append(f"{len(rows)} tensors are not exact, first `{rows[0].name}` (max error {error:.2g}): {why}")
    return notes
