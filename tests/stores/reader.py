"""A second process that opens what the first one wrote."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from tests.stores.kinds import open_store, stored
from tests.stores.syscall_faults import die_with_parent

if TYPE_CHECKING:
    from converge.core.plain import Plain

__all__ = ["Reader"]

_TIMEOUT_SEC = 60.0


class Reader:
    """A process that is forked off, to be made before a filter is loaded; it ends with this one."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(_TIMEOUT_SEC)
        if os.fork() == 0:
            die_with_parent()
            self._channel.close()
            _serve(theirs)
            os._exit(0)
        theirs.close()
        self._answers = self._channel.makefile("r")

    def stored(self, kind: str, place: Path) -> dict[str, Plain]:
        """What a process reads that opens the store only now; what it raises is an AssertionError here."""
        return self._ask(kind, place, copied=False)

    def stored_after_a_kill(self, kind: str, place: Path) -> dict[str, Plain]:
        """The same of a copy of the files: what a process leaves that is killed at this moment.

        The copy is made by the other process: closing a descriptor of a database drops the locks that SQLite holds on
        it in the same process.
        """
        return self._ask(kind, place, copied=True)

    def _ask(self, kind: str, place: Path, *, copied: bool) -> dict[str, Plain]:
        self._channel.sendall((json.dumps([kind, str(place), copied]) + "\n").encode())
        answer, error = json.loads(self._answers.readline())
        assert error is None, f"another process cannot read it: {error}"
        assert isinstance(answer, dict)
        return answer


def _serve(channel: socket.socket) -> None:
    for line in channel.makefile("r"):
        kind, name, copied = json.loads(line)
        place = Path(name)
        try:
            if copied:
                place = place.with_name("copy")
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(name, place)
            with open_store(kind, place) as store:
                answer: tuple[dict[str, Plain] | None, str | None] = (stored(store), None)
        except Exception as error:
            answer = (None, repr(error))
        channel.sendall((json.dumps(answer) + "\n").encode())
