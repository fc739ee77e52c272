"""Entry point of the ``mcomp`` command. Each verb's module is imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from mcomp.cli.arguments import Parser, unknown_option, unknown_verb
from mcomp.cli.common import print_json, say
from mcomp.cli.pipes import patient_output
from mcomp.errors import InterruptedRun, McompError, RecipeError, UsageError

#: Verb to its one line in ``mcomp --help``; the code is in ``mcomp.cli.<verb>_verb``.
VERBS = {
    "apply": "run a recipe; run it again to go on or to reuse what is cached",
    "plan": "show which stages are cached, which would run, and why",
    "validate": "check a recipe without running anything",
    "explain": "say what a stage's key is made of, and what differs from an earlier run",
    "stages": "list the stages, or one stage's options",
    "models": "list the models a recipe can name",
    "stats": "count a model's parameters, multiply-accumulates and memory, layer by layer",
    "schema": "print the JSON Schema of recipes, for editors",
    "init": "write a commented recipe to start from",
    "runs": "list the runs of a store",
    "report": "print a run's table again, or write its page",
    "gc": "remove what nothing needs any more from a store",
    "verify": "read a whole store and compare every digest",
    "export": "copy a run's model and deployed files out of the store",
    "bench": "time models and deployed files against each other, in one interleaved run",
    "check-qdq": "check an ONNX file against what TensorRT, ONNX Runtime or OpenVINO take",
    "doctor": "say what this machine has: Python, packages, devices, runtimes",
    "help": "explain an error code (MC103) or a topic",
}

EPILOG = """\
examples:
  mcomp init my.yaml && mcomp apply my.yaml
  mcomp apply recipes/nin_gc_prune_quant.yaml --set vars.ratio=0.5
  mcomp plan recipes/nin_gc_prune_quant.yaml --json

exit codes: 0 ok, 1 internal bug, 2 usage, 3 recipe invalid, 4 preflight refused, 5 stage failed,
            6 gate failed, 7 backend missing, 8 store locked or corrupt, 130/143 interrupted (resumable)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    with patient_output():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    try:
        parsed = _parsed(arguments)
    except SystemExit as stop:  # --help has printed
        return stop.code if isinstance(stop.code, int) else 2
    except UsageError as error:
        return _refused(error, as_json="--json" in arguments)
    if parsed.verb == "--version":
        from mcomp import __version__

        sys.stdout.write(f"mcomp {__version__}\n")
        return 0
    parsed.argv = arguments
    return _guarded(parsed)


def _parsed(arguments: list[str]) -> argparse.Namespace:
    """What the words mean.

    Raises:
        UsageError: MC295 an unknown verb, MC296 an unknown option, MC297 an argument is missing or malformed.
    """
    verb = next((word for word in arguments if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS and arguments[0].startswith("-"):
        verb = next((word for word in arguments if word in VERBS), verb)  # the first word is an option's value
    if verb is not None and verb not in VERBS:
        raise unknown_verb(verb, VERBS)
    parser, wanted = _parsers(verb)
    if verb is None and arguments and arguments[0] == "--version":
        return argparse.Namespace(verb="--version")
    if wanted is None:
        parser.refuse_unknown(arguments)
        parser.parse_args(arguments)
        parser.parse_args(["--help"])
    else:
        wanted.refuse_before(arguments[: arguments.index(str(verb))])
        wanted.refuse_unknown(arguments[arguments.index(str(verb)) + 1 :])
    parsed, more = parser.parse_known_args(arguments)
    if more and more[0].startswith("-"):
        raise unknown_option(f"mcomp {verb}", more[0], ())
    if more:
        raise UsageError(
            f"`mcomp {verb}` has no place for `{more[0]}`", code="MC297", hint=f"`mcomp {verb} --help` shows how"
        )
    return parsed


def _parsers(wanted: str | None) -> tuple[Parser, Parser | None]:
    """The parser of all words, and that of the verb that is called: its module is the only one loaded."""
    parser = Parser(
        prog="mcomp",
        description="Compress a PyTorch network by a recipe: prune, quantise, fuse, deploy, with proof.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    found = None
    for verb, line in VERBS.items():
        if verb != wanted:  # named, so that help lists it
            verbs.add_parser(verb, help=line, add_help=False)
            continue
        module = importlib.import_module(f"mcomp.cli.{verb.replace('-', '_')}_verb")
        found = verbs.add_parser(
            verb,
            help=line,
            description=line[0].upper() + line[1:] + ".",
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.configure(found)
        found.add_argument("--traceback", action="store_true", help="print the Python traceback of an error")
        found.set_defaults(run=module.run)
    return parser, found


def help_text(verb: str) -> str:
    """What ``mcomp VERB --help`` prints."""
    _, parser = _parsers(verb)
    assert parser is not None
    return parser.format_help()


def _guarded(parsed: argparse.Namespace) -> int:
    try:
        return int(parsed.run(parsed))
    except InterruptedRun as error:
        say(f"interrupted; {error.hint}", error=True)
        return error.exit_status
    except McompError as error:
        _traceback(parsed)
        return _refused(error, as_json=bool(getattr(parsed, "json", False)))
    except KeyboardInterrupt:
        say("interrupted; run the same command again to go on", error=True)
        return 130
    except Exception as error:
        _traceback(parsed)
        bug = McompError(
            f"internal bug: {type(error).__name__}: {error}",
            code="MC000",
            hint="run again with `--traceback` and report what it prints",
        )
        return _refused(bug, as_json=bool(getattr(parsed, "json", False)))


def _refused(error: McompError, *, as_json: bool) -> int:
    if as_json:
        errors = (
            [found.as_dict() for found in error.diagnostics] if isinstance(error, RecipeError) else [error.as_dict()]
        )
        print_json({"status": "refused", "exit_code": error.exit_code, "errors": errors})
    else:
        say(*str(error).splitlines(), error=True)
    return error.exit_code


def _traceback(parsed: argparse.Namespace) -> None:
    if parsed.traceback:
        import traceback

        traceback.print_exc()
