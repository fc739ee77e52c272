"""Arguments of the wrong kind from Python: refused by name, with what is wanted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcomp.errors import StageError, UsageError
from mcomp.pruning import prune, sparsify, trace
from mcomp.pruning.operator_names import as_written
from tests.unit.pruning.pruning_nets import block, head, images


def net() -> nn.Module:
    return nn.Sequential(block(3, 8), block(8, 8), head(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regular": 2.5}, "`regular` is 2.5; it must be a whole number"),
        ({"regular": "8"}, "`regular` is '8'; it must be a whole number"),
        ({"min_channels": "3"}, "`min_channels` is '3'"),
        ({"min_channels": 2.5}, "`min_channels` is 2.5"),
        ({"min_channels": True}, "`min_channels` is True"),
        ({"seed": "a"}, "`seed` is 'a'; it must be a whole number"),
        ({"keep": 0.5}, "`keep` is 0.5; it must map layers to shares"),
        ({"keep": "0.5"}, "`keep` is '0.5'; it must map layers to shares"),
        ({"keep": {"0.0": "0.5"}}, "`keep` says '0.5' of `0.0`; it must be a number"),
        ({"keep": {"0.0": None}}, "`keep` says None of `0.0`"),
        ({"keep": {"0.0": True}}, "`keep` says True of `0.0`"),
        ({"keep": {3: 0.5}}, "`keep` holds 3; names and patterns"),
        ({"keep": ["a"] * 3}, "`keep` says 'a' of layer 1"),
        ({"keep": torch.ones(300)}, "`keep` is a Tensor; it must map layers to shares"),
        ({"prune": [None, 0.5]}, "`prune` says None of layer 1"),
        ({"ignore": None}, "`ignore` is None; it must be a list of patterns"),
        ({"ignore": [3]}, "`ignore` holds 3; names and patterns"),
        ({"ignore": "0.*"}, "`ignore` is the text '0.*'"),
        ({"scope": ["global"]}, "`scope` is ['global']; one of global"),
        ({"importance": None}, "`importance` is None; one of"),
        ({"macs": True}, "`macs`: True is no quantity"),
        ({"macs": 1}, "`macs`: 1 may be meant as a share"),
        ({"params": 1.5}, "`params`: 1.5 is neither a share"),
        ({"ratio": "0.5"}, "`ratio` is '0.5'; it must be a number"),
        ({"latency_ms": "1ms"}, "`latency_ms` is '1ms'; it must be a number"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        prune(net(), (images(),), **arguments)
    assert error.value.code == "MC417"
    assert message in error.value.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": "0.5"}, "`ratio` is '0.5'; it must be a number"),
        ({"ratio": True}, "`ratio` is True"),
        ({"pattern": 24}, "`pattern` is 24; it must be a text"),
        ({"ratio": 0.5, "pattern": "block", "block": 4}, "`block` is 4; it must be two whole numbers"),
        ({"ratio": 0.5, "pattern": "block", "block": (1, 2.5)}, "`block` is (1, 2.5)"),
        ({"ratio": 0.5, "ignore": "0.*"}, "`ignore` is the text '0.*'"),
        ({"ratio": 0.5, "scope": ["global"]}, "`scope` is ['global']"),
    ],
)
def test_an_argument_of_the_wrong_kind_to_sparsify_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        sparsify(net(), (images(),), **arguments)
    assert error.value.code == "MC417"
    assert message in error.value.message


def test_numbers_of_numpy_are_numbers() -> None:
    given: Any = {"ratio": np.float32(0.5), "regular": np.int64(2), "min_channels": np.int32(2)}
    assert prune(net(), (images(),), **given).params_after < 500


@pytest.mark.parametrize("work", [prune, sparsify])
@pytest.mark.parametrize(
    ("model", "message", "hint"),
    [
        (nn.ReLU, "`model` is the class `ReLU`", "`ReLU()`"),
        (net().state_dict(), "of tensors, a state dict", "load_state_dict"),
        (None, "`model` is None", "an instance of your network"),
        (len, "`model` is <built-in function len>", "an instance of your network"),
    ],
)
def test_what_is_no_network_is_named(work: Any, model: Any, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        work(model, (images(),), ratio=0.5)
    assert error.value.code == "MC417"
    assert message in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (torch.zeros(2, 3, 8, 8), "one tensor"),
        (np.zeros((2, 3, 8, 8)), "a numpy ndarray"),
        ({"x": images()}, "a dict"),
        (None, "None"),
    ],
)
def test_example_inputs_that_are_no_tuple_are_named_by_their_kind(given: Any, kind: str) -> None:
    for work in (trace, lambda model, inputs: prune(model, inputs, ratio=0.5)):
        with pytest.raises(UsageError, match=f"`example_inputs` is {kind}; it must be a tuple of tensors") as error:
            work(net(), given)
        assert error.value.code == "MC417"


@pytest.mark.parametrize(
    ("given", "kind"), [(np.zeros((2, 3, 8, 8), np.float32), "a numpy ndarray"), ({"x": images()}, "a dict")]
)
def test_example_inputs_that_hold_no_tensors_are_named_by_their_kind_without_a_list_of_overloads(
    given: Any, kind: str
) -> None:
    with pytest.raises(StageError) as error:
        trace(net(), (given,))
    assert error.value.code == "MC410"
    assert f"number 1 is {kind}" in error.value.why
    assert "torch.from_numpy" in error.value.hint
    assert len(error.value.message) < 400
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": [images()]}, "batch 1 of `batches` is no pair"),
        ({"batches": 5}, "`batches` is 5; it must give batches"),
        ({"batches": [(images(), [0, 1])]}, "batch 1 of `batches` is no pair"),
        ({"batches": [(images(), torch.zeros(2, 5, 5))]}, "the model or cross-entropy fails on a batch"),
        (
            {"batches": [(images(), torch.tensor([0, 1]))], "loss": lambda out, _: F.relu(out).mean(1)},
            "`loss` gives a tensor of shape (2,)",
        ),
        ({"batches": [(images(), torch.tensor([0, 1]))], "loss": lambda *_: 3}, "`loss` gives 3"),
    ],
)
def test_batches_that_give_no_gradient_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        prune(net(), (images(),), ratio=0.5, importance="taylor", **arguments)
    assert error.value.code == "MC456"
    assert message in error.value.message


@pytest.mark.parametrize(
    ("operator", "written"),
    [("constant_pad_nd", "F.pad"), ("im2col", "F.unfold"), ("bmm", "matmul"), ("_fft_r2c", "torch.fft.rfft"),
     ("index_put_", "assignment by index"), ("cumsum", "cumsum"), ("__and__", "__and__")],
)  # fmt: skip
def test_an_operator_goes_by_the_name_that_a_person_writes(operator: str, written: str) -> None:
    assert as_written(operator) == written
