"""What a training run checks and arranges before its first step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mcomp.errors import StageError

if TYPE_CHECKING:
    from mcomp.data import Data


def steps_per_epoch(data: Data, batch_size: int) -> int:
    """Batches of an epoch, without a trailing one of a single image.

    Raises:
        StageError: there is no training image.
    """
    images = len(data.train)
    if images == 0:
        raise StageError("the training split is empty", code="MC402", hint="lower `val_fraction`, or add images")
    steps = data.train.num_batches(batch_size)
    return steps - 1 if steps > 1 and batch_size > 1 and images % batch_size == 1 else steps


def takes_channels_last(model: nn.Module, data: Data) -> bool:
    """Whether the model computes on channels_last tensors; ``x.view(len(x), -1)`` behind a convolution does not."""
    images = data.example_inputs[0]
    if images.ndim != 4:
        return False
    twin = copy.deepcopy(model).cpu().to(memory_format=torch.channels_last).eval()
    try:
        with torch.no_grad():
            twin(images.contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # the same images were taken in the usual layout: the layout is what it cannot take
        return False
    return True


def check_outputs(model: nn.Module, data: Data) -> None:
    """One forward pass of two samples in eval mode, before anything is changed.

    Raises:
        StageError: the model cannot take the images, or its outputs are not ``(N, number of classes)``.
    """
    model.eval()
    home = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    batch = [tensor.to(home) for tensor in data.example_inputs]
    try:
        with torch.no_grad():
            scores = model(*batch)
    except Exception as error:
        shape = " x ".join(str(size) for size in batch[0].shape[1:])
        raise StageError(
            f"the model cannot take images of shape {shape}",
            code="MC403",
            why=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            hint="set `image_size` and `channels` of the data to what the model expects",
        ) from error
    outputs = logits(scores)
    if outputs.ndim != 2:
        raise StageError(
            f"the model gives outputs of shape {tuple(outputs.shape)}, not (images, classes)",
            code="MC403",
            hint="training here is for classifiers; add a pooling and flatten the output",
        )
    if outputs.shape[1] != data.num_classes:
        raise StageError(
            f"the model gives {outputs.shape[1]} outputs, data `{data.name}` has {data.num_classes} classes",
            code="MC403",
            hint=f"set `num_classes: {data.num_classes}` on the model, or leave it out",
        )


def logits(outputs: Any) -> Tensor:
    """The class scores of a model that may also return auxiliary heads (Inception, GoogLeNet)."""
    found = getattr(outputs, "logits", outputs)
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise StageError(
            f"the model returns a `{type(outputs).__name__}`, not a tensor of class scores",
            code="MC403",
            hint="return the scores, or an object with them as `.logits`",
        )
    return found


@contextmanager
def placed(model: nn.Module, device: str, *, channels_last: bool) -> Iterator[None]:
    """The model on ``device`` in the layout that trains fastest, and back where it came from on leaving."""
    home = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    if device.startswith("cuda"):
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    model.to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark
        model.zero_grad()
        model.to(home)
        if channels_last:
            model.to(memory_format=torch.contiguous_format)
