from __future__ import annotations

import errno
import json
import os
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.identity import Identity
from converge.core.message import Message
from converge.core.topic import Topic
from converge.observability.errors import ReplayLogError
from converge.observability.replay import DEFAULT_MAX_EVENTS, ReplayLog

if TYPE_CHECKING:
    from pathlib import Path

HEADER = {"format": "converge-replay", "version": 1, "events": 1, "dropped": 0}
EVENT = {"type": "message", "recorded_at": 1, "data": {}}


def message(number: int = 0) -> Message:
    return Message(id=f"m{number}", sender="a", payload={"n": number}, timestamp=1000)


def filled(count: int, max_events: int = DEFAULT_MAX_EVENTS) -> ReplayLog:
    log = ReplayLog(max_events, clock=lambda: 1.5)
    for number in range(count):
        log.record_message(message(number))
    return log


def ids(log: ReplayLog) -> list[Any]:
    return [event["data"]["id"] for event in log.events]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_an_event_holds_the_message_as_a_dict_and_when_it_was_recorded() -> None:
    log = filled(1)
    assert log.events == [{"type": "message", "recorded_at": 1500, "data": message().to_dict()}]


def test_a_signed_message_still_verifies_after_export_and_load(tmp_path: Path) -> None:
    identity = Identity.generate()
    payload = {"bytes": b"\x00\xff", "float": float("inf"), "text": "ü\n\u2028", "$bytes": "no"}
    signed = Message(topics=[Topic("t", {"k": "v"})], payload=payload).sign(identity)
    log, loaded = ReplayLog(), ReplayLog()
    log.record_message(signed)
    log.export(tmp_path / "log.jsonl")
    loaded.load(tmp_path / "log.jsonl")
    assert loaded.events == log.events
    restored = Message.from_dict(loaded.events[0]["data"])
    assert restored == signed
    assert restored.verify(identity.public_key)


def test_a_message_changed_after_it_was_recorded_is_kept_as_it_was() -> None:
    changing = Message(payload={"list": [1]})
    log = ReplayLog()
    log.record_message(changing)
    before = json.dumps(log.events)
    changing.payload["list"].append(2)
    assert json.dumps(log.events) == before


def test_only_the_newest_are_kept_and_the_forgotten_counted() -> None:
    log = filled(5, max_events=3)
    assert ids(log) == ["m2", "m3", "m4"]
    assert log.dropped == 2


def test_the_default_bound_is_under_30000_events() -> None:
    log = ReplayLog()
    one = message()
    for _ in range(DEFAULT_MAX_EVENTS + 1):
        log.record_message(one)
    assert len(log.events) == DEFAULT_MAX_EVENTS < 30_000


@pytest.mark.parametrize("max_events", [0, -1, True, 1.5, None])
def test_a_log_has_a_bound(max_events: Any) -> None:
    with pytest.raises(ValueError, match="max_events"):
        ReplayLog(max_events)


def test_large_messages_are_bounded_by_their_bytes_and_not_by_their_number_alone() -> None:
    log = ReplayLog(1_000, max_bytes=100_000)
    for number in range(200):
        log.record_message(Message(id=f"m{number}", payload={"fill": "x" * 1_000 * (number % 5)}))
    assert log.events[-1]["data"]["id"] == "m199"
    assert 20 < len(log.events) < 60
    assert len(log.events) + log.dropped == 200
    log.record_message(Message(payload={"fill": "x" * 200_000}))
    assert (log.events, log.dropped) == ([], 201)


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, True, None])
def test_the_bound_in_bytes_is_a_number(max_bytes: Any) -> None:
    with pytest.raises(ValueError, match=r"max_bytes is .*at least 1"):
        ReplayLog(max_bytes=max_bytes)


def test_a_file_that_is_larger_than_the_log_keeps_the_newest(tmp_path: Path) -> None:
    filled(100).export(tmp_path / "log")
    small = ReplayLog(max_bytes=2_000)
    small.load(tmp_path / "log")
    assert 0 < len(small.events) < 100
    assert ids(small)[-1] == "m99"
    assert small.dropped == 100 - len(small.events)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_what_was_exported_loads_back_equal(tmp_path: Path, count: int) -> None:
    log, loaded = filled(count, max_events=3), filled(2)
    log.export(str(tmp_path / "log"))
    loaded.load(str(tmp_path / "log"))
    assert (loaded.events, loaded.dropped) == (log.events, log.dropped)


def test_a_smaller_log_keeps_the_newest_of_a_file_and_goes_on_from_there(tmp_path: Path) -> None:
    filled(5).export(tmp_path / "log")
    small = ReplayLog(2)
    small.load(tmp_path / "log")
    assert (ids(small), small.dropped) == (["m3", "m4"], 3)
    small.record_message(message(9))
    assert (ids(small), small.dropped) == (["m4", "m9"], 4)


def test_an_export_replaces_the_file_whole_and_only_the_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("what was there")
    filled(1).export(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["log"]


def test_an_export_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    path = tmp_path / "log"
    filled(1).export(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        filled(2).export(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["log"]  # names, as the system gives them


def test_what_cannot_be_written_is_not_recorded() -> None:
    class Unserializable(Message):
        def to_dict(self) -> Any:
            return {"value": object()}

    log = filled(2)
    with pytest.raises(TypeError):
        log.record_message(Unserializable())
    assert ids(log) == ["m0", "m1"]


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        filled(1).export(tmp_path / "none" / "log")
    with pytest.raises(FileNotFoundError):
        ReplayLog().load(tmp_path / "none")


@pytest.mark.parametrize(
    ("lines", "number", "reason"),
    [
        ([], 1, "header"),
        ([EVENT], 1, "header"),
        ([[]], 1, "object"),
        ([HEADER | {"version": 2}, EVENT], 1, "version 2"),
        ([HEADER | {"version": True}, EVENT], 1, "header"),
        ([HEADER | {"events": -1}], 1, "numbers"),
        ([HEADER | {"events": "1"}, EVENT], 1, "numbers"),
        ([HEADER | {"dropped": None}, EVENT], 1, "numbers"),
        ([HEADER], 1, "ends after 0 events"),
        ([HEADER | {"events": 3}, EVENT, EVENT], 3, "ends after 2 events"),
        ([HEADER, EVENT, EVENT], 3, "ends after 2 events"),
        ([HEADER, 7], 2, "object"),
        ([HEADER, {}], 2, "not an event"),
        ([HEADER, EVENT | {"type": "other"}], 2, "not an event"),
        ([HEADER, EVENT | {"more": 1}], 2, "not an event"),
        ([HEADER, EVENT | {"data": []}], 2, "data"),
        ([HEADER, EVENT | {"recorded_at": 1.5}], 2, "recorded_at"),
        ([HEADER, EVENT | {"recorded_at": True}], 2, "recorded_at"),
        ([HEADER, EVENT | {"data": {"x": float("nan")}}], 2, "NaN"),
    ],
)
def test_a_malformed_file_is_refused_by_line_and_the_log_is_unchanged(
    tmp_path: Path, lines: list[object], number: int, reason: str
) -> None:
    path = write(tmp_path / "log", *lines)
    log = filled(2)
    with pytest.raises(ValueError, match=reason) as caught:
        log.load(path)
    assert isinstance(caught.value, ReplayLogError)
    assert (caught.value.path, caught.value.line) == (str(path), number)
    assert f"line {number}:" in str(caught.value)
    assert ids(log) == ["m0", "m1"]


@pytest.mark.parametrize("line", [b"{", b"\xff", b"[" * 100_000, b"{}", b"not json\n", b"\n"])
def test_bytes_that_are_not_lines_of_json_are_refused(tmp_path: Path, line: bytes) -> None:
    path = write(tmp_path / "log", HEADER)
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(ReplayLogError, match="line 2"):
        ReplayLog().load(path)


def test_a_file_cut_anywhere_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    filled(3).export(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ReplayLogError):
            ReplayLog().load(path)


def test_messages_from_many_threads_are_all_kept_or_counted() -> None:
    log = ReplayLog(100)

    def record() -> None:
        for number in range(100):
            log.record_message(message(number))

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(log.events) + log.dropped == 400
