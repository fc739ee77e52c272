"""The network in the formats of other runtimes."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from mcomp.deploy.formats.names import PACKAGES, WEIGHT_BITS, FormatName, missing_packages
from mcomp.stages.base import Finding, Metrics, Stage, StageContext, StageOptions, StageResult, Traits
from mcomp.stages.forecast import BYTES_PER_PARAMETER, DELIVERY_BYTES, DELIVERY_SECONDS, Forecast, Work
from mcomp.stages.placed_faults import faults_at
from mcomp.stages.registry import register

if TYPE_CHECKING:
    from torch import nn


@register
class Export(Stage):
    """Write the network in one or several formats, run each file, and compare; hand the model on unchanged."""

    name, version = "export", 5
    traits = Traits(metrics={"top1", "loss", "files_written", "relative_error"})

    class Options(StageOptions):
        formats: list[FormatName] = Field(
            ["onnx"],
            min_length=1,
            description="onnx, pt2 (torch.export), torchscript, openvino, ncnn (float weights), mnn (float, or integer "
            "weights)",
        )
        weight_bits: dict[FormatName, int] = Field(
            {}, description="format to the bits that its weights are stored in: mnn 8, 4 or 2; ncnn 16"
        )

        @model_validator(mode="after")
        def _offered(self) -> Export.Options:
            """Bits that a format has, of formats that are asked for, each once."""
            faults: dict[tuple[str, ...], str] = {}
            for name, bits in self.weight_bits.items():
                offered = WEIGHT_BITS.get(name, ())
                if name not in self.formats:
                    faults[("weight_bits", name)] = f"`{name}` is not among `formats`"
                elif bits not in offered:
                    listed = ", ".join(map(str, offered)) or "none"
                    faults[("weight_bits", name)] = f"`{name}` stores no weights in {bits} bits; it has {listed}"
            if len({*self.formats}) < len(self.formats):
                faults[("formats",)] = "a format stands there twice"
            if faults:
                raise faults_at(faults, self.model_dump())
            return self

    @classmethod
    def preflight(cls, model: nn.Module, options: Any) -> list[Finding]:
        """None; where a package is installed and cannot be imported, its error is raised."""
        from mcomp.deploy.formats.export import find_format

        for name in options.formats:
            if not missing_packages(name):
                find_format(name).require()
        return []

    @classmethod
    def missing(cls, options: Any) -> str:
        """Packages that are not installed, and what installs them."""
        from mcomp.deploy.runtime_package import install_command

        lacking = {name: modules for name in options.formats if (modules := missing_packages(name))}
        return "; ".join(
            f"the format `{name}` needs {' and '.join(modules)} ({install_command(modules)})"
            for name, modules in lacking.items()
        )

    @classmethod
    def key_parts(cls, options: Any) -> dict[str, Any]:
        """The packages that write the files decide their bytes."""
        return {
            package: metadata.version(package)
            for name in options.formats
            for module, package in PACKAGES.get(name, {}).items()
            if not missing_packages(name)
        }

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model itself."""
        return incoming

    @classmethod
    def work(cls, options: Any) -> Work:
        """Writing and running one file per format, and one pass over the test images."""
        count = len(options.formats)
        return Work(
            fixed_seconds=DELIVERY_SECONDS * count,
            extra_memory_bytes=DELIVERY_BYTES,
            files=BYTES_PER_PARAMETER[:1] * count,
        )

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Write ``model.<suffix>`` per format, each in a folder of its name; accuracy is that of the model itself."""
        from mcomp.deploy.formats.export import export

        rows: list[dict[str, Any]] = []
        files: dict[str, Path] = {}
        notes: list[str] = []
        for name in options.formats:
            ctx.report("status", text=f"writing and running `{name}`")
            made = export(
                ctx.model,
                ctx.example_inputs,
                ctx.work_dir / name / "model",
                name,
                weight_bits=options.weight_bits.get(name),
            )
            files.update({f"{name}.{path.name}": path for path in made.files})
            bits = f", weights of {made.weight_bits} bits" if made.weight_bits else ""
            notes.append(f"`{name}`{bits}: {made.bytes / 1e3:.1f} kB, {made.relative_error:.1e} apart from the model")
            notes += made.notes
            rows.append(made.as_dict())
        metrics: Metrics = {
            **ctx.evaluate(),
            "bytes": sum(row["bytes"] for row in rows),
            "files_written": len(files),
            "relative_error": max(row["relative_error"] for row in rows),
        }
        return StageResult(model=ctx.model, metrics=metrics, files=files, notes=notes, details={"exports": rows})
