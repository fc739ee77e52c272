from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field, field_validator
from torch import nn

import mcomp.stages
from mcomp.errors import BackendMissingError, StageError, UsageError
from mcomp.stages import Stage, StageContext, StageOptions, StageResult, Surroundings, Traits
from mcomp.stages.function import as_function
from mcomp.surgery import provenance
from tests.unit.training.toys import ToyData, toy_net


class Scale(Stage):
    """Multiply every weight.

    By a factor.
    """

    name = "scale_weights"
    traits = Traits(metrics={"factor"})

    class Options(StageOptions):
        factor: float = Field(gt=0, description="what to multiply by")
        only: list[str] = Field([], description="layers to change")
        times: int = Field(1, ge=1, le=9)

        @field_validator("only")
        @classmethod
        def _no_head(cls, only: list[str]) -> list[str]:
            if "head" in only:
                raise ValueError("the head stays as it is")
            return only

    @classmethod
    def resolve(cls, options: Any, around: Surroundings) -> Any:
        assert around == Surroundings()
        return options.model_copy(update={"only": [*options.only, "resolved"]})

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        with torch.no_grad():
            for parameter in ctx.model.parameters():
                parameter.mul_(options.factor)
        ctx.report("status", text="scaled")
        ctx.log("a line")
        (ctx.work_dir / "note.txt").write_text("done")
        return StageResult(
            ctx.model,
            {"factor": options.factor},
            {"note": ctx.work_dir / "note.txt"},
            details={"ctx": ctx, "only": options.only},
        )


scale = as_function(Scale)


def context(**arguments: Any) -> StageContext:
    ctx: StageContext = scale(toy_net(), ToyData(), factor=2, **arguments).details["ctx"]
    return ctx


def test_the_model_that_was_handed_over_stays_as_it_was() -> None:
    model = toy_net().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = scale(model, ToyData(), factor=2)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(result.model[0].weight, 2 * model[0].weight)  # type: ignore[index,operator]


def test_signature_and_help_list_the_options() -> None:
    parameters = inspect.signature(scale).parameters
    assert list(parameters)[:2] == ["model", "data"]
    assert parameters["factor"].default is inspect.Parameter.empty
    assert parameters["times"].default == 1
    assert parameters["only"].annotation == list[str]
    assert scale.__name__ == "scale_weights"
    assert scale.__doc__ is not None
    assert scale.__doc__.startswith("Multiply every weight.\n\nBy a factor.\n")
    assert "    factor: what to multiply by" in scale.__doc__


def test_the_signature_names_exactly_what_the_function_takes() -> None:
    own = inspect.signature(scale).parameters.keys() - Scale.Options.model_fields.keys()
    written = scale.__code__.co_varnames[: scale.__code__.co_argcount + scale.__code__.co_kwonlyargcount]
    assert own == set(written)


@pytest.mark.parametrize(
    ("options", "words", "code"),
    [
        ({"factr": 2}, r"unknown option `factr` for stage `scale_weights`, did you mean `factor`\?", "MC272"),
        ({}, "stage `scale_weights` needs the option `factor`", "MC274"),
        ({"factor": -1}, "option `factor` of stage `scale_weights`: must be greater than 0, got -1", "MC273"),
        ({"factor": "2"}, "option `factor` of stage `scale_weights`: must be a valid number, got '2'", "MC273"),
        ({"factor": 1, "only": ["head"]}, "the head stays as it is, got", "MC273"),
        ({"factor": float("nan")}, "finite number", "MC273"),
    ],
)
def test_wrong_options_are_refused_in_words(options: dict[str, Any], words: str, code: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        scale(toy_net(), ToyData(), **options)
    assert caught.value.code == code
    assert "help(mcomp.stages.scale_weights)" in caught.value.hint


def test_all_wrong_options_are_named_at_once() -> None:
    with pytest.raises(UsageError, match=r"`factor`.*`times`"):
        scale(toy_net(), ToyData(), factor=0, times=0)


def test_a_tuple_is_as_good_as_a_list() -> None:
    assert scale(toy_net(), ToyData(), factor=1, only=("a", "b")).details["only"] == ["a", "b", "resolved"]


def test_something_else_than_a_module_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs an `nn\.Module` first, got str"):
        scale("nin", ToyData(), factor=1)  # type: ignore[arg-type]


def test_without_data_and_example_inputs_the_stage_cannot_look_at_the_model() -> None:
    with pytest.raises(UsageError, match="needs `data=` or `example_inputs=`"):
        scale(toy_net(), factor=1)
    given = torch.zeros(2, 1, 6, 6)
    result = scale(toy_net(), example_inputs=given, factor=1)
    assert torch.equal(result.details["ctx"].example_inputs[0], given)
    assert result.details["ctx"].data is None


def test_device_and_precision_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcomp.training.hardware._gpus", lambda: ())
    assert context().device == "cpu"
    assert context().precision in {"fp32", "bf16"}
    assert context(precision="fp32").precision == "fp32"
    with pytest.raises(BackendMissingError):
        context(device="cuda")
    with pytest.raises(UsageError):
        context(device="tpu")


def test_files_go_to_the_folder_asked_for_or_a_fresh_one(tmp_path: Path) -> None:
    assert context(work_dir=tmp_path / "deep" / "out").work_dir == tmp_path / "deep" / "out"
    assert (tmp_path / "deep" / "out" / "note.txt").exists()
    first, second = context().work_dir, context().work_dir
    assert first != second


def test_the_copy_knows_how_its_images_were_prepared() -> None:
    origin = provenance(scale(toy_net(), ToyData(), factor=1).model)
    assert origin.input_shape == [1, 6, 6]
    assert origin.class_names == ["left", "middle", "right"]
    assert origin.preprocessing["size"] == [6, 6]


def test_progress_is_written_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    scale(toy_net(), ToyData(), factor=1, report=lambda kind, **fields: told.append(fields["text"]))
    assert told == ["scaled"]
    assert capsys.readouterr() == ("", "")
    scale(toy_net(), ToyData(), factor=1, progress=True)
    assert capsys.readouterr() == ("", "scaled\na line\n")


def test_an_option_named_like_an_argument_is_refused() -> None:
    class Clash(Scale):
        class Options(StageOptions):
            device: str = "x"

    with pytest.raises(UsageError, match="option `device` of stage `scale_weights` cannot be an argument"):
        as_function(Clash)


def test_built_in_stages_are_functions_of_the_package() -> None:
    assert mcomp.stages.train.__name__ == "train"
    assert "epochs" in inspect.signature(mcomp.stages.finetune).parameters
    with pytest.raises(AttributeError, match="no stage `trane`"):
        _ = mcomp.stages.trane


def test_a_stage_that_needs_data_says_so() -> None:
    with pytest.raises(StageError, match="`train` needs data"):
        mcomp.stages.train(toy_net(), example_inputs=torch.zeros(2, 1, 6, 6))
    with pytest.raises(StageError, match="`evaluate` needs data"):
        mcomp.stages.evaluate(nn.Flatten(), example_inputs=torch.zeros(2, 1, 6, 6))


class Scratch(Stage):
    """Write a file that nobody wants."""

    name = "scratch"

    class Options(StageOptions):
        write: bool = True
        fails: bool = False

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        if options.write:
            (ctx.work_dir / "scratch.txt").write_text("x")
        if options.fails:
            raise StageError("no luck", code="MC400")
        return StageResult(ctx.model)


def test_no_temporary_folder_is_left_without_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch = as_function(Scratch)
    scratch(toy_net(), ToyData())
    scratch(toy_net(), ToyData(), write=False)
    with pytest.raises(StageError):
        scratch(toy_net(), ToyData(), fails=True)
    assert not list(tmp_path.iterdir())
    kept = scale(toy_net(), ToyData(), factor=2).files["note"]
    assert kept.read_text() == "done"
    assert [folder.name.startswith("mcomp-scale_weights-") for folder in tmp_path.iterdir()] == [True]
    scratch(toy_net(), ToyData(), work_dir=tmp_path / "own")
    assert (tmp_path / "own" / "scratch.txt").exists()


def test_nothing_is_written_to_the_terminal_unasked(capfd: pytest.CaptureFixture[str]) -> None:
    scale(toy_net(), ToyData(), factor=2)
    assert capfd.readouterr() == ("", "")
    scale(toy_net(), ToyData(), factor=2, progress=True)
    assert capfd.readouterr().err == "scaled\na line\n"


def test_what_is_no_data_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"needs an `mcomp.data.Data` as `data`, got int") as error:
        mcomp.stages.evaluate(toy_net(), data=3)
    assert error.value.code == "MC279"


def test_a_result_shows_itself_in_one_line() -> None:
    assert repr(StageResult(nn.ReLU(), {"top1": 97.0}, details={"long": [0] * 999})) == "<StageResult ReLU, top1 97.0>"
