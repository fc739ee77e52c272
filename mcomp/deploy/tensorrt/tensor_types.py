"""TensorRT's types of tensors and torch's."""

from __future__ import annotations

import torch

from mcomp.deploy.tensorrt.protocols import TensorRT
from mcomp.errors import StageError

_DTYPES = {
    "FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT8": torch.int8, "UINT8": torch.uint8,
    "INT32": torch.int32, "INT64": torch.int64, "BOOL": torch.bool,
}  # fmt: skip


def torch_type(trt: TensorRT, tensor: str, found: object) -> torch.dtype:
    """Torch's type for a ``DataType``.

    Raises:
        StageError: MC440, there is none.
    """
    types = {getattr(trt.DataType, name): dtype for name, dtype in _DTYPES.items()}
    if found not in types:
        raise StageError(
            f"the engine's `{tensor}` is of a type that torch has not: {found}",
            code="MC440",
            hint="let the network begin and end in float32 or float16",
        )
    return types[found]


def dtype_name(dtype: torch.dtype) -> str:
    """``float32``."""
    return str(dtype).removeprefix("torch.")
