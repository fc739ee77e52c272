"""``model``, ``data`` and ``plugins``: names, trust, files, then their options."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mcomp.errors import UsageError
from mcomp.models.signatures import keywords_of
from mcomp.options import Options
from mcomp.recipe.diagnostics import Faults, shown
from mcomp.recipe.paths import WELL_KNOWN, anchor_set, anchor_sets, path_options
from mcomp.recipe.translate import Section, got, report
from mcomp.recipe.tree import ListNode, MapEntry, MapNode, Mark, Node, ScalarNode, plain
from mcomp.suggest import closest, did_you_mean, listed

TRUST_HINT = "runs code: pass --trust (in Python: trust=True) if you trust it"


@dataclass(frozen=True)
class Surround:
    """What a section is read in: the recipe's folder, the current one, and whether code may run."""

    base_dir: Path
    here: Path
    trust: bool


@dataclass(frozen=True)
class _Kind:
    """What distinguishes ``model`` from ``data``."""

    key: str
    noun: str
    hint: Callable[[str], str]
    options_for: Callable[[str], type[Options]]
    unknown_name: Callable[[str], str | None]
    needs_trust: Callable[[str], bool]
    user_file: Callable[[str, Path | None], Path | None]


def validate(section: Section, faults: Faults) -> Any | None:
    """An instance of the section's model; None when something is wrong with it."""
    values = {} if section.node is None else plain(section.node)
    try:
        return section.model.model_validate(values)
    except ValidationError as error:
        report(error, section, faults)
        return None


def read_model(entry: MapEntry | None, around: Surround, faults: Faults) -> Options | None:
    """The validated flat options under ``model:``."""
    from mcomp.models import registry

    kind = _Kind(
        "model",
        "model",
        lambda name: "`mcomp models` lists the models and their options",
        registry.options_for,
        registry.unknown_name,
        registry.needs_trust,
        registry.user_file,
    )
    return _read(entry, kind, around, faults)


def read_data(entry: MapEntry | None, around: Surround, faults: Faults) -> Options | None:
    """The validated flat options under ``data:``."""
    from mcomp.data import spec

    kind = _Kind(
        "data", "data set", lambda name: "", spec.options_for, spec.unknown_name, spec.needs_trust, spec.user_file
    )
    return _read(entry, kind, around, faults)


def _read(entry: MapEntry | None, kind: _Kind, around: Surround, faults: Faults) -> Options | None:
    if entry is None or not isinstance(entry.value, MapNode):
        return None  # said by the top level
    node = entry.value
    name = node.entries.get("name")
    if name is None:
        _no_name(entry.key, node, kind, faults)
        return None
    value = name.value
    if value.poisoned:
        return None
    if not isinstance(value, ScalarNode) or not isinstance(value.value, str) or not value.value:
        faults.error("MC104", f"`name` of `{kind.key}` must be text, got {got(value)}", value.mark)
        return None
    written = value.value
    wrong = kind.unknown_name(written)
    if wrong is not None:
        message, _, meant = wrong.partition("; did you mean ")
        faults.error(
            "MC107", message, value.mark, label=f"did you mean {meant}" if meant else "", hint=kind.hint(written)
        )
        return None
    if not _may_run(value, written, kind, around, faults):
        return None
    model: type[BaseModel] = kind.options_for(value.value)
    names = path_options(model, WELL_KNOWN)
    anchor_sets(node, names, around.here)
    section = Section(f"{kind.noun} `{shown(written)}`", node, entry.key, model, kind.hint(written))
    found = validate(section, faults)
    if kind.needs_trust(written) and _unaccepted(node, model, kind, around, faults):
        return None
    return found if isinstance(found, Options) else None


def _unaccepted(node: MapNode, model: type[BaseModel], kind: _Kind, around: Surround, faults: Faults) -> bool:
    """True, with the reason, where a factory is given what its signature has no place for; its code is not run."""
    name = str(plain(node.entries["name"].value))
    file = kind.user_file(name, around.base_dir)
    function = name.rpartition(":")[2]
    taken = None if file is None else keywords_of(file, function)
    if taken is None:
        return False
    unknown = [key for key in node.entries if key not in model.model_fields and key not in taken]
    for key in unknown:
        known = [*taken, *(field for field in model.model_fields if field not in taken)]
        faults.error(
            "MC103",
            f"unknown option `{shown(key)}` for {kind.noun} `{shown(name)}`",
            node.entries[key].key,
            label=did_you_mean(key, known),
            hint=f"`{shown(function)}` takes {listed(taken)}" if taken else f"`{shown(function)}` takes no options",
        )
    return bool(unknown)


def _no_name(key: Mark, node: MapNode, kind: _Kind, faults: Faults) -> None:
    known = kind.options_for("").model_fields
    near = next((name for name in node.entries if name not in known and closest(name, ["name"])), None)
    if near is None:
        faults.error("MC105", f"`{kind.key}` needs the option `name`", key, hint=kind.hint(""))
        return
    mark = node.entries[near].key
    faults.error(
        "MC103",
        f"unknown option `{shown(near)}` for `{kind.key}`",
        mark,
        label=did_you_mean(near, ["name"]),
        hint=kind.hint(""),
    )


def _may_run(node: ScalarNode, name: str, kind: _Kind, around: Surround, faults: Faults) -> bool:
    """False, with the reason, for a user's code that is not trusted or not there."""
    if not kind.needs_trust(name):
        return True
    if name.rpartition(":")[0].endswith(".py"):
        anchor_set(node, around.here)
    file = kind.user_file(str(node.value), around.base_dir)
    if file is None:
        faults.error("MC115", f"there is no module `{shown(name.rpartition(':')[0])}`", node.mark)
        return False
    if not file.is_file():
        faults.error(
            "MC115", f"there is no file `{shown(name.rpartition(':')[0])}`", node.mark, hint=f"looked for {file}"
        )
        return False
    if not around.trust:
        faults.error("MC114", f"{kind.noun} `{shown(name)}` {TRUST_HINT}", node.mark)
        return False
    return True


def load_plugins(node: Node | None, around: Surround, faults: Faults) -> tuple[list[Path], bool]:
    """Run the recipe's own stage files.

    Returns:
        The files, and whether all of them were loaded: if not, an unknown stage may be theirs.
    """
    files: list[Path] = []
    if not isinstance(node, ListNode):
        return files, node is None  # another form is refused by the top level
    complete = True
    for item in node.items:
        file = _plugin(item, around, faults)
        complete = complete and file is not None
        if file is not None:
            files.append(file)
    return files, complete


def _line_of(error: BaseException | None, file: Path) -> str:
    """`` (line 3)``: the last line of ``file`` on the way to an error; nothing where it does not lie on it."""
    if isinstance(error, SyntaxError):
        return ""  # its message names the line
    own = file.resolve()
    frames = [] if error is None else traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == own]
    return f" (line {lines[-1]})" if lines else ""


def _plugin(item: Node, around: Surround, faults: Faults) -> Path | None:
    from mcomp.stages import registry

    if not isinstance(item, ScalarNode) or not isinstance(item.value, str):
        return None  # said by the top level
    written = item.value
    anchor_set(item, around.here)
    file = around.base_dir / str(item.value)
    if not written.endswith(".py"):
        faults.error(
            "MC115", f"`{shown(written)}` is not a Python file", item.mark, hint="a plug-in is a path that ends in .py"
        )
    elif not file.is_file():
        faults.error("MC115", f"there is no file `{shown(written)}`", item.mark, hint=f"looked for {file}")
    elif not around.trust:
        faults.error("MC114", f"plug-in `{shown(written)}` {TRUST_HINT}", item.mark)
    else:
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                registry.load_file(file)
        except UsageError as error:
            faults.error("MC115", error.message + _line_of(error.__cause__, file), item.mark, hint=error.hint)
            return None
        for one in caught:
            faults.warning("MC115", str(one.message), item.mark)
        return file
    return None
