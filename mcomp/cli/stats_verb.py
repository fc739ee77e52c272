"""``mcomp stats MODEL``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.cli.common import add_json, print_json, say
from mcomp.errors import McompError, UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mcomp.metrics.meter import LayerCost, Meter

MOST_BITS = 64

EPILOG = """\
MACs are multiply-accumulates of convolutions and matrix products for one sample, attention's included; norms,
activations and biases are not counted. Activation memory is that of one sample and needs no run: an activation is
there from the operation that makes it to the last that reads it. A layer's figure includes what waits for others.

examples:
  mcomp stats torchvision:resnet18
  mcomp stats nin_gc --set width=0.5 --input 3x16x16
  mcomp stats mobilenet_v2 --w-bits 4 --a-bits 8 --json
  mcomp stats net.py:make --trust --input 1x28x28
  mcomp stats out/model                     an artifact, such as `mcomp export out` writes
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "model", metavar="MODEL", help="a name as in a recipe's `model:` (`mcomp models`), or an artifact folder"
    )
    parser.add_argument(
        "--input",
        dest="inputs",
        action="append",
        metavar="CxHxW",
        help="one sample's shape (default: what the model was published for); repeat it for several inputs",
    )
    parser.add_argument(
        "--set",
        dest="sets",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="an option of the model, e.g. `--set num_classes=10` or `--set width=0.5`; repeatable",
    )
    parser.add_argument(
        "--w-bits", type=int, metavar="N", help="count weights in N bits, biases and norms in 32 (default: as they are)"
    )
    parser.add_argument("--a-bits", type=int, metavar="N", help="count activations in N bits (default: as they are)")
    parser.add_argument("--trust", action="store_true", help="run the local Python file that builds the model")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Count, and print a row per layer and the sums."""
    from mcomp.metrics.meter import measure

    for option in ("w_bits", "a_bits"):
        bits = getattr(arguments, option)
        if bits is not None and not 1 <= bits <= MOST_BITS:
            flag = f"--{option.replace('_', '-')}"
            raise UsageError(f"`{flag} {bits}` is no number of bits", code="MC247", hint=f"1 to {MOST_BITS}")
    model, inputs = _asked(arguments)
    shapes = [list(tensor.shape[1:]) for tensor in inputs]
    try:
        found = measure(model, inputs, w_bits=arguments.w_bits, a_bits=arguments.a_bits)
    except McompError:
        raise
    except Exception as error:  # whatever the model's own code raises
        raise UsageError(
            f"`{arguments.model}` does not take an input of {_text(shapes)}",
            code="MC247",
            why=(str(error).strip() or type(error).__name__).splitlines()[0],
            hint="give the shape of one sample with `--input CxHxW`",
        ) from error
    if arguments.json:
        settings = {"model": arguments.model, "inputs": shapes, "w_bits": arguments.w_bits, "a_bits": arguments.a_bits}
        print_json({**settings, **_sums(found), "layers": [_row(layer) for layer in found.layers]})
    else:
        _print(arguments, found, shapes)
    return 0


def _asked(arguments: argparse.Namespace) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model, and a batch of one for it."""
    import torch

    from mcomp.models import build
    from mcomp.models.registry import MODELS, needs_trust, unknown_name
    from mcomp.models.typical import typical

    name = arguments.model
    given = [_shape(text) for text in arguments.inputs or ()]
    if unknown_name(name) and Path(name).exists():
        return _artifact(arguments, given)
    options = dict(_option(text) for text in arguments.sets)
    usual = None if unknown_name(name) or needs_trust(name) else typical(name)
    if usual is not None:
        options.setdefault("num_classes", usual.classes)
    if name in MODELS and given:
        options.setdefault("in_channels", given[0][0])
    # where no values are needed none are made: the largest of the zoos would take minutes, and gigabytes
    weightless = usual is not None and not name.startswith("timm:")
    model = build({"name": name, **options}, trust=arguments.trust, weightless=weightless)
    if not given:
        if usual is None:
            hint = "give the shape of one sample, e.g. `--input 3x32x32`"
            raise UsageError(f"`{name}` does not say what it takes", code="MC247", hint=hint)
        channels, height, width = usual.shape
        given = [(options.get("in_channels") or channels, height, width)]
    return model, tuple(torch.zeros(1, *shape, device="meta" if weightless else "cpu") for shape in given)


def _artifact(arguments: argparse.Namespace, given: list[tuple[int, ...]]) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The model of an artifact, and a batch of what it was saved with, unless other shapes are given.

    Raises:
        UsageError: MC247, options are given for it: they are settled.
    """
    import torch

    from mcomp.artifact import artifact_folder, load_artifact, read_manifest
    from mcomp.store.logits import seeded_inputs

    folder = artifact_folder(Path(arguments.model))
    if arguments.sets:
        said = f"`--set {arguments.sets[0]}` asks for another network than the artifact `{folder}` holds"
        raise UsageError(said, code="MC247", hint="leave `--set` out")
    model = load_artifact(folder, trust=arguments.trust)
    if given:
        return model, tuple(torch.zeros(1, *shape) for shape in given)
    return model, seeded_inputs(read_manifest(folder)["inputs"])


def _option(text: str) -> tuple[str, Any]:
    """``width=0.5`` as a name and a value."""
    from mcomp.recipe.scalars import resolve

    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UsageError(f"`--set {text}` sets nothing", code="MC247", hint="write `--set OPTION=VALUE`")
    return name, resolve(value)


def _shape(text: str) -> tuple[int, ...]:
    """``3x32x32`` as numbers."""
    if not re.fullmatch(r"[1-9]\d{0,6}(x[1-9]\d{0,6})*", text):
        hint = "write the lengths of its axes, without the batch, e.g. `--input 3x32x32`"
        raise UsageError(f"`--input {text}` is not the shape of a sample", code="MC247", hint=hint)
    return tuple(int(length) for length in text.split("x"))


def _text(shapes: Sequence[Sequence[int]]) -> str:
    return " and ".join("x".join(map(str, shape)) for shape in shapes)


def _sums(found: Meter) -> dict[str, Any]:
    sums = {name: getattr(found, name) for name in ("params", "macs", "weight_bytes")}
    return {**sums, "peak_activation_bytes": found.peak_bytes, "peak_activation_at": found.peak_at}


def _row(layer: LayerCost) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": None if layer.shape is None else list(layer.shape),
        "params": layer.params,
        "macs": layer.macs,
        "weight_bytes": layer.weight_bytes,
        "activation_bytes": layer.peak_bytes,
    }


def _print(arguments: argparse.Namespace, found: Meter, shapes: list[list[int]]) -> None:
    from mcomp.report.table import print_table

    bits = [
        f"{what} in {n} bits" for what, n in (("weights", arguments.w_bits), ("activations", arguments.a_bits)) if n
    ]
    columns = ("layer", "kind", "output", "params", "MACs", "weights kB", "activations kB")
    body = [
        (
            layer.name or "(itself)",
            layer.kind,
            "" if layer.shape is None else _text([layer.shape]),
            f"{layer.params:,}",
            f"{layer.macs:,}",
            _kilobytes(layer.weight_bytes),
            _kilobytes(layer.peak_bytes),
        )
        for layer in found.layers
    ]
    print_table(", ".join([f"{arguments.model}, one sample of {_text(shapes)}", *bits]), columns, body)
    say(
        f"{found.params:,} parameters, {found.macs:,} MACs, weights {_kilobytes(found.weight_bytes)} kB, "
        f"activations at most {_kilobytes(found.peak_bytes)} kB (in {found.peak_at or 'the model itself'})"
    )


def _kilobytes(size: int) -> str:
    return f"{size / 1e3:,.1f}"
