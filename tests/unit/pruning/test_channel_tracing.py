"""What the trace says of networks whose dependencies are known."""

from __future__ import annotations

import torch
from torch import nn

from mcomp.models import lenet, nin_gc
from mcomp.pruning import ChannelGroup, trace
from mcomp.pruning.labels import connected
from tests.unit.pruning.pruning_nets import Net, block, head, images


def group(model: nn.Module, name: str, size: int = 8) -> ChannelGroup:
    return next(one for one in trace(model.eval(), (images(size),)) if name in one.producers)


def test_connected_components_are_named_by_their_smallest_member() -> None:
    pairs = torch.tensor([[5, 4, 3, 9], [4, 3, 2, 8]])
    assert connected(10, pairs).tolist() == [0, 1, 2, 2, 2, 2, 6, 7, 8, 8]


def test_a_long_chain_is_one_component() -> None:
    shuffled = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    assert connected(5000, torch.stack([shuffled[1:], shuffled[:-1]])).unique().tolist() == [0]


def test_a_convolution_its_norm_and_its_reader_are_one_group() -> None:
    found = group(nn.Sequential(block(3, 8), block(8, 16), head(16)), "0.0")
    assert found.channels == 8
    assert found.consumers == ("1.0",)
    axes = {(axis.parameter, axis.axis, axis.role) for axis in found.coupled}
    assert {("0.0.weight", 0, "rows"), ("1.0.weight", 1, "columns"), ("0.1.running_var", 0, "values")} <= axes
    assert found.whole == ""


def test_a_flattened_channel_owns_all_its_positions() -> None:
    model = nn.Sequential(block(3, 8), nn.Flatten(), nn.Linear(8 * 64, 5))
    columns = next(axis for axis in group(model, "0.0").coupled if axis.role == "columns")
    assert columns.members.tolist() == [channel for channel in range(8) for _ in range(64)]


def test_a_residual_add_couples_its_two_producers() -> None:
    model = Net(lambda s, x: s.h(s.a(x) + s.b(x)), a=block(3, 8), b=block(3, 8), h=head(8))
    assert group(model, "a.0").producers == ("a.0", "b.0")


def test_a_depthwise_convolution_belongs_to_the_channels_it_reads() -> None:
    found = group(nn.Sequential(block(3, 8), block(8, 8, groups=8), head(8)), "0.0")
    assert found.producers == ("0.0", "1.0")
    assert found.base() == 1


def test_the_base_is_the_least_common_multiple_of_producer_consumer_and_regular() -> None:
    model = nn.Sequential(block(4, 24, groups=2), block(24, 24, groups=3), head(24))
    x = torch.randn(2, 4, 8, 8)
    found = next(iter(trace(model.eval(), (x,))))
    assert (found.base(), found.base(4), found.base(8)) == (6, 12, 24)


def test_the_output_layer_is_left_whole_with_its_reason() -> None:
    found = group(nn.Sequential(block(3, 8), head(8)), "1.2")
    assert found.whole == "is an output of the network"


def test_every_layer_of_nin_gc_but_the_last_is_prunable() -> None:
    groups = trace(nin_gc(width=0.25).eval(), (images(16),))
    assert len(groups) == 9
    assert [one.name for one in groups if one.whole] == ["features.10.conv"]
    assert [one.base() for one in groups.prunable] == [2, 2, 16, 16, 4, 32, 32, 8]


def test_the_groups_print_as_a_tree() -> None:
    text = str(trace(lenet(), (images(32),)))
    assert "conv1: 6 channels\n  ├─    rows conv1.weight[axis 0] × 6" in text
    assert "fc3: 10 channels [whole: is an output of the network]" in text


def test_tracing_leaves_hooks_mode_and_values_of_the_model_alone() -> None:
    model = nn.Sequential(block(3, 8), head(8)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, (images(),))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_nothing_is_left_on_tensors_that_outlive_the_trace() -> None:
    order = torch.arange(8)
    model = Net(lambda s, x: s.h(s.a(x)[:, order] * 1), a=block(3, 8), h=head(8))
    trace(model.eval(), (images(),))
    assert not vars(order)
