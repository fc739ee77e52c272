"""A model on disk: how to build it, what was done to it, its tensors, and proof that it came back the same.

An artifact is a folder::

    manifest.json   builder, surgery log, input shape, preprocessing, class names, tensor digests, logits fingerprint
    tensors.pt      a flat dict of tensors
    exported.pt2    on request: the model as torch.export sees it, for use without its builder

Loading builds the model anew, replays the surgery, fills the tensors in and runs a fixed input through it: what comes
out must be what came out when it was saved. No code is unpickled; code of a user's own file runs only with ``trust``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.errors import McompError, StoreError
from mcomp.models.artifact_manifest import LARGEST, malformed
from mcomp.store import atomic, logits
from mcomp.store.digest import parse_json, sha256_file, sha256_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mcomp.surgery import Provenance

FORMAT = 1
MANIFEST, TENSORS, EXPORTED = "manifest.json", "tensors.pt", "exported.pt2"

Manifest = dict[str, Any]

# Largest accepted max|now - then| / max|then| of the logits. Another CPU or thread count adds in another order; a
# quantised network may then round a single activation to the neighbouring step, a wrong one is off by half and more.
_TOLERANCE, _TOLERANCE_QUANTISED, _TOLERANCE_HALF = 1e-4, 0.05, 0.02


def save_model(
    model: nn.Module, path: Path | str, example_inputs: tuple[Tensor, ...], *, export: bool = False
) -> Manifest:
    """Save ``model`` as an artifact folder at ``path``, all or nothing; an artifact that is there is replaced.

    Args:
        model: from :func:`mcomp.models.build` (then it loads by itself), or made by hand (then loading asks for
            ``model=``).
        path: the folder to make.
        example_inputs: what the model accepts, first dimension the batch; only shapes and dtypes are kept.
        export: also write the program that ``torch.export`` traces.

    Returns:
        The manifest.

    Raises:
        StoreError: MC302/MC303 the disk is full or read-only; MC319 ``path`` is something else, or the model
            cannot be saved.
    """
    target = Path(path)
    if target.exists() and not (target / MANIFEST).is_file() and not _is_empty_folder(target):
        raise StoreError(
            f"`{target}` exists and is no artifact", code="MC319", hint="name a new folder; nothing was written"
        )
    pending = target.parent / f".{target.name}.{secrets.token_hex(6)}{atomic.TEMPORARY}"
    try:
        manifest = save_artifact(model, atomic.make_folder(pending), example_inputs, export=export)
        with atomic.storage_errors(target):
            _swap(pending, target)
    finally:
        shutil.rmtree(pending, ignore_errors=True)  # gone already unless an error is on its way
    return manifest


def load_model(
    path: Path | str, *, trust: bool = False, model: nn.Module | None = None, base_dir: Path | str | None = None
) -> nn.Module:
    """Rebuild the model of an artifact, in eval mode, on the CPU, with the logits it had when it was saved.

    Args:
        path: an artifact folder (also one inside a store, or what ``mcomp export`` made) or its ``manifest.json``.
        trust: run the user's own file that builds the model.
        model: for a model made by hand: a fresh one of the same architecture; it is changed in place.
        base_dir: what the path of a user's own file is relative to; by default the current folder.

    Raises:
        StoreError: MC311 not an artifact; MC312/MC313 damaged or foreign tensors; MC314 a later format;
            MC315 the model cannot be rebuilt or the tensors do not fit it; MC316 the logits differ; MC317 a user's
            file is needed.
    """
    folder = artifact_folder(Path(path))
    return load_artifact(folder, trust=trust, base_dir=None if base_dir is None else Path(base_dir), model=model)


def save_artifact(
    model: nn.Module, folder: Path, example_inputs: tuple[Tensor, ...], *, export: bool = False
) -> Manifest:
    """Write ``model`` into ``folder`` (other files there are left alone) and return the manifest.

    The manifest's ``identity`` is the same for two saves of the same model, wherever and whenever they were made.
    """
    from mcomp import __version__
    from mcomp.store import tensors
    from mcomp.surgery import provenance

    counting = next((name for name, module in model.named_modules() if getattr(module, "counts_bits", False)), None)
    if counting is not None:
        raise StoreError(
            f"`{counting}` counts bits: such a network is made anew from the one that was accelerated",
            code="MC319",
            hint="save the model that `accelerate` was given",
        )
    origin = provenance(model)
    shape = list(example_inputs[0].shape[1:])
    state = {name: tensors.plain(value) for name, value in _tensors_of(model).items()}
    inputs = [logits.input_spec(x) for x in example_inputs]
    table = {name: tensors.describe(value) for name, value in state.items()}
    manifest: Manifest = {
        "format": FORMAT,
        "builder": origin.builder,
        "model_class": f"{type(model).__module__}.{type(model).__qualname__}",
        "surgery": origin.log,
        "input_shape": origin.input_shape or shape,
        "inputs": inputs,
        "preprocessing": origin.preprocessing,
        "class_names": origin.class_names,
        "tensors": table,
        "fingerprint": _fingerprint(model, inputs),
        "versions": {"mcomp": __version__, "torch": _torch_version()},
    }
    manifest["identity"] = _identity(origin, manifest)
    tensors.write_tensors(folder / TENSORS, state)
    if export:
        manifest["exported"] = _export(model, inputs, folder / EXPORTED)
    atomic.write_json(folder / MANIFEST, manifest)
    return manifest


def load_artifact(
    folder: Path,
    *,
    trust: bool = False,
    base_dir: Path | None = None,
    model: nn.Module | None = None,
    on_change: Callable[[str], None] | None = None,
) -> nn.Module:
    """:func:`load_model` for a folder that is known to be an artifact.

    ``on_change`` is told, in place of a warning, that the person's file which builds the model has other bytes now.
    """
    from mcomp import surgery
    from mcomp.store.tensors import read_tensors

    manifest = read_manifest(folder)
    state = read_tensors(folder / TENSORS)
    _verify_tensors(folder, manifest, state)
    changed = ""
    if model is None:
        changed = _check_user_file(folder, manifest, trust, base_dir)
        model = _build(folder, manifest, trust, base_dir)
    try:
        for entry in manifest["surgery"]:
            with _rebuilding(folder, f"its surgery `{entry['op']}`"):
                model = surgery.replay(model, entry, logits.seeded_inputs(manifest["inputs"]))
        _fill(folder, model, state)
        model.eval()
        compare_logits(folder, model, manifest)
    except StoreError as error:
        error.why = "; ".join(part for part in (error.why, changed) if part)
        raise
    if changed:
        text = f"{changed}; the model it builds still gives the saved logits"
        if on_change is None:
            warnings.warn(text, stacklevel=2)
        else:
            on_change(text)
    origin = surgery.Provenance(
        builder=manifest["builder"],
        log=manifest["surgery"],
        input_shape=manifest["input_shape"],
        preprocessing=manifest["preprocessing"],
        class_names=manifest["class_names"],
    )
    model.__dict__[surgery.ATTRIBUTE] = origin
    return model


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact folder, read without torch.

    Raises:
        StoreError: MC311 there is none or it is not an artifact's; MC314 it is of a later format.
    """
    path = folder / MANIFEST
    if path.exists() and not (path.is_file() and path.stat().st_size <= LARGEST):
        raise _not_an_artifact(folder, f"its {MANIFEST} is no regular file, or too large for one")
    text = atomic.read_bytes(path)
    try:
        found = parse_json(text or b"")
    except ValueError as error:
        fault = "is missing" if text is None else f"is no JSON ({error})"
        raise _not_an_artifact(folder, f"its {MANIFEST} {fault}") from error
    if not isinstance(found, dict) or not {"format", "identity", "tensors", "surgery", "fingerprint"} <= found.keys():
        raise _not_an_artifact(folder, f"its {MANIFEST} describes no model")
    if found["format"] != FORMAT:
        raise StoreError(
            f"`{folder}` has artifact format {found['format']!r:.20}, this mcomp reads {FORMAT}",
            code="MC314",
            hint=f"use the mcomp that wrote it ({_writer(found)}), or a later one",
        )
    wrong = malformed(found)
    if wrong:
        raise _not_an_artifact(folder, f"`{wrong}` of its {MANIFEST} is not what mcomp writes there")
    return found


# saving


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    import torch

    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.is_sparse or value.is_quantized or value.is_meta:
            raise StoreError(
                f"`{name}` of the model's state is {type(value).__name__}, not a dense tensor with values",
                code="MC319",
                hint="keep it out of `state_dict()` (a non-persistent buffer), or make it a plain tensor",
            )
    return dict(state)


def _identity(origin: Provenance, manifest: Manifest) -> dict[str, Any]:
    builder = None
    if origin.builder is not None:
        # where a user's file lies, and its comments, are no part of what the model is
        builder = {**origin.builder, "name": str(origin.builder["name"]).rpartition(":")[2]}
        builder.pop("file_sha256", None)
    return {
        "builder": builder,
        "tensors": sha256_json(manifest["tensors"]),
        "surgery": sha256_json(manifest["surgery"]),  # a list of kept channels is long; once in the manifest is enough
        **{name: manifest[name] for name in ("input_shape", "preprocessing", "class_names")},
    }


def _export(model: nn.Module, inputs: list[logits.InputSpec], path: Path) -> dict[str, Any]:
    """Write the exported program, or say why this model has none."""
    import torch

    try:
        program = torch.export.export(model, logits.seeded_inputs(inputs))
        torch.export.save(program, path)
    except Exception as error:
        return {"file": None, "why": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    return {"file": path.name, "why": ""}


def _swap(pending: Path, target: Path) -> None:
    """Put ``pending`` in the place of ``target``."""
    if target.exists():
        old = target.parent / f".{target.name}.{secrets.token_hex(6)}.old{atomic.TEMPORARY}"
        os.rename(target, old)
        try:
            os.rename(pending, target)
        except OSError:
            os.rename(old, target)
            raise
        shutil.rmtree(old)
    else:
        os.rename(pending, target)
    atomic.sync_folder(target.parent)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _fingerprint(model: nn.Module, inputs: list[logits.InputSpec]) -> dict[str, Any]:
    try:
        return logits.fingerprint(model, inputs)
    except McompError:
        raise
    except Exception as error:
        shapes = ", ".join(str((2, *spec["shape"])) for spec in inputs)
        raise StoreError(
            f"the model does not run on its own input of shape {shapes}: {type(error).__name__}: {error}",
            code="MC319",
            hint="give `example_inputs` as the model expects them, a batch of samples",
        ) from error


# loading


def artifact_folder(path: Path) -> Path:
    """The artifact folder that ``path`` means: itself, that of its manifest, or ``model`` inside it.

    Raises:
        StoreError: MC311, there is none.
    """
    folder = path.parent if path.name == MANIFEST else path
    for candidate in (folder, folder / "model"):  # the second is how `mcomp export` lays its folder out
        if (candidate / MANIFEST).is_file():
            return candidate
    if not path.exists():
        raise StoreError(f"`{path}` does not exist", code="MC311", hint="name an artifact folder")
    raise _not_an_artifact(path, "")


def _writer(manifest: Manifest) -> str:
    versions = manifest.get("versions")
    return str(versions.get("mcomp", "unknown") if isinstance(versions, dict) else "unknown")


def _not_an_artifact(path: Path, why: str) -> StoreError:
    hint = f"an artifact is a folder with a {MANIFEST}; `apply --json` names one per stage"
    if (path / "result.json").is_file():
        hint = f"this is the folder of a run; the models it made are under `objects/` of the same store: {hint}"
    elif path.suffix in {".onnx", ".engine", ".plan", ".xml"}:
        hint = f"`{path.suffix}` is a deployed file; load the artifact that it was made from: {hint}"
    elif path.is_file():
        hint = (
            "to start from a checkpoint, use `mcomp.models.build(name, weights=path)`, "
            f"or `model: {{weights: {path.name}}}` in a recipe; {hint}"
        )
    return StoreError(f"`{path}` is not an artifact", code="MC311", why=why, hint=hint)


def _verify_tensors(folder: Path, manifest: Manifest, state: dict[str, Tensor]) -> None:
    """Hold the file against the manifest's table.

    Raises:
        StoreError: MC312, a tensor is missing, is too many, or has other content.
    """
    from mcomp.store.tensors import describe

    table = manifest["tensors"]
    if sha256_json(table) != manifest["identity"]["tensors"]:
        raise StoreError(
            f"the table of tensors in `{folder / MANIFEST}` was changed after it was written",
            code="MC312",
            hint="copy the whole folder again from where it is whole, or make the artifact again",
        )
    wrong = sorted(table.keys() ^ state.keys()) or [name for name in table if describe(state[name]) != table[name]]
    if wrong:
        raise StoreError(
            f"{len(wrong)} of {len(table)} tensors in `{folder / TENSORS}` are not those of its manifest, "
            f"first `{wrong[0]}`",
            code="MC312",
            why="the file was damaged or exchanged after it was written",
            hint="copy the whole folder again from where it is whole, or make the artifact again",
        )


def _check_user_file(folder: Path, manifest: Manifest, trust: bool, base_dir: Path | None) -> str:
    """See that the user code behind the model may be run; returns a sentence when it changed since.

    Raises:
        StoreError: MC317, it needs trust, or its file, or there is no builder.
    """
    from mcomp.models import registry

    builder = manifest["builder"]
    if builder is None:
        raise StoreError(
            f"`{folder}` was saved from a model made by hand (`{manifest.get('model_class', 'unknown')}`)",
            code="MC317",
            why="nothing recorded how to build it",
            hint="pass a fresh one: `mcomp.load_model(path, model=MyNet())`",
        )
    name = builder["name"]
    if not registry.needs_trust(name):
        return ""
    if not trust:
        raise StoreError(
            f"the model in `{folder}` is built by your own code, `{name}`",
            code="MC317",
            why="loading it runs that code",
            hint="pass `trust=True` (on the command line `--trust`), or a fresh model with `model=`",
        )
    file = registry.user_file(name, base_dir or Path.cwd())
    recorded = builder.get("file_sha256")
    if file is None or recorded is None:
        return ""
    if not file.is_file():
        raise StoreError(
            f"the file `{file}` that builds the model in `{folder}` is missing",
            code="MC317",
            hint="say where it lies with `base_dir=`, or pass a fresh model with `model=`",
        )
    return "" if sha256_file(file) == recorded else f"`{file}` was changed after the model was saved"


def _build(folder: Path, manifest: Manifest, trust: bool, base_dir: Path | None) -> nn.Module:
    from mcomp.models import build

    builder = manifest["builder"]
    kwargs = {name: value for name, value in builder["kwargs"].items() if name != "weights"}  # tensors follow
    shape = tuple(manifest["input_shape"])
    with _rebuilding(folder, f"`{builder['name']}`"):
        model: nn.Module = build(builder["name"], base_dir=base_dir, trust=trust, in_shape=shape, **kwargs)
    return model


@contextmanager
def _rebuilding(folder: Path, what: str) -> Iterator[None]:
    """Say of an error that is nobody's message which artifact it is about.

    Raises:
        StoreError: MC315, with the error.
    """
    try:
        yield
    except McompError:
        raise
    except Exception as error:
        raise StoreError(
            f"the model of `{folder}` cannot be rebuilt: {what} does not work with what its {MANIFEST} says",
            code="MC315",
            why=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            hint="copy the whole folder again from where it is whole, or make the artifact again",
        ) from error


def _fill(folder: Path, model: nn.Module, state: dict[str, Tensor]) -> None:
    """Load every tensor, exactly; dtypes follow the file."""
    for name, module in model.named_modules():  # a frozen quantiser has buffers that a fresh one has not
        adopt = getattr(module, "adopt_buffers", None)
        if callable(adopt):
            adopt(state, f"{name}." if name else "")
    own = model.state_dict(keep_vars=True)
    faults = [f"`{name}` is missing in the file" for name in own.keys() - state.keys()]
    faults += [f"the model has no `{name}`" for name in state.keys() - own.keys()]
    for name in own.keys() & state.keys():
        if own[name].shape != state[name].shape:
            faults.append(f"`{name}` is {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model")
        elif own[name].dtype != state[name].dtype:
            own[name].data = own[name].data.to(state[name].dtype)  # a copy would round to the model's dtype
    if faults:
        raise StoreError(
            f"the tensors of `{folder}` do not fit the model that was built for it: {min(faults)}",
            code="MC315",
            why=f"{len(faults)} such faults; the model's code or a library changed, or another `model=` was given",
            hint="use the code and the versions that made the artifact",
        )
    model.load_state_dict(state, strict=True)


def compare_logits(folder: Path, model: nn.Module, manifest: Manifest) -> None:
    """Refuse a model that computes something else than the one that was saved.

    Args:
        folder: the artifact, for the message.
        model: rebuilt from it.
        manifest: ``inputs`` and ``fingerprint`` say what it has to answer, ``surgery`` how exactly.

    Raises:
        StoreError: MC316, it does not run or its logits differ.
    """
    try:
        error = logits.relative_error(model, manifest["inputs"], manifest["fingerprint"])
    except Exception as fault:
        raise StoreError(
            f"the model rebuilt from `{folder}` does not run: {type(fault).__name__}: {fault}", code="MC316"
        ) from fault
    allowed = _tolerance(manifest)
    if not error <= allowed:
        saved = ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items())
        raise StoreError(
            f"the model rebuilt from `{folder}` does not compute what was saved: its logits differ by "
            f"{error:.1e} of the largest (allowed {allowed:g})",
            code="MC316",
            why=f"saved with {saved}, loaded with torch {_torch_version()}",
            hint="use those versions, or make the artifact again",
        )


def _tolerance(manifest: Manifest) -> float:
    if any(entry["op"] == "quantize" for entry in manifest["surgery"]):
        return _TOLERANCE_QUANTISED
    return _TOLERANCE if manifest["fingerprint"]["dtype"] in {"float32", "float64"} else _TOLERANCE_HALF
