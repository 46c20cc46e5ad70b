"""A bounded log of the messages an agent saw, that can be written to a file and loaded back equal.

The file is JSON lines in ASCII: first a header, `{"format": "converge-replay", "version": 1, "events": n,
"dropped": n}`, then one event a line. The count in the header tells a whole file from one that was cut.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn, TypedDict

from converge.observability.atomic_file import replace_file
from converge.observability.errors import ReplayLogError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from converge.core.message import Message

__all__ = ["DEFAULT_MAX_BYTES", "DEFAULT_MAX_EVENTS", "Event", "ReplayLog"]

DEFAULT_MAX_EVENTS: Final = 10_000
"""How many events a log keeps unless told otherwise."""

DEFAULT_MAX_BYTES: Final = 64 * 1024 * 1024
"""How large they may be together unless told otherwise, each counted as its line in the file."""

_FORMAT, _VERSION = "converge-replay", 1
_MAX_LINE_BYTES = 16 * 1024 * 1024


class Event(TypedDict):
    """What happened. `recorded_at` is in Unix milliseconds; `data` is the message's `to_dict()`."""

    type: str
    recorded_at: int
    data: Mapping[str, object]


class ReplayLog:
    """The last messages, at most `max_events` and `max_bytes`; recording one more forgets the oldest and counts it in
    `dropped`. One that is larger than `max_bytes` by itself is dropped at once. Thread-safe.

    A message is recorded with its signature, so that `Message.from_dict(event["data"])` can be verified later, also
    by somebody else. A log has the payloads in it: treat its files as you treat them. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        max_events: int = DEFAULT_MAX_EVENTS,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, most in (("max_events", max_events), ("max_bytes", max_bytes)):
            if not _is_count(most) or most < 1:
                raise ValueError(f"{name} is {most!r}; it is a number, at least 1")
        self._max_events, self._max_bytes = max_events, max_bytes
        self._lines: deque[bytes] = deque()  # as in the file: a fraction of what the dicts would take
        self._size = 0
        self._dropped = 0
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def events(self) -> list[Event]:
        """The events kept, oldest first: copies, which are the caller's. Decodes all of them at each call."""
        with self._lock:
            lines = list(self._lines)
        return [json.loads(line) for line in lines]

    @property
    def dropped(self) -> int:
        """How many older events were forgotten."""
        return self._dropped

    def record_message(self, message: Message) -> None:
        """Add `message` as it is now."""
        event: Event = {"type": "message", "recorded_at": int(self._clock() * 1000), "data": message.to_dict()}
        line = _line(event)
        with self._lock:
            self._append(line)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the log to the file `path`, mode 0600: after a crash at any instant the old file is there, or the new.

        Raises `OSError` when it cannot be written; the old file is untouched then.
        """
        with self._lock:
            lines, dropped = list(self._lines), self._dropped
        header = {"format": _FORMAT, "version": _VERSION, "events": len(lines), "dropped": dropped}
        replace_file(Path(path), chain([_line(header)], lines))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Replace the content of this log by that of the file `path`; of a longer one the newest events are kept.

        Raises `ReplayLogError` (a ValueError) naming the line when the file is malformed or cut, and `OSError` when it
        cannot be read; the log is unchanged then. The messages are not verified here: whoever reads them does that.
        """
        loaded = ReplayLog(self._max_events, max_bytes=self._max_bytes)
        with Path(path).open("rb") as file:
            lines = _objects(file, str(path))
            count, dropped = _header(next(lines, {}), str(path))
            number = 1
            for number, line in enumerate(lines, 2):
                loaded._append(_line(_event(line, str(path), number)))
        if number - 1 != count:
            raise ReplayLogError(str(path), number, f"the file ends after {number - 1} events; its header says {count}")
        with self._lock:
            self._lines, self._size, self._dropped = loaded._lines, loaded._size, dropped + loaded._dropped

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._size += len(line)
        while len(self._lines) > self._max_events or self._size > self._max_bytes:
            self._size -= len(self._lines.popleft())
            self._dropped += 1


def _line(item: object) -> bytes:
    return json.dumps(item, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _objects(file: BinaryIO, path: str) -> Iterator[dict[str, object]]:
    """The JSON object of each line."""
    number = 0
    while line := file.readline(_MAX_LINE_BYTES + 1):
        number += 1
        if not line.endswith(b"\n"):
            raise ReplayLogError(path, number, f"the line is cut, or longer than {_MAX_LINE_BYTES} bytes")
        try:
            value = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise ReplayLogError(path, number, f"not JSON ({error})") from None
        if not isinstance(value, dict):
            raise ReplayLogError(path, number, "not a JSON object")
        yield value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _header(line: dict[str, object], path: str) -> tuple[int, int]:
    """How many events follow, and how many were dropped before them."""
    if line.get("format") != _FORMAT or not _is_count(line.get("version")):
        raise ReplayLogError(path, 1, "not the header of a replay log")
    if line["version"] != _VERSION:
        raise ReplayLogError(path, 1, f"format version {line['version']}; this Converge reads version {_VERSION}")
    events, dropped = line.get("events"), line.get("dropped")
    if not isinstance(events, int) or not isinstance(dropped, int) or not _is_count(events) or not _is_count(dropped):
        raise ReplayLogError(path, 1, "events and dropped must be numbers, at least 0")
    return events, dropped


def _event(line: dict[str, object], path: str, number: int) -> Event:
    kind, recorded_at, data = line.get("type"), line.get("recorded_at"), line.get("data")
    if line.keys() != Event.__required_keys__ or kind != "message":
        raise ReplayLogError(path, number, "not an event: its keys are type (message), recorded_at and data")
    if not isinstance(recorded_at, int) or not _is_count(recorded_at) or not isinstance(data, dict):
        raise ReplayLogError(path, number, "recorded_at must be a number, at least 0, and data an object")
    return {"type": "message", "recorded_at": recorded_at, "data": data}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
