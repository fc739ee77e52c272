"""``mcomp help [MC103 | TOPIC | VERB]``."""

from __future__ import annotations

import argparse
import re
import sys
from importlib import resources
from typing import TYPE_CHECKING

from mcomp.cli.common import add_json, print_json
from mcomp.errors import UsageError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

EPILOG = """\
examples:
  mcomp help              all topics and error codes
  mcomp help MC103        what an error means, how it comes about, how to mend it
  mcomp help gates        a topic
  mcomp help E3           a rule of `mcomp check-qdq`
  mcomp help apply        the same as `mcomp apply --help`
  mcomp help prune        the options of a stage; of `export`, a verb too, they are in `mcomp stages export`
  mcomp help data         the data sets and their options"""

#: First digits of a code to what its group is about; the longest that fits counts.
GROUPS = {
    "MC0": "mcomp itself",
    "MC1": "recipe",
    "MC2": "usage and preflight",
    "MC3": "store and artifacts",
    "MC40": "training and stages",
    "MC41": "pruning",
    "MC42": "quantisation and folding",
    "MC43": "deployment",
    "MC44": "deployment",
    "MC45": "pruning",
    "MC46": "quantisation and folding",
    "MC47": "deployment",
    "MC48": "search",
    "MC5": "gates",
    "MC6": "backends",
}

_CODE = re.compile(r"MC\d{3}")
_RULE = re.compile(r"[EPGOV]\d+")  # of Q/DQ files


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    words = "CODE|TOPIC|VERB|STAGE"
    parser.add_argument("name", nargs="?", metavar=words, help="what to explain; everything without one")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print one page, or the list of all."""
    from mcomp.cli.main import VERBS, help_text, main

    wanted = arguments.name
    if wanted is None:
        return _list(as_json=arguments.json)
    if wanted in VERBS and arguments.json:
        text = help_text(wanted)
        print_json({"name": wanted, "title": VERBS[wanted], "text": text, "also": _also(wanted)})
        return 0
    words = [wanted, "--help"] if wanted in VERBS else _lister(wanted)
    if words:
        code = main([*words, *(["--json"] if arguments.json else [])])
        if not (code or arguments.json):
            sys.stdout.write("".join(f"\n{line}\n" for line in _also(wanted)))
        return code
    name = found_name(wanted)
    text = page(name)
    if arguments.json:
        print_json({"name": name, "title": _title(text), "text": text})
    elif sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(text))
    else:
        sys.stdout.write(text)
    return 0


def _lister(wanted: str) -> list[str]:
    """The command that explains a stage, the models or the data sets; nothing for other words."""
    from mcomp.stages.registry import names

    if wanted in ("model", "data"):
        return ["models", *(["--data"] if wanted == "data" else [])]
    return ["stages", wanted] if wanted in names() else []


def _also(wanted: str) -> list[str]:
    """What else goes by a word that was just explained, and how to read it."""
    from mcomp.cli.main import VERBS
    from mcomp.stages.registry import names

    if wanted not in names():
        return []
    pages = [name for name in page_names() if name.startswith(f"{wanted}-")]
    found = [f"`mcomp help {name}` is the page about it" for name in pages]
    return [*([f"a stage is called so too: `mcomp stages {wanted}`"] if wanted in VERBS else []), *found]


def page_names() -> list[str]:
    """Names of all pages, codes first, each kind in order."""
    names = [file.name.removesuffix(".md") for file in _folder().iterdir() if file.name.endswith(".md")]
    return sorted(names, key=lambda name: (_CODE.fullmatch(name) is None, name))


def page(name: str) -> str:
    """One page's markdown."""
    return _folder().joinpath(f"{name}.md").read_text(encoding="utf-8")


def found_name(wanted: str) -> str:
    """The page that is meant, whatever its case.

    Raises:
        UsageError: MC298, there is none.
    """
    names = page_names()
    for name in names:
        if name.lower() in (wanted.lower(), f"mc{wanted}"):
            return name
    from mcomp.cli.main import VERBS
    from mcomp.suggest import did_you_mean

    if re.fullmatch(r"(?:mc)?\d+", wanted.lower()):  # every code looks like every other: name the near ones instead
        digits = f"MC{wanted.lower().removeprefix('mc')}"
        near = [name for name in names if name.startswith(digits[:4])] if len(digits) >= 4 else []
        advice = f"near it: {', '.join(near[:6])}" if near else "`mcomp help` lists the codes"
        raise UsageError(f"no error has the code `{wanted}`", code="MC298", hint=advice)
    topics = [name for name in names if not (_CODE.fullmatch(name) or _RULE.fullmatch(name))]
    advice = did_you_mean(wanted, [*topics, *VERBS]) or "`mcomp help` lists the topics"
    raise UsageError(f"there is no help on `{wanted}`", code="MC298", hint=advice)


def _list(*, as_json: bool) -> int:
    titles = {name: _title(page(name)) for name in page_names()}
    codes = {name: title for name, title in titles.items() if _CODE.fullmatch(name)}
    rules = {name: titles[name] for name in sorted(filter(_RULE.fullmatch, titles), key=_by_number)}
    topics = {name: title for name, title in titles.items() if name not in {**codes, **rules}}
    if as_json:
        print_json(
            {
                "topics": [{"name": name, "title": title} for name, title in topics.items()],
                "codes": [{"name": name, "title": title, "group": _group(name)} for name, title in codes.items()],
                "rules": [{"name": name, "title": title} for name, title in rules.items()],
            }
        )
        return 0
    width = max(map(len, topics), default=0)
    lines = ["topics:", *(f"  {name:{width}}  {title}" for name, title in topics.items())]
    lines += ["", "rules of Q/DQ files:", *(f"  {name:{width}}  {title}" for name, title in rules.items())]
    heading = ""
    for name, title in codes.items():
        if _group(name) != heading:
            heading = _group(name)
            lines += ["", f"{heading}:"]
        lines.append(f"  {name}  {title}")
    sys.stdout.write("\n".join([*lines, "", "`mcomp help CODE` or `mcomp help TOPIC` explains one"]) + "\n")
    return 0


def _group(code: str) -> str:
    return GROUPS[max((start for start in GROUPS if code.startswith(start)), key=len)]


def _title(text: str) -> str:
    """The heading, without the code that starts it."""
    return re.sub(rf"^# (?:(?:{_CODE.pattern}|{_RULE.pattern}): )?", "", text.partition("\n")[0])


def _by_number(rule: str) -> tuple[str, int]:
    return rule[0], int(rule[1:])


def _folder() -> Traversable:
    return resources.files("mcomp.cli").joinpath("pages")
