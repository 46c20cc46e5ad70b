"""Requests that wait for their answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converge.core.message import Message

__all__ = ["MAX_REQUESTS", "Requests"]

MAX_REQUESTS = 1024
"""Requests of one network that may wait at the same time; and how many given-up ones are remembered."""


class Requests:
    """Which message is the answer to which request. For the coroutines of one event loop.

    An answer names the request in `in_reply_to`, comes from the recipient that was asked, and is signed if the request
    was: nobody else can give it. `counters` counts `late_answers`, those of requests that were given up.
    """

    __slots__ = ("_given_up", "_waiting", "counters")  # one an agent

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._waiting: dict[str, tuple[Message, asyncio.Future[Message]]] = {}
        self._given_up: dict[str, str] = {}  # request id -> who was asked, the oldest first

    def __len__(self) -> int:
        """How many wait for an answer."""
        return len(self._waiting)

    def open(self, request: Message) -> asyncio.Future[Message]:
        """The future answer to `request`, which is about to be sent.

        Raises `ValueError` for a message that is not direct, or is asked already, `RuntimeError` when too many wait.
        """
        if request.recipient is None:
            raise ValueError("a request has one recipient, who answers it; broadcasts and topic messages have none")
        if request.id in self._waiting:
            raise ValueError(f"the request {request.id} waits for its answer already; ask with a new message")
        if len(self._waiting) >= MAX_REQUESTS:
            raise RuntimeError(f"{MAX_REQUESTS} requests wait for answers already; wait for some of them first")
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = request, answer
        return answer

    def close(self, request: Message) -> None:
        """Wait no more for the answer to `request`."""
        found = self._waiting.pop(request.id, None)
        if found is not None and not (found[1].done() and not found[1].cancelled()):
            self._given_up[request.id] = request.recipient or ""
            if len(self._given_up) > MAX_REQUESTS:
                del self._given_up[next(iter(self._given_up))]

    def take(self, message: Message) -> bool:
        """Whether `message`, which was checked as all that comes in, is an answer, and so not for anybody else."""
        if not message.headers or (asked := message.in_reply_to) is None:
            return False
        if self._given_up.get(asked) == message.sender:
            del self._given_up[asked]
            self.counters["late_answers"] += 1
            return True
        request, answer = self._waiting.get(asked, (None, None))
        if request is None or answer is None or answer.done() or message.sender != request.recipient:
            return False
        if request.is_signed and not (message.is_signed and message.verify()):
            return False
        answer.set_result(message)
        return True
