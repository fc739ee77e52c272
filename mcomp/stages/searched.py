"""What later stages take of a search: the channels and bits that it noted on the model, or its file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import StageError, UsageError
from mcomp.quantization.override_file import read_yaml
from mcomp.stages.base import Finding, Surroundings
from mcomp.suggest import listed

if TYPE_CHECKING:
    from torch import nn

#: In place of what a search found.
SEARCH = "search"
#: Options of `prune` that a search has as well.
_HOW = ("regular", "importance", "min_channels", "ignore")
_GLOB = re.compile(r"([*?[])")


def not_searched(option: str, value: Any, around: Surroundings) -> list[Finding]:
    """A fault where an option takes the result of a search and no `search` stands before the stage."""
    if value != SEARCH or SEARCH in around.before:
        return []
    file = "`keep_file`" if option == "keep" else "`overrides_file`"
    return [
        Finding(
            f"`{option}: search` takes what a `search` found, and none stands before this stage",
            option=(option,),
            hint=f"put a `search` before it, or name the file of an earlier one: {file}",
        )
    ]


def searched_bits(model: nn.Module) -> dict[str, dict[str, int]]:
    """Layer to bits, as overrides of a conversion.

    Raises:
        StageError: MC489, no search noted any.
    """
    choice = _choice(model, "bits", ("w_bits", "a_bits"))
    found = {
        name: {kind: int(value) for kind, value in kinds.items() if kind != "keep"} for name, kinds in choice.items()
    }
    return {_GLOB.sub(r"[\1]", name): kinds for name, kinds in found.items() if kinds}


def file_findings(options: Any) -> list[Finding]:
    """What is wrong with the file of channels."""
    try:
        with_file(options)
    except UsageError as error:
        return [Finding(error.message, option=("keep_file",), hint=error.hint, code=error.code)]
    return []


def layers_of_file(options: Any) -> list[str]:
    """The layers that the file of channels names."""
    return [] if options.keep_file is None else list(keep_in(options.keep_file))


def with_file(options: Any) -> Any:
    """The options of `prune` with the channels that its file names.

    Raises:
        UsageError: MC427, the file cannot be read, or holds none.
    """
    if options.keep_file is None:
        return options
    return _told(options, {"keep": keep_in(options.keep_file), **_unsaid(options, _cut_in(options.keep_file))})


def searched_pruning(model: nn.Module, options: Any) -> Any:
    """The options of `prune` with the channels that a search or a file names, cut as its candidates were cut.

    Where the recipe says `regular`, `importance` or `min_channels` itself, it has the last word.

    Raises:
        StageError: MC489, no search noted any.
        UsageError: MC427, the file cannot be read, or holds none.
    """
    if options.keep != SEARCH:
        return with_file(options)
    from mcomp.search.recorded import recorded_pruning

    choice = _choice(model, "keep", ("keep",))
    how = recorded_pruning(model)
    shares = {name: kinds["keep"] for name, kinds in choice.items() if "keep" in kinds}
    return _told(options, {"keep": how.pop("shares", shares), **_unsaid(options, how)})


def _unsaid(options: Any, how: dict[str, Any]) -> dict[str, Any]:
    """How candidates were cut, but for what the recipe says itself."""
    return {name: value for name, value in how.items() if name not in options.model_fields_set}


def _cut_in(path: str | Path) -> dict[str, Any]:
    """How the candidates behind a `best.yaml` were cut; empty in a file that a person wrote."""
    held = read_yaml(path)
    cut = held.get("cut") if isinstance(held, dict) else None
    return {name: cut[name] for name in _HOW if name in cut} if isinstance(cut, dict) else {}


def _told(options: Any, update: dict[str, Any]) -> Any:
    """Where no layer is to lose any channel, that is said: saying nothing would prune by half."""
    if not update["keep"] and options.target() is None and not options.prune:
        update = {**update, "keep": {"*": 1.0}}
    return options.model_copy(update=update)


def keep_in(path: str | Path) -> dict[str, int | float]:
    """Layer to channels, or the share of them, that a YAML file names at its top or below the key ``keep``.

    Raises:
        UsageError: MC427, the file cannot be read, or holds none.
    """
    held = read_yaml(path)
    if isinstance(held, dict) and isinstance(held.get("keep"), dict):
        held = held["keep"]
    numbers = isinstance(held, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in held.values()
    )
    if not numbers:
        raise UsageError(
            f"`{path}` holds no channels to keep",
            code="MC427",
            why="every entry is a layer, and a count of channels or a share of them",
            hint="write e.g. `keep: {features.3: 24, features.5: 0.5}`",
        )
    return {str(name): value for name, value in held.items()}


def _choice(model: nn.Module, option: str, kinds: tuple[str, ...]) -> dict[str, dict[str, float]]:
    from mcomp.search.recorded import recorded_choice

    choice = recorded_choice(model)
    if choice is None:
        raise StageError(
            f"`{option}: search`, and no search has noted anything on this model",
            code="MC489",
            hint="put a `search` before this stage, on the same branch",
        )
    if not any(set(own) & set(kinds) for own in choice.values()):
        what = sorted({kind for own in choice.values() for kind in own})
        raise StageError(
            f"`{option}: search`, and the search looked for {listed(what)} only",
            code="MC489",
            hint=f"give the search a range of `{kinds[0]}`",
        )
    return choice
