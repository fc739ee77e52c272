"""``mcomp stages [NAME]``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from mcomp.cli.common import add_json, print_json
from mcomp.errors import UsageError

if TYPE_CHECKING:
    from mcomp.options import Options

OPTION_COLUMNS = ("option", "type", "default", "what it does")

EPILOG = "examples:\n  mcomp stages\n  mcomp stages prune\n  mcomp stages --plugin ./my_stage.py"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("name", nargs="?", help="show this stage's options, traits and metrics")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="run this local stage file first")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """List all stages, or describe one."""
    from pathlib import Path

    from mcomp.stages import registry

    for plugin in arguments.plugin:
        registry.load_file(Path(plugin))
    if arguments.name is None:
        described = [describe(name) for name in registry.names()]
    else:
        described = [describe(arguments.name)]
    if arguments.json:
        print_json(described if arguments.name is None else described[0])
    elif arguments.name is None:
        from mcomp.report.table import print_table

        print_table("stages", ("stage", "what it does"), [(one["name"], one["summary"]) for one in described])
    else:
        _print_one(described[0])
    return 0


def describe(name: str) -> dict[str, Any]:
    """A stage as JSON: options with type, default and help; traits; metrics.

    Raises:
        UsageError: no such stage.
    """
    from mcomp.stages import registry
    from mcomp.stages.base import COMMON_METRICS

    try:
        stage = registry.get(name)
    except KeyError:
        from mcomp.suggest import did_you_mean

        hint = did_you_mean(name, registry.names()) or "`mcomp stages` lists them"
        raise UsageError(f"unknown stage `{name}`", code="MC213", hint=hint) from None
    return {
        "name": stage.name,
        "version": stage.version,
        "summary": stage.summary(),
        "module": stage.__module__,
        "options": options_of(stage.Options),
        "requires": sorted(stage.traits.requires),
        "conflicts": sorted(stage.traits.conflicts),
        "provides": sorted(stage.traits.provides),
        "destroys": sorted(stage.traits.destroys),
        "metrics": sorted(stage.traits.metrics | COMMON_METRICS),
    }


def options_of(model: type[Options]) -> list[dict[str, Any]]:
    """The options of a stage or a data set: name, type, default and help."""
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    return [
        {
            "name": option,
            "type": _type_text(field, schema.get("$defs", {})),
            "required": option in required,
            "default": field.get("default"),
            "description": field.get("description", ""),
        }
        for option, field in schema.get("properties", {}).items()
    ]


def option_row(option: dict[str, Any]) -> tuple[str, str, str, str]:
    """An option as a row: name, type, default, what it does."""
    default = "required" if option["required"] else _as_written(option["default"])
    return option["name"], option["type"], default, option["description"]


def _type_text(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in field:
        return "{" + ", ".join(definitions[field["$ref"].rpartition("/")[2]].get("properties", {})) + "}"
    if "anyOf" in field:
        return " | ".join(_type_text(one, definitions) for one in field["anyOf"])
    if "enum" in field:
        return " | ".join(_runs(field["enum"]))
    if "const" in field:
        return str(field["const"])
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"list of {_type_text(field.get('items', {}), definitions)}"
    limits = [
        f"{sign} {field[word]}"
        for word, sign in (
            ("exclusiveMinimum", ">"),
            ("minimum", ">="),
            ("exclusiveMaximum", "<"),
            ("maximum", "<="),
        )
        if word in field
    ]
    return " ".join([kind, *limits])


def _runs(values: list[Any]) -> list[str]:
    """The values in words; three and more whole numbers that follow one another as ``first..last``."""
    found: list[list[Any]] = []
    for value in values:
        if found and type(value) is int and type(found[-1][-1]) is int and value == found[-1][-1] + 1:
            found[-1].append(value)
        else:
            found.append([value])
    return [
        text for run in found for text in ([f"{run[0]}..{run[-1]}"] if len(run) > 2 else [str(value) for value in run])
    ]


def _as_written(default: Any) -> str:
    """A default as a recipe would say it."""
    return default if isinstance(default, str) else json.dumps(default)


def _print_one(stage: dict[str, Any]) -> None:
    from mcomp.report.table import READABLE, print_table

    out = sys.stdout
    out.write(f"{stage['name']} (version {stage['version']}): {stage['summary']}\n")
    for word in ("requires", "conflicts", "provides", "destroys", "metrics"):
        if stage[word]:
            out.write(f"  {word}: {', '.join(stage[word])}\n")
    out.flush()
    print_table("options", OPTION_COLUMNS, [option_row(option) for option in stage["options"]], widest=READABLE)
