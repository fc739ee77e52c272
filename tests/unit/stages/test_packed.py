from __future__ import annotations

import pytest
import torch

import mcomp
from mcomp.deploy import unpack
from mcomp.models import lenet


def test_the_stage_s_file_holds_the_weights_that_the_model_multiplies_with() -> None:
    torch.manual_seed(0)
    data = mcomp.data.load(name="digits", image_size=32, limit=200)
    model = lenet(num_classes=10)
    quantised = mcomp.stages.quantize(model, data=data, scheme="lsq", w_bits=2, a_bits=4, epochs=0, device="cpu").model
    result = mcomp.stages.packed(quantised, data=data)
    held = unpack(result.files["weights.packed"])
    assert result.metrics["exact"] == 1
    assert result.metrics["packed_bytes"] == result.files["weights.packed"].stat().st_size
    assert float(result.metrics["packed_ratio"]) > 8
    layer = next(module for module in quantised.modules() if hasattr(module, "weight_quantizer"))
    name = next(name for name in held.weights if held.tensors[name].shape == layer.weight.shape)
    with torch.no_grad():
        assert torch.equal(held.tensors[name], layer.weight_quantizer(layer.weight))


def test_the_stage_says_so_where_the_file_holds_other_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcomp.deploy.packed import packing

    torch.manual_seed(0)
    data = mcomp.data.load(name="digits", image_size=32, limit=200)
    model = mcomp.stages.quantize(lenet(num_classes=10), data=data, scheme="iao", epochs=0, device="cpu").model
    honest = packing.pack_bits
    monkeypatch.setattr(packing, "pack_bits", lambda codes, bits: honest(codes[::-1], bits))
    result = mcomp.stages.packed(model, data=data)
    assert result.metrics["exact"] == 0
    assert any("comes back up to" in note for note in result.notes)
