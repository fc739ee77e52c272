"""Hold what a stage hands back to the protocol, naming the fault: plug-ins are written by people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import StageError
from mcomp.stages.base import StageResult

if TYPE_CHECKING:
    from torch import nn

CODE = "MC408"


def checked_result(uses: str, result: object, work_dir: Path) -> StageResult:
    """``result`` itself, when it is a whole :class:`StageResult`.

    Args:
        uses: the stage's name, for messages.
        result: what ``run`` returned.
        work_dir: the only folder that its files may come from.

    Raises:
        StageError: MC408, naming the field that is wrong.
    """
    from torch import nn

    if not isinstance(result, StageResult):
        raise _fault(uses, f"returned {type(result).__name__}, not a StageResult", "end `run` with one")
    model: object = result.model
    if not isinstance(model, nn.Module):
        what = f"handed on {type(model).__name__} as the model"
        raise _fault(uses, what, "give `StageResult(model=ctx.model)`")
    for name, value in result.metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            hint = "give plain numbers, e.g. `float(value)`, or put tables into `details`"
            raise _fault(uses, f"reported the metric `{name}` as {type(value).__name__}", hint)
    if not isinstance(result.notes, list) or not all(isinstance(note, str) for note in result.notes):
        raise _fault(uses, "gave notes that are not a list of sentences", 'write `notes=["…"]`')
    for name, path in result.files.items():
        _check_file(uses, name, Path(path), work_dir)
    try:
        json.dumps(result.details)
    except (TypeError, ValueError) as error:
        what = f"gave details that JSON cannot hold: {error}"
        raise _fault(uses, what, "use lists, dicts, numbers and texts") from error
    return result


def unrecorded_change(uses: str, why: str) -> StageError:
    """The error of a stage whose model does not come back from disk as it was."""
    return StageError(
        f"the model that `{uses}` handed on cannot be rebuilt from what was recorded of it",
        code="MC409",
        why=why,
        hint="hand on the model that came in; a change of structure is recorded with `mcomp.surgery.record`, and "
        "replayed by a function decorated with `mcomp.surgery.register_replay`",
    )


def check_answer(model: nn.Module, folder: Path, answer: dict[str, Any]) -> None:
    """Compare a model read back with the answer that the live one gave.

    Raises:
        StoreError: MC316, they differ.
    """
    from mcomp.artifact import compare_logits, read_manifest

    compare_logits(folder, model, {**read_manifest(folder), **answer})


def _check_file(uses: str, name: str, path: Path, work_dir: Path) -> None:
    if Path(name).name != name:
        raise _fault(uses, f"named a file `{name}`", "a file's name has no folders in it")
    if not path.is_file():
        raise _fault(uses, f"names `{path}` as its file `{name}`, which does not exist", "write it before returning")
    if not path.resolve().is_relative_to(work_dir.resolve()):
        raise _fault(uses, f"names `{path}` as its file `{name}`", "write it below `ctx.work_dir`")


def _fault(uses: str, what: str, hint: str) -> StageError:
    return StageError(f"stage `{uses}` {what}", code=CODE, hint=hint)
