from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mcomp.deploy.tensorrt import ShapeRange, shape_ranges
from mcomp.errors import StageError
from mcomp.stages.tensorrt_options import TensorRTOptions

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def written(folder: Path, **inputs: list[Any]) -> Path:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()]
    node = helper.make_node("Identity", [next(iter(inputs))], ["out"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    path = folder / "m.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", values, [out])), path)
    return path


def test_a_batch_serves_every_input_whose_batch_is_free(tmp_path: Path) -> None:
    path = written(tmp_path, image=["batch", 3, 8, 8], words=["batch", 5], fixed=[1, 2])
    assert shape_ranges(path, (1, 4, 8)) == {
        "image": ShapeRange([1, 3, 8, 8], [4, 3, 8, 8], [8, 3, 8, 8]),
        "words": ShapeRange([1, 5], [4, 5], [8, 5]),
    }


def test_a_range_of_its_own_replaces_the_batch(tmp_path: Path) -> None:
    path = written(tmp_path, image=["batch", 3, "height", "width"], words=["batch", 5])
    own = ShapeRange([1, 3, 32, 32], [2, 3, 64, 64], [4, 3, 128, 96])
    assert shape_ranges(path, (1, 4, 8), {"image": own}) == {
        "image": own,
        "words": ShapeRange([1, 5], [4, 5], [8, 5]),
    }


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("picture", [1, 3, 8, 8], "`shapes` names `picture`, which is no input"),
        ("image", [1, 3, 8], r"does not fit input `image` \[free, 3, 8, 8\]"),
        ("image", [1, 4, 8, 8], "does not fit input `image`"),
    ],
)
def test_a_range_that_does_not_fit_is_told_with_the_inputs(
    tmp_path: Path, name: str, wanted: list[int], message: str
) -> None:
    path = written(tmp_path, image=["batch", 3, 8, 8])
    with pytest.raises(StageError, match=message) as caught:
        shape_ranges(path, (1, 1, 1), {name: ShapeRange(wanted, wanted, wanted)})
    assert caught.value.code == "MC438"
    assert name == "image" or "`image` [free, 3, 8, 8]" in caught.value.hint


@pytest.mark.parametrize(("low", "high"), [([1, 3, 4, 8], [1, 3, 8, 8]), ([1, 3, 8, 8], [1, 3, 8, 16])])
def test_a_size_that_the_file_fixes_varies_in_neither_direction(
    tmp_path: Path, low: list[int], high: list[int]
) -> None:
    path = written(tmp_path, image=["batch", 3, 8, 8])
    with pytest.raises(StageError, match="does not fit input `image`") as caught:
        shape_ranges(path, (1, 1, 1), {"image": ShapeRange(low, low, high)})
    assert caught.value.why == "only a free dimension may vary"


def test_more_than_a_free_batch_needs_a_range(tmp_path: Path) -> None:
    path = written(tmp_path, image=["batch", 3, "height", 8])
    with pytest.raises(StageError, match=r"`image` \[free, 3, free, 8\] has a free dimension beside the batch"):
        shape_ranges(path)


@given(SIZES, SIZES, SIZES)
def test_a_range_is_of_one_length_and_in_order(low: list[int], best: list[int], high: list[int]) -> None:
    fine = len(low) == len(best) == len(high) and all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))
    written_out = {"shapes": {"input": {"min": low, "opt": best, "max": high}}}
    if fine:
        assert ShapeRange(low, best, high).takes(best)
        assert TensorRTOptions.model_validate(written_out).shapes["input"].opt == best
    else:
        with pytest.raises(StageError):
            ShapeRange(low, best, high)
        with pytest.raises(ValueError, match=r"dimensions|order"):
            TensorRTOptions.model_validate(written_out)


def test_a_size_below_one_is_no_shape() -> None:
    with pytest.raises(StageError, match="below 1"):
        ShapeRange([0, 3], [1, 3], [2, 3])


def test_a_shape_is_taken_inside_its_range_only() -> None:
    found = ShapeRange([1, 3], [2, 3], [4, 3])
    assert [found.takes((size, 3)) for size in range(6)] == [False, True, True, True, True, False]
    assert not found.takes((2, 4))
    assert not found.takes((2,))
