"""``mcomp check-qdq``."""

from __future__ import annotations

import argparse
from itertools import groupby
from typing import TYPE_CHECKING

from mcomp.cli.common import add_json, print_json, say
from mcomp.errors import plural

if TYPE_CHECKING:
    from mcomp.deploy import Violation

#: Nodes of one rule that are printed unless all are asked for.
SHOWN = 5

EPILOG = """\
Works on any ONNX file, whoever wrote it. An error is what the target refuses, or computes something else from; a
warning is what it runs in float or slowly. `mcomp help E3` explains a rule.

examples:
  mcomp check-qdq model.onnx
  mcomp check-qdq model.onnx --target onnxruntime --all
  mcomp check-qdq model.onnx --json

exit codes: 0 no errors, 2 the file is no ONNX model, 4 the target would refuse the file (with --strict: or a warning)
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="an ONNX file; external data lies beside it")
    parser.add_argument(
        "--target", metavar="TARGET", default="tensorrt", help="tensorrt (default), onnxruntime or openvino"
    )
    parser.add_argument("--strict", action="store_true", help="a warning changes the exit code too")
    parser.add_argument("--all", action="store_true", help=f"every node, not the first {SHOWN} of a rule")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check the file, and print what it breaks, rule by rule."""
    from mcomp.deploy import check_qdq
    from mcomp.deploy.qdq.check import integer_operators

    found = check_qdq(arguments.file, arguments.target)
    unjudged = integer_operators(arguments.file)
    errors = sum(violation.severity == "error" for violation in found)
    code = 4 if errors or (arguments.strict and found) else 0
    if arguments.json:
        violations = [violation.as_dict() for violation in found]
        told = {"file": arguments.file, "target": arguments.target, "violations": violations, "unjudged": unjudged}
        print_json({**told, "exit_code": code})
        return code
    for _, group in groupby(sorted(found, key=_order), key=_order):
        say(*_paragraph(list(group), len(found) if arguments.all else SHOWN))
    if unjudged:
        say(_note(unjudged, arguments.target))
    warnings = len(found) - errors
    counts = f"{plural(errors, 'error')}, {plural(warnings, 'warning')}"
    say(f"`{arguments.file}` for {arguments.target}: {counts if found else 'no rule of Q and DQ is broken'}")
    return code


def _note(unjudged: dict[str, int], target: str) -> str:
    """That a file is not in Q/DQ form, or not wholly, and what that means to the target."""
    listed = ", ".join(f"{count} {name}" for name, count in unjudged.items())
    meaning = {
        "tensorrt": "TensorRT takes none of them (E1)",
        "onnxruntime": "ONNX Runtime has kernels for them and runs them as they are, whatever stands around",
        "openvino": "OpenVINO takes some, in integers or in float (V2, V3)",
    }
    return f"note: {listed}: operators that compute with integers without Q and DQ; {meaning[target]}"


def _order(violation: Violation) -> tuple[bool, str, int]:
    return violation.severity != "error", violation.rule[0], int(violation.rule[1:])


def _paragraph(group: list[Violation], shown: int) -> list[str]:
    """One rule's violations, those that say the same under one heading."""
    lines = []
    for (message, fix), same in groupby(sorted(group, key=_said), key=_said):
        nodes = [f"{each.node}: {each.detail}" if each.detail else each.node for each in same]
        lines.append(f"{group[0].severity}[{group[0].rule}]: {message}")
        lines += [f"  --> {node}" for node in nodes[:shown]]
        if len(nodes) > shown:
            lines.append(f"  … and {plural(len(nodes) - shown, 'node')} more (`--all` prints them)")
        lines.append(f"   = help: {fix}")
    return lines


def _said(violation: Violation) -> tuple[str, str]:
    return violation.message, violation.fix
