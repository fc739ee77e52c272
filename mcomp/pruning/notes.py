"""What is known of a tensor while a forward runs, kept on the tensor itself."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from torch import Tensor

from mcomp.pruning.labels import compressed

#: The attribute of a tensor that holds its :class:`Note`.
_NOTE = "_mcomp_note"


@dataclass(frozen=True)
class Weight:
    """A parameter, or some of its rows, or a transposed view of it, as an operator met it.

    Attributes:
        name: dotted.
        transposed: it was met turned.
        rows: the first row that was met and the one behind the last; None for all of them.
        count: rows of the whole parameter.
    """

    name: str
    transposed: bool = False
    rows: tuple[int, int] | None = None
    count: int = 0


@dataclass(frozen=True)
class Statistic:
    """A mean or variance over channels, or what plain numbers made of one.

    Attributes:
        labels: of the channels.
        inverse: it is one by the mean, or by its root.
    """

    labels: Tensor
    inverse: bool = False


@dataclass(slots=True)
class Note:
    """What is known of a tensor.

    Attributes:
        by: who wrote it; to any other it says nothing.
        labels: in the tensor's shape.
        weight: the parameter that it is a view of.
        queries: where it holds scores of attention, the labels of the queries that they are of.
        statistic: where it is a mean or variance over channels.
        exponential: it is one, and 1 where its channel is 0.
    """

    by: Notes
    labels: Tensor | None = None
    weight: Weight | None = None
    queries: Tensor | None = None
    statistic: Statistic | None = None
    exponential: bool = False


class Notes:
    """Reads and writes notes; one of its own finds none that another wrote."""

    def __init__(self) -> None:
        self._held: list[weakref.ref[Tensor]] = []

    def mark(self, tensor: Tensor, labels: Tensor, *, compact: bool = False) -> None:
        """``tensor`` carries ``labels`` from here on; ``compact``: they have no stride already where they are equal."""
        self._noted(tensor).labels = labels if compact else compressed(labels)

    def mark_view(self, tensor: Tensor, weight: Weight) -> None:
        """``tensor`` is a view of a parameter."""
        self._noted(tensor).weight = weight

    def mark_statistic(self, tensor: Tensor, statistic: Statistic) -> None:
        """``tensor`` is a mean or variance over channels."""
        self._noted(tensor).statistic = statistic

    def mark_exponential(self, tensor: Tensor) -> None:
        """``tensor`` is an exponential."""
        self._noted(tensor).exponential = True

    def mark_queries(self, tensor: Tensor, labels: Tensor) -> None:
        """``tensor`` holds scores of attention, of queries with these labels."""
        self._noted(tensor).queries = labels

    def carried(self, tensor: Tensor) -> Tensor | None:
        """The labels that a tensor was given; None where it has none yet."""
        note = self._note(tensor)
        return None if note is None else note.labels

    def view(self, tensor: Tensor) -> Weight | None:
        """The parameter that it is a view of; None where it is none."""
        note = self._note(tensor)
        return None if note is None else note.weight

    def statistic(self, tensor: Tensor) -> Statistic | None:
        """What it is a mean or variance of; None where it is none."""
        note = self._note(tensor)
        return None if note is None else note.statistic

    def exponential(self, tensor: Tensor) -> bool:
        """Whether it is an exponential."""
        note = self._note(tensor)
        return note is not None and note.exponential

    def queries(self, tensor: Tensor) -> Tensor | None:
        """The queries that these scores of attention are of; None where it holds none."""
        note = self._note(tensor)
        return None if note is None else note.queries

    def _note(self, tensor: Tensor) -> Note | None:
        note: Note | None = getattr(tensor, _NOTE, None)
        return note if note is not None and note.by is self else None

    def _noted(self, tensor: Tensor) -> Note:
        """The note on a tensor, a new one where it has none of this tracer."""
        note = self._note(tensor)
        if note is None:  # on the tensor: a dictionary by tensor costs more than all that is done with the labels
            note = Note(self)
            setattr(tensor, _NOTE, note)
            self._held.append(weakref.ref(tensor))
        return note

    def alive(self) -> list[Tensor]:
        """The tensors that carry labels and are still there."""
        return [tensor for held in self._held if (tensor := held()) is not None]

    def forget(self) -> None:
        """Take everything off the tensors again: some of them are the person's own, and live on."""
        for tensor in self.alive():
            tensor.__dict__.pop(_NOTE, None)
