"""Claim: a packed binary NIN has at most 1.03 times a bit per weight and its float parts; a ternary one 1.6 bits.

Bytes as measured on disk, header and checksum included, beside a ``state_dict`` of the same float network on disk. The
weights that :func:`mcomp.deploy.unpack` reads back are compared with those that the network multiplies with.

    python benchmarks/packed_size.py [--out benchmarks/results/packed_size.json]
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mcomp.deploy import pack, unpack
from mcomp.models.network_in_network import nin
from mcomp.quantization import calibrate, quantize

SCHEMES: dict[str, dict[str, Any]] = {
    "binary": {"scheme": "wbwtab"},
    "ternary, base 3": {"scheme": "wbwtab", "w_bits": 2},
    "ternary, 2 bits": {"scheme": "wbwtab", "w_bits": 2},
    "lsq 2 bits": {"scheme": "lsq", "w_bits": 2},
    "lsq 3 bits": {"scheme": "lsq", "w_bits": 3},
    "lsq 4 bits": {"scheme": "lsq", "w_bits": 4},
    "iao 8 bits": {"scheme": "iao"},
}
#: Of a binary file, over weights / 8 plus everything that is float.
MOST = 1.03


def row(name: str, model: nn.Module, folder: Path) -> dict[str, Any]:
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    quantised = quantize(model, (x,), **SCHEMES[name]).eval()
    calibrate(quantised, [x], "minmax")
    packing = pack(quantised, folder / "model.packed", ternary="2bit" if "2 bits" in name else "base3")
    found = unpack(packing.path).tensors
    same = all(
        torch.equal(found[f"{path}.weight"], module.quantized_weight())
        for path, module in quantised.named_modules()
        if f"{path}.weight" in found and callable(getattr(module, "quantized_weight", None))
    )
    weights = [tensor for tensor in packing.tensors if tensor.levels]
    count = sum(math.prod(tensor.shape) for tensor in weights)
    floats = packing.bytes - sum(tensor.bytes for tensor in weights)
    parts = sum(tensor.scale_bytes if tensor.levels else tensor.bytes for tensor in packing.tensors)
    return {
        "scheme": name,
        "bytes": packing.bytes,
        "weights": count,
        "bits_per_weight": round(8 * sum(tensor.bytes for tensor in weights) / count, 3),
        "float_parts": parts,
        "header_and_padding": floats - parts,
        "over_a_bit_per_weight_and_float_parts": round(packing.bytes / (count / 8 + parts), 4),
        "same_weights": same and packing.exact,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = nin().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as trained ones: no two tensors alike, for those are stored once
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 2)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "float.pt")
        float_bytes = (Path(folder) / "float.pt").stat().st_size
        rows = [row(name, model, Path(folder)) for name in SCHEMES]
    for one in rows:
        one["times_smaller_than_float"] = round(float_bytes / one["bytes"], 2)
    by_name = {one["scheme"]: one for one in rows}
    held = (
        all(one["same_weights"] for one in rows)
        and by_name["binary"]["over_a_bit_per_weight_and_float_parts"] <= MOST
        and by_name["ternary, base 3"]["bits_per_weight"] <= 1.61
    )
    result = {
        "claim": f"packed binary <= {MOST} x (weights / 8 + float parts), ternary in base 3, the same weights back",
        "held": held,
        "network": "nin",
        "float_state_dict_bytes": float_bytes,
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
