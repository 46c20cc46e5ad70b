"""The runtime's side of one worker process, and of the guard that forks them."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from attrs import asdict, astuple

from converge.core.errors import ToolFailed
from converge.core.plain import unpack
from converge.runtime.tools.frames import HEADER_BYTES, FrameError, body_length, frame, opened

if TYPE_CHECKING:
    from converge.core.tool_call import ToolCall
    from converge.core.tool_reference import ToolReference
    from converge.runtime.tools.limits import ToolLimits

__all__ = ["LOAD_TIMEOUT_SEC", "ToolGuard", "ToolProcess"]

LOAD_TIMEOUT_SEC = 60.0
"""How long importing a tool may take in its process; the timeout of the call begins after that."""

_END_SEC = 2.0
_MAX_OVERHEAD = 65_536  # of an answer, beside the result: the text of an error, and what says that it is one
_BOOT = (
    "import json, sys; control, path, argv = json.loads(sys.argv[1]); sys.path[:] = path; sys.argv[:] = argv; "
    "from converge.runtime.tools.guard import main; main(control)"
)


class ToolGuard:
    """A guard process. Closing its socket, as the end of this process does, ends it and all its workers."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        path = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109  # as the import system reads it
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own code
                [sys.executable, "-c", _BOOT, json.dumps([theirs.fileno(), path, sys.argv])],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor() else subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the runtime, which says when to stop
            )

    @property
    def alive(self) -> bool:
        """Whether it can fork another worker."""
        return self._process.poll() is None

    def fork(self, limits: ToolLimits) -> ToolProcess:
        """A new worker under `limits`; `OSError` when the guard is gone."""
        channel, theirs = socket.socketpair()
        lifeline, guards = socket.socketpair()
        with theirs, guards:
            try:
                socket.send_fds(
                    self._control, [json.dumps(asdict(limits)).encode()], [theirs.fileno(), guards.fileno()]
                )
            except OSError:
                channel.close()
                lifeline.close()
                raise
        return ToolProcess(channel, lifeline)

    def discard(self) -> None:
        """Give up one that is not alive any more."""
        self._control.close()
        self._process.kill()
        self._process.wait()

    async def close(self) -> None:
        """End it, and everything that its workers have left."""
        self._control.close()
        for _ in range(int(_END_SEC / 0.01)):
            if self._process.poll() is not None:
                return
            await asyncio.sleep(0.01)
        self.discard()  # its workers die with it


class ToolProcess:
    """A worker process: one call at a time."""

    def __init__(self, channel: socket.socket, lifeline: socket.socket) -> None:
        self._channel, self._lifeline = channel, lifeline
        channel.setblocking(False)
        lifeline.setblocking(False)
        self._loaded: set[ToolReference] = set()
        self.reusable = True  # until a call does not end as it should

    async def call(
        self, reference: ToolReference, call: ToolCall, params: object, *, max_result_bytes: int, timeout: float | None
    ) -> object:
        """What the tool returns. `ToolFailed` with the type and the text of what it raises, or how its process ended.

        `TimeoutError` after `timeout` seconds since its `run` began; after that, after a failure of the process and
        when this is cancelled, the process is not `reusable`, and has to be ended.
        """
        self.reusable, loop = False, asyncio.get_running_loop()
        request = frame([*astuple(reference), list(astuple(call)), params, max_result_bytes])
        try:
            await loop.sock_sendall(self._channel, request)
            answer = await self._loading(reference, max_result_bytes)
            if answer is None:
                async with asyncio.timeout(timeout):
                    answer = await self._answer(max_result_bytes)
        except (ConnectionError, EOFError, FrameError) as error:
            raise ToolFailed(await self._how_it_ended(error)) from error
        return self._value(answer)

    async def end(self) -> None:
        """Kill the process and everything that it has started; returns when nothing of that is left."""
        self.reusable = False
        self._channel.close()
        with suppress(OSError):
            self._lifeline.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(_END_SEC):
                while await asyncio.get_running_loop().sock_recv(self._lifeline, 64):
                    pass
        except (TimeoutError, ConnectionError):
            pass  # the guard is gone, and its workers with it
        finally:
            self._lifeline.close()

    async def _loading(self, reference: ToolReference, max_result_bytes: int) -> list[Any] | None:
        """None when the tool runs now; else the answer, because importing it has failed."""
        if reference in self._loaded:
            return None
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_SEC):
                answer = await self._answer(max_result_bytes)
        except TimeoutError:
            raise ToolFailed(f"importing {reference.module} took longer than {LOAD_TIMEOUT_SEC:.0f} s") from None
        if answer[0] != "loaded":
            return answer
        self._loaded.add(reference)
        return None

    def _value(self, answer: list[Any]) -> object:
        match answer:
            case ["done", bytes(packed), bool(is_clean)]:
                self.reusable = is_clean
                return unpack(packed)
            case ["failed", str(text), bool(is_clean)]:
                self.reusable = is_clean
                raise ToolFailed(text)
        raise ToolFailed("its process has answered nonsense, and was ended")

    async def _answer(self, max_result_bytes: int) -> list[Any]:
        header = await self._exactly(HEADER_BYTES)
        return opened(await self._exactly(body_length(header, max_result_bytes + _MAX_OVERHEAD)))

    async def _exactly(self, count: int) -> bytes:
        loop, data = asyncio.get_running_loop(), bytearray()
        while len(data) < count:
            part = await loop.sock_recv(self._channel, min(count - len(data), 1 << 18))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    async def _how_it_ended(self, error: Exception) -> str:
        if isinstance(error, FrameError):
            return f"its process has answered nonsense ({error}), and was ended"
        code = None
        with suppress(TimeoutError, ConnectionError, ValueError):
            async with asyncio.timeout(_END_SEC):
                code = json.loads(await asyncio.get_running_loop().sock_recv(self._lifeline, 64))
        if code is None:
            return "its process has closed its channel, and was ended"
        if code < 0:
            return f"its process was ended by signal {-code}, as one that is out of memory or processor time is"
        return f"it ended its process with exit code {code}"


def _has_descriptor() -> bool:
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # replaced, or closed
        return False
    return True
