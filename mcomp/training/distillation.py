"""Knowledge distillation after Hinton et al., "Distilling the Knowledge in a Neural Network" (arXiv:1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mcomp.training.preparation import logits


class DistillationLoss:
    """``(1 - alpha) * cross-entropy + alpha * T**2 * KL(teacher || student)``, both softened by the temperature T.

    The factor ``T**2`` keeps the gradient's size whatever the temperature. The teacher answers in eval mode, without
    gradients and in float32, to the very inputs that the student gets: nothing of it has to be kept in a snapshot.

    Args:
        teacher: on the device of the training; put into eval mode.
        alpha: share of the teacher, in (0, 1].
        temperature: above 0.
        label_smoothing: of the cross-entropy.
    """

    def __init__(self, teacher: nn.Module, alpha: float, temperature: float, label_smoothing: float = 0.0) -> None:
        self.teacher = teacher.eval()
        self.alpha = alpha
        self.temperature = temperature
        self.label_smoothing = label_smoothing

    def __call__(self, outputs: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        """The loss of logits ``outputs`` ``(N, classes)`` for what they were made of.

        Labels are classes ``(N,)``, or probabilities ``(N, classes)``.
        """
        with torch.no_grad():
            wanted = logits(self.teacher(inputs.contiguous())).float()
        divergence = F.kl_div(
            F.log_softmax(outputs / self.temperature, 1),
            F.log_softmax(wanted / self.temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        soft = divergence * self.temperature**2
        if self.alpha == 1:
            return soft
        hard = F.cross_entropy(outputs, labels, label_smoothing=self.label_smoothing)
        return (1 - self.alpha) * hard + self.alpha * soft
