"""The process that forks workers and ends them, with everything they have started.

It has one thread, no tool is ever imported in it, and it is told what to do by sockets that its runtime holds: a
message on `control` brings the channel and the lifeline of a new worker. When the runtime closes a lifeline, or is
gone in whatever way, the worker of it is killed with its process group, and then every process that it has left
anywhere: the guard is their subreaper, so they become its children. How a worker has ended is written to its lifeline,
which is closed when nothing of it is left.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from converge.runtime.tools.limits import ToolLimits
from converge.runtime.tools.linux import adopt_orphans, children_of_mine
from converge.runtime.tools.worker import serve

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["main"]

_MAX_MESSAGE = 65_536
_ORPHANS_SEC = 2.0  # processes that fork as fast as they are killed are given up after that


class _Worker:
    """A process, and the guard's end of its lifeline."""

    def __init__(self, pid: int, lifeline: socket.socket) -> None:
        self.pid, self.lifeline = pid, lifeline


class _Guard:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._workers: dict[int, _Worker] = {}  # by process id
        self._wakeup, child = socket.socketpair()  # signals are seen as bytes
        self._wakeup.setblocking(False)
        child.setblocking(False)
        self._signalled = child
        signal.set_wakeup_fd(child.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._wakeup, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the runtime has closed `control`; then nothing of any worker is left."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    if not self._fork_one():
                        self._end(list(self._workers.values()))
                        return
                elif key.fileobj is self._wakeup:
                    with suppress(BlockingIOError):
                        self._wakeup.recv(4096)
                    self._reap()
                elif key.data.pid in self._workers:
                    self._end([key.data])

    def _fork_one(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE, 2)
        if not data or len(descriptors) != 2:
            return False
        channel, lifeline = (socket.socket(fileno=descriptor) for descriptor in descriptors)
        limits = ToolLimits(**json.loads(data))
        guard = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(channel, lifeline, limits, guard)
        channel.close()
        worker = self._workers[pid] = _Worker(pid, lifeline)
        self._selector.register(lifeline, selectors.EVENT_READ, worker)
        return True

    def _become(self, channel: socket.socket, lifeline: socket.socket, limits: ToolLimits, guard: int) -> None:
        """In the child: give up everything that is the guard's, and serve."""
        try:
            signal.set_wakeup_fd(-1)
            for one in (self._control, self._wakeup, self._signalled, lifeline):
                one.close()
            for worker in self._workers.values():
                worker.lifeline.close()
            self._selector.close()
            serve(channel, limits, guard)
        except BaseException:  # noqa: BLE001  # nothing of the guard's may run in this process
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(70)

    def _reap(self) -> None:
        """Note the workers that have ended by themselves."""
        ended = []
        for pid in list(self._workers):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                ended.append((self._workers[pid], status))
        for worker, status in ended:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)  # what it left in its group
            self._forget(worker, status)

    def _end(self, workers: Iterable[_Worker]) -> None:
        """Kill the workers and all that they have started."""
        doomed = list(workers)
        for worker in doomed:
            for kill in (os.killpg, os.kill):  # the group is there once the worker has made it
                with suppress(ProcessLookupError):
                    kill(worker.pid, signal.SIGKILL)
        for worker in doomed:
            self._forget(worker, os.waitpid(worker.pid, 0)[1])

    def _forget(self, worker: _Worker, status: int) -> None:
        del self._workers[worker.pid]
        self._end_orphans()
        self._selector.unregister(worker.lifeline)
        with suppress(OSError):  # the runtime may be gone
            worker.lifeline.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
        worker.lifeline.close()

    def _end_orphans(self) -> None:
        """Kill the children that are no workers, and those that become ours by that, until there is none."""
        patience = time.monotonic() + _ORPHANS_SEC
        while time.monotonic() < patience:
            orphans = [pid for pid in children_of_mine() if pid not in self._workers]
            if not orphans:
                return
            for pid in orphans:
                with suppress(ProcessLookupError, PermissionError):
                    if os.getpgid(pid) == pid:
                        os.killpg(pid, signal.SIGKILL)
                    os.kill(pid, signal.SIGKILL)
            for pid in orphans:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def main(control: int) -> None:
    """Be the guard of the runtime that holds the other end of the socket with the descriptor `control`."""
    import docstring_parser  # noqa: F401  # most tools need it, and a fork has it for nothing
    import msgspec  # noqa: F401  # as above

    adopt_orphans()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its runtime, and its workers with it
    gc.freeze()
    _Guard(socket.socket(fileno=control)).run()
