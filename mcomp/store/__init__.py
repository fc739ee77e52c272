"""Where results live: content-addressed objects, finished actions, snapshots, runs, locks. No torch at import."""

from __future__ import annotations

from mcomp.store.content_store import Store
from mcomp.store.runs import Run, RunRecord

__all__ = ["Run", "RunRecord", "Store"]
