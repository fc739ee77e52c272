"""What TensorRT says while it works, kept so that an error can quote it; nothing is printed."""

from __future__ import annotations

from typing import Any

from mcomp.deploy.tensorrt.protocols import TensorRT


class Messages:
    """The errors and warnings of one builder or runtime, and the logger that collects them.

    Attributes:
        logger: to be handed to TensorRT; must outlive all that is made with it.
        errors: in the order in which they came.
        warnings: likewise.
    """

    def __init__(self, trt: TensorRT) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        base: Any = trt.ILogger
        severe = (base.INTERNAL_ERROR, base.ERROR)
        notable, errors, warnings = base.WARNING, self.errors, self.warnings

        class Collector(base):  # type: ignore[misc]  # the base is known once TensorRT is there
            def __init__(self) -> None:
                base.__init__(self)  # the bindings ask for this very call

            def log(self, severity: Any, message: str) -> None:
                """Keep what matters."""
                if severity in severe:
                    errors.append(message)
                elif severity == notable:
                    warnings.append(message)

        self.logger: Any = Collector()

    def why(self, otherwise: str = "") -> str:
        """The last errors, or ``otherwise``."""
        return "; ".join(" ".join(message.split())[:300] for message in self.errors[-2:]) or otherwise
