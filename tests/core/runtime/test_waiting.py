"""The parts the loop waits with: inbox, scheduler, threads, watch, and calls of user code."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from converge.coordination.task_manager import TaskManager
from converge.core import notices
from converge.core.message import Message
from converge.core.task import Task
from converge.extensions.storage.file import FileStore
from converge.extensions.storage.memory import MemoryStore
from converge.extensions.storage.sqlite import SQLiteStore
from converge.runtime.calls import backoff, contained, described, settled, within
from converge.runtime.errors import CallFailed
from converge.runtime.inbox import DEFAULT_INBOX_SIZE, Inbox
from converge.runtime.loop import Inbox as InboxOfLoop
from converge.runtime.scheduler import Scheduler
from converge.runtime.shared.tasks import TaskWatch
from converge.runtime.threads import StoreThread, in_own_thread
from tests.core.runtime.conftest import PATIENCE_SEC, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from converge.core.store import VersionedStore

# -- Inbox


async def test_an_inbox_gives_the_oldest_first_in_batches() -> None:
    inbox = Inbox()
    messages = [Message(payload={"n": n}) for n in range(12)]
    for message in messages:
        await inbox.push(message)
    assert len(inbox) == 12
    assert inbox.poll() == messages[:10]
    assert inbox.poll(1) == messages[10:11]
    assert (inbox.poll(0), inbox.poll(), inbox.poll()) == ([], messages[11:], [])
    assert InboxOfLoop is Inbox


async def test_a_full_inbox_makes_the_pusher_wait_until_there_is_room() -> None:
    inbox = Inbox(1)
    await inbox.push(Message())
    push = asyncio.create_task(inbox.push(Message()))
    await asyncio.sleep(0)
    assert not push.done()
    assert len(inbox.poll()) == 1
    await push
    assert (len(inbox), inbox.dropped) == (1, 0)


async def test_a_full_inbox_may_drop_the_new_message_and_counts_it() -> None:
    inbox, first = Inbox(1, drop_when_full=True), Message(payload={"n": 1})
    for message in (first, Message(), Message()):
        await inbox.push(message)
    assert (inbox.dropped, inbox.poll()) == (2, [first])


async def test_an_inbox_is_bounded_by_default() -> None:
    inbox = Inbox(drop_when_full=True)
    for _ in range(DEFAULT_INBOX_SIZE + 1):
        await inbox.push(Message())
    assert (len(inbox), inbox.dropped) == (DEFAULT_INBOX_SIZE, 1)


@pytest.mark.parametrize("maxsize", [0, -1])
def test_an_inbox_without_room_is_refused(maxsize: int) -> None:
    with pytest.raises(ValueError, match="an inbox holds at least one message"):
        Inbox(maxsize)


async def test_pushers_take_turns_and_one_that_is_cancelled_adds_nothing_and_holds_up_nobody() -> None:
    inbox, messages = Inbox(1), [Message(payload={"n": n}) for n in range(4)]
    await inbox.push(messages[0])
    first, second, third = (asyncio.create_task(inbox.push(message)) for message in messages[1:])
    await asyncio.sleep(0)
    second.cancel()  # while it waits
    assert inbox.poll() == [messages[0]]
    first.cancel()  # when it has been woken, but has not run yet
    await asyncio.wait_for(third, PATIENCE_SEC)
    assert inbox.poll() == [messages[3]]
    assert (first.cancelled(), second.cancelled(), len(inbox)) == (True, True, 0)


async def test_room_for_many_wakes_as_many_pushers() -> None:
    inbox, messages = Inbox(2), [Message(payload={"n": n}) for n in range(5)]
    pushes = [asyncio.create_task(inbox.push(message)) for message in messages]
    await asyncio.sleep(0)
    assert inbox.poll() == messages[:2]
    await asyncio.sleep(0)
    assert [push.done() for push in pushes] == [True] * 4 + [False]
    assert inbox.poll(1) == messages[2:3]
    await pushes[4]
    assert inbox.poll() == messages[3:]


# -- Scheduler


async def test_a_notice_given_before_the_wait_is_kept_and_taken_once() -> None:
    scheduler = Scheduler()
    scheduler.notify()
    scheduler.notify()
    assert await scheduler.wait_for_work(0) is True
    assert await scheduler.wait_for_work(0) is False


async def test_a_waiting_loop_is_woken_from_here_and_from_any_thread() -> None:
    scheduler = Scheduler()
    for wake in (scheduler.notify, lambda: threading.Thread(target=scheduler.notify).start()):
        waiting = asyncio.create_task(scheduler.wait_for_work(PATIENCE_SEC))
        await asyncio.sleep(0)
        wake()
        assert await waiting is True


async def test_no_notice_of_many_threads_is_lost() -> None:
    scheduler, given = Scheduler(), threading.Semaphore(0)

    def give() -> None:
        given.release()
        scheduler.notify()

    with ThreadPoolExecutor(4) as threads:
        for _ in range(300):
            threads.submit(give)
            assert await scheduler.wait_for_work(PATIENCE_SEC)


def test_a_notice_after_the_event_loop_has_closed_is_no_error() -> None:
    scheduler = Scheduler()
    asyncio.run(scheduler.wait_for_work(0))
    worker = threading.Thread(target=scheduler.notify)
    worker.start()
    worker.join()
    scheduler.notify()


# -- threads


async def test_the_runtimes_of_a_process_share_one_store_thread_that_ends_with_the_last() -> None:
    one, two = StoreThread(), StoreThread()
    one.open()
    one.open()
    two.open()
    threads = {await one.run(threading.current_thread), await two.run(threading.current_thread)}
    one.close()
    one.close()
    threads.add(await two.run(threading.current_thread))
    assert len(threads) == 1
    with pytest.raises(RuntimeError, match="the store thread is closed"):
        await one.run(len, [])
    two.close()
    (thread,) = threads
    await asyncio.to_thread(thread.join, PATIENCE_SEC)
    assert not thread.is_alive()
    one.open()
    assert await one.run(len, [1]) == 1
    one.close()


@pytest.mark.parametrize("error", [ValueError("x"), StopIteration(), SystemExit(1), KeyboardInterrupt()], ids=repr)
async def test_what_a_call_in_a_thread_raises_comes_out_where_it_is_awaited(error: BaseException) -> None:
    def fail() -> None:
        raise error

    store = StoreThread()
    store.open()
    expected = type(error) if type(error) is ValueError else CallFailed
    async with asyncio.timeout(PATIENCE_SEC):
        with pytest.raises(expected) as of_store:
            await store.run(fail)
        with pytest.raises(expected) as of_own:
            await in_own_thread("failing", fail)
    store.close()
    for raised in (of_store.value, of_own.value):
        assert raised is error or raised.__cause__ is error


async def test_a_call_in_its_own_thread_is_a_daemon_with_a_name_and_the_context_of_the_caller() -> None:
    name = contextvars.ContextVar[str]("name")
    name.set("caller")

    def look() -> tuple[str, bool, str]:
        thread = threading.current_thread()
        return thread.name, thread.daemon, name.get()

    assert await in_own_thread("looking", look) == ("looking", True, "caller")


def test_a_call_that_outlives_its_event_loop_ends_quietly() -> None:
    released, ended = threading.Event(), threading.Event()

    def hang() -> None:
        released.wait(PATIENCE_SEC)

    async def give_up() -> threading.Thread:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await in_own_thread("outliving", hang)
        return next(thread for thread in threading.enumerate() if thread.name == "outliving")

    thread = asyncio.run(give_up())
    released.set()
    thread.join(PATIENCE_SEC)  # an error in it would fail this test as an unhandled thread exception
    assert not thread.is_alive()
    assert not ended.is_set()


# -- TaskWatch


async def test_a_watch_is_shared_by_the_users_of_a_manager_and_forgets_it_after_the_last() -> None:
    tasks = TaskManager()
    watch = TaskWatch.of(tasks)
    assert TaskWatch.of(tasks) is watch
    watch.open(1, lambda: None)
    watch.open(2, lambda: None)
    await watch.close(1)
    assert TaskWatch.of(tasks) is watch
    await watch.close(2)
    await watch.close(2)
    gone = weakref.ref(tasks)
    del tasks, watch
    gc.collect()
    assert gone() is None
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "converge-task-watch"]


async def test_a_watch_goes_on_after_the_store_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    class Moody(TaskManager):
        failures = 2

        def poll(self) -> bool:
            if self.failures:
                self.failures -= 1
                raise OSError("away")
            return super().poll()

    store = MemoryStore()
    tasks, told = Moody(store), list[bool]()
    tasks.add_listener(lambda: told.append(True))
    watch = TaskWatch.of(tasks)
    watch.open(1, lambda: None)
    TaskManager(store).submit(Task())
    await until(lambda: told)
    await watch.close(1)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2


@pytest.fixture(params=["memory", "sqlite", "file"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[VersionedStore, VersionedStore]]:
    """One store, opened twice."""
    if request.param == "memory":
        store = MemoryStore()
        yield store, store
        return
    make = SQLiteStore if request.param == "sqlite" else FileStore
    with make(tmp_path / "store") as one, make(tmp_path / "store") as other:
        yield one, other


async def test_a_watch_of_a_silent_store_asks_hardly_ever_and_is_told_of_what_comes(
    stores: tuple[VersionedStore, VersionedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "TOLD_INTERVAL_SEC", 3600.0)  # only a notice can be what wakes it
    asked = 0

    class Asked(TaskManager):
        def may_have_changed(self) -> bool:
            nonlocal asked
            asked += 1
            return super().may_have_changed()

    tasks, elsewhere, woken = Asked(stores[0]), TaskManager(stores[1]), asyncio.Event()
    watch = TaskWatch.of(tasks)
    watch.open(1, woken.set)
    for number in range(1, 4):
        await asyncio.sleep(0.3)
        before = asked
        await asyncio.sleep(0.1)
        assert asked - before < 5, "nearly twenty by the clock"
        woken.clear()
        await asyncio.to_thread(elsewhere.submit, Task())
        async with asyncio.timeout(PATIENCE_SEC):
            await woken.wait()
        assert len(tasks.list_pending_tasks()) == number
    await watch.close(1)


async def test_a_task_whose_pause_is_over_is_noticed_though_nobody_writes(
    stores: tuple[VersionedStore, VersionedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "TOLD_INTERVAL_SEC", 3600.0)
    tasks, shown = TaskManager(stores[0]), list[int]()
    watch = TaskWatch.of(tasks)
    watch.open(1, lambda: shown.append(len(tasks.list_pending_tasks())))
    task_id = tasks.submit(Task(constraints={"max_retries": 1, "retry_backoff_sec": 0.5}))
    assert tasks.claim("agent", task_id)
    tasks.fail_task(task_id, "not now", agent_id="agent")
    await until(lambda: shown and shown[-1] == 0)
    await until(lambda: shown[-1] == 1)
    await watch.close(1)


# -- calls


async def test_settled_takes_plain_and_async_functions() -> None:
    assert await settled(lambda: 1) == 1
    assert await settled(asyncio.sleep, 0, "slept") == "slept"


async def test_within_names_what_gave_no_answer() -> None:
    with pytest.raises(TimeoutError, match=r"^the oracle gave no answer within 0 s$"):
        await within(0, "the oracle", asyncio.sleep, 60)
    assert await within(None, "the oracle", asyncio.sleep, 0, 42) == 42


async def test_who_is_cancelled_while_waiting_takes_the_call_along() -> None:
    inside, ended = asyncio.Event(), asyncio.Event()

    async def call() -> None:
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    job = asyncio.create_task(within(60, "it", call))
    await inside.wait()
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert ended.is_set()


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.1), (4, 0.8), (9, 25.6), (10, 30.0), (100_000, 30.0)])
def test_the_backoff_doubles_up_to_its_most_however_often_it_failed(failures: int, seconds: float) -> None:
    assert backoff(failures, 30.0) == pytest.approx(seconds)


def test_errors_are_contained_and_described_whatever_they_are() -> None:
    class Textless(Exception):
        def __str__(self) -> Any:
            raise ValueError("none")

    error = ValueError("x")
    assert contained(error) is error
    failed = contained(SystemExit(3))
    assert (type(failed), str(failed)) == (CallFailed, "it raised SystemExit: 3")
    assert str(pickle.loads(pickle.dumps(failed))) == str(failed)
    assert [described(e) for e in (error, KeyError(), Textless())] == [
        "ValueError: x", "KeyError", "Textless: an error without a text",
    ]  # fmt: skip
