from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mcomp.models import ModelSpec, registry


@pytest.mark.parametrize(
    "name", ["nin", "nin_gc", "lenet", "torchvision:resnet18", "net.py:make", "./nets/net.py:make", "package.net:make"]
)
def test_a_name_that_can_be_built_is_not_unknown(name: str) -> None:
    assert registry.unknown_name(name) is None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("nin_cg", "did you mean `nin_gc`?"),
        ("resnet34", "did you mean `torchvision:resnet34`?"),
        ("torchvision:resnet19", "did you mean `torchvision:resnet18`?"),
        ("", "unknown model"),
        (":", "neither"),
        ("net.py:", "neither"),
        (".py:make", "neither"),
        ("a b:make", "neither"),
    ],
)
def test_a_name_that_cannot_be_built_is_explained(name: str, part: str) -> None:
    assert part in (registry.unknown_name(name) or "")


def test_torchvisions_names_are_read_from_its_source() -> None:
    from torchvision.models import list_models

    found = set(registry.zoo_names("torchvision"))
    assert found == {name for name in list_models() if "quantized" not in name} - _elsewhere()


def _elsewhere() -> set[str]:
    """Detection, segmentation and video models are no classifiers, and live in packages of their own."""
    from torchvision import models

    packages = (models.detection, models.segmentation, models.video, models.optical_flow)
    return {name for package in packages for name in models.list_models(module=package)}


def test_only_a_users_own_code_needs_trust() -> None:
    assert [registry.needs_trust(name) for name in ("nin", "torchvision:resnet18", "timm:x", "f.py:g", "m:g")] == [
        False,
        False,
        False,
        True,
        True,
    ]


def test_the_users_file_is_found_beside_the_recipe_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "net.py").write_text("raise RuntimeError")
    assert registry.user_file("pkg/net.py:make", tmp_path) == tmp_path / "pkg/net.py"
    assert registry.user_file("pkg.net:make", tmp_path) == tmp_path / "pkg/net.py"
    assert registry.user_file("no_such_module_anywhere:make", tmp_path) is None
    assert registry.user_file("nin", tmp_path) is None


def test_builtin_options_are_closed_and_a_users_are_open() -> None:
    with pytest.raises(ValidationError, match="depth"):
        registry.options_for("nin")(name="nin", depth=3)
    with pytest.raises(ValidationError, match="width"):
        registry.options_for("nin")(name="nin", width=0)
    spec = ModelSpec.of(registry.options_for("net.py:make")(name="net.py:make", num_classes=3, depth=3))
    assert (spec.num_classes, spec.kwargs) == (3, {"depth": 3})


def test_without_timm_a_name_that_timm_could_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "zoo_names", lambda prefix: [])
    assert registry.unknown_name("timm:resnet18.a1_in1k") is None
    assert registry.unknown_name("timm:__import__") is not None
