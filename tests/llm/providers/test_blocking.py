"""Blocking calls, whatever thread or state they are made in."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from typing import TYPE_CHECKING

import pytest

from converge.extensions.llm import ChatMessage, Reply, ScriptedProvider
from converge.extensions.llm.blocking import blocking_loop, iterate, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

HELLO = [{"role": "user", "content": "Hello"}]


def test_within_a_running_loop_it_blocks_that_and_answers() -> None:
    async def inside() -> str:
        return ScriptedProvider(["Hello."]).chat(HELLO)

    assert asyncio.run(inside()) == "Hello."


def test_within_its_own_loop_it_is_refused_and_later_calls_go_on() -> None:
    def nested(messages: Sequence[ChatMessage]) -> str:
        return ScriptedProvider(["inner"]).chat(HELLO)

    with pytest.raises(RuntimeError, match="await it"):
        ScriptedProvider(nested).chat(HELLO)
    assert ScriptedProvider(["after"]).chat(HELLO) == "after"


def test_a_stream_that_is_left_early_is_closed() -> None:
    closed = threading.Event()

    async def pieces() -> AsyncGenerator[str, None]:
        try:
            yield "one"
            yield "two"
        finally:
            closed.set()

    for piece in iterate(pieces()):
        assert piece == "one"
        break
    gc.collect()
    assert closed.wait(30)


def test_a_stream_that_is_collected_within_the_loop_itself_is_closed_too() -> None:
    closed = threading.Event()

    async def pieces() -> AsyncGenerator[str, None]:
        try:
            yield "one"
        finally:
            closed.set()

    left = [iterate(pieces())]
    assert next(left[0]) == "one"

    async def drop() -> None:
        left.clear()
        gc.collect()

    wait_for(drop())
    assert closed.wait(30)
    assert ScriptedProvider(["after"]).chat(HELLO) == "after"


def test_an_error_of_the_stream_reaches_its_reader() -> None:
    async def pieces() -> AsyncGenerator[str | Reply, None]:
        yield "one"
        raise KeyError("two")

    stream = iterate(pieces())
    assert next(stream) == "one"
    with pytest.raises(KeyError):
        next(stream)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_loop_of_its_own() -> None:
    assert ScriptedProvider(["parent"]).chat(HELLO) == "parent"
    child = os.fork()
    if child == 0:
        os._exit(0 if ScriptedProvider(["child"]).chat(HELLO) == "child" else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_loop_is_made_when_it_is_needed_and_kept() -> None:
    ScriptedProvider(["x"]).chat(HELLO)
    assert blocking_loop(start=False) is blocking_loop()
