"""Structured logs on top of the standard library's: one event a record, fields beside it, nothing to inject into."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from json import dumps
from typing import TYPE_CHECKING, TextIO

from converge.observability._jsonable import Json, clip, jsonable
from converge.observability.tracing import current_span

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["JsonFormatter", "TextFormatter", "configure_logging", "get_logger", "log_struct"]

_FIELDS = "converge_fields"
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "asctime", "message", "taskName", _FIELDS})


def get_logger(name: str = "converge") -> logging.Logger:
    """The standard library's logger of this name."""
    return logging.getLogger(name)


def log_struct(logger: logging.Logger, level: int | str, event: str, **fields: object) -> None:
    """Log `event` with `fields`. `level` is a number or a name in any case; an unknown name is a `ValueError`.

    `exc_info=True` adds the exception that is being handled. Fields may be called anything but the parameters.
    """
    number = _level(level)
    if logger.isEnabledFor(number):
        exception = fields.pop("exc_info", None)
        logger.log(
            number,
            "%s",
            event,
            extra={_FIELDS: fields},
            exc_info=bool(exception) and _exc_info(exception),
            stacklevel=2,
        )


def configure_logging(level: int | str = "INFO", json: bool = False, stream: TextIO | None = None) -> None:
    """Send the log of this process to `stream`, by default to whatever `sys.stderr` is at the time.

    Sets up the root logger, so that the application's own loggers are included. Calling it again replaces what the
    earlier call set up and leaves other handlers alone. An unknown `level` is a `ValueError`.
    """
    number = _level(level)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(stream)
    handler.setFormatter(JsonFormatter() if json else TextFormatter())
    root.addHandler(handler)
    root.setLevel(number)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON in ASCII, whatever is in it.

    Keys: `timestamp` (RFC 3339, UTC), `level`, `logger`, `message`, `event` (of `log_struct`), `trace_id` and
    `span_id` inside a span, `exception`, `stack`, and the fields. A field that has one of these names gets a `_`
    behind it. Formatting never raises.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a line end."""
        line: dict[str, Json] = {
            "timestamp": _timestamp(record),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        if _FIELDS in vars(record):
            line["event"] = line["message"]
        span = current_span()
        if span is not None:
            line["trace_id"], line["span_id"] = span.trace_id, span.span_id
        if record.exc_info:
            line["exception"] = _exception(self, record)
        if record.stack_info:
            line["stack"] = clip(record.stack_info)
        reserved = {*line, "event", "trace_id", "span_id", "exception", "stack"}
        line.update((f"{name}_" if name in reserved else name, value) for name, value in _fields(record))
        return dumps(line)


class TextFormatter(logging.Formatter):
    """A record as a line to read: time, level, logger, message, `name=value` of each field.

    Whatever does not print is escaped, so that a message cannot look like two or colour the terminal. A traceback
    follows with each line set in.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The lines, without a last line end."""
        text = f"{_timestamp(record)} {record.levelname:<8} {record.name}: {_message(record)}"
        text += "".join(f" {name}={dumps(value, ensure_ascii=False)}" for name, value in _fields(record))
        lines = [text]
        if record.exc_info:
            lines.extend(f"    {line}" for line in _exception(self, record).split("\n"))
        if record.stack_info:
            lines.extend(f"    {line}" for line in clip(record.stack_info).split("\n"))
        return "\n".join(_escape(line) for line in lines)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to the stream it was given, else to the `sys.stderr` of the moment, which a program may replace."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._given = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        if self._given is None:
            self.stream = sys.stderr
        super().emit(record)


def _level(level: int | str) -> int:
    if isinstance(level, int):
        return level
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"{level!r} is no log level; use debug, info, warning, error or critical")
    return number


def _exc_info(value: object) -> BaseException | bool:
    return value if isinstance(value, BaseException) else True


def _timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return clip(record.getMessage())
    except Exception as error:  # noqa: BLE001  # a message that does not fit its arguments is still worth a line
        return clip(f"{jsonable(record.msg)} [{type(error).__name__} when formatted]")


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, Json]]:
    given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    given.update(vars(record).get(_FIELDS) or {})
    return ((str(name), jsonable(value)) for name, value in given.items())


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    try:
        return clip(formatter.formatException(record.exc_info)) if isinstance(record.exc_info, tuple) else ""
    except Exception as error:  # noqa: BLE001  # an exception that cannot be shown must not cost the record
        return f"[{type(error).__name__} when the exception was shown]"


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
