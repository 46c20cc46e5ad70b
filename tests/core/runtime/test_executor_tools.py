"""Tools that an agent has called: allowed, bounded, and unable to hurt."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.agent import Outcome
from converge.core.decisions import InvokeTool
from converge.core.tools import ToolRegistry, tool
from converge.runtime.executor import DEFAULT_TOOL_TIMEOUT_SEC, StandardExecutor
from converge.runtime.tools.limits import ToolLimits
from converge.runtime.tools.pool import ToolPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
async def tools_end() -> AsyncIterator[None]:
    """The processes of tools end with the test, as they do with a runtime that closes its executor."""
    yield
    pool = ToolPool.shared(ToolLimits())
    await pool.close()


caller = contextvars.ContextVar[str]("caller")


@tool
def add(a: int, b: int) -> int:
    """The sum."""
    return a + b


@tool
async def add_slowly(a: int, b: int) -> int:
    """The sum, from the event loop."""
    await asyncio.sleep(0)
    return a + b


class Made:
    """A tool from a function of its params."""

    name = "made"

    def __init__(self, run: Any) -> None:
        self.run = run


async def invoke(run: Any, /, **options: Any) -> Outcome:
    registry = ToolRegistry()
    registry.register(run if hasattr(run, "run") else Made(run))
    name = registry.list_names()[0]
    params = options.pop("params", {})
    (outcome,) = await StandardExecutor("me", tool_registry=registry, **options).execute([InvokeTool(name, params)])
    return outcome


@pytest.mark.parametrize("kind", [add, add_slowly])
async def test_plain_and_async_tools_return_their_value(kind: Any) -> None:
    outcome = await invoke(kind, params={"a": 1, "b": 2})
    assert (outcome.status, outcome.value) == ("done", 3)


@pytest.mark.parametrize("kind", [add, add_slowly])
async def test_params_that_do_not_fit_are_refused_before_the_call(kind: Any) -> None:
    outcome = await invoke(kind, params={"a": "1"})
    assert (outcome.status, str(outcome.error).split(":")[0]) == ("failed", "ToolParameterError")


async def test_a_plain_tool_runs_in_a_thread_with_the_context_of_the_caller_and_an_async_one_on_the_loop() -> None:
    def plain(params: Any) -> tuple[bool, str]:
        return threading.current_thread() is threading.main_thread(), caller.get()

    async def slow(params: Any) -> tuple[bool, str]:
        return threading.current_thread() is threading.main_thread(), caller.get()

    caller.set("me")
    assert (await invoke(plain)).value == (False, "me")
    assert (await invoke(slow)).value == (True, "me")


async def test_a_plain_tool_may_return_an_awaitable() -> None:
    assert (await invoke(lambda params: asyncio.sleep(0, "slept"))).value == "slept"


@pytest.mark.parametrize(
    ("allowlist", "status"), [(None, "done"), (["add"], "done"), ([], "refused"), (["add_slowly", "ad"], "refused")]
)
async def test_the_allow_list_decides_and_an_empty_one_allows_nothing(allowlist: Any, status: str) -> None:
    outcome = await invoke(add, params={"a": 1, "b": 2}, tool_allowlist=allowlist)
    assert outcome.status == status
    assert (outcome.error == "the tool 'add' is not on the allow-list") == (status == "refused")


async def test_a_later_change_of_the_allow_list_allows_nothing_more() -> None:
    names = ["other"]
    registry = ToolRegistry()
    registry.register(add)
    carrier = StandardExecutor("me", tool_registry=registry, tool_allowlist=names)
    names.append("add")
    (outcome,) = await carrier.execute([InvokeTool("add", {"a": 1, "b": 2})])
    assert outcome.status == "refused"


@pytest.mark.parametrize("name", ["", "unknown", None, 5, [], {}])
async def test_a_name_of_no_tool_is_an_outcome(name: Any) -> None:
    carrier = StandardExecutor("me", tool_registry=ToolRegistry(), tool_allowlist=None)
    (outcome,) = await carrier.execute([InvokeTool(name)])
    assert outcome.status in ("refused", "failed")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LookupError("x"), "LookupError: x"),
        (TimeoutError("the socket's own"), "TimeoutError: the socket's own"),
        (SystemExit(3), "CallFailed: it raised SystemExit: 3"),
        (KeyboardInterrupt(), "CallFailed: it raised KeyboardInterrupt"),
        (asyncio.CancelledError(), "CallFailed: it raised CancelledError"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_tool_that_raises_is_an_outcome(error: BaseException, text: str, is_async: bool) -> None:
    def plain(params: Any) -> None:
        raise error

    async def slow(params: Any) -> None:
        raise error

    outcome = await invoke(slow if is_async else plain)
    assert (outcome.status, outcome.error) == ("failed", text)


async def test_a_plain_tool_that_raises_stop_iteration_is_an_outcome() -> None:
    outcome = await invoke(lambda params: next(iter([])))
    assert (outcome.status, outcome.error) == ("failed", "CallFailed: it raised StopIteration")


async def test_an_async_tool_is_cancelled_at_its_timeout() -> None:
    cancelled = asyncio.Event()

    async def hang(params: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    outcome = await invoke(hang, tool_timeout_sec=0.01)
    assert (outcome.status, outcome.error) == ("failed", "TimeoutError: the tool 'made' gave no answer within 0.01 s")
    assert cancelled.is_set()


async def test_an_async_tool_that_ignores_being_cancelled_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    released = asyncio.Event()

    async def stubborn(params: Any) -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    begun = time.monotonic()
    outcome = await invoke(stubborn, tool_timeout_sec=0.01)
    assert (outcome.status, time.monotonic() - begun < 2.0) == ("failed", True)
    assert "it is left behind" in caplog.text
    released.set()


async def test_many_hung_plain_tools_do_not_keep_the_next_one_from_running() -> None:
    released = threading.Event()
    registry = ToolRegistry()
    registry.register(Made(lambda params: released.wait(30)))
    registry.register(add)
    carrier = StandardExecutor("me", tool_registry=registry, tool_timeout_sec=0.2)
    outcomes = await carrier.execute([*[InvokeTool("made")] * 12, InvokeTool("add", {"a": 1, "b": 2})])
    assert [outcome.status for outcome in outcomes] == ["failed"] * 12 + ["done"]
    released.set()


async def test_without_a_timeout_a_slow_plain_tool_does_not_keep_the_event_loop() -> None:
    asked, answered = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait(params: Any) -> bool:
        loop.call_soon_threadsafe(asked.set)
        return answered.wait(10)

    job = asyncio.create_task(invoke(wait, tool_timeout_sec=None))
    await asked.wait()
    answered.set()
    assert (await job).value is True
    assert DEFAULT_TOOL_TIMEOUT_SEC > 0
