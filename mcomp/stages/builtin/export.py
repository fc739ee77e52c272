"""The network in the formats of other runtimes."""

from __future__ import annotations

from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from mcomp.deploy.formats.names import PACKAGES, WEIGHT_BITS, FormatName, file_stem, missing_packages
from mcomp.stages.base import Finding, Metrics, Stage, StageContext, StageOptions, StageResult, Traits
from mcomp.stages.forecast import BYTES_PER_PARAMETER, DELIVERY_BYTES, DELIVERY_SECONDS, Forecast, Work
from mcomp.stages.placed_faults import faults_at
from mcomp.stages.registry import register

if TYPE_CHECKING:
    from torch import nn

    from mcomp.deploy.formats.export import Exported
    from mcomp.deploy.verification import Verification


@register
class Export(Stage):
    """Write the network in one or several formats, run each file, and compare; hand the model on unchanged."""

    name, version = "export", 7
    traits = Traits(
        metrics={
            "top1", "top1_backend", "top1_simulated", "agreement", "loss", "bytes_of", "files_written",
            "relative_error",
        }
    )  # fmt: skip

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
        """Writing one file per format, and a pass of the model and of each file over the test images."""
        count = len(options.formats)
        return Work(
            evaluations=1 + count,
            fixed_seconds=DELIVERY_SECONDS * count,
            extra_memory_bytes=DELIVERY_BYTES,
            files=BYTES_PER_PARAMETER[:1] * count,
        )

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Write ``<format>.model.<suffix>`` per format; accuracy is that of the file that predicts worst."""
        from mcomp.deploy.formats.export import export
        from mcomp.deploy.formats.measured import measure

        written: list[Exported] = []
        for name in options.formats:
            ctx.report("status", text=f"writing and running `{name}`")
            place, bits = ctx.work_dir / file_stem(name), options.weight_bits.get(name)
            written.append(export(ctx.model, ctx.example_inputs, place, name, weight_bits=bits))
        files = {path.name: path for made in written for path in made.files}
        metrics: Metrics = {
            "bytes": sum(made.bytes for made in written),
            "bytes_of": f"{len(written)} formats" if len(written) > 1 else "file" if len(files) == 1 else "files",
            "files_written": len(files),
            "relative_error": max(made.relative_error for made in written),
        }
        seen: list[Verification | None] = [None] * len(written)
        if ctx.data is not None:
            ctx.report("status", text="running the files on the test images")
            found = measure(written, ctx.model, ctx.data.test)
            seen = [*found]
            worst = min(range(len(found)), key=lambda place: found[place].top1)
            metrics |= {
                "top1": found[worst].top1,
                "top1_backend": written[worst].format,
                "top1_simulated": found[worst].simulated_top1,
                "agreement": min(one.agreement for one in found),
                "loss": found[worst].loss,
            }
        rows = list(zip(written, seen, strict=True))
        return StageResult(
            model=ctx.model,
            metrics=metrics,
            files=files,
            notes=[line for row in rows for line in _told(*row)],
            details={"exports": [made.as_dict() | (asdict(one) if one else {}) for made, one in rows]},
        )


def _told(made: Exported, seen: Verification | None) -> list[str]:
    """One file in a sentence, and what its runtime could not do."""
    bits = f", weights of {made.weight_bits} bits" if made.weight_bits else ""
    line = f"`{made.format}`{bits}: {made.bytes / 1e3:.1f} kB, {made.relative_error:.1e} apart from the model"
    if seen is not None:
        line += f"; top-1 {seen.top1:.2f} %, the model's class on {seen.agreement:.2f} % of the test images"
    return [line, *made.notes]
