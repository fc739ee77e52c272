from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mcomp.errors import StageError
from mcomp.training import learning_rate, loop
from tests.unit.training.toys import ToyData, same_bits, settings, toy_net, train


def test_a_toy_problem_is_learned() -> None:
    result = train(settings={"epochs": 12, "augment": False})
    assert result.history[-1]["val_top1"] >= 90.0
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert not result.model.training


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_seed_gives_one_result_and_another_seed_another(precision: str) -> None:
    first, second, other = (train(seed=seed, precision=precision) for seed in (0, 0, 1))
    assert same_bits(first.model, second.model)
    assert not same_bits(first.model, other.model)


def test_the_global_generators_are_given_back() -> None:
    torch.manual_seed(9)
    random.seed(9)
    before = (torch.get_rng_state(), random.getstate())
    train()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_the_result_does_not_depend_on_the_global_generators() -> None:
    torch.manual_seed(1)
    first = train()
    torch.manual_seed(2)
    assert same_bits(first.model, train().model)


def test_reports_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = train()
    monkeypatch.setattr(loop, "REPORT_EVERY", 0.0)
    events: list[tuple[str, dict[str, Any]]] = []
    told = train(report=lambda kind, **fields: events.append((kind, fields)))
    assert same_bits(silent.model, told.model)
    assert silent.history[-1]["loss"] == told.history[-1]["loss"]
    steps = [fields for kind, fields in events if kind == "step"]
    assert [(fields["epoch"], fields["step"]) for fields in steps] == [(e, s) for e in (1, 2, 3) for s in range(1, 7)]
    assert set(steps[0]) == {"epoch", "epochs", "step", "steps", "loss", "top1", "images_per_s", "eta_s"}
    assert steps[-1]["eta_s"] == 0


def test_every_epoch_is_reported_with_the_figures_of_the_history() -> None:
    epochs: list[dict[str, Any]] = []
    result = train(report=lambda kind, **fields: epochs.append(fields) if kind == "epoch" else None)
    assert epochs == result.history
    assert {"epoch", "epochs", "loss", "top1", "val_top1", "lr", "seconds", "images_per_s"} == set(epochs[0])
    assert [row["epoch"] for row in epochs] == [1, 2, 3]


def test_bfloat16_keeps_weights_gradients_and_statistics_in_float32() -> None:
    seen: dict[str, set[torch.dtype]] = {"conv": set(), "gradient": set()}
    model = toy_net()
    model[0].register_forward_hook(lambda _layer, _inputs, output: seen["conv"].add(output.dtype))

    def look(model: nn.Module, _step: int) -> None:
        seen["gradient"] |= {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None}

    trained = train(model, precision="bf16", after_step=look).model
    assert torch.bfloat16 in seen["conv"]
    assert seen["gradient"] == {torch.float32}
    floats = {tensor.dtype for tensor in trained.state_dict().values() if tensor.is_floating_point()}
    assert floats == {torch.float32}
    assert all(tensor.is_contiguous() for tensor in trained.state_dict().values())


def test_batch_norm_statistics_under_bfloat16_are_sums_in_float32() -> None:
    # 4096 values of 1 and one of 257: a bfloat16 sum would stop growing at 256
    norm = nn.BatchNorm2d(1, momentum=1.0)
    x = torch.ones(1, 1, 64, 64, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        norm(x)
    assert norm.running_mean is not None
    assert norm.running_mean.dtype == torch.float32
    assert norm.running_mean.item() == 1.0


def test_the_hooks_come_in_the_order_of_the_step() -> None:
    calls: list[str] = []

    class Watch:
        def prepare(self, model: nn.Module, example_inputs: tuple[torch.Tensor, ...], steps: int) -> None:
            calls.append(f"prepare {steps}")

        def before_step(self, model: nn.Module) -> None:
            assert all(parameter.grad is not None for parameter in model.parameters())
            self.weights = [parameter.detach().clone() for parameter in model.parameters()]
            calls.append("before")

        def after_step(self, model: nn.Module, lr: float, step: int) -> None:
            assert any(not torch.equal(a, b) for a, b in zip(self.weights, model.parameters(), strict=True))
            self.lr = lr
            calls.append(f"after {step}")

        def record(self, model: nn.Module, step: int) -> dict[str, float]:
            calls.append(f"record {step}")
            return {"zeros": 1.5}

    watch = Watch()
    result = train(penalty=watch, after_step=lambda _model, step: calls.append(str(step)), settings={"epochs": 1})
    steps = [word for step in range(1, 7) for word in ("before", f"after {step}", str(step))]
    assert calls == ["prepare 6", *steps, "record 6"]
    assert result.history[0]["zeros"] == 1.5
    assert watch.lr == result.history[0]["lr"] == learning_rate(settings(epochs=1), 5, 6)


def test_a_penalty_moves_the_weights_it_wants_to_move() -> None:
    class Shrink:
        def prepare(self, model: nn.Module, example_inputs: tuple[torch.Tensor, ...], steps: int) -> None:
            pass

        def before_step(self, model: nn.Module) -> None:
            assert model.training

        @torch.no_grad()
        def after_step(self, model: nn.Module, lr: float, step: int) -> None:
            for layer in model.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.weight.mul_(1 - lr)

        def record(self, model: nn.Module, step: int) -> dict[str, float]:
            return {}

    plain, shrunk = train().model, train(penalty=Shrink()).model
    assert shrunk[1].weight.abs().sum() < plain[1].weight.abs().sum()  # type: ignore[index]


def test_train_mode_is_asked_again_after_every_validation() -> None:
    def frozen(model: nn.Module) -> None:
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()

    before = toy_net()
    after = train(toy_net(), train_mode=frozen).model
    assert torch.equal(before[1].running_mean, after[1].running_mean)  # type: ignore[index,arg-type]
    assert not torch.equal(before[1].weight, after[1].weight)  # type: ignore[index,arg-type]


def test_another_loss_replaces_cross_entropy() -> None:
    def distance(outputs: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        assert len(inputs) == len(outputs) == len(labels)
        return (outputs - 1).square().mean()

    result = train(loss=distance, settings={"epochs": 20, "schedule": "constant", "weight_decay": 0.0})
    assert result.history[-1]["loss"] < 0.1


@pytest.mark.parametrize(("images", "steps"), [(25, 3), (24, 3), (26, 4), (1, 1)])
def test_a_last_batch_of_one_image_is_left_out(images: int, steps: int) -> None:
    sizes: list[int] = []
    model = toy_net()
    model[0].register_forward_hook(
        lambda layer, inputs, _output: sizes.append(len(inputs[0])) if layer.training else None
    )
    train(model, ToyData(train=images), settings={"epochs": 1})
    assert len(sizes) == steps
    assert images == 1 or min(sizes) > 1


def test_batches_of_one_are_kept_when_they_are_asked_for() -> None:
    steps: list[int] = []
    train(
        data=ToyData(train=4), settings={"epochs": 1, "batch_size": 1}, after_step=lambda _m, step: steps.append(step)
    )
    assert steps == [1, 2, 3, 4]


def test_weight_decay_spares_norms_and_biases_unless_told_otherwise() -> None:
    def shrinkage(**chosen: Any) -> tuple[bool, bool]:
        model = toy_net()
        zero = {"loss": lambda outputs, _labels, _inputs: 0 * outputs.sum()}
        trained = train(model, settings={"weight_decay": 0.1, "epochs": 1, **chosen}, **zero).model
        start = toy_net()
        return tuple(not torch.equal(start[i].weight, trained[i].weight) for i in (0, 1))  # type: ignore[return-value,index]

    assert shrinkage() == (True, False)
    assert shrinkage(decay_norm=True) == (True, True)
    assert shrinkage(optimizer="adamw") == (True, False)


def test_a_broken_loss_names_its_epoch_step_and_rate() -> None:
    count = 0

    def breaks(outputs: Tensor, _labels: Tensor, _inputs: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return outputs.sum() * (float("inf") if count == 10 else 1e-6)

    saved: list[dict[str, Any]] = []
    with pytest.raises(StageError, match="epoch 2 of 3, step 4 of 6") as caught:
        train(loss=breaks, save=saved.append)
    assert caught.value.code == "MC406"
    assert f"{learning_rate(settings(), 9, 6):.3g}" in caught.value.message
    assert "lower `lr` (now 0.05)" in caught.value.hint
    assert [state["epoch"] for state in saved] == [1]  # nothing broken is kept


def test_a_model_with_other_outputs_than_classes_is_refused_before_the_first_step() -> None:
    model = toy_net(classes=10)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(StageError, match="the model gives 10 outputs, data `bars` has 3 classes") as caught:
        train(model)
    assert caught.value.code == "MC403"
    assert "num_classes: 3" in caught.value.hint
    assert all(torch.equal(start[name], value) for name, value in model.state_dict().items())


def test_outputs_that_are_no_class_scores_are_refused() -> None:
    with pytest.raises(StageError, match=r"outputs of shape \(2, 6, 6, 6\)"):
        train(nn.Conv2d(1, 6, 3, padding=1))
    with pytest.raises(StageError, match="returns a `str`"):
        train(nn.Sequential(toy_net(), _Speaks()))


def test_a_model_that_cannot_take_the_images_is_refused_with_both_shapes() -> None:
    with pytest.raises(StageError, match=r"cannot take images of shape 1 x 6 x 6") as caught:
        train(nn.Sequential(nn.Flatten(), nn.Linear(35, 3)))
    assert "36" in caught.value.why


class _Speaks(nn.Module):
    def forward(self, x: Tensor) -> str:
        return "three"


def test_a_model_with_auxiliary_heads_trains_on_its_first() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.aux = toy_net(), toy_net()

        def forward(self, x: Tensor) -> Any:
            return (self.net(x), self.aux(x)) if self.training else self.net(x)

    start = TwoHeads()
    trained = train(TwoHeads()).model
    assert not torch.equal(start.net[0].weight, trained.net[0].weight)  # type: ignore[union-attr,index,arg-type]
    assert torch.equal(start.aux[0].weight, trained.aux[0].weight)  # type: ignore[union-attr,index,arg-type]


def test_a_model_without_trainable_weights_is_refused() -> None:
    with pytest.raises(StageError, match="no trainable parameter") as caught:
        train(toy_net().requires_grad_(False))
    assert caught.value.code == "MC404"


def test_frozen_layers_stay_as_they_are() -> None:
    model, start = toy_net(), toy_net()
    model[0].requires_grad_(False)
    trained = train(model).model
    assert torch.equal(start[0].weight, trained[0].weight)  # type: ignore[index,arg-type]
    assert not torch.equal(start[6].weight, trained[6].weight)  # type: ignore[index,arg-type]


def test_a_traced_graph_trains_like_its_module() -> None:
    graph = torch.fx.symbolic_trace(toy_net())
    assert list(train(graph).model.state_dict()) == list(toy_net().state_dict())


def test_data_without_a_validation_split_gives_no_validation_accuracy() -> None:
    assert "val_top1" not in train(data=ToyData(val=0)).history[-1]


def test_an_empty_training_split_is_refused() -> None:
    data = ToyData()
    data.train.labels = data.train.labels[:0]
    with pytest.raises(StageError, match="training split is empty"):
        train(data=data)


def test_gradients_do_not_outlive_training() -> None:
    assert all(parameter.grad is None for parameter in train().model.parameters())
