"""The one failure a run mends by itself: an artifact that no longer reads back."""

from __future__ import annotations

from mcomp.errors import StoreError


class DamagedArtifactError(StoreError):
    """An artifact is gone, or does not read back as it was written; it has been set aside."""

    def __init__(self, artifact: str, why: str) -> None:
        super().__init__(
            f"artifact {artifact[:12]} does not read back",
            code="MC309",
            why=why,
            hint="run the same command again: the stage that made it runs anew",
        )
