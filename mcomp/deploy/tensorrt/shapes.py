"""The shapes that an engine takes: a smallest, a best served and a largest one for each dynamic input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcomp.errors import StageError

#: A dimension that the file leaves open.
FREE = -1


@dataclass(frozen=True)
class ShapeRange:
    """The smallest, the best served and the largest shape of one input, batch included.

    Raises:
        StageError: MC438, they are no shapes, have not one length, or are not in order.
    """

    min: list[int]
    opt: list[int]
    max: list[int]

    def __post_init__(self) -> None:
        for given in (self.min, self.opt, self.max):
            if not isinstance(given, (list, tuple)) or not all(isinstance(size, int) for size in given):
                raise StageError(f"{given!r} is no shape", code="MC438", hint="give whole numbers, e.g. [1, 3, 32, 32]")
        fault = disorder(self.min, self.opt, self.max)
        if fault:
            raise StageError(f"no range of shapes: {fault}", code="MC438", hint="order them min <= opt <= max")

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether ``shape`` lies within."""
        fits = len(shape) == len(self.min)
        return fits and all(low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True))

    def __str__(self) -> str:
        return f"{self.min} to {self.max}"


def disorder(smallest: Sequence[int], best: Sequence[int], largest: Sequence[int]) -> str:
    """What is wrong with a range, in words; empty where all is well."""
    shapes = f"min {list(smallest)}, opt {list(best)}, max {list(largest)}"
    if not len(smallest) == len(best) == len(largest) > 0:
        return f"{shapes} have not the same number of dimensions"
    if any(size < 1 for size in (*smallest, *best, *largest)):
        return f"{shapes} hold a size below 1"
    if not all(low <= middle <= high for low, middle, high in zip(smallest, best, largest, strict=True)):
        return f"{shapes} are not in order"
    return ""


def shape_ranges(
    onnx_path: Path, batch: tuple[int, int, int] = (1, 1, 32), given: Mapping[str, ShapeRange] | None = None
) -> dict[str, ShapeRange]:
    """A range for every input of a file that has a free dimension.

    Args:
        onnx_path: the file.
        batch: smallest, usual and largest batch, for inputs of which nothing else is said and nothing else is free.
        given: ranges of single inputs, batch included.

    Raises:
        StageError: MC438, a range is given for what is no input, does not fit the input, or is missing.
    """
    given = given or {}
    inputs = declared_inputs(onnx_path)
    known = ", ".join(f"`{name}` {_words(dims)}" for name, dims in inputs.items())
    for name in given:
        if name not in inputs:
            raise StageError(
                f"`shapes` names `{name}`, which is no input of `{onnx_path.name}`",
                code="MC438",
                hint=f"its inputs: {known}",
            )
    ranges = {}
    for name, dims in inputs.items():
        if name in given:
            ranges[name] = _fitting(name, given[name], dims)
        elif FREE in dims[1:]:
            raise StageError(
                f"input `{name}` {_words(dims)} has a free dimension beside the batch, and no range",
                code="MC438",
                hint=f"give `shapes: {{{name}: {{min: [...], opt: [...], max: [...]}}}}`",
            )
        elif FREE in dims:
            ranges[name] = ShapeRange(*([size, *dims[1:]] for size in batch))
    return ranges


def declared_inputs(onnx_path: Path) -> dict[str, list[int]]:
    """Inputs of an ONNX file to their shapes, :data:`FREE` where a dimension is open."""
    import onnx

    graph = onnx.load(onnx_path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    return {
        value.name: [
            entry.dim_value if entry.HasField("dim_value") else FREE for entry in value.type.tensor_type.shape.dim
        ]
        for value in graph.input
        if value.name not in stored
    }


def _fitting(name: str, wanted: ShapeRange, dims: Sequence[int]) -> ShapeRange:
    same_rank = len(wanted.min) == len(dims)
    fits = same_rank and all(
        size in (FREE, low) and size in (FREE, high)
        for size, low, high in zip(dims, wanted.min, wanted.max, strict=True)
    )
    if not fits:
        raise StageError(
            f"the range {wanted} does not fit input `{name}` {_words(dims)}",
            code="MC438",
            why="only a free dimension may vary" if same_rank else f"the input has {len(dims)} dimensions",
            hint="keep the sizes that the file fixes",
        )
    return wanted


def _words(dims: Sequence[int]) -> str:
    return f"[{', '.join('free' if size == FREE else str(size) for size in dims)}]"
