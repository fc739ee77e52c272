from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import mcomp
from mcomp import Recipe
from mcomp.errors import RecipeError
from mcomp.quantization.calibration import weight_quantizers
from mcomp.quantization.config import QuantizeConfig
from mcomp.quantization.schemes import SCHEMES
from mcomp.stages.base import StageContext, Surroundings
from mcomp.stages.builtin.bn_fuse import BNFuse
from mcomp.stages.builtin.calibrate import Calibrate
from mcomp.stages.builtin.quantize import Quantize, lower_than_before
from mcomp.stages.quantization_options import OF_SCHEMES, converted
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
        {"scheme": "xnor"},
        {"scheme": "wbwtab", "w_bits": 8},
        {"scheme": "wbwtab", "a_bits": 2},
        {"scheme": "iao", "tanh": True},
        {"scheme": "lsq", "per_channel": True},
        {"observer": "mse"},
        {"scheme": "iao", "observer": "median"},
        {"scheme": "wbwtab", "overrides": {"x": {"a_bits": 4}}},
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


@pytest.mark.parametrize(
    ("options", "place", "text"),
    [
        ({"w_bits": 1}, ("w_bits",), "`dorefa` has no weights of 1 bit; use 2..16 bits, or 32 for off"),
        (
            {"scheme": "wbwtab", "a_bits": 8},
            ("a_bits",),
            "`wbwtab` has no activations of 8 bits; use 1 bit, or 32 for off",
        ),
        ({"scheme": "wbwtab", "w_bits": 4}, ("w_bits",), "use 1 or 2 bits, or 32 for off"),
        ({"overrides": {"fc*": {"scheme": "wbwtab", "a_bits": 8}}}, ("overrides", "fc*", "a_bits"), "use 1 bit, or 32"),
        ({"overrides": {"fc*": {"ste": "ste"}}}, ("overrides", "fc*"), "holds unknown `ste`"),
        ({"overrides": {"fc*": {"w_bits": 1}}}, ("overrides", "fc*", "w_bits"), "weights of 1 bit;"),
        ({"ste": "ste"}, ("ste",), "it is one of `wbwtab`; this one has `variant`, `tanh`"),
        ({"scheme": "pact", "observer": "mse"}, ("observer",), "it is one of `iao`; this one has none of its own"),
        ({"scheme": "lsq", "per_channel": True}, ("per_channel",), "`dorefa`, `iao`, `dynamic`, `pact` have"),
        ({"scheme": "iao", "per_channel": True, "variant": "paper"}, ("variant",), "it is one of `dorefa`"),
        ({"variant": "paper", "per_channel": True}, ("per_channel",), "needs variant int_exact"),
    ],
)
def test_a_fault_stands_at_its_option_and_says_what_the_scheme_has(
    options: dict[str, Any], place: tuple[str, ...], text: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Quantize.Options.model_validate(options)
    (fault,) = caught.value.errors()
    assert fault["loc"] == place
    assert text in fault["msg"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_left_out_is_as_the_scheme_has_it(scheme: str) -> None:
    resolved = Quantize.resolve(Quantize.Options.model_validate({"scheme": scheme}), Surroundings())
    rules = SCHEMES[scheme]
    assert (resolved.w_bits, resolved.a_bits) == rules.default_bits
    assert (resolved.first_layer_float, resolved.last_layer_float) == (rules.first_layer_float, rules.last_layer_float)
    for name in OF_SCHEMES:
        assert getattr(resolved, name) == (rules.options[name][0] if name in rules.options else None)
    ends: dict[str, bool | None] = {"first_layer_float": None, "last_layer_float": None}
    config = QuantizeConfig.of((scheme, None), (None, None), 255, [], ends, None, None, {}, "auto")
    again = {name: getattr(resolved, name) for name in ("w_bits", "a_bits", "per_channel", "first_layer_float")}
    assert again == {name: getattr(config, name) for name in again}


def test_the_options_of_schemes_are_those_that_the_schemes_have() -> None:
    assert set(OF_SCHEMES) == {name for scheme in SCHEMES.values() for name in scheme.options}
    for name in OF_SCHEMES:
        offered = next(scheme.options[name] for scheme in SCHEMES.values() if name in scheme.options)
        for value in islice(offered, 8):  # of numbers there are many
            whose = next(key for key, scheme in SCHEMES.items() if name in scheme.options)
            assert Quantize.Options.model_validate({"scheme": whose, name: value})


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_runs_as_a_stage(scheme: str) -> None:
    import mcomp

    data = mcomp.data.load(name="synthetic", num_classes=3, samples=60, image_size=12)
    model = mcomp.models.build("nin", num_classes=3, width=0.125, in_shape=data.in_shape)
    done = mcomp.stages.quantize(model, data, scheme=scheme, epochs=1, device="cpu", precision="fp32")
    entry = mcomp.surgery.provenance(done.model).log[-1]
    assert entry["scheme"] == scheme
    assert done.metrics["layers_quantized"] >= 1
    again = mcomp.stages.quantize(done.model, data, w_bits=4, epochs=0, device="cpu", precision="fp32")
    assert [each["scheme"] for each in mcomp.surgery.provenance(again.model).log] == ["dorefa"]
    assert {row["bits"] for row in again.details["tensors"] if row["kind"] == "weight"} == {4, 32}


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


def test_all_faults_of_an_override_are_told() -> None:
    own = {"w_bits": 1, "ste": "ste", "scheme": "lsq", "per_channel": True}
    with pytest.raises(ValidationError) as caught:
        Quantize.Options.model_validate({"a_bits": 33, "overrides": {"fc*": own}})
    faults = {fault["loc"]: fault["msg"] for fault in caught.value.errors()}
    assert faults.keys() == {("a_bits",), ("overrides", "fc*"), ("overrides", "fc*", "w_bits")}
    assert "unknown `ste`" in faults["overrides", "fc*"]
    assert "no `per_channel`" in faults["overrides", "fc*"]


@pytest.mark.parametrize("stage", [Quantize, Calibrate])
def test_ranges_at_run_time_are_refused_where_an_engine_takes_none(stage: Any) -> None:
    target = "trt_int8"

    def places(after: tuple[str, ...], **options: Any) -> list[tuple[str | int, ...]]:
        read = stage.Options.model_validate(options)
        found = stage.check(stage.resolve(read, Surroundings(after=after)), Surroundings(after=after))
        assert all(target in each.message and each.hint for each in found)
        return [each.option for each in found]

    assert places(("bn_fuse", target), scheme="dynamic") == [("scheme",)]
    assert places((target,), scheme="iao", a_scheme="dynamic") == [("a_scheme",)]
    assert places((target,), overrides={"fc": {"a_scheme": "dynamic"}}) == [("overrides", "fc", "a_scheme")]
    assert places(("bn_fuse", "evaluate"), scheme="dynamic") == []
    assert places(("onnx_int8", "openvino_int8"), scheme="dynamic") == []
    assert places(("calibrate", target), scheme="dynamic") == [], "they are found anew"
    assert places((target,), scheme="dynamic", a_bits=32) == []
    assert places((target,), scheme="iao") == []


def test_the_recipe_is_refused_at_the_line_that_asks_for_ranges_at_run_time() -> None:
    text = "version: 1\nmodel: {name: nin}\ndata: {name: digits}\nstages:\n"
    text += "  - calibrate: {scheme: dynamic}\n  - trt_int8\n"
    with pytest.raises(RecipeError) as caught:
        Recipe.from_text(text)
    (fault,) = caught.value.diagnostics
    assert (fault.line, fault.source_line[(fault.column or 0) - 1 :][:7]) == (5, "dynamic")
    assert "`trt_int8`" in fault.message


def test_training_that_costs_accuracy_is_noted_and_training_that_does_not_is_not() -> None:
    (note,) = lower_than_before(90.0, 88.5, 0.1)
    assert "88.50 %" in note
    assert "90.00 %" in note
    assert "`lr` (0.1)" in note
    assert lower_than_before(90.0, 90.0, 0.1) == []


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


def test_signs_behind_relus_that_no_graph_shows_are_told(tmp_path: Any) -> None:
    import mcomp

    class Branching(torch.nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self:
                x = layer(x) if x.mean() > -1e9 else x
            return x

    data = mcomp.data.load(name="synthetic", samples=40, num_classes=3, image_size=12)
    model = Branching(torch.nn.Flatten(), torch.nn.Linear(432, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8),
                      torch.nn.ReLU(), torch.nn.Linear(8, 3))  # fmt: skip
    ctx = StageContext(model=model.eval(), example_inputs=data.example_inputs, data=data, work_dir=tmp_path)
    notes = Quantize().run(ctx, Quantize.Options(scheme="wbwtab", epochs=0)).notes
    assert "no graph" in notes[0]
    assert "the sign 1 everywhere" in notes[1]


def test_a_file_beside_the_recipe_holds_more_overrides(tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    (folder / "search").mkdir(parents=True)
    (folder / "search" / "best.yaml").write_text("overrides:\n  conv2: {w_bits: 4}\n  '*': {w_bits: 3}\n")
    text = """
version: 1
model: {name: lenet}
data: {name: digits, image_size: 16}
stages:
  - quantize: {epochs: 0, overrides: {conv1: {w_bits: 6}}, overrides_file: search/best.yaml}
"""
    (folder / "r.yaml").write_text(text)
    recipe = Recipe.load(folder / "r.yaml")
    model = converted(mcomp.models.lenet(num_classes=10), (torch.rand(2, 3, 16, 16),), recipe.stages[0].options)
    assert [quantizer.bits for quantizer in weight_quantizers(model).values()] == [6, 4, 3, 3, 3]


@pytest.mark.parametrize(
    ("held", "said"),
    [("nope: {w_bits: 99}", "is 99"), ("- 1", "holds no overrides"), ("conv: {w_bit: 4}", "unknown `w_bit`"), ("", "")],
)
def test_a_file_of_overrides_that_will_not_do_is_refused_where_it_is_named(
    tmp_path: Path, held: str, said: str
) -> None:
    if held:
        (tmp_path / "bits.yaml").write_text(held)
    text = "version: 1\nmodel: {name: lenet}\ndata: {name: digits, image_size: 16}\nstages:\n"
    text += "  - quantize: {overrides_file: bits.yaml}\n"
    with pytest.raises(RecipeError) as error:
        Recipe.from_text(text, base_dir=tmp_path)
    found = error.value.diagnostics[0]
    assert said in found.message
    assert (found.line, found.column) == (5, 32)
