"""The quantised weights in a file of as many bits as they have."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mcomp.stages.base import Metrics, Stage, StageContext, StageOptions, StageResult, Traits
from mcomp.stages.forecast import Forecast, Work
from mcomp.stages.registry import register

FILE = "weights.packed"


@register
class Packed(Stage):
    """Write the weights bit-packed, read them back and compare (`mcomp help packed-weights`); hand the model on."""

    name, version = "packed", 4
    traits = Traits(requires={"quantized"}, metrics={"top1", "loss", "bytes_of", "float_bytes", "exact"})

    class Options(StageOptions):
        ternary: Literal["base3", "2bit"] = Field(
            "base3", description="three values: five in a byte, or two bits each, which are read faster"
        )

    @classmethod
    def forecast(cls, incoming: Forecast, options: Any) -> Forecast:
        """The model itself."""
        return incoming

    @classmethod
    def work(cls, options: Any) -> Work:
        """One pass over the test images; writing takes next to nothing."""
        return Work()

    def run(self, ctx: StageContext, options: Any) -> StageResult:
        """Write ``weights.packed``; accuracy is that of the model; ``exact`` comes of reading the file back."""
        from mcomp.deploy import pack

        made = pack(ctx.model, ctx.work_dir / FILE, ternary=options.ternary)
        metrics: Metrics = {
            **ctx.evaluate(),
            "bytes": made.bytes,
            "bytes_of": "file",
            "float_bytes": made.float_bytes,
            "exact": "yes" if made.exact else "no",
        }
        notes = [
            *made.notes,
            *(
                f"`{tensor.name}` comes back up to {tensor.max_abs_error:.1e} apart"
                for tensor in made.tensors
                if not tensor.exact
            ),
        ]
        return StageResult(
            model=ctx.model, metrics=metrics, files={FILE: made.path}, notes=notes, details={"packed": made.as_dict()}
        )
