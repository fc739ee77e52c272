"""``mcomp models``."""

from __future__ import annotations

import argparse

from mcomp.cli.common import add_json, print_json

EPILOG = "examples:\n  mcomp models\n  mcomp models --all"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--all", action="store_true", help="list every torchvision name too")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """List what a recipe can write under `model.name`."""
    from mcomp.models import registry

    body = [(entry.name, entry.summary) for entry in registry.MODELS.values()]
    if arguments.all:
        known = {name for name, _ in body}
        body += [(name, "from torchvision") for name in registry.known_names() if name not in known]
    else:
        body.append(("torchvision:<name>", "any classification model of torchvision, e.g. torchvision:resnet18"))
    body += [
        ("timm:<name>", "any model of timm (extra `timm`)"),
        ("file.py:factory", "a function of yours that returns an nn.Module (needs --trust)"),
        ("module:factory", "the same from an installed package (needs --trust)"),
    ]
    if arguments.json:
        print_json([{"name": name, "summary": summary} for name, summary in body])
    else:
        from mcomp.report.table import print_table

        print_table("models", ("model", "what it does"), body)
    return 0
