"""A connection to one MCP server that many agents share: started when needed, started again when it was lost."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from attrs import Factory, define

from converge.extensions.mcp.errors import MCPServerUnavailable, MCPToolError
from converge.plugins import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    import mcp_types
    from mcp.client._transport import TransportStreams
    from mcp.client.client import Client
    from mcp.shared.exceptions import MCPError

    from converge.core.plain import Plain
    from converge.extensions.mcp.options import MCPToolsOptions

__all__ = ["MAX_BACKOFF_SEC", "Connection"]

MAX_BACKOFF_SEC = 30.0
_FIRST_BACKOFF_SEC = 0.5
_CLOSE_SEC = 8.0
"""For a server to go: longer than the graces of `process` together."""

_SESSION_LOST = "Session terminated"
_log = logging.getLogger(__name__)


@define(eq=False)
class _Run:
    """One life of the connection, held open by a task of its own, as the SDK wants it."""

    ready: "asyncio.Future[Client]"
    over: asyncio.Event = Factory(asyncio.Event)
    task: asyncio.Task[None] | None = None


class Connection:
    """Calls to one server. For one event loop; calls may overlap, and cancelling one tells the server.

    After a loss the next call starts the server again: at once the first time, then, as long as no call is answered,
    after pauses that double up to 30 s; calls in a pause fail at once.
    """

    def __init__(self, options: MCPToolsOptions, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._options, self._monotonic = options, monotonic
        self._run: _Run | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures, self._not_before, self._closed = 0, 0.0, False

    async def ask(self, question: Callable[[Client], Awaitable[Any]], timeout: float) -> Any:  # noqa: ANN401  # the SDK's answer
        """What `question` gets from the server.

        Raises `TimeoutError`, `MCPServerUnavailable`, and `MCPToolError` for an error that the server answers with.
        """
        from mcp.shared.exceptions import MCPError
        from pydantic import ValidationError

        try:
            async with asyncio.timeout(timeout):
                run = self._current()
                client = await asyncio.shield(run.ready)
                try:
                    answer = await question(client)
                except MCPError as error:
                    if self._is_loss(error, run):
                        raise self._lost(run, error) from error
                    self._failures = 0
                    raise MCPToolError(f"{self._options.label}: {error}"[:4_000]) from None
                except (ValidationError, RuntimeError) as error:  # of the SDK, which checks what the server answers
                    self._failures = 0
                    said = " ".join(str(error).split())[:500]
                    raise MCPToolError(f"{self._options.label}: the answer does not fit: {said}") from None
                except (OSError, EOFError) as error:
                    raise self._lost(run, error) from error
        except TimeoutError:
            raise TimeoutError(f"{self._options.label} gave no answer within {timeout} s") from None
        self._failures = 0
        return answer

    async def call(self, name: str, arguments: dict[str, Plain]) -> mcp_types.CallToolResult:
        """The server's answer to a call of its tool `name`. Raises as `ask` does."""
        return await self.ask(lambda client: client.call_tool(name, arguments), self._options.timeout_sec)  # type: ignore[no-any-return]  # `ask` returns what the question does

    async def close(self) -> None:
        """End the server, in at most some seconds. Calls that are under way fail; later ones too."""
        self._closed = True
        tasks = set(self._tasks)
        if self._run is not None:
            self._run.over.set()
            if not self._run.ready.done() and self._run.task is not None:
                self._run.task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_CLOSE_SEC)
            for task in late:
                task.cancel()
            if late:
                _log.warning("%s does not end by itself; it is cut off", self._options.label)
                await asyncio.wait(late, timeout=1.0)

    def _current(self) -> _Run:
        """The life that goes on, or a new one."""
        if self._closed:
            raise MCPServerUnavailable(f"{self._options.label} is closed, as its agents have stopped")
        run = self._run
        if run is None or run.over.is_set():
            wait = self._not_before - self._monotonic()
            if wait > 0:
                raise MCPServerUnavailable(
                    f"{self._options.label} was lost {self._failures} times in a row; it is tried again in {wait:.1f} s"
                )
            run = self._run = _Run(asyncio.get_running_loop().create_future())
            run.ready.add_done_callback(_looked_at)
            run.task = asyncio.create_task(self._live(run), name="converge-mcp")
            self._tasks.add(run.task)
            run.task.add_done_callback(self._tasks.discard)
        return run

    async def _live(self, run: _Run) -> None:
        problem: BaseException | None = None
        try:
            async with AsyncExitStack() as stack:
                try:
                    async with asyncio.timeout(self._options.open_timeout_sec):
                        client = await stack.enter_async_context(self._client(run))
                except TimeoutError:
                    raise TimeoutError(f"it did not start within {self._options.open_timeout_sec} s") from None
                if not run.ready.done():
                    run.ready.set_result(client)
                await run.over.wait()
                if not self._closed:
                    _log.warning("%s is lost; it is started again when a tool of it is called", self._options.label)
        except asyncio.CancelledError as error:
            problem = error
            if not self._closed:
                raise
        except Exception as error:  # noqa: BLE001  # raised where it was waited for
            problem = error
        finally:
            self._settle(run, problem)

    def _settle(self, run: _Run, problem: BaseException | None) -> None:
        """Say that this life is over, and why."""
        if not run.over.is_set() or not run.ready.done():
            self._count_loss(run)
        if not run.ready.done():
            text = f"{self._options.label} cannot be used: {_reason(problem)}"
            run.ready.set_exception(MCPServerUnavailable(text))
        elif problem is not None and not self._closed:
            _log.warning("%s: its connection broke: %s", self._options.label, _reason(problem))

    def _is_loss(self, error: MCPError, run: _Run) -> bool:
        from mcp_types import CONNECTION_CLOSED

        session_lost = self._options.url is not None and error.message == _SESSION_LOST
        return run.over.is_set() or error.code == CONNECTION_CLOSED or session_lost

    def _lost(self, run: _Run, error: BaseException) -> MCPServerUnavailable:
        self._count_loss(run)
        return MCPServerUnavailable(f"{self._options.label} was lost during the call: {_reason(error)}")

    def _count_loss(self, run: _Run) -> None:
        if run.over.is_set() and run.ready.done():
            return  # counted
        run.over.set()
        self._failures += 1
        pause = 0.0 if self._failures == 1 else _FIRST_BACKOFF_SEC * 2.0 ** min(self._failures - 2, 10)
        self._not_before = self._monotonic() + min(pause, MAX_BACKOFF_SEC)

    def _client(self, run: _Run) -> Client:
        from mcp.client.client import Client
        from mcp_types import Implementation

        return Client(self._transport(run), cache=None, client_info=Implementation(name="converge", version="0.1.0"))

    def _transport(self, run: _Run) -> AbstractAsyncContextManager[TransportStreams]:
        options = self._options
        if options.url is not None:
            from converge.extensions.mcp.http import endpoint

            return endpoint(
                options.url,
                _revealed(options.headers),
                timeout_sec=options.timeout_sec,
                max_message_bytes=options.max_message_bytes,
            )
        from converge.extensions.mcp.process import program

        assert options.command is not None
        return program(
            options.command,
            options.args,
            _revealed(options.env),
            options.cwd,
            max_message_bytes=options.max_message_bytes,
            label=options.label,
            on_end=lambda: self._count_loss(run) if run.ready.done() else None,
        )


def _revealed(values: Mapping[str, str | Secret]) -> dict[str, str]:
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in values.items()}


def _reason(error: BaseException | None) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is None or isinstance(error, asyncio.CancelledError):
        return "it was ended while it started"
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, TimeoutError | MCPServerUnavailable) else f"{type(error).__name__}: {text}"


def _looked_at(future: asyncio.Future[Any]) -> None:
    """Nobody may be waiting any more for how the start went; that is no error of its own."""
    if not future.cancelled():
        future.exception()
