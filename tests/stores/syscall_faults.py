"""Real calls of the kernel that fail, on demand, in a process that a test starts.

One thread of the process under test loads a seccomp filter (seccomp(2), no privilege needed) that stops it, and what
it starts, at every call which touches files, and asks a supervisor what to do: `seccomp_unotify(2)`. The supervisor is
the test, in another process, so that neither can block the other's interpreter. It lets a call go on, or fails it with
an error before the kernel has done anything. What is to fail stands in memory that both share: the process under test
arms the fault, does the operation, and disarms it. Calls outside of the folder `root` always go on.

    in the test                         in the process under test
    run([program, …], root, 60.0)       disk = attach()
                                        with disk.failing(errno.EIO, 3) as fault:
                                            disk.call(lambda: store.put("k", 1))
                                        fault.injected

Nothing waits without a limit: the process under test is killed when its time is over, when the supervisor fails and
when its parent dies; without a supervisor the kernel refuses the filtered calls.
"""

from __future__ import annotations

import array  # noqa: F401  # `socket.send_fds` imports it, which nobody could answer after the filter is loaded
import ctypes
import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, TypeVar, cast

from tests.stores.syscalls import ARCHITECTURE, CALLS, FAILS_WITH, Call, Memory, kind_of, paths_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["MODES", "Disk", "Fault", "Mode", "Outcome", "Unsupported", "attach", "run"]

Mode = Literal["once", "on", "filling"]
MODES: tuple[Mode, ...] = ("once", "on", "filling")
"""The n-th call fails; it and all later ones; the same, and if it is a write it takes half of its bytes first."""

_T = TypeVar("_T")
_LONGEST_CALL_SEC = 100.0
_ENVIRONMENT = "SYSCALL_FAULTS"
_NO_NEW_PRIVS, _DEATH_SIGNAL = 38, 1  # prctl(2)
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8  # seccomp(2)
_RECEIVE, _SEND, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082104  # ioctl(2) of a listener
_SYNC_WAKE_UP = 1
_GO_ON = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_PIDFD_GETFD = 438
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id, pid, flags; number, architecture, instruction pointer, arguments
_ANSWER = struct.Struct("=QqiI")  # id, value, error, flags
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06


class Unsupported(Exception):
    """The platform has no such filters, or the kernel refuses them to this process."""


class Fault(ctypes.Structure):
    """What is to fail, and what did: shared by both processes."""

    armed: int
    number: int
    nth: int
    mode: int
    matching: int
    injected: int
    what: bytes
    _fields_ = [
        ("armed", ctypes.c_int32),
        ("number", ctypes.c_int32),
        ("nth", ctypes.c_int32),
        ("mode", ctypes.c_int32),
        ("matching", ctypes.c_int32),
        ("injected", ctypes.c_int32),
        ("what", ctypes.c_char * 400),
    ]


class Outcome(NamedTuple):
    """How a process under test ended; `injected` counts the failed calls by error and kind."""

    status: int
    out: str
    err: str
    injected: Counter[tuple[str, str]]


# ---- the process under test


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("yes", ctypes.c_ubyte), ("no", ctypes.c_ubyte), ("value", ctypes.c_uint)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction))]


class Disk:
    """The switch of the process under test, and the thread whose calls can fail."""

    def __init__(self, fault: Fault, begin: Callable[[], None]) -> None:
        self.fault = fault
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()
        self.call(begin)

    def call(self, act: Callable[[], _T]) -> _T:
        """What `act` returns or raises, done by the thread whose calls can fail; threads that it starts are like it.

        The rest of the process does not wait for the supervisor with every call. To be called by one thread.
        """
        outcome: list[tuple[_T | None, BaseException | None]] = []

        def job() -> None:
            try:
                outcome.append((act(), None))
            except BaseException as error:
                outcome.append((None, error))

        self._jobs.put(job)
        self._done.get(timeout=_LONGEST_CALL_SEC)
        returned, raised = outcome.pop()  # an error in a list that its own traceback names would stay
        if raised is not None:
            raise raised
        return cast("_T", returned)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            job()
            del job
            self._done.put(None)

    @contextmanager
    def failing(self, number: int, nth: int, mode: Mode = "once") -> Iterator[Fault]:
        """Within the block the `nth` call (from 1) that can fail with the error `number` does, in any thread."""
        fault = self.fault
        fault.number, fault.nth, fault.mode = number, nth, MODES.index(mode)
        fault.matching = fault.injected = 0
        fault.what = b""
        fault.armed = 1
        try:
            yield fault
        finally:
            fault.armed = 0


def die_with_parent() -> None:
    """Be killed when the process that started this one ends."""
    _libc().prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def attach() -> Disk:
    """Start the thread with the filter, once in a process that `run` started; the switch of its faults."""
    parent, shared = (int(number) for number in os.environ[_ENVIRONMENT].split())
    die_with_parent()
    fault = Fault.from_buffer(mmap.mmap(shared, mmap.PAGESIZE))
    with socket.socket(fileno=parent) as channel:
        return Disk(fault, lambda: _begin(channel))


def _begin(channel: socket.socket) -> None:
    try:
        listener = _load_filter()
    except Unsupported as error:
        channel.send(str(error).encode())
        raise
    socket.send_fds(channel, [b"+"], [listener])
    os.close(listener)


def _load_filter() -> int:
    assert ARCHITECTURE is not None, "`run` refuses to start a process there"
    rows = [(_LOAD, 0, 0, 4), (_JUMP_IF_EQUAL, 0, len(CALLS) + 1, ARCHITECTURE.audit), (_LOAD, 0, 0, 0)]
    rows += [(_JUMP_IF_EQUAL, len(CALLS) - index, 0, number) for index, number in enumerate(CALLS)]
    rows += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOTIFY)]
    instructions = (_Instruction * len(rows))(*(_Instruction(*row) for row in rows))
    program = _Program(len(rows), instructions)
    libc = _libc()
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise Unsupported(f"prctl(PR_SET_NO_NEW_PRIVS): {os.strerror(ctypes.get_errno())}")
    listener: int = libc.syscall(ARCHITECTURE.seccomp, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if listener < 0:
        raise Unsupported(f"the kernel refuses a seccomp filter with a listener: {os.strerror(ctypes.get_errno())}")
    return listener


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


# ---- the supervisor


def run(
    arguments: Sequence[str], root: Path, timeout_sec: float, environment: Mapping[str, str] = MappingProxyType({})
) -> Outcome:
    """Run the Python program `arguments`, which calls `attach`, and inject its faults into calls that touch `root`.

    `Unsupported` where that is not possible, `TimeoutError` (with the output so far) when it takes longer.
    """
    if ARCHITECTURE is None or not sys.platform.startswith("linux"):
        raise Unsupported("calls of the system can be failed on Linux on x86_64 and aarch64 only")
    deadline = time.monotonic() + timeout_sec
    ours, theirs = socket.socketpair()
    shared = os.memfd_create("fault")
    os.ftruncate(shared, mmap.PAGESIZE)
    memory = mmap.mmap(shared, mmap.PAGESIZE)
    with ours, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                pass_fds=(theirs.fileno(), shared),
                env=os.environ | {**environment, _ENVIRONMENT: f"{theirs.fileno()} {shared}"},
            )
        finally:
            theirs.close()
            os.close(shared)
        try:
            supervisor = _Supervisor(process.pid, os.path.realpath(root), Fault.from_buffer(memory))
            with _listener(ours, deadline) as listener:
                if listener is not None:
                    supervisor.serve(listener, deadline)
            status = process.wait(max(1.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            process.kill()
            raise TimeoutError(f"still running after {timeout_sec} s\n{_text(out)}\n{_text(err)}") from error
        finally:
            process.kill()
            process.wait()
        return Outcome(status, _text(out), _text(err), supervisor.injected)


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


@contextmanager
def _listener(channel: socket.socket, deadline: float) -> Iterator[int | None]:
    """The descriptor that the process sends, None when it ended before."""
    channel.settimeout(max(0.1, deadline - time.monotonic()))
    said, descriptors, _, _ = socket.recv_fds(channel, 1000, 1)
    if said and not descriptors:
        raise Unsupported(said.decode())
    try:
        yield descriptors[0] if descriptors else None
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


class _Supervisor:
    def __init__(self, pid: int, root: str, fault: Fault) -> None:
        self.injected: Counter[tuple[str, str]] = Counter()
        self._pid, self._root, self._fault = pid, root, fault
        self._listener = self._process = -1

    def serve(self, listener: int, deadline: float) -> None:
        """Answer every call until the process ends."""
        self._listener = listener
        with suppress(OSError):  # before Linux 6.6 it is only slower
            fcntl.ioctl(listener, _SET_FLAGS, _SYNC_WAKE_UP)
        self._process = os.pidfd_open(self._pid)
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        poller.register(self._process, select.POLLIN)
        memory = Memory(self._pid)
        try:
            while True:
                ready = dict(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
                if not ready:
                    raise TimeoutError
                if ready.get(listener, 0) & select.POLLIN:
                    self._answer(memory)
                elif self._process in ready:
                    return
        finally:
            memory.close()
            os.close(self._process)

    def _answer(self, memory: Memory) -> None:
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(self._listener, _RECEIVE, buffer)
            ticket, pid, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
            value, failure = self._verdict(CALLS[number], pid, arguments, memory) if self._fault.armed else (0, 0)
            flags = 0 if value or failure else _GO_ON
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(ticket, value, -failure, flags))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESRCH):  # the process was killed meanwhile
                raise

    def _verdict(self, call: Call, pid: int, arguments: list[int], memory: Memory) -> tuple[int, int]:
        """The value or the error that the call is to return; two zeros let it go on."""
        fault = self._fault
        kind = kind_of(call, arguments, memory)
        if kind is None or kind not in FAILS_WITH[fault.number]:
            return 0, 0
        touched = [path for path in paths_of(call, pid, arguments, memory) if self._is_inside(path)]
        if not touched:
            return 0, 0
        fault.matching += 1
        if fault.matching != fault.nth and not (fault.mode and fault.matching > fault.nth):
            return 0, 0
        if not fault.injected:
            fault.what = f"{call.name}({', '.join(path[len(self._root) :] for path in touched)})".encode()[:399]
        fault.injected += 1
        self.injected[errno.errorcode[fault.number], kind] += 1
        if MODES[fault.mode] == "filling" and fault.matching == fault.nth and call.name in ("write", "pwrite64"):
            try:
                return self._write_half(call, arguments, memory), 0
            except OSError as error:  # the call itself would have failed, on a descriptor that is not for writing
                return 0, error.errno or fault.number
        return 0, fault.number

    def _is_inside(self, path: str) -> bool:
        return path == self._root or path.startswith(f"{self._root}/")

    def _write_half(self, call: Call, arguments: list[int], memory: Memory) -> int:
        """Do the first half of a write in the place of the process; how many bytes."""
        number, address, size, offset = arguments[:4]
        data = memory.read(address, max(1, size // 2))
        descriptor = _libc().syscall(_PIDFD_GETFD, self._process, number & 0xFFFFFFFF, 0)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        try:
            return os.write(descriptor, data) if call.name == "write" else os.pwrite(descriptor, data, offset)
        finally:
            os.close(descriptor)
