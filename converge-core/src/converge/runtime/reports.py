"""How the processes of a run tell their parent how they are: a line of JSON for each question, over a socket."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from typing import TYPE_CHECKING, Final

from converge.runtime.observing import Report

if TYPE_CHECKING:
    from converge.runtime.observing import Observed

__all__ = ["ANSWER_TIMEOUT_SEC", "Reporter", "answer_questions"]

ANSWER_TIMEOUT_SEC: Final = 0.8
"""A process that has not answered after that many seconds hangs, as far as the parent can tell."""

_MAX_LINE_BYTES = 4 * 1024 * 1024
_log = logging.getLogger(__name__)


class Reporter:
    """The parent's end: asks one process. `theirs` is the end to be inherited by it."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lock = asyncio.Lock()
        self._number = 0

    async def ask(self) -> Report:
        """What the process says of itself now; `TimeoutError` when it hangs, `EOFError` when it is gone."""
        async with asyncio.timeout(ANSWER_TIMEOUT_SEC), self._lock:
            if self._streams is None:
                self._streams = await asyncio.open_connection(sock=self._ours, limit=_MAX_LINE_BYTES)
            reader, writer = self._streams
            self._number += 1
            writer.write(b"%d\n" % self._number)
            while line := await reader.readline():
                number, data = json.loads(line)
                if number == self._number:  # else it is the late answer to a question that was given up
                    return Report.from_plain(data)
        raise EOFError("the process is gone")

    def close(self) -> None:
        """Close both ends."""
        self.theirs.close()
        if self._streams is None:
            self._ours.close()
        else:
            self._streams[1].close()


async def answer_questions(descriptor: int, observed: Observed) -> None:
    """Answer what the parent asks over the socket with this descriptor, until it has closed it or this is cancelled."""
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=descriptor))
    try:
        while line := await reader.readline():
            report = await observed.report()
            writer.write(json.dumps([int(line), report.to_plain()]).encode() + b"\n")
            await writer.drain()
    except ConnectionError:
        _log.debug("the parent does not listen any more")
    finally:
        writer.close()
