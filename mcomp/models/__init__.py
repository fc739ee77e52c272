"""Built-in networks, and one door to torchvision's, timm's and your own.

Imported on first use: no torch here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcomp.models.channel_shuffle import ChannelShuffle
    from mcomp.models.cifar_resnet import resnet20, resnet56
    from mcomp.models.darknet import darknet19, darknet53
    from mcomp.models.densenet import densenet40
    from mcomp.models.lenet5 import lenet
    from mcomp.models.mobilenet import mobilenet_v1, mobilenet_v2
    from mcomp.models.network_in_network import nin, nin_gc
    from mcomp.models.registry import known_names, options_for
    from mcomp.models.resnet import resnet18, resnet18_caffe, resnet50, resnet50_caffe
    from mcomp.models.resolve import build
    from mcomp.models.spec import ModelSpec
    from mcomp.models.vgg import vgg16_bn

_HOMES = {
    "ChannelShuffle": "channel_shuffle",
    "ModelSpec": "spec",
    "build": "resolve",
    "darknet19": "darknet",
    "darknet53": "darknet",
    "densenet40": "densenet",
    "known_names": "registry",
    "lenet": "lenet5",
    "mobilenet_v1": "mobilenet",
    "mobilenet_v2": "mobilenet",
    "nin": "network_in_network",
    "nin_gc": "network_in_network",
    "options_for": "registry",
    "resnet18": "resnet",
    "resnet18_caffe": "resnet",
    "resnet20": "cifar_resnet",
    "resnet50": "resnet",
    "resnet50_caffe": "resnet",
    "resnet56": "cifar_resnet",
    "vgg16_bn": "vgg",
}

__all__ = [
    "ChannelShuffle",
    "ModelSpec",
    "build",
    "darknet19",
    "darknet53",
    "densenet40",
    "known_names",
    "lenet",
    "mobilenet_v1",
    "mobilenet_v2",
    "nin",
    "nin_gc",
    "options_for",
    "resnet18",
    "resnet18_caffe",
    "resnet20",
    "resnet50",
    "resnet50_caffe",
    "resnet56",
    "vgg16_bn",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"mcomp.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module `mcomp.models` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
