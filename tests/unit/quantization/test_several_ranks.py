"""Two processes that train one network, each on batches of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from mcomp.errors import UsageError
from mcomp.quantization import freeze, quantize
from mcomp.quantization.calibration import quantizers
from mcomp.quantization.quantizers import base

STEPS = 2
TRIALS: dict[str, dict[str, Any]] = {
    "lsq": {"scheme": "lsq"},
    "lsq_plus": {"scheme": "lsq_plus"},
    "pact": {"scheme": "pact"},
    "iao": {"scheme": "iao"},
    "iao min-max": {"scheme": "iao", "observer": "minmax"},
    "iao histogram": {"scheme": "iao", "observer": "mse"},
    "iao folded": {"scheme": "iao", "fold_bn": "batch", "freeze_bn_after": 2},
    "iao asymmetric": {"scheme": "iao", "symmetric_activations": False, "symmetric_weights": False},
    "dorefa": {"scheme": "dorefa"},
    "ristretto": {"scheme": "ristretto"},
    "ristretto saturate": {"scheme": "ristretto", "overflow": "saturate"},
    "dynamic": {"scheme": "dynamic"},
    "wbwtab": {"scheme": "wbwtab"},
}

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")


def network() -> nn.Module:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3), nn.Hardswish()]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


def batch(step: int, rank: int) -> Tensor:
    made = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(4, 3, 8, 8, generator=made) * (1 + 3 * rank)


def converted(options: dict[str, Any]) -> nn.Module:
    return quantize(network(), (batch(0, 0),), **options).train()


def shared_state(model: nn.Module) -> dict[str, Tensor]:
    """All but the statistics of plain batch norms, which torch keeps for each rank between two forward passes."""
    return {name: each.detach().clone() for name, each in model.state_dict().items() if "running_" not in name}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    for trial, options in TRIALS.items():
        model = converted(options)
        parallel = nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(parallel.parameters(), 0.01)
        for step in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(parallel(batch(step, rank)), torch.arange(4)).backward()
            if step == 0:
                found[f"{trial}, first step"] = shared_state(model)
            optimizer.step()
        found[trial] = shared_state(model)
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("trial", TRIALS)
def test_ranks_that_train_together_hold_the_same_parameters_and_ranges(
    ranks: list[dict[str, dict[str, Tensor]]], trial: str
) -> None:
    first, second = (rank[trial] for rank in ranks)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("trial", ["lsq", "lsq_plus", "pact", "iao", "iao min-max", "iao histogram", "ristretto"])
def test_the_first_range_of_the_input_is_that_of_one_process_with_both_batches(
    ranks: list[dict[str, dict[str, Tensor]]], trial: str
) -> None:
    alone = converted(TRIALS[trial])
    alone(torch.cat([batch(0, 0), batch(0, 1)]))
    expected = shared_state(alone)
    of_input = [name for name in expected if name.startswith("activation_quantizers.input")]
    assert of_input
    for name in of_input:
        assert torch.allclose(ranks[0][f"{trial}, first step"][name].float(), expected[name].float(), rtol=1e-6), name


@pytest.mark.parametrize("options", [{"scheme": "iao"}, {"scheme": "lsq"}], ids=str)
def test_an_empty_batch_of_one_rank_is_refused_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    model = quantize(network(), (batch(0, 0),), calibration=[batch(0, 0)], **options).train()
    (quantizer,) = (each for name, each in quantizers(model).items() if "input" in name)
    nothing = batch(0, 0)[:0]
    assert quantizer(nothing).shape == nothing.shape, "one process waits for nobody"
    monkeypatch.setattr(base, "several_ranks", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    with pytest.raises(UsageError, match="rank 1 trains on an empty batch") as caught:
        quantizer(nothing)
    assert caught.value.code == "MC429"
    assert quantizer.eval()(nothing).shape == nothing.shape, "a range that stands still asks nobody"
    assert freeze(model).train() is model
    assert quantizer(nothing).shape == nothing.shape
