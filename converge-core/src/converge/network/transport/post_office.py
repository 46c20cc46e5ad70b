"""The mailboxes in a store, seen from one event loop: who has one, what waits in it, and what is on its way."""

from __future__ import annotations

import asyncio
import logging
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

from attrs import define, field

from converge.core.follower import Follower
from converge.core.ids import new_id
from converge.core.notices import POLL_INTERVAL_SEC, Pace
from converge.core.store import DELETED, versioned
from converge.core.topic import Topic

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from converge.core.plain import Plain
    from converge.core.store import Change, Store

__all__ = ["Letter", "PostOffice", "Resident"]

_SWEEP_SEC = 30.0
_MAX_PAUSE_SEC = 5.0
_MAIL, _BOX, _READ = "mail:", "mailbox:", "read:"
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class Letter(NamedTuple):
    """A message in a mailbox."""

    key: str
    expires_at: float
    frame: bytes


class Resident(Protocol):
    """A transport that has its mailbox here and is started."""

    agent_id: str
    counters: Counter[str]

    def deliver(self, letter: Letter) -> None:
        """Take a letter, in the order in which they were stored; it may come more than once."""

    def box(self) -> tuple[Iterable[Topic], float]:
        """What the mailbox is subscribed to, and until when it is to be kept."""

    def forget_read(self, now: float) -> list[tuple[str, float]]:
        """Take out what was read too long ago to be remembered: digests, and until when they were."""


@define
class _Box:
    topics: tuple[Topic, ...] = ()
    until: float = 0.0
    letters: dict[str, tuple[float, int]] = field(factory=dict)  # key -> when it expires, bytes
    size: int = 0


class _Write(NamedTuple):
    puts: Mapping[str, Plain]
    deletes: Sequence[str]
    done: asyncio.Future[None]


class PostOffice:
    """All mailboxes of `store`, kept from its change feed by one follower for all agents of an event loop. Use `of`.

    What is written while a commit is under way is committed together in the next. Letters of agents that live
    elsewhere, or are away, are counted as `expired` by one of those who live here, when the office removes them.
    """

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self.store = versioned(store)
        self._now = now
        self._follower = Follower(self.store, "mail")
        self._boxes: dict[str, _Box] = {}
        self._subscribers: dict[Topic, dict[str, None]] = {}
        self._residents: dict[str, Resident] = {}
        self._sent: dict[str, dict[str, int]] = {}  # by mailbox: letters that the feed has not told of yet, and bytes
        self._closing = False
        self._writes: list[_Write] = []
        self._wake = asyncio.Event()
        self._job: asyncio.Task[None] | None = None
        self._pace: Pace | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._lock = asyncio.Lock()
        self._sweep_at = 0.0

    @classmethod
    def of(cls, store: Store, now: Callable[[], float]) -> PostOffice:
        """The office of `store` in the running event loop."""
        offices = _offices.setdefault(asyncio.get_running_loop(), WeakKeyDictionary())
        key = versioned(store)
        if (office := offices.get(key)) is None:
            office = offices[key] = cls(store, now)
        return office

    # -- life

    async def open(self, resident: Resident) -> list[Letter]:
        """Let `resident` live here; the letters that wait for it, the oldest first."""
        if self._executor is None and self.store.blocking:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="converge-post")
        if resident.agent_id in self._residents:
            _log.warning("another store transport takes over the mailbox of %s in this process", resident.agent_id)
        self._residents[resident.agent_id] = resident  # first: what comes meanwhile comes with the feed
        await self.catch_up()
        found = await self._call(self._letters_of, resident.agent_id)
        if self._job is None:
            self._closing = False
            self._sweep_at = self._now() + _SWEEP_SEC * random.random()  # noqa: S311  # only spreads the work
            self._pace = Pace(asyncio.get_running_loop(), self.store.notices(), self._wake.set)
            self._job = asyncio.create_task(self._work(self._pace), name="converge-post")
        return found

    async def close(self, resident: Resident) -> None:
        """Undo `open`; the last resident takes the office with it, after what waits to be written."""
        if self._residents.get(resident.agent_id) is resident:
            del self._residents[resident.agent_id]
        if self._residents:
            return
        job, self._job, self._closing = self._job, None, True
        _offices.get(asyncio.get_running_loop(), WeakKeyDictionary()).pop(self.store, None)
        if job is not None and self._pace is not None:
            self._wake.set()
            await asyncio.wait({job})
            self._pace.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    # -- what it knows

    def has_box(self, agent_id: str) -> bool:
        """Whether there is a mailbox of this agent, as far as is known here."""
        box = self._boxes.get(agent_id)
        return box is not None and box.until > self._now()

    def audience(self, topics: Sequence[Topic], sender: str) -> list[str]:
        """Who subscribed to one of the topics, or everybody when there is none; never the sender."""
        agents: Iterable[str] = self._boxes
        if topics:
            agents = {agent: None for topic in topics for agent in self._subscribers.get(topic, ())}
        return [agent for agent in agents if agent != sender and self.has_box(agent)]

    def load(self, agent_id: str) -> tuple[int, int]:
        """How many letters, and bytes, wait in the mailbox or are on their way to it."""
        box = self._boxes.get(agent_id) or _Box()
        sent = self._sent.get(agent_id, {})
        return len(box.letters) + len(sent), box.size + sum(sent.values())

    # -- writing

    async def keep_box(self, resident: Resident) -> None:
        """Make or renew the mailbox of `resident`, with what it subscribed to; known here when this returns."""
        await self.write(_box_record(resident), ())
        await self.catch_up()

    def post(self, frame: bytes, recipients: Iterable[str], expires_at: float) -> asyncio.Future[None]:
        """Put a copy of `frame` into each mailbox; done when it is stored."""
        puts: dict[str, Plain] = {}
        for agent_id in recipients:
            key = f"{_MAIL}{agent_id}:{new_id()}"
            puts[key] = [expires_at, frame]
            self._sent.setdefault(agent_id, {})[key] = len(frame)
        return self.write(puts, ())

    def acknowledge(self, agent_id: str, letters: Sequence[tuple[str, str, float]]) -> asyncio.Future[None]:
        """Remove letters, given as (key, digest of the message, until when it is to be remembered that it was read).

        One without a digest is not remembered.
        """
        puts: dict[str, Plain] = {_read_key(agent_id, digest, until): None for _, digest, until in letters if digest}
        return self.write(puts, [key for key, _, _ in letters])

    async def read_before(self, agent_id: str) -> dict[str, float]:
        """The digests of the messages that the agent has acknowledged, and until when they are remembered."""
        keys = await self._call(self.store.list, f"{_READ}{agent_id}:")
        return {key.rpartition(":")[2]: _until(key) for key in keys}

    def write(self, puts: Mapping[str, Plain], deletes: Sequence[str]) -> asyncio.Future[None]:
        """Store and remove with the next commit; first the one, then the other."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writes.append(_Write(puts, deletes, done))
        self._wake.set()
        return done

    # -- the job

    async def _work(self, pace: Pace) -> None:
        failures, changed = 0, True
        while not self._closing or self._writes:
            if not self._closing:
                pause = pace.pause(changed=changed)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(pause, min(POLL_INTERVAL_SEC * 2.0**failures, _MAX_PAUSE_SEC))):
                        await self._wake.wait()
            self._wake.clear()
            await self._flush()
            try:
                changed = await self.catch_up()
                await self._sweep()
                failures = 0
            except Exception:  # noqa: BLE001  # a store that is away for a while; logged, tried again more slowly
                failures = min(failures + 1, 10)
                _log.exception("following the mailboxes failed (%d in a row)", failures)

    async def _flush(self) -> None:
        """Commit what waits, and tell who waits for it."""
        writes, self._writes = self._writes, []
        if not writes:
            return
        puts = {key: value for write in writes for key, value in write.puts.items()}
        deletes = [key for write in writes for key in write.deletes]
        failure: Exception | None = None
        try:
            await self._call(self._commit, puts, deletes)
        except Exception as error:  # noqa: BLE001  # told to who waits for the write
            failure = error
            for key in puts:
                self._note_stored(key)
        for write in writes:
            if write.done.done():
                continue
            if failure is None:
                write.done.set_result(None)
            else:
                write.done.set_exception(failure)

    def _commit(self, puts: Mapping[str, Plain], deletes: Sequence[str]) -> None:
        if puts:
            self.store.put_many(puts)
        if deletes:
            self.store.delete_many(deletes)

    def _note_stored(self, key: str) -> None:
        """A letter is on its way no more."""
        sent = self._sent.get(_agent_of(key), {})
        sent.pop(key, None)
        if not sent:
            self._sent.pop(_agent_of(key), None)

    async def catch_up(self) -> bool:
        """Take what has changed in the store by now; whether anything has."""
        async with self._lock:  # what another one has read and not yet applied is no news to the follower
            if not self._follower.may_have_changed():
                return False
            anew, changes = await self._call(self._follower.poll)
            if anew:
                for box in self._boxes.values():
                    box.letters.clear()
                    box.size = 0
            for change in changes:
                self._apply(change)
            return True

    def _apply(self, change: Change) -> None:
        if change.key.startswith(_MAIL):
            agent_id = _agent_of(change.key)
            self._note_stored(change.key)
            box = self._boxes.setdefault(agent_id, _Box())
            known = box.letters.pop(change.key, None)
            box.size -= known[1] if known else 0
            letter = _letter(change.key, change.value)
            if letter is not None:
                box.letters[change.key] = letter.expires_at, len(letter.frame)
                box.size += len(letter.frame)
                if known is None and (resident := self._residents.get(agent_id)) is not None:
                    resident.deliver(letter)
        elif change.key.startswith(_BOX):
            self._apply_box(change.key.removeprefix(_BOX), change.value)

    def _apply_box(self, agent_id: str, record: object) -> None:
        box = self._boxes.setdefault(agent_id, _Box())
        for topic in box.topics:
            agents = self._subscribers.get(topic, {})
            agents.pop(agent_id, None)
            if not agents:
                self._subscribers.pop(topic, None)
        box.topics, box.until = _box_of(record)
        for topic in box.topics:
            self._subscribers.setdefault(topic, {})[agent_id] = None

    def _letters_of(self, agent_id: str) -> list[Letter]:
        """What waits for the agent; reads the store, since the office keeps no frames."""
        _, changes = self.store.changes(0, f"{_MAIL}{agent_id}:")
        found = (_letter(change.key, change.value) for change in changes if _agent_of(change.key) == agent_id)
        return [letter for letter in found if letter is not None]

    async def _sweep(self) -> None:
        """Remove what has expired: letters, what was read long ago, and mailboxes that nobody has come to."""
        now = self._now()
        if now < self._sweep_at or not self._residents:
            return
        self._sweep_at = now + _SWEEP_SEC
        self._renew(now)
        old: list[str] = []
        for agent_id, box in self._boxes.items():
            expired = [key for key, (expires_at, _) in box.letters.items() if expires_at <= now]
            old += expired
            if expired and agent_id not in self._residents:  # who lives here counts it, when it comes to it
                next(iter(self._residents.values())).counters["expired"] += len(expired)
                _log.info("%d messages to %s have expired while it was away", len(expired), agent_id)
        for agent_id, resident in self._residents.items():
            old += [_read_key(agent_id, digest, until) for digest, until in resident.forget_read(now)]
        for agent_id, box in [*self._boxes.items()]:
            if box.until > now or agent_id in self._residents:  # who lives here has just renewed it
                continue
            if box.until:
                old.append(_BOX + agent_id)
                old += await self._call(self.store.list, f"{_READ}{agent_id}:")
            old += box.letters
        if old:
            await self._call(self.store.delete_many, list(dict.fromkeys(old)))

    def _renew(self, now: float) -> None:
        """Keep the mailboxes of those who live here, when half of their time is over."""
        for agent_id, resident in self._residents.items():
            until = self._boxes[agent_id].until if agent_id in self._boxes else 0.0
            if until - now < (resident.box()[1] - now) / 2:
                self.write(_box_record(resident), ()).add_done_callback(_note_failure)

    async def _call(self, call: Callable[..., _T], *args: object) -> _T:
        if self._executor is None:
            return call(*args)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call, *args)


_offices: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakKeyDictionary[Store, PostOffice]] = WeakKeyDictionary()


def _box_record(resident: Resident) -> dict[str, Plain]:
    topics, until = resident.box()
    return {_BOX + resident.agent_id: {"topics": [topic.wire_fields for topic in topics], "until": until}}


def _note_failure(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.warning("a mailbox could not be renewed, and is tried again: %s", error)


def _read_key(agent_id: str, digest: str, until: float) -> str:
    return f"{_READ}{agent_id}:{int(until):012}:{digest}"


def _agent_of(key: str) -> str:
    return key.removeprefix(_MAIL).rpartition(":")[0]


def _until(key: str) -> float:
    text = key.rpartition(":")[0].rpartition(":")[2]
    return float(text) if text.isdecimal() else 0.0


def _letter(key: str, value: object) -> Letter | None:
    """The letter in a stored value; None for a deleted one, and for what is none."""
    match value:
        case [int() | float() as expires_at, bytes(frame)]:
            return Letter(key, expires_at, frame)
    if value is not DELETED:
        _log.warning("what lies under %r is no letter; it is left alone", key)
    return None


def _box_of(record: object) -> tuple[tuple[Topic, ...], float]:
    match record:
        case {"topics": [*topics], "until": int() | float() as until}:
            try:
                return tuple(Topic(*fields) for fields in topics), float(until)
            except (TypeError, ValueError):
                _log.warning("a mailbox has topics that are none: %r", topics)
    return (), 0.0
