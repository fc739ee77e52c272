"""Toy stages under the names of the flagship, so that these tests stand on this room alone."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field

from mcomp.options import Options
from mcomp.stages import registry
from mcomp.stages.base import Finding, Stage, StageContext, StageOptions, StageResult, Surroundings, Traits


class _Toy(Stage):
    def run(self, ctx: StageContext, options: Any) -> StageResult:
        raise NotImplementedError


class Train(_Toy):
    """Train a float network."""

    name = "train"
    traits = Traits(requires={"float"}, metrics={"top1", "loss"})

    class Options(StageOptions):
        epochs: int = Field(5, ge=1)
        lr: float = Field(0.1, gt=0)
        milestones: list[float] = Field(default_factory=lambda: [0.5])
        nesterov: bool = False


class SparseTrain(Train):
    name = "sparse_train"

    class Options(Train.Options):
        penalty: float = Field(1e-3, gt=0)


class Finetune(Train):
    name = "finetune"


class Prune(_Toy):
    """Cut channels."""

    name = "prune"
    traits = Traits(requires={"float", "bn"}, provides={"pruned"}, metrics={"top1", "params"})

    class Options(StageOptions):
        ratio: float = Field(gt=0, lt=1)
        regular: int = Field(1, ge=1)

    @classmethod
    def check(cls, options: Any, around: Surroundings) -> list[Finding]:
        if options.regular == 3:
            return [Finding("three is odd", ("regular",), "use 4", severity="warning")]
        if options.regular == 5:
            return [Finding("five is worse", ("regular",), "use 4")]
        return []


class Quantize(_Toy):
    """Fake-quantise."""

    name = "quantize"
    traits = Traits(requires={"float", "bn"}, provides={"quantized"}, metrics={"top1"})

    class Options(StageOptions):
        scheme: Literal["dorefa", "lsq"] = "dorefa"
        w_bits: int = Field(8, ge=2, le=16)
        a_bits: int = Field(8, ge=2, le=16)
        epochs: int = Field(4, ge=0)
        lr: Literal["auto"] | float = "auto"

    @classmethod
    def resolve(cls, options: Any, around: Surroundings) -> Any:
        if options.lr == "auto":
            return options.model_copy(update={"lr": 0.01 * len(around.before)})
        return options


class BNFuse(_Toy):
    """Fold batch norms."""

    name = "bn_fuse"
    traits = Traits(requires={"bn"}, destroys={"bn"}, metrics={"max_abs_error"})

    class Options(StageOptions):
        tolerance: float = Field(1e-4, gt=0)


class Calibration(Options):
    method: Literal["minmax", "entropy"] = "minmax"
    samples: int = Field(512, ge=1)
    cache_file: str | None = Field(None, json_schema_extra={"path": True})


class TrtInt8(_Toy):
    """Build an engine."""

    name = "trt_int8"
    traits = Traits(requires={"quantized"}, conflicts={"deployed"}, provides={"deployed"}, metrics={"top1"})

    class Options(StageOptions):
        calibration: Calibration | None = None
        skip: Calibration | list[str] | Literal["none"] = "none"
        output: str | None = Field(None, json_schema_extra={"path": True})


TOYS = (Train, SparseTrain, Prune, Finetune, Quantize, BNFuse, TrtInt8)


@pytest.fixture(autouse=True)
def toy_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_STAGES", {toy.name: toy for toy in TOYS})
    monkeypatch.setattr(registry, "BUILT_IN", tuple(toy.name for toy in TOYS))
    monkeypatch.setattr(registry, "_entry_points_loaded", True)
