"""The most accurate candidate that really is as fast as the budget says."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mcomp.errors import StageError
from mcomp.metrics import model_latency
from mcomp.pruning.targets import TOLERANCE
from mcomp.search.network_space import NetworkSpace
from mcomp.search.study import Trial


def first_that_is_fast(
    ranked: Sequence[Trial], known: NetworkSpace, example_inputs: tuple[Tensor, ...], limit: float
) -> Trial:
    """The first of ``ranked`` whose pruned float network takes at most ``limit`` milliseconds, within 2 %.

    Raises:
        StageError: MC498, none of them does; the fastest is named.
    """
    assert known.pruning is not None
    fastest = float("inf")
    for trial in ranked:
        named = known.space.named(trial.genome)
        shares = {name: float(kinds["keep"]) for name, kinds in named.items() if "keep" in kinds}
        found = model_latency(known.pruning.cut(shares), example_inputs, batch=1, threads=1).median_ms
        if found <= limit * (1 + TOLERANCE):
            return trial
        fastest = min(fastest, found)
    raise StageError(
        f"no candidate that was looked at closely takes {limit:g} ms; the fastest takes {fastest:.3g}",
        code="MC498",
        why="between the whole and the smallest network, time was taken to grow with the MACs",
        hint=f"set `latency_ms` to {fastest:.3g}, keep fewer channels, or try more candidates",
    )
