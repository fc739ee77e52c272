"""A batch norm that applies its own activation, as timm's ``BatchNormAct2d`` does, as the layers that it stands for.

Written as one module it is a batch norm that calls ``F.batch_norm`` and something else behind it: no graph shows a
layer that could be folded.
"""

from __future__ import annotations

from torch import nn

from mcomp.quantization.modules import replace_module

#: By name, for their package may not be installed; each applies its children in this order behind the normalisation.
_CHILDREN = ("drop", "act")
_NAMES = frozenset({"BatchNormAct2d"})


class NormThenActivation(nn.Sequential):
    """The same: a batch norm that shares all tensors, and the children behind it."""

    @classmethod
    def of(cls, module: nn.modules.batchnorm._BatchNorm) -> NormThenActivation:
        """Split one module; the module itself is not changed."""
        norm = nn.BatchNorm2d.__new__(nn.BatchNorm2d)
        norm.__dict__ |= {**module.__dict__, "_modules": {}}
        norm._parameters, norm._buffers = dict(module._parameters), dict(module._buffers)
        made = cls()
        made.add_module("norm", norm)
        for name in _CHILDREN:
            made.add_module(name, getattr(module, name))
        return made.train(module.training)


def split_norms(model: nn.Module) -> None:
    """Replace every such module below ``model``, in place."""
    for name, module in list(model.named_modules()):
        if name and is_joint(module):
            replace_module(model, name, NormThenActivation.of(module))


def is_joint(module: nn.Module) -> bool:
    """Whether a module is a batch norm with an activation of its own."""
    named = any(cls.__name__ in _NAMES for cls in type(module).__mro__)
    children = all(isinstance(getattr(module, name, None), nn.Module) for name in _CHILDREN)
    return named and isinstance(module, nn.BatchNorm2d) and children
