"""Calls of pykka's `ask`, so many in flight; prints microseconds a call with its answer."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import Any

import pykka

PAYLOAD, WINDOW, CALLS = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


class Echo(pykka.ThreadingActor):
    def on_receive(self, message: Any) -> Any:
        return message


echo = Echo.start()
echo.ask(PAYLOAD)
begin = time.perf_counter()
waiting: deque[Any] = deque()
for _ in range(CALLS):
    if len(waiting) == WINDOW:
        waiting.popleft().get()
    waiting.append(echo.ask(PAYLOAD, block=False))
while waiting:
    waiting.popleft().get()
print((time.perf_counter() - begin) / CALLS * 1e6)
pykka.ActorRegistry.stop_all()
