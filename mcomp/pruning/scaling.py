"""Numbers that follow a width: what the narrow code multiplies by, and the weights that make up for it.

``softmax(q @ k / sqrt(width))`` has another scale in a narrower head. The network was trained with the old one, and it
stays: the weights that make ``q`` are multiplied by what the code now divides too little by.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcomp.pruning.channel_surgery import Cut, Rescaling
from mcomp.pruning.labels import SETTLED, Site, distinct, narrowed
from mcomp.pruning.tracing import Operation, Trace

_SAME = 1e-9


def rescalings(wide: Trace, narrow: Trace, cuts: list[Cut]) -> list[Rescaling]:
    """What has to be multiplied so that every number of the wide network stays in force; the self-check judges."""
    before, after = _multiplications(wide), _multiplications(narrow)
    if [operation.name for _, operation in before] != [operation.name for _, operation in after]:
        return []
    kept = {(cut.parameter, cut.role, cut.axis): cut.indices for cut in cuts}
    trained = {name for name, _ in wide.subject.named_parameters()}  # statistics stay what they were
    makers = [site for site in wide.sites.values() if site.role in ("rows", "values") and site.key in trained]
    found: list[Rescaling] = []
    for (place, one), (_, other) in zip(before, after, strict=True):
        assert one.factor is not None
        assert other.factor is not None
        if abs(one.factor - other.factor) > _SAME * abs(one.factor) and other.factor:
            ahead = [site for site in makers if site.operation < place]
            found += _of_one(wide, ahead, one, one.factor / other.factor, kept)
    return found


def _multiplications(trace: Trace) -> list[tuple[int, Operation]]:
    return [(place, operation) for place, operation in enumerate(trace.operations) if operation.factor is not None]


def _of_one(
    trace: Trace, sites: list[Site], operation: Operation, factor: float, kept: dict[tuple[str, str, int], Tensor]
) -> list[Rescaling]:
    """The last layer or norm of ``sites`` that makes the channels of ``operation``, multiplied."""
    carried = operation.labels[0] if operation.queries is None and operation.labels else operation.queries
    if carried is None:
        return []
    labels = distinct(narrowed(carried).flatten())
    labels = labels[labels > SETTLED]
    classes = trace.classes[labels]
    slots = {id(site): _slots(trace, site, labels, classes) for site in sites}
    makers = [site for site in sites if bool(slots[id(site)].any())]
    ends = [site for site in makers if site.role == "rows" or "norm" in _met_by(trace, site)]
    if not ends:
        return []
    last = max(ends, key=lambda site: site.operation)
    found = []
    for site in makers:  # what is added behind the last layer or norm grows with it; what is multiplied need not
        if site.operation == last.operation or (site.operation > last.operation and "add" in _met_by(trace, site)):
            # a bias has the slots of its layer; keys go with queries, and are not multiplied with them
            same = last.role == "rows" and len(site.labels) == len(last.labels)
            mine = slots[id(last)] if same else slots[id(site)]
            stays = kept.get((site.key, site.role, site.axis), torch.arange(len(site.labels)))
            found.append(Rescaling(site.key, site.axis, mine[stays].nonzero().flatten(), factor))
    return found


def _slots(trace: Trace, site: Site, labels: Tensor, classes: Tensor) -> Tensor:
    """``[slots]`` whether these are of the channels: a layer's by their own labels, a value's by what they met."""
    if site.role == "rows":
        return torch.isin(site.labels, labels)
    return torch.isin(trace.classes[site.labels], classes)


def _met_by(trace: Trace, site: Site) -> str:
    return trace.operations[site.operation].name
