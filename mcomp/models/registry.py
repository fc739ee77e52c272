"""Names of models: built in, torchvision's, timm's and the user's own. No torch here."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mcomp.models.spec import ModelOptions, OpenOptions, WidthOptions
from mcomp.suggest import closest

ZOOS = ("torchvision", "timm")
#: How timm writes names; where it is absent nothing else can be said of one.
_COULD_BE_TIMM = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class ModelEntry:
    """A built-in model: where its function is and which options it takes.

    Attributes:
        name: as in a recipe.
        module: full name of the module that defines it.
        function: name of the function, ``(num_classes=…, **options) -> nn.Module``.
        options: every flat key allowed under ``model:`` for this name.
        summary: one line for ``mcomp models``.
        min_size: smallest height and width of an input, in pixels.
        image_size: height and width of the images that it was published for.
        classes: of them.
    """

    name: str
    module: str
    function: str
    options: type[ModelOptions]
    summary: str
    min_size: int = 4
    image_size: int = 32
    classes: int = 10


MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            "nin",
            "mcomp.models.network_in_network",
            "nin",
            WidthOptions,
            "Network in Network, nine convolutions with batch norm, 0.97 M parameters",
        ),
        ModelEntry(
            "nin_gc",
            "mcomp.models.network_in_network",
            "nin_gc",
            WidthOptions,
            "Network in Network with group convolutions and channel shuffle, 0.59 M parameters",
        ),
        ModelEntry(
            "lenet",
            "mcomp.models.lenet5",
            "lenet",
            WidthOptions,
            "LeNet-5 with ReLU and batch norm, two convolutions and three linear layers",
        ),
        ModelEntry(
            "resnet20",
            "mcomp.models.cifar_resnet",
            "resnet20",
            WidthOptions,
            "ResNet-20 for 32 pixels, shortcuts without parameters, 0.27 M parameters",
        ),
        ModelEntry(
            "resnet56",
            "mcomp.models.cifar_resnet",
            "resnet56",
            WidthOptions,
            "ResNet-56 for 32 pixels, shortcuts without parameters, 0.85 M parameters",
        ),
        ModelEntry(
            "vgg16_bn",
            "mcomp.models.vgg",
            "vgg16_bn",
            WidthOptions,
            "VGG-16 with batch norm for 32 pixels, two linear layers, 15 M parameters",
            min_size=32,
        ),
        ModelEntry(
            "densenet40",
            "mcomp.models.densenet",
            "densenet40",
            WidthOptions,
            "DenseNet-40, growth 12, for 32 pixels, 1.0 M parameters",
        ),
        ModelEntry(
            "resnet18",
            "mcomp.models.resnet",
            "resnet18",
            WidthOptions,
            "ResNet-18, 11.7 M parameters",
            image_size=224,
            classes=1000,
        ),
        ModelEntry(
            "resnet18_caffe",
            "mcomp.models.resnet",
            "resnet18_caffe",
            WidthOptions,
            "ResNet-18 as in Caffe: a projection in the first stage too, 11.7 M parameters",
            image_size=224,
            classes=1000,
        ),
        ModelEntry(
            "resnet50",
            "mcomp.models.resnet",
            "resnet50",
            WidthOptions,
            "ResNet-50, strides in the 3 x 3 convolutions, 25.6 M parameters",
            image_size=224,
            classes=1000,
        ),
        ModelEntry(
            "resnet50_caffe",
            "mcomp.models.resnet",
            "resnet50_caffe",
            WidthOptions,
            "ResNet-50 as in Caffe: strides in the first 1 x 1 convolutions, 25.6 M parameters",
            image_size=224,
            classes=1000,
        ),
        ModelEntry(
            "mobilenet_v1",
            "mcomp.models.mobilenet",
            "mobilenet_v1",
            WidthOptions,
            "MobileNet, depthwise separable convolutions, 4.2 M parameters",
            image_size=224,
            classes=1000,
        ),
        ModelEntry(
            "mobilenet_v2",
            "mcomp.models.mobilenet",
            "mobilenet_v2",
            WidthOptions,
            "MobileNetV2, inverted residuals, 3.5 M parameters",
            image_size=224,
            classes=1000,
        ),
        ModelEntry(
            "darknet19",
            "mcomp.models.darknet",
            "darknet19",
            WidthOptions,
            "Darknet-19, the classifier behind YOLOv2, 20.8 M parameters",
            min_size=32,
            image_size=224,
            classes=1000,
        ),
        ModelEntry(
            "darknet53",
            "mcomp.models.darknet",
            "darknet53",
            WidthOptions,
            "Darknet-53, the classifier behind YOLOv3, 41.6 M parameters",
            image_size=256,
            classes=1000,
        ),
    )
}


def options_for(name: str) -> type[ModelOptions]:
    """The pydantic model of all keys allowed under ``model:`` for this name."""
    return MODELS[name].options if name in MODELS else OpenOptions


def known_names() -> list[str]:
    """Names to suggest: the built-in ones, then ``torchvision:…``, then ``timm:…`` where timm is installed."""
    return [*MODELS, *(f"{zoo}:{name}" for zoo in ZOOS for name in zoo_names(zoo))]


def unknown_name(name: str) -> str | None:
    """None when a model of this name can be asked for; else what is wrong with it.

    A missing timm is not the name's fault: building says so.
    """
    prefix, colon, rest = name.partition(":")
    if not colon:
        return None if name in MODELS else f"unknown model `{name}`{_suggestion(name)}"
    if prefix in ZOOS:
        names = zoo_names(prefix)
        bare = rest.partition(".")[0] if prefix == "timm" else rest  # timm: `resnet18.a1_in1k` names a checkpoint
        if bare in names or (prefix == "timm" and not names and _COULD_BE_TIMM.fullmatch(bare)):
            return None
        return f"{prefix} has no model `{rest}`{_suggestion(name)}"
    target = prefix.removesuffix(".py")
    if target and rest.isidentifier() and (prefix.endswith(".py") or _dotted(prefix)):
        return None
    return f"`{name}` is neither a known model nor `file.py:factory` nor `module:factory`{_suggestion(name)}"


def needs_trust(name: str) -> bool:
    """True for a user's ``file.py:factory`` or ``module:factory``: building it runs their code."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix not in ZOOS


def user_file(name: str, base_dir: Path | None) -> Path | None:
    """The file whose code a user's factory is; None for other models and for modules that are not found.

    Args:
        name: as in a recipe.
        base_dir: the recipe's folder, which a relative path starts from; None for the current folder.
    """
    if not needs_trust(name):
        return None
    target = name.rpartition(":")[0]
    if target.endswith(".py"):
        return (base_dir or Path()) / target
    return module_file(target, base_dir)


def module_file(dotted: str, base_dir: Path | None) -> Path | None:
    """Where a module's source is, without importing it: beside the recipe, else on ``sys.path``."""
    parts = dotted.split(".")
    roots = [base_dir or Path()]
    try:
        found = importlib.util.find_spec(parts[0])
    except (ImportError, ValueError):
        found = None
    if found is not None and found.origin is not None:
        home = Path(found.origin).parent
        roots.append(home.parent if found.submodule_search_locations else home)
    for root in roots:
        for file in (root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts, "__init__.py")):
            if file.is_file():
                return file
    return None


@lru_cache
def zoo_names(zoo: str) -> tuple[str, ...]:
    """Names a zoo registers, read from its source text, so that nothing heavy is imported."""
    found = importlib.util.find_spec(zoo)
    if found is None or not found.submodule_search_locations:
        return ()
    folder = Path(found.submodule_search_locations[0]) / "models"
    names: set[str] = set()
    for file in sorted(folder.glob("*.py")):
        for part in file.read_text(encoding="utf-8").split("@register_model")[1:]:
            function = re.search(r"^def (\w+)\(", part, re.MULTILINE)
            if function is not None:
                names.add(function.group(1))
    return tuple(sorted(names))


def _dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _suggestion(name: str) -> str:
    names = known_names()
    close = [full for full in names if full.partition(":")[2] == name]  # `resnet18` for `torchvision:resnet18`
    meant = close[0] if close else closest(name, names)
    return f"; did you mean `{meant}`?" if meant else ""
