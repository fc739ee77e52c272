"""The one failure a run mends by itself: an artifact that no longer reads back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mcomp.errors import StoreError

if TYPE_CHECKING:
    from mcomp.store import Store


class DamagedArtifactError(StoreError):
    """An artifact is gone, or does not read back as it was written; it has been set aside."""

    def __init__(self, artifact: str, why: str) -> None:
        super().__init__(
            f"artifact {artifact[:12]} does not read back",
            code="MC309",
            why=why,
            hint="run the same command again: the stage that made it runs anew",
        )


def present(store: Store, artifact: str) -> Path:
    """The folder of an artifact that was there a moment ago.

    Raises:
        DamagedArtifactError: it is gone, or files of it are.
    """
    folder = store.object(artifact)
    if folder is None:
        raise DamagedArtifactError(artifact, "it is gone from the store")
    return folder
