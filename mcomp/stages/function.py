"""A stage as a plain function: ``mcomp.stages.prune(model, data=…, ratio=0.4) -> StageResult``."""

from __future__ import annotations

import copy
import inspect
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mcomp.errors import UsageError
from mcomp.stages.base import Stage, StageContext, StageOptions, StageResult, Surroundings
from mcomp.suggest import closest
from mcomp.surgery import provenance
from mcomp.training.hardware import resolve_device, resolve_precision

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails
    from torch import Tensor, nn

    from mcomp.data import Data

_ARGUMENTS = """\
model: an `nn.Module` from (N, C, H, W) float32 to (N, classes); it is copied, never changed.
data: an `mcomp.data.Data`, e.g. `mcomp.data.load(name="digits")`; needed to train and to measure accuracy.
device: `auto`, `cpu`, `cuda` or `cuda:1`.
precision: of training: `auto`, `fp32` or `bf16`.
seed: of everything random.
example_inputs: a batch that the model accepts, or a tuple of them; the data's own when left out.
work_dir: where files are written; a fresh temporary folder when left out, which stays only if the result has files.
report: called with progress, `report(kind, **fields)`; kinds `step`, `epoch` and `status`.
progress: write a line per epoch to standard error."""


def as_function(stage: type[Stage]) -> Callable[..., StageResult]:
    """The function for a stage: the model first, the stage's options as keyword arguments.

    Its signature and docstring list the options, so ``help(mcomp.stages.prune)`` tells all.

    Raises:
        UsageError: an option has the name of one of the function's own arguments.
    """
    own = _own_parameters()
    chooses = "precision" in stage.Options.model_fields  # of what it writes; such a stage trains nothing
    if chooses:
        del own["precision"]
    clash = sorted(set(own) & set(stage.Options.model_fields))
    if clash:
        raise UsageError(
            f"option `{clash[0]}` of stage `{stage.name}` cannot be an argument: the function has one of that name",
            code="MC271",
            hint="rename the option, or run the stage from a recipe",
        )

    def call(
        model: nn.Module,
        data: Data | None = None,
        *,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
        example_inputs: Tensor | tuple[Tensor, ...] | None = None,
        work_dir: str | Path | None = None,
        report: Callable[..., None] | None = None,
        progress: bool = False,
        **options: Any,
    ) -> StageResult:
        models: dict[str, nn.Module] = {}
        if chooses and precision != "auto":
            options["precision"], precision = precision, "auto"
        chosen = stage.resolve(validated(stage, _by_name(options, models)), Surroundings())
        _check_models(stage, chosen, models)
        place = resolve_device(device)
        ctx = _Context(
            model=_copied(stage, model, data),
            example_inputs=_inputs(stage, data, example_inputs),
            data=data,
            work_dir=Path() if work_dir is None else Path(work_dir),
            device=place,
            precision=resolve_precision(precision, place),
            seed=seed,
            stage_id=stage.name,
            earlier={name: partial(copy.deepcopy, each) for name, each in models.items()},
        )
        ctx.report = _reports(report, progress)
        if progress:
            ctx.log = _say
        if work_dir is None:
            return _in_a_fresh_folder(stage, ctx, chosen)
        ctx.work_dir.mkdir(parents=True, exist_ok=True)
        return stage().run(ctx, chosen)

    call.__name__ = call.__qualname__ = stage.name
    call.__module__ = "mcomp.stages"
    call.__doc__ = _document(stage)
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*own.values(), *_option_parameters(stage.Options)], return_annotation=StageResult
    )
    return call


def validated(stage: type[Stage], options: dict[str, Any]) -> StageOptions:
    """The options as an instance of ``stage.Options``; tuples may stand for lists.

    Raises:
        UsageError: an option is unknown, missing or wrong; the message names them all.
    """
    try:
        return stage.Options.model_validate(_as_lists(options))
    except ValidationError as error:
        faults = _causes(stage, error.errors(include_url=False))
        raise UsageError(
            "; ".join(_fault(stage, fault) for fault in faults),
            code=_CODES.get(faults[0]["type"], "MC273"),
            hint=f"`help(mcomp.stages.{stage.name})` lists the options",
        ) from None


_CODES = {"extra_forbidden": "MC272", "missing": "MC274"}


def _causes(stage: type[Stage], faults: list[ErrorDetails]) -> list[ErrorDetails]:
    """Without the option that is missing only because its name was misspelt; unknown names first."""
    meant = {_meant(stage, fault) for fault in faults if fault["type"] == "extra_forbidden"}
    kept = [fault for fault in faults if fault["type"] != "missing" or fault["loc"][-1] not in meant]
    return sorted(kept, key=lambda fault: fault["type"] != "extra_forbidden")


def _meant(stage: type[Stage], fault: ErrorDetails) -> str | None:
    """The option that an unknown name was probably meant to be."""
    return closest(str(fault["loc"][-1]), stage.Options.model_fields) if len(fault["loc"]) == 1 else None


def _fault(stage: type[Stage], fault: ErrorDetails) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        meant = _meant(stage, fault)
        return f"unknown option `{path}` for stage `{stage.name}`" + (f", did you mean `{meant}`?" if meant else "")
    if fault["type"] == "missing":
        return f"stage `{stage.name}` needs the option `{path}`{fault.get('ctx', {}).get('instead', '')}"
    message = fault["msg"].removeprefix("Value error, ")
    if not path:
        return f"stage `{stage.name}`: {message}"
    message = message.replace("Input should be", "must be")
    return f"option `{path}` of stage `{stage.name}`: {message}, got {fault['input']!r}"


def _as_lists(value: Any) -> Any:
    """Options come from YAML as lists; from Python a tuple is as good."""
    if isinstance(value, (list, tuple)):
        return [_as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return value


def _by_name(value: Any, models: dict[str, nn.Module], place: str = "model") -> Any:
    """Options with a name for each model among them, as recipes name stages; the models are collected."""
    from torch import nn

    if isinstance(value, nn.Module):
        name = f"the model given as `{place}`"
        models[name] = value
        return name
    if isinstance(value, dict):
        return {key: _by_name(item, models, str(key)) for key, item in value.items()}
    return value


def _check_models(stage: type[Stage], options: StageOptions, models: Mapping[str, nn.Module]) -> None:
    for name in stage.reads(options):
        if name not in models:
            raise UsageError(
                f"`mcomp.stages.{stage.name}` cannot look up the stage `{name}`: there is no recipe",
                code="MC283",
                hint="pass the model itself, e.g. `teacher=float_model`",
            )


def _copied(stage: type[Stage], model: Any, data: Data | None) -> nn.Module:
    """A copy on the CPU that knows how its images were prepared, as a recipe's models do."""
    from torch import nn

    if not isinstance(model, nn.Module):
        raise UsageError(
            f"`mcomp.stages.{stage.name}` needs an `nn.Module` first, got {type(model).__name__}",
            code="MC275",
            hint='build one with `mcomp.models.build("nin_gc", num_classes=10)`, or hand over your own',
        )
    if data is not None and not all(hasattr(data, name) for name in ("train", "test", "example_inputs")):
        raise UsageError(
            f"`mcomp.stages.{stage.name}` needs an `mcomp.data.Data` as `data`, got {type(data).__name__}",
            code="MC279",
            hint='load one with `mcomp.data.load(name="digits")`',
        )
    copied = copy.deepcopy(model).cpu().eval()
    if data is not None:
        origin = provenance(copied)
        origin.input_shape = origin.input_shape or list(data.in_shape)
        origin.preprocessing = origin.preprocessing or dict(data.preprocessing)
        origin.class_names = origin.class_names or list(data.class_names)
    return copied


def _inputs(stage: type[Stage], data: Data | None, given: Tensor | tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    from torch import Tensor

    if given is None:
        if data is None:
            raise UsageError(
                f"`mcomp.stages.{stage.name}` needs `data=` or `example_inputs=`",
                code="MC276",
                why="the stage runs the model to learn its structure, and a batch says what it accepts",
                hint='pass `data=mcomp.data.load(name="digits")` or `example_inputs=torch.randn(2, 3, 32, 32)`',
            )
        given = data.example_inputs
    batch = (given,) if isinstance(given, Tensor) else tuple(given)
    return tuple(tensor.detach().cpu() for tensor in batch)


class _Context(StageContext):
    """A context whose working folder, where nobody gave one, is made when a stage first asks for it."""

    fresh: str = ""
    """Prefix of the temporary folder's name; empty where a folder was given."""

    @property
    def work_dir(self) -> Path:
        """The existing folder that the stage writes to."""
        if self.fresh:
            self._folder, self.fresh = Path(tempfile.mkdtemp(prefix=self.fresh)), ""
        return self._folder

    @work_dir.setter
    def work_dir(self, folder: Path) -> None:
        self._folder, self.fresh = folder, ""


def _in_a_fresh_folder(stage: type[Stage], ctx: _Context, options: StageOptions) -> StageResult:
    """Run the stage in a temporary folder that goes again unless the result points into it."""
    ctx.fresh = f"mcomp-{stage.name}-"
    result = None
    try:
        result = stage().run(ctx, options)
    finally:
        if not ctx.fresh and (result is None or not result.files):
            shutil.rmtree(ctx.work_dir, ignore_errors=True)
    return result


def _reports(report: Callable[..., None] | None, progress: bool) -> Callable[..., None]:
    def both(kind: str, **fields: Any) -> None:
        if report is not None:
            report(kind, **fields)
        if progress and kind == "epoch":
            val = f", val top-1 {fields['val_top1']:.2f} %" if "val_top1" in fields else ""
            _say(
                f"epoch {fields['epoch']}/{fields['epochs']}: loss {fields['loss']:.4f}{val}, {fields['seconds']:.1f} s"
            )
        elif progress and kind == "status":
            _say(str(fields.get("text", "")))

    return both


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _own_parameters() -> dict[str, inspect.Parameter]:
    """The arguments that every stage function has."""
    word, keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    table: list[tuple[str, Any, str, Any]] = [
        ("model", word, "nn.Module", inspect.Parameter.empty),
        ("data", word, "Data | None", None),
        ("device", keyword, "str", "auto"),
        ("precision", keyword, "str", "auto"),
        ("seed", keyword, "int", 0),
        ("example_inputs", keyword, "Tensor | tuple[Tensor, ...] | None", None),
        ("work_dir", keyword, "str | Path | None", None),
        ("report", keyword, "Callable[..., None] | None", None),
        ("progress", keyword, "bool", False),
    ]
    return {
        name: inspect.Parameter(name, kind, default=default, annotation=annotation)
        for name, kind, annotation, default in table
    }


def _option_parameters(options: type[StageOptions]) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True),
            annotation=field.annotation,
        )
        for name, field in options.model_fields.items()
    ]


def _document(stage: type[Stage]) -> str:
    described = [
        f"{name}: {field.description or ''}".rstrip(": ") for name, field in stage.Options.model_fields.items()
    ]
    own = [line for line in _ARGUMENTS.splitlines() if line.partition(":")[0] not in stage.Options.model_fields]
    lines = textwrap.indent("\n".join([*own, *described]), "    ")
    about = inspect.cleandoc(stage.__doc__ or stage.name)
    return f"{about}\n\nArgs:\n{lines}\n\nReturns:\n    The new model, figures, files and notes."
