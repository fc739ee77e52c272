from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import mcomp
from mcomp.errors import InterruptedRun, RecipeError, StageError, UsageError
from mcomp.recipe import Recipe
from mcomp.stages.base import StageContext
from mcomp.stages.builtin.finetune import Finetune
from mcomp.training.distillation import DistillationLoss

ON_THE_CPU = {"device": "cpu", "precision": "fp32"}


class Fixed(nn.Module):
    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, _x: Tensor) -> Tensor:
        return self.answer


@given(
    st.integers(0, 999), st.floats(0.05, 1.0), st.floats(0.5, 20.0), st.floats(0.0, 0.5),
)  # fmt: skip
def test_the_loss_is_the_formula(seed: int, alpha: float, temperature: float, smoothing: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(5, (4,), generator=generator)
    loss = DistillationLoss(Fixed(teacher.float()), alpha, temperature, smoothing)(student.float(), labels, student)
    p, q = (torch.softmax(each / temperature, 1) for each in (teacher, student))
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    target = torch.full((4, 5), smoothing / 5, dtype=torch.float64)
    target[torch.arange(4), labels] += 1 - smoothing
    entropy = -(target * torch.log_softmax(student, 1)).sum(1).mean()
    expected = (1 - alpha) * entropy + alpha * temperature**2 * divergence
    assert float(loss) == pytest.approx(float(expected), rel=1e-3, abs=1e-4)


def test_a_student_that_answers_like_its_teacher_learns_from_labels_alone() -> None:
    answer = torch.randn(4, 5)
    student = answer.clone().requires_grad_(True)
    DistillationLoss(Fixed(answer), 1.0, 3.0)(student, torch.zeros(4, dtype=torch.long), answer).backward()
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-6


@pytest.fixture(scope="module")
def data() -> Any:
    return mcomp.data.load(name="synthetic", num_classes=3, samples=96, image_size=12)


def network(data: Any, width: float = 0.125, classes: int = 3) -> nn.Module:
    return mcomp.models.build("nin", num_classes=classes, width=width, in_shape=data.in_shape)


@pytest.mark.parametrize("stage", ["train", "finetune", "quantize", "qaft"])
def test_a_stage_called_from_python_takes_the_teacher_itself(stage: str, data: Any) -> None:
    teacher = network(data)
    before = copy.deepcopy(teacher.state_dict())
    model = network(data)
    if stage == "qaft":
        model = mcomp.stages.quantize(model, data, epochs=0, **ON_THE_CPU).model
    run = getattr(mcomp.stages, stage)
    alone = run(model, data, epochs=1, **ON_THE_CPU).model.state_dict()
    taught = run(model, data, epochs=1, teacher=teacher, **ON_THE_CPU).model.state_dict()
    again = run(model, data, epochs=1, teacher={"stage": teacher}, **ON_THE_CPU).model.state_dict()
    assert any(not torch.equal(alone[name], taught[name]) for name in alone)
    assert all(torch.equal(again[name], taught[name]) for name in taught)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_an_id_means_nothing_outside_of_a_recipe(data: Any) -> None:
    with pytest.raises(UsageError, match="there is no recipe") as caught:
        mcomp.stages.finetune(network(data), data, teacher="train")
    assert caught.value.code == "MC283"


def test_a_teacher_of_other_classes_is_refused(data: Any) -> None:
    with pytest.raises(StageError, match="5 outputs"):
        mcomp.stages.finetune(network(data), data, teacher=network(data, classes=5), **ON_THE_CPU)


def test_a_training_with_a_teacher_goes_on_with_the_same_bits(data: Any, tmp_path: Any) -> None:
    teacher, model = network(data), network(data)
    options = Finetune.Options.model_validate({"epochs": 2, "teacher": "t", "checkpoint_every": 1})
    saved: list[Any] = []

    def context(**more: Any) -> StageContext:
        earlier = {"t": lambda: copy.deepcopy(teacher)}
        return StageContext(
            copy.deepcopy(model), data.example_inputs, data, tmp_path, stage_id="finetune", earlier=earlier, **more
        )

    def keep(state: Any) -> None:
        saved.append(copy.deepcopy(state))

    whole = Finetune().run(context(), options).model.state_dict()
    with pytest.raises(InterruptedRun):
        Finetune().run(context(save=keep, should_stop=lambda: 2 * bool(saved)), options)
    resumed = Finetune().run(context(restore=lambda: saved[-1]), options).model.state_dict()
    assert 0 < saved[-1]["epoch"] < 2 or saved[-1]["step"] > 0
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def recipe(*stages: str) -> str:
    return "version: 1\nname: r\nmodel: {name: lenet}\ndata: {name: digits}\nstages:\n" + "".join(
        f"  - {stage}\n" for stage in stages
    )


@pytest.mark.parametrize(
    ("stages", "message", "line", "hint"),
    [
        (["train", "finetune: {teacher: trian}"], "no earlier stage has the id `trian`", 7, "train"),
        (["finetune: {teacher: train}", "train"], "`teacher: train` is a later stage", 6, ""),
        (["train", "finetune: {teacher: finetune}"], "`teacher: finetune` is this very stage", 7, ""),
        (
            ["train", "finetune: {}\n    id: side", "quantize: {teacher: {stage: side, alpha: 0.9}}\n    from: train"],
            "`stage: side` is on another branch",
            9,
            "train",
        ),
        (["train", "prune: {ratio: 0.2, steps: 2, finetune: {epochs: 1, teacher: x}}"], "no earlier stage", 7, ""),
    ],
)
def test_a_teacher_that_is_no_stage_before_this_one_is_refused_where_it_is_named(
    stages: list[str], message: str, line: int, hint: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.from_text(recipe(*stages))
    (found,) = [one for one in caught.value.diagnostics if one.severity == "error"]
    assert found.code == "MC135"
    assert message in found.message
    assert found.line == line
    assert hint in f"{found.label} {found.hint}"


@pytest.mark.parametrize("teacher", ["train", "{stage: train}", "{stage: train, alpha: 1, temperature: 2}"])
def test_a_teacher_before_the_stage_is_taken_and_enters_the_key(teacher: str) -> None:
    read = Recipe.from_text(recipe("train", f"quantize: {{teacher: {teacher}}}"))
    last = read.stages[-1]
    assert last.cls.reads(last.options) == ["train"]


@pytest.mark.parametrize("teacher", ["{stage: train, alpha: 0}", "{stage: train, alpha: 1.5}", "{alpha: 0.5}", "3"])
def test_a_teacher_that_cannot_be_is_refused(teacher: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.from_text(recipe("train", f"quantize: {{teacher: {teacher}}}"))
