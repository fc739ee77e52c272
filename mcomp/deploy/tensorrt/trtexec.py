"""The command that builds the same engine without mcomp."""

from __future__ import annotations

from collections.abc import Mapping

from mcomp.deploy.tensorrt.shapes import ShapeRange


def trtexec_command(
    onnx_name: str, plan_name: str, shapes: Mapping[str, ShapeRange], workspace_mb: int, optimization_level: int
) -> str:
    """The command that builds the same engine by hand, in the folder of the ONNX file."""
    ranges = []
    for kind in ("min", "opt", "max") if shapes else ():
        sizes = {name: "x".join(map(str, getattr(shape, kind))) for name, shape in shapes.items()}
        ranges.append(f"--{kind}Shapes={','.join(f'{name}:{size}' for name, size in sizes.items())}")
    return " ".join(
        [
            "trtexec",
            f"--onnx={onnx_name}",
            "--stronglyTyped",  # 11 is always so, and takes the flag
            f"--saveEngine={plan_name}",
            *ranges,
            f"--memPoolSize=workspace:{workspace_mb}",
            f"--builderOptimizationLevel={optimization_level}",
            "--timingCacheFile=timing.cache",
            "--profilingVerbosity=detailed",
            "--exportLayerInfo=layers.json",
        ]
    )
