from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mcomp.stages.base import StageContext, Surroundings
from mcomp.stages.builtin.bn_fuse import BNFuse
from mcomp.stages.builtin.quantize import Quantize
from tests.unit.quantization.quantization_nets import Residual, batch, chain, warm


@pytest.mark.parametrize(
    "options",
    [
        {"w_bits": 0},
        {"w_bits": 1},
        {"a_bits": 17},
        {"a_bits": 33},
        {"a_bits": 8.0},
        {"levels": 100},
        {"levels": "all"},
        {"scheme": "lsq"},
        {"epochs": -1},
        {"overrides": {"x": {"bits": 4}}},
        {"overrides": {"x": {"w_bits": 1}}},
        {"calibration_samples": 0},
        {"variant": "paper", "per_channel": True},
        {"epochs": 1, "warmup_epochs": 2.0},
    ],
)
def test_options_that_do_not_exist_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Quantize.Options.model_validate(options)


def test_no_epochs_is_calibration_alone() -> None:
    assert Quantize.Options(epochs=0).epochs == 0


def test_levels_follow_the_engine_at_the_end_of_the_recipe() -> None:
    def levels(*after: str, **options: Any) -> Any:
        return Quantize.resolve(Quantize.Options(**options), Surroundings(after=after)).levels

    assert levels("bn_fuse", "trt_int8") == 127
    assert levels("onnx_int8") == 255
    assert levels("trt_int8", levels=255) == 255


def test_an_override_that_skip_hides_is_pointed_at() -> None:
    options = Quantize.Options.model_validate({"skip": ["head*"], "overrides": {"head.0": {"w_bits": 4}}})
    (finding,) = Quantize.check(options, Surroundings())
    assert finding.option == ("overrides", "head.0")


def test_importing_the_stages_costs_no_torch() -> None:
    code = (
        "import sys, mcomp.quantization, mcomp.stages.builtin.quantize, mcomp.stages.builtin.bn_fuse; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_fusing_reports_what_it_did(tmp_path: Any) -> None:
    ctx = StageContext(model=warm(Residual()), example_inputs=(batch(),), data=None, work_dir=tmp_path)
    result = BNFuse().run(ctx, BNFuse.Options())
    assert result.metrics["folded"] == 3
    assert result.metrics["max_abs_error"] < 1e-5
    assert result.notes == []


def test_fusing_a_model_without_batch_norms_is_a_note(tmp_path: Any) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1)).eval()
    ctx = StageContext(model=model, example_inputs=(batch(),), data=None, work_dir=tmp_path)
    result = BNFuse().run(ctx, BNFuse.Options())
    assert result.metrics["folded"] == 0
    assert "no batch norm" in result.notes[0]


def test_a_fold_that_changes_the_output_is_refused(tmp_path: Any) -> None:
    from mcomp.errors import StageError

    ctx = StageContext(model=warm(chain()), example_inputs=(batch(),), data=None, work_dir=tmp_path)
    with pytest.raises(StageError, match="most at"):
        BNFuse().run(ctx, BNFuse.Options(tolerance=1e-12))


def test_quantise_and_fuse_on_real_data() -> None:
    import mcomp

    data = mcomp.data.load(name="digits", image_size=12, batch_size=64, limit=256)
    model = mcomp.models.build("lenet", num_classes=10)
    trained = mcomp.stages.train(model, data, epochs=3, lr=0.02, device="cpu", precision="fp32")
    done = mcomp.stages.quantize(trained.model, data, epochs=1, calibration_samples=64, device="cpu", precision="fp32")
    assert abs(done.metrics["top1_before_training"] - trained.metrics["top1"]) <= 1.0
    assert done.metrics["layers_float"] == 1
    assert "first layer" in done.notes[0]
    assert all(row["scale"] for row in done.details["tensors"] if row["bits"] < 32)
    fused = mcomp.stages.bn_fuse(done.model, data, device="cpu")
    assert abs(fused.metrics["top1"] - done.metrics["top1"]) <= 0.5


def test_calibration_says_how_many_images_there_are_not_how_many_were_asked_for(tmp_path: Any) -> None:
    import mcomp

    data = mcomp.data.load(name="synthetic", samples=40, num_classes=3, image_size=12)
    model = mcomp.models.build("lenet", num_classes=3, in_shape=data.in_shape)
    ctx = StageContext(model=model, example_inputs=data.example_inputs, data=data, work_dir=tmp_path)
    said: list[str] = []
    ctx.report = lambda _kind, **fields: said.append(str(fields.get("text")))
    Quantize().run(ctx, Quantize.Options(epochs=0, calibration_samples=512))
    assert f"finding activation ranges on {len(data.train)} training images" in said
