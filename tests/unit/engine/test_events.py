from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path

import pytest

from mcomp.engine.events import Event, EventLog
from mcomp.errors import StageError


def lines(path: Path) -> list[Event]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class Broken:
    """Fails at the second event."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, event: Event) -> None:
        self.seen += 1
        if self.seen == 2:
            raise ConnectionError("the server went away\nwith details")


def test_a_listener_that_fails_is_dropped_with_a_notice_and_the_others_go_on(tmp_path: Path) -> None:
    broken, heard = Broken(), list[Event]()
    with closing(EventLog(tmp_path / "events.jsonl", [broken, heard.append])) as log:
        for number in range(4):
            log.emit("log", "train", text=str(number))
    assert broken.seen == 2
    assert [event["text"] for event in heard if event["event"] == "log"] == ["0", "1", "2", "3"]
    notices = [event["text"] for event in lines(tmp_path / "events.jsonl") if event["event"] == "notice"]
    assert notices == ["`Broken` no longer watches this run: ConnectionError: the server went away"]


def test_the_failure_of_one_listener_over_the_failure_of_another_ends_nothing() -> None:
    def first(_event: Event) -> None:
        raise ValueError("first")

    def second(_event: Event) -> None:
        raise ValueError("second")

    heard: list[Event] = []
    EventLog(None, [first, second, heard.append]).emit("log", text="hello")
    assert sorted(event["event"] for event in heard) == ["log", "notice", "notice"]


def test_a_snapshot_is_told_with_how_far_it_is(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "events.jsonl")) as log:
        reached = log.snapshot("train", {"epoch": 2, "epochs": 5, "step": 0, "steps": 21, "model": object()})
    assert reached == {"epoch": 2, "epochs": 5, "step": 0, "steps": 21}
    (event,) = lines(tmp_path / "events.jsonl")
    assert (event["event"], event["stage"], event["epoch"]) == ("snapshot", "train", 2)


def test_steps_reach_listeners_and_not_the_file(tmp_path: Path) -> None:
    heard: list[Event] = []
    with closing(EventLog(tmp_path / "events.jsonl", [heard.append])) as log:
        log.later("a signal came")
        log.reporter("train")("step", step=1)
    assert [event["event"] for event in heard] == ["notice", "step"]
    assert [event["event"] for event in lines(tmp_path / "events.jsonl")] == ["notice"]


def test_a_listener_that_wants_to_exit_ends_nothing() -> None:
    def leave(_event: Event) -> None:
        sys.exit(3)

    heard: list[Event] = []
    EventLog(None, [leave, heard.append]).emit("log", text="hello")
    assert [event["event"] for event in heard] == ["log", "notice"]


@pytest.mark.parametrize("name", ["stage", "time", "event"])
def test_a_stage_is_told_of_a_field_that_every_event_has(name: str) -> None:
    report = EventLog(None).reporter("mine")
    with pytest.raises(StageError, match=f"`mine` reported a field `{name}`") as error:
        report("status", **{name: "x"})
    assert error.value.code == "MC408"


def test_a_stage_may_call_a_field_as_it_likes(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "events.jsonl")) as log:
        log.reporter("mine")("status", kind="x", self=1)
    assert lines(tmp_path / "events.jsonl")[0]["kind"] == "x"


def test_what_json_cannot_hold_is_told_as_text(tmp_path: Path) -> None:
    loop: list[object] = []
    loop.append(loop)
    with closing(EventLog(tmp_path / "events.jsonl")) as log:
        log.reporter("mine")("status", table={(1, 2): 3}, loop=loop, rate=float("nan"))
    (event,) = lines(tmp_path / "events.jsonl")
    assert (event["table"], event["rate"]) == ("{(1, 2): 3}", "nan")
    assert "..." in event["loop"]
