"""What an exported file says about a split of images, beside the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mcomp.deploy.formats.export import Exported, find_format
from mcomp.deploy.verification import Verification, answers, judged

if TYPE_CHECKING:
    from mcomp.data import Split


def measure(files: list[Exported], model: nn.Module, split: Split, batch_size: int = 256) -> list[Verification]:
    """Accuracy of each exported file, and how often it predicts the model's class, over a whole split.

    Args:
        files: of one model of one input, images.
        model: it, as it is simulated, in eval mode on the CPU.
        split: e.g. ``data.test``.
        batch_size: samples per call, of files that take any.
    """
    reference, truth = answers(model, split, batch_size)
    found = []
    for one in files:
        run = find_format(one.format).open(one.files)
        called = run if one.batch is None else _filled(run, one.batch)
        logits, _ = answers(called, split, one.batch or batch_size)
        found.append(judged(logits, reference, truth))
    return found


def _filled(run: Callable[..., Tensor], batch: int) -> Callable[[Tensor], Tensor]:
    """``run`` for a last batch that is too short as well: it is filled up with its first image, and cut again."""

    def call(images: Tensor) -> Tensor:
        missing = batch - len(images)
        whole = torch.cat([images, images[:1].expand(missing, *images.shape[1:])]) if missing else images
        return run(whole)[: len(images)]

    return call
