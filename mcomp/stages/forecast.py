"""What a stage will hand on and cost, told before it runs. Importable without torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mcomp.training.penalty import Penalty
    from mcomp.training.settings import TrainSettings

#: The least and the greatest that a count can become; equal where it is known.
Range = tuple[int, int]

# What the built-in stages spend beside training and evaluating, on one core, for a network of ten layers. They are
# here so that a better figure changes no stage's code.

#: CPU seconds of tracing, surgery and self-check.
PRUNE_SECONDS = 0.25

#: CPU seconds of tracing, converting and searching the ranges.
CONVERT_SECONDS = 0.4

#: CPU seconds of folding and of comparing every layer, with the first import of torch.fx.
FOLD_SECONDS = 0.2

#: CPU seconds of writing two files, checking and timing them, with the first import of onnx and ONNX Runtime.
DELIVERY_SECONDS = 0.7

#: Passes over the test images in PyTorch: one, and what ONNX Runtime's own pass comes to.
DELIVERY_EVALUATIONS = 1.25

#: Resident bytes of onnx, ONNX Runtime and two sessions.
DELIVERY_BYTES = 150_000_000

#: The float file and the integer one.
BYTES_PER_PARAMETER = (4.0, 1.0)


@dataclass(frozen=True)
class Forecast:
    """What is known of a model before the stages that make it have run.

    Attributes:
        model: a model of the kind to expect, to be timed and converted; never to be changed. It is the architecture
            itself where ``exact``, else one in the middle of what is possible. None where nothing is known.
        corners: where not exact, the largest that it can become, and the smallest where ``floored``; of each branch
            where one of several is taken.
        floored: the smallest that it can become is among the corners, in each branch.
        params: parameters as the engine counts them; None where nothing is known.
        macs: multiply-accumulates of one sample.
        weights_known: ``model`` has the very weights that the stage will get.
        example_inputs: a batch of two samples.
        seed: of the stage that is asked.
    """

    model: nn.Module | None = None
    corners: tuple[nn.Module, ...] = ()
    floored: bool = True
    params: Range | None = None
    macs: Range | None = None
    weights_known: bool = False
    example_inputs: tuple[Tensor, ...] = ()
    seed: int = 0

    @classmethod
    def unknown(cls) -> Forecast:
        """Nothing is known, and nothing will be guessed."""
        return cls()

    @classmethod
    def of(cls, model: nn.Module, example_inputs: tuple[Tensor, ...], *, weights_known: bool) -> Forecast:
        """A model whose architecture is certain."""
        params, macs = _count(model, example_inputs)
        return cls(
            model,
            params=(params, params),
            macs=(macs, macs),
            weights_known=weights_known,
            example_inputs=example_inputs,
        )

    @property
    def exact(self) -> bool:
        """Whether the architecture is certain."""
        return self.model is not None and not self.corners

    def trained(self) -> Forecast:
        """The same architecture with weights that nobody knows yet."""
        return replace(self, weights_known=False)

    def through(self, change: Callable[[nn.Module], nn.Module]) -> Forecast:
        """The forecast after ``change``, which makes a new model out of one and leaves that as it is.

        Where the architecture is not certain, ``change`` is applied to what it can become at the least and at the most.
        It is taken to add or remove an amount that grows or shrinks with the widths, as quantisers, folded batch norms
        and biases do, and to keep a wider network the larger one: the outcome then lies where both say.
        """
        if self.model is None or self.params is None or self.macs is None:
            return Forecast.unknown()
        model = change(self.model)
        if self.exact:
            made = Forecast.of(model, self.example_inputs, weights_known=False)
            return replace(made, seed=self.seed)
        corners = tuple(change(corner) for corner in self.corners)
        before = [_count(corner, self.example_inputs) for corner in self.corners]
        after = [_count(corner, self.example_inputs) for corner in corners]
        added = [(new[0] - old[0], new[1] - old[1]) for old, new in zip(before, after, strict=True)]
        if not self.floored:  # the amount at no width at all
            added.append((0, 0))
        return replace(
            self,
            model=model,
            corners=corners,
            weights_known=False,
            params=self._shifted(self.params, [one[0] for one in added], [one[0] for one in after]),
            macs=self._shifted(self.macs, [one[1] for one in added], [one[1] for one in after]),
        )

    def either(self, other: Forecast) -> Forecast:
        """One of the two, nobody knows which: a stage whose condition is not decided yet."""
        mine, theirs = self._all(), other._all()
        if self.params is None or other.params is None or self.macs is None or other.macs is None:
            return Forecast.unknown()
        return replace(
            self,
            corners=(*mine, *theirs),
            params=_hull(self.params, other.params),
            macs=_hull(self.macs, other.macs),
            weights_known=False,
            floored=self.floored and other.floored,
        )

    def _all(self) -> tuple[nn.Module, ...]:
        return self.corners or (() if self.model is None else (self.model,))

    def _shifted(self, span: Range, added: list[int], corners: list[int]) -> Range:
        least = min(corners) if self.floored else 0
        return max(least, span[0] + min(added)), min(max(corners), span[1] + max(added))


@dataclass(frozen=True)
class Work:
    """What a stage spends its time on, in units that three batches and one evaluation can price.

    Attributes:
        training: epochs, batch size and the like; None where nothing trains.
        penalty: makes what pulls parameters to zero meanwhile.
        evaluations: passes over the test images, as this process's PyTorch makes them.
        calibration: training images that are passed forward once.
        layer_images: images that are passed forward once for each convolution and linear layer of the model.
        fixed_seconds: CPU seconds of everything else, on one core as they were measured: conversions, files, imports.
        extra_memory_bytes: what libraries take that training does not load.
        files: deployed files it keeps, each as bytes per parameter.
    """

    training: TrainSettings | None = None
    penalty: Callable[[], Penalty] | None = None
    evaluations: float = 1
    calibration: int = 0
    layer_images: int = 0
    fixed_seconds: float = 0.0
    extra_memory_bytes: int = 0
    files: tuple[float, ...] = ()


def _count(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[int, int]:
    from mcomp.metrics import count

    cost = count(model, example_inputs)
    return cost.params, cost.macs


def _hull(one: Range, other: Range) -> Range:
    return min(one[0], other[0]), max(one[1], other[1])
