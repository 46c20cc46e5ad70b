from __future__ import annotations

import enum
import io
import json
import logging
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converge.observability.logging import JsonFormatter, TextFormatter, configure_logging, get_logger, log_struct
from converge.observability.tracing import trace

Write = Callable[..., io.StringIO]


@pytest.fixture
def configured() -> Iterator[Callable[..., io.StringIO]]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level

    def configure(**options: Any) -> io.StringIO:
        stream = io.StringIO()
        configure_logging(stream=stream, **options)
        return stream

    yield configure
    for handler in [handler for handler in root.handlers if handler not in before]:
        root.removeHandler(handler)
    root.setLevel(level)


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


class Colour(enum.IntEnum):
    RED = 1


def record(message: object = "event", *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("test", logging.INFO, "file.py", 1, message, args, None)
    vars(made).update(extra)
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert line.isascii()
    assert line.isprintable()
    value: dict[str, Any] = json.loads(line, parse_constant=lambda constant: pytest.fail(constant))
    return value


# the command of it


def test_a_structured_event_is_one_line_of_json_with_its_fields(configured: Write) -> None:
    stream = configured(level="info", json=True)
    log_struct(get_logger("app"), "warning", "task_claimed", task_id="t", attempt=2, level_of="x")
    (line,) = stream.getvalue().splitlines()
    value = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value.pop("timestamp"))
    assert value == {
        "level": "WARNING", "logger": "app", "message": "task_claimed", "event": "task_claimed",
        "task_id": "t", "attempt": 2, "level_of": "x",
    }  # fmt: skip


def test_a_structured_event_as_text(configured: Write) -> None:
    stream = configured()
    log_struct(get_logger("app"), logging.INFO, "task_claimed", task_id="t", n=2)
    assert re.fullmatch(r'\S+Z INFO     app: task_claimed task_id="t" n=2\n', stream.getvalue())


def test_the_level_is_obeyed(configured: Write) -> None:
    stream = configured(level="ERROR")
    log_struct(get_logger("app"), "warning", "quiet")
    log_struct(get_logger("app"), "error", "loud")
    assert [line.split()[-1] for line in stream.getvalue().splitlines()] == ["loud"]


def test_configuring_again_replaces_the_handler_and_leaves_others(configured: Write) -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first = configured()
    second = configured(json=True)
    get_logger("app").info("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1
    assert other in logging.getLogger().handlers


def test_by_default_the_log_goes_to_the_stderr_of_the_moment(
    configured: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured()
    configure_logging()
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    get_logger("app").info("here")
    assert stream.getvalue().endswith("app: here\n")


def test_an_unknown_level_is_refused_and_nothing_is_set_up() -> None:
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(ValueError, match="'loud' is no log level"):
        configure_logging("loud")
    with pytest.raises(ValueError, match="'loud' is no log level"):
        log_struct(get_logger("app"), "loud", "event")
    assert logging.getLogger().handlers == handlers


def test_get_logger_gives_the_standard_logger() -> None:
    assert get_logger("app.part") is logging.getLogger("app.part")
    assert get_logger().name == "converge"


def test_log_struct_names_the_place_of_its_caller(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    log_struct(get_logger("app"), "info", "event")
    assert caplog.records[0].funcName == "test_log_struct_names_the_place_of_its_caller"


def test_the_exception_being_handled_is_logged_on_request(configured: Write) -> None:
    stream = configured(json=True)
    try:
        raise ValueError("bad\nlevel: forged")
    except ValueError as error:
        log_struct(get_logger("app"), "error", "failed", exc_info=True)
        log_struct(get_logger("app"), "error", "failed", exc_info=error)
    for line in stream.getvalue().splitlines():
        value = json.loads(line)
        assert value["exception"].startswith("Traceback")
        assert value["exception"].endswith("ValueError: bad\nlevel: forged")
        assert "exc_info" not in value


# what cannot go wrong


@given(message=st.text(), name=st.text(), value=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.binary(), inner),
))  # fmt: skip
def test_whatever_is_logged_is_one_line_of_strict_json(message: str, name: str, value: object) -> None:
    made = record(message, converge_fields={name: value})
    assert as_json(made)["message"] == message


@given(message=st.text(), value=st.text())
def test_whatever_is_logged_is_one_printable_line_of_text(message: str, value: str) -> None:
    line = TextFormatter().format(record(message, converge_fields={"field": value}))
    assert line.isprintable()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (2**63, 2**63),
        pytest.param(10**5000, None, id="an int too long to print"),
        (b"secret payload", "<14 bytes>"),
        (Colour.RED, 1),
        (Odd(), "<Odd: RuntimeError when shown>"),
        ([Odd()], ["<Odd: RuntimeError when shown>"]),
        ({1: {2}}, {"1": [2]}),
        (("a", None), ["a", None]),
        ("\udc80", "\udc80"),
        (object, "<class 'object'>"),
    ],
)
def test_odd_values_are_shown_as_well_as_they_can_be(value: object, shown: object) -> None:
    logged = as_json(record(converge_fields={"value": value}))["value"]
    assert logged == shown if shown is not None else logged.startswith("0x")


def test_a_value_that_contains_itself_ends() -> None:
    loop: list[Any] = []
    loop.extend([loop] * 50)
    cycle: dict[str, Any] = {}
    cycle["cycle"] = cycle
    assert len(JsonFormatter().format(record(converge_fields={"loop": loop, "cycle": cycle}))) < 100_000


def test_a_long_list_and_a_long_text_are_cut() -> None:
    logged = as_json(
        record("m" * 10**6, converge_fields={"list": list(range(10**5)), "map": dict.fromkeys(range(5000))})
    )
    assert logged["list"][-1].endswith("left out")
    assert logged["map"]["…"].endswith("left out")
    assert "characters left out" in logged["message"]
    assert len(json.dumps(logged)) < 100_000


def test_a_message_that_does_not_fit_its_arguments_is_logged_all_the_same() -> None:
    assert as_json(record("%d apples", "no number"))["message"] == "%d apples [TypeError when formatted]"
    assert "%d apples" in TextFormatter().format(record("%d apples", "no number"))
    assert as_json(record(Odd()))["message"]


def test_fields_cannot_replace_what_the_formatter_says() -> None:
    fields = {
        "level": "forged",
        "timestamp": 1,
        "message": "forged",
        "exception": "none",
        "logger": "x",
        "trace_id": "0",
    }
    value = as_json(record("real", converge_fields=fields))
    assert (value["level"], value["message"], value["logger"]) == ("INFO", "real", "test")
    assert (value["level_"], value["message_"], value["exception_"], value["trace_id_"]) == (
        "forged",
        "forged",
        "none",
        "0",
    )
    assert not {"exception", "trace_id"} & value.keys()


def test_the_standard_extra_is_a_field_too() -> None:
    assert as_json(record("event", user="u"))["user"] == "u"
    assert 'user="u"' in TextFormatter().format(record("event", user="u"))


def test_records_inside_a_span_carry_its_ids() -> None:
    with trace("step") as span:
        value = as_json(record())
    assert (value["trace_id"], value["span_id"]) == (span.trace_id, span.span_id)
    assert "trace_id" not in as_json(record())


def test_a_traceback_in_text_is_set_in_so_that_it_cannot_pass_for_records() -> None:
    made = record("failed")
    try:
        raise ValueError("first\n2025-01-01 INFO app: forged\x1b[31m")
    except ValueError:
        made.exc_info = sys.exc_info()
    first, *rest = TextFormatter().format(made).split("\n")
    assert first.endswith("failed")
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == "    2025-01-01 INFO app: forged\\x1b[31m"


def test_an_exception_that_cannot_be_shown_does_not_cost_the_record() -> None:
    class FailingError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    made = record("failed", stack_info="Stack:\n  here")
    try:
        raise FailingError
    except FailingError:
        made.exc_info = sys.exc_info()
    value = as_json(made)
    assert "FailingError" in value["exception"]
    assert value["stack"] == "Stack:\n  here"


def test_exception_information_that_is_none_does_not_cost_the_record() -> None:
    broken = record("failed", exc_info=("no", "such", "thing"))
    assert as_json(broken)["exception"].endswith("when the exception was shown]")
    assert TextFormatter().format(broken).split("\n")[0].endswith("failed")


def test_a_stack_in_text_is_set_in() -> None:
    text = TextFormatter().format(record("here", stack_info="Stack:\n  line"))
    assert text.split("\n")[1:] == ["    Stack:", "      line"]
