"""TensorBoard: one folder of event files per run, written by TensorBoard's own writer, without torch."""

from __future__ import annotations

import textwrap
import time as clock
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcomp.engine.summary import verdict_text
from mcomp.report.trackers.base import TrackedRun, Tracker, not_opened, required, status_text
from mcomp.report.trackers.parameters import Scalar

if TYPE_CHECKING:
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

_DT_FLOAT, _DT_STRING = 1, 7  # of TensorFlow's types.proto


class TensorBoardTracker(Tracker):
    """Writes to ``DIR/<run id>``; ``DIR`` is ``tensorboard`` in the store unless the spec names one.

    The runs of a sweep carry its values as hyperparameters, which TensorBoard compares in a tab of its own.
    """

    name = "tensorboard"

    def __init__(self, target: str | None, store_root: Path) -> None:
        super().__init__(target, store_root)
        writer = "tensorboard.summary.writer.event_file_writer"
        self._writers: Any = required(writer, "tensorboard", "tensorboard")
        self._events: Any = required("tensorboard.compat.proto.event_pb2", "tensorboard", "tensorboard")
        self._folder = Path(target) if target else store_root / "tensorboard"
        try:
            if not self.in_store(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = "name a folder that can be written to, as in `tensorboard=runs/tensorboard`"
            raise not_opened("tensorboard", f"`{self._folder}`", error, hint) from error
        self._writer: EventFileWriter | None = None
        self._stages = 0

    def begin(self, run: TrackedRun) -> None:
        """Open the run's folder."""
        self._writer = self._writers.EventFileWriter(str(self._folder / run.id))
        self._stages = 0
        # an indented block is code to the text plug-in, whatever the recipe has written in it
        self._text("recipe", textwrap.indent(run.lock, "    ", lambda _: True), run.started)
        if run.sweep:
            sweep: dict[str, Scalar] = {
                path: value if isinstance(value, bool | int | float | str) else str(value)
                for path, value in run.sweep.items()
            }
            hparams: Any = required("tensorboard.plugins.hparams.summary_v2", "tensorboard", "tensorboard")
            self._add(hparams.hparams_pb(sweep, trial_id=run.id, start_time_secs=run.started), 0, run.started)

    def scalars(self, stage: str, values: Mapping[str, float], epoch: int, time: float) -> None:
        """One point per value, tagged ``<stage>/<name>``."""
        summary = self._events.Event().summary
        for name, value in values.items():
            summary.value.add(tag=f"{stage}/{name}", simple_value=value)
        self._add(summary, epoch, time)

    def outcome(self, outcome: dict[str, Any], time: float) -> None:
        """The figures along the recipe over the number of its stages; gates and notes as text."""
        self._stages += 1
        summary = self._events.Event().summary
        for name in ("top1", "params", "macs", "bytes", "latency_ms"):
            value = outcome["metrics"].get(name)
            if isinstance(value, int | float):
                summary.value.add(tag=f"along_the_recipe/{name}", simple_value=value)
        self._add(summary, self._stages, time)
        lines = [f"status: {outcome['status']}"]
        lines += [f"gate {verdict_text(gate)}" for gate in outcome["gates"]]
        lines += [f"{name}: {value}" for name, value in outcome["metrics"].items() if isinstance(value, str)]
        lines += outcome["notes"]
        self._text(f"{outcome['id']}/outcome", "\n".join(f"    {line}" for line in lines), time)

    def end(self, run: TrackedRun, status: str, result: dict[str, Any]) -> None:
        """Write how the run ended, and close its file."""
        now = clock.time()
        self._text("status", f"    {status_text(result)}", now)
        if run.sweep:
            self._end_of_trial(status == "ok", now)
        self._close_file()

    def close(self) -> None:
        """End the run under way; after a failure only the file is closed."""
        super().close()
        self._close_file()

    def _close_file(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.close()

    def _end_of_trial(self, well: bool, time: float) -> None:
        """What the hyperparameter tab shows as a trial's status; its public API only starts one."""
        protos: Any = required("tensorboard.plugins.hparams.plugin_data_pb2", "tensorboard", "tensorboard")
        kinds: Any = required("tensorboard.plugins.hparams.api_pb2", "tensorboard", "tensorboard")
        kind = kinds.STATUS_SUCCESS if well else kinds.STATUS_FAILURE
        ended = protos.HParamsPluginData(session_end_info=protos.SessionEndInfo(status=kind, end_time_secs=time))
        summary = self._events.Event().summary
        value = summary.value.add(tag="_hparams_/session_end_info")
        value.metadata.plugin_data.plugin_name = "hparams"
        value.metadata.plugin_data.content = ended.SerializeToString()
        value.tensor.dtype = _DT_FLOAT
        value.tensor.float_val.append(0.0)
        self._add(summary, 0, time)

    def _text(self, tag: str, text: str, time: float) -> None:
        summary = self._events.Event().summary
        value = summary.value.add(tag=tag)
        value.metadata.plugin_data.plugin_name = "text"
        value.tensor.dtype = _DT_STRING
        value.tensor.tensor_shape.dim.add(size=1)
        value.tensor.string_val.append(text.encode())
        self._add(summary, 0, time)

    def _add(self, summary: Any, step: int, time: float) -> None:
        assert self._writer is not None
        self._writer.add_event(self._events.Event(wall_time=time, step=step, summary=summary))
        self._writer.flush()  # so that whoever watches sees an epoch when it ends
