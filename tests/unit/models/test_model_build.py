from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mcomp.errors import BackendMissingError, McompError, PreflightError, UsageError
from mcomp.models import build
from mcomp.surgery import provenance

NET = """
from torch import nn
from neighbour import WIDTH

def make(num_classes, depth=1):
    return nn.Sequential(nn.Flatten(), *[nn.LazyLinear(WIDTH) for _ in range(0)], nn.Linear(12, num_classes * depth))

def plain():
    return nn.Flatten()

def broken(num_classes):
    raise ZeroDivisionError("in the user's code")

def number(**kwargs):
    return 3
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_model_is_a_function_of_its_seed_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, two, other = build("lenet", seed=3), build("lenet", seed=3), build("lenet", seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(one, two)
    assert not same(one, other)
    assert not one.training


def test_the_builder_is_recorded_so_that_it_can_be_called_again() -> None:
    model = build({"name": "nin_gc", "width": 0.1}, num_classes=5, in_shape=(1, 8, 8))
    builder = provenance(model).builder
    assert builder == {"name": "nin_gc", "kwargs": {"num_classes": 5, "width": 0.1, "in_channels": 1}}
    again = build(builder["name"], **builder["kwargs"])
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


def test_the_recipes_number_of_classes_wins_but_must_cover_the_data() -> None:
    assert build({"name": "lenet", "num_classes": 12}, num_classes=10)(torch.zeros(1, 3, 8, 8)).shape == (1, 12)
    with pytest.raises(PreflightError, match="num_classes 5, the data set has 10"):
        build({"name": "lenet", "num_classes": 5}, num_classes=10)


def test_a_torchvision_model_is_built_by_name() -> None:
    model = build("torchvision:mobilenet_v3_small", num_classes=4, in_shape=(3, 32, 32))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


@pytest.mark.parametrize(
    ("spec", "error", "part"),
    [
        ({"name": "nin_cg"}, UsageError, "did you mean `nin_gc`"),
        ({"name": "nin", "depth": 3}, UsageError, "unknown option `depth`"),
        ({"name": "nin", "width": -1.0}, UsageError, "`width`"),
        ({"name": "torchvision:resnet18", "depth": 3}, UsageError, "refused its options"),
        ({"name": "net.py:make"}, UsageError, "`--trust`"),
    ],
)
def test_what_cannot_be_built_is_refused(spec: dict[str, Any], error: type[McompError], part: str) -> None:
    with pytest.raises(error) as caught:
        build(spec)
    assert part in str(caught.value)


def test_a_model_for_other_images_is_refused_before_it_runs() -> None:
    with pytest.raises(PreflightError, match="3 channels, the data set gives 1"):
        build("torchvision:mobilenet_v3_small", in_shape=(1, 32, 32))
    with pytest.raises(PreflightError, match="at least 4 x 4"):
        build("nin_gc", in_shape=(3, 2, 8))


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BackendMissingError) as caught:
        build("timm:resnet18" if not _timm_names() else f"timm:{_timm_names()[0]}")
    assert "mcomp[timm]" in caught.value.hint


def _timm_names() -> tuple[str, ...]:
    from mcomp.models.registry import zoo_names

    zoo_names.cache_clear()
    try:
        return zoo_names("timm")
    except ValueError:  # find_spec on a blocked module
        return ()


def test_a_users_factory_gets_the_classes_and_its_own_options(net: Path) -> None:
    model = build({"name": "net.py:make", "depth": 2}, num_classes=3, base_dir=net, trust=True)
    assert model(torch.zeros(1, 3, 2, 2)).shape == (1, 6)
    builder = provenance(model).builder
    assert builder is not None
    assert builder["file_sha256"] == hashlib.sha256((net / "net.py").read_bytes()).hexdigest()
    assert isinstance(build("net.py:plain", base_dir=net, trust=True), nn.Flatten)


def test_a_users_module_is_found_beside_the_recipe(net: Path) -> None:
    (net / "a_module_of_mine.py").write_text(
        "from torch import nn\ndef make(num_classes): return nn.Linear(2, num_classes)\n"
    )
    assert isinstance(build("a_module_of_mine:make", base_dir=net, trust=True), nn.Linear)
    del sys.modules["a_module_of_mine"]


@pytest.mark.parametrize(
    ("name", "options", "part"),
    [
        ("missing.py:make", {}, "no file"),
        ("net.py:mke", {}, "no function `mke`"),
        ("net.py:make", {"wide": 1}, "make(num_classes, depth=1)"),
        ("net.py:broken", {}, "ZeroDivisionError: in the user's code"),
        ("net.py:number", {}, "returned int, not a torch.nn.Module"),
        ("bad.py:make", {}, "SyntaxError"),
    ],
)
def test_a_users_mistake_is_named(net: Path, name: str, options: dict[str, Any], part: str) -> None:
    (net / "bad.py").write_text("def make(:\n")
    with pytest.raises(PreflightError) as caught:
        build(name, base_dir=net, trust=True, **options)
    assert part in str(caught.value)
