from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from mcomp.deploy.float_export import export_float
from mcomp.deploy.onnx_graph import OnnxGraph
from mcomp.deploy.simplify import fix_reshapes
from mcomp.models.channel_shuffle import ChannelShuffle


class FlattenBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1) * x.size(2), -1).reshape(x.shape[0], -1)


class BatchInTheMiddle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(6, x.size(0), 16)


@pytest.mark.parametrize("model", [ChannelShuffle(2), FlattenBySize(), BatchInTheMiddle()])
def test_a_reshape_by_sizes_becomes_a_constant_and_still_takes_any_batch(model: nn.Module) -> None:
    import onnxruntime

    x = torch.randn(2, 6, 4, 4)
    proto, _ = export_float(lambda route: (model, None), (x,))
    wanted = fix_reshapes(proto)
    assert wanted >= 1
    made = OnnxGraph(proto).finish()
    found = Counter(node.op_type for node in made.graph.node)
    assert not found["Shape"] + found["Gather"]
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        batch = torch.randn(count, 6, 4, 4)
        assert torch.equal(torch.from_numpy(session.run(None, {"input": batch.numpy()})[0]), model(batch))
