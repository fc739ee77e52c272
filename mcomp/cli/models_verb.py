"""``mcomp models``, and the data sets."""

from __future__ import annotations

import argparse

from mcomp.cli.common import add_json, print_json

EPILOG = "examples:\n  mcomp models\n  mcomp models --all\n  mcomp models --data     the data sets and their options"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--all", action="store_true", help="list every torchvision name too")
    parser.add_argument("--data", action="store_true", help="list the data sets and their options instead")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """List what a recipe can write under `model.name`."""
    if arguments.data:
        return _data_sets(as_json=arguments.json)
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


def _data_sets(*, as_json: bool) -> int:
    """List what a recipe can write under ``data``: the names, what all of them take, and what only some do."""
    from mcomp.cli.stages_verb import OPTION_COLUMNS, option_row, options_of
    from mcomp.data.spec import DATASETS, USER, DataOptions

    entries = [*DATASETS.values(), USER]
    if as_json:
        found = [{"name": one.name, "summary": one.summary, "options": options_of(one.options)} for one in entries]
        print_json(found)
        return 0
    from mcomp.report.table import print_table

    print_table("data sets", ("data set", "what it does"), [(one.name, one.summary) for one in entries])
    common = options_of(DataOptions)
    print_table("options of every data set", OPTION_COLUMNS, [option_row(option) for option in common])
    own = [(one.name, option) for one in entries for option in options_of(one.options) if option not in common]
    body = [(name, *option_row(option)) for name, option in own]
    print_table("options of some", ("data set", *OPTION_COLUMNS), body)
    return 0
