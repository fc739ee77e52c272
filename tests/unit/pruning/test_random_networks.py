"""Laws that hold for every network: pruned == masked, nothing happens to the input model, widths divide."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcomp import surgery
from mcomp.pruning import prune
from tests.unit.pruning.patchwork import Patchwork, patchworks
from tests.unit.pruning.pruning_nets import Chain, chains, digest, images, masked_output, seeded

SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}


def check_laws(model: Chain, ratio: float, regular: int, scope: str) -> None:
    model = model.double()
    x = images(count=3).double()
    before = digest(model)
    result = prune(model, (x,), ratio=ratio, regular=regular, scope=scope)  # type: ignore[arg-type]
    assert digest(model) == before
    assert surgery.ATTRIBUTE not in vars(model)
    expected = masked_output(model, result.kept, x)
    with torch.no_grad():
        found = result.model(x)
    assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    for layer, indices in result.kept.items():
        module = result.model.get_submodule(layer)
        assert len(indices) == len(set(indices)) == module.weight.shape[0]
        assert len(indices) % regular == 0
    rebuilt = surgery.replay(
        seeded(Chain(model.steps, model.flat), 9).double(), surgery.provenance(result.model).log[0], (x,)
    )
    rebuilt.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(x), found)


@settings(max_examples=25, **SETTINGS)
@given(chains(), st.sampled_from([0.2, 0.5, 0.8]), st.sampled_from([1, 2, 4]), st.sampled_from(["global", "per_layer"]))
def test_a_pruned_network_computes_what_the_masked_one_computes(
    model: Chain, ratio: float, regular: int, scope: str
) -> None:
    check_laws(model, ratio, regular, scope)


@pytest.mark.slow
@settings(max_examples=600, **SETTINGS)
@given(chains(), st.floats(0.05, 0.95), st.sampled_from([1, 2, 4, 8]), st.sampled_from(["global", "per_layer"]))
def test_six_hundred_pruned_networks_compute_what_the_masked_ones_compute(
    model: Chain, ratio: float, regular: int, scope: str
) -> None:
    check_laws(model, ratio, regular, scope)


def check_patchwork(drawn: tuple[Patchwork, Tensor], ratio: float, regular: int, scope: str, importance: str) -> None:
    model, x = drawn
    before = digest(model)
    result = prune(model, (x,), ratio, regular, importance, scope)  # type: ignore[arg-type]
    assert digest(model) == before
    with torch.no_grad():
        found, expected = result.model(x), model.masked(x, result.kept)
    assert float((found - expected).abs().max()) <= 1e-9 * float(expected.abs().max())
    assert all(len(indices) % regular == 0 for indices in result.kept.values())
    rebuilt = surgery.replay(copy.deepcopy(model), surgery.provenance(result.model).log[0], (x,))
    rebuilt.load_state_dict(result.model.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(x), found)


ARGUMENTS = {
    "drawn": patchworks(),
    "ratio": st.floats(0.05, 0.95),
    "regular": st.sampled_from([1, 2, 4, 8]),
    "scope": st.sampled_from(["global", "per_layer"]),
    "importance": st.sampled_from(["l1", "l2", "random"]),
}


@settings(max_examples=30, **SETTINGS)
@given(**ARGUMENTS)
def test_a_patchwork_of_layers_computes_what_the_masked_one_computes(
    drawn: tuple[Patchwork, Tensor], ratio: float, regular: int, scope: str, importance: str
) -> None:
    check_patchwork(drawn, ratio, regular, scope, importance)


@pytest.mark.slow
@settings(max_examples=800, **SETTINGS)
@given(**ARGUMENTS)
def test_eight_hundred_patchworks_compute_what_the_masked_ones_compute(
    drawn: tuple[Patchwork, Tensor], ratio: float, regular: int, scope: str, importance: str
) -> None:
    check_patchwork(drawn, ratio, regular, scope, importance)
