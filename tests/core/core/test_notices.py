"""Being told that a store was written, and how often it is asked all the same."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from contextlib import closing
from itertools import accumulate
from select import select
from typing import TYPE_CHECKING, Any

import pytest

from converge.core import notices as pacing
from converge.core.feed import Feed
from converge.core.file_notices import FileNotices
from converge.core.notices import POLL_INTERVAL_SEC, QUIET_INTERVAL_SEC, QUIET_SEC, TOLD_INTERVAL_SEC, Pace
from converge.extensions.storage.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from converge.core.notices import Notices

PATIENCE_SEC = 10.0


def is_told(notices: Notices) -> bool:
    return bool(select([notices], [], [], 0)[0])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "watched file"
    made.write_text("before")
    return made


@pytest.fixture
def notices(file: Path) -> Iterator[FileNotices]:
    with closing(FileNotices(file)) as made:
        yield made


def append(file: Path) -> None:
    with file.open("a") as opened:
        opened.write("more")


def cut(file: Path) -> None:
    os.truncate(file, 0)


def write_into(file: Path) -> None:
    with file.open("r+") as opened:
        opened.write("XX")


@pytest.mark.parametrize("change", [append, cut, write_into])
def test_each_change_of_a_file_is_told_until_it_is_cleared(
    file: Path, notices: FileNotices, change: Callable[[Path], None]
) -> None:
    assert not is_told(notices)
    for _ in range(3):
        file.write_text("something to cut off")
        notices.clear()
        assert not is_told(notices)
        change(file)
        assert is_told(notices)


def test_reading_is_no_change(file: Path, notices: FileNotices) -> None:
    file.read_text()
    assert not is_told(notices)


def test_a_file_in_the_place_of_the_one_that_was_watched_is_watched_then(file: Path, notices: FileNotices) -> None:
    with file.open():  # so that the old one lives on without a name
        for number in range(3):
            other = file.with_name(f"other {number}")
            other.write_text("after")
            other.replace(file)
            assert is_told(notices)
            notices.clear()
            append(file)
            assert is_told(notices)
            notices.clear()


def test_a_file_that_is_gone_is_told_and_no_error(file: Path, notices: FileNotices) -> None:
    file.unlink()
    assert is_told(notices)
    notices.clear()
    assert not is_told(notices)


def test_there_are_none_where_there_is_no_file_or_no_such_system(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FileNotices.of(file.with_name("absent")) is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert FileNotices.of(file) is None


def test_there_are_none_when_the_system_gives_no_more(file: Path) -> None:
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from converge.core.file_notices import FileNotices\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))\n"
        "kept = [FileNotices.of(Path(sys.argv[1])) for _ in range(40)]\n"
        "print(sum(one is not None for one in kept) in range(10, 30), kept[-1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "True None\n"


def test_a_closed_one_holds_no_descriptor_and_is_closed_again_without_an_error(file: Path) -> None:
    store = MemoryStore()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        for made in (FileNotices(file), store.notices()):
            assert made is not None
            assert len(os.listdir("/proc/self/fd")) > before
            made.close()
            made.close()
            assert made.fileno() == -1
    store.put("k", 1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_store_in_memory_tells_of_each_write_from_any_thread() -> None:
    store = MemoryStore()
    with (
        closing(store.notices() or pytest.fail("it gives none")) as one,
        closing(store.notices() or pytest.fail("it gives none")) as other,
    ):
        for write in (lambda: store.put("k", 1), lambda: store.delete("k"), lambda: store.put_many({"a": 1, "b": 2})):
            assert not is_told(one)
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
            assert is_told(one)
            assert is_told(other)
            one.clear()
        store.delete("absent")
        assert not is_told(one)


def test_what_is_never_cleared_keeps_no_writer_waiting() -> None:
    feed = Feed()
    with closing(feed.notices()) as bell:
        for number in range(100_000):
            feed.written(f"k{number % 7}")
        assert is_told(bell)
        bell.clear()
        assert not is_told(bell)


# -- Pace


async def test_without_notices_a_store_is_asked_less_often_when_nothing_has_happened_for_a_while() -> None:
    pace = Pace(asyncio.get_running_loop(), None, lambda: None)
    pauses = [pace.pause(changed=False) for _ in range(300)]
    often = round(QUIET_SEC / POLL_INTERVAL_SEC)
    assert pauses == [POLL_INTERVAL_SEC] * often + [QUIET_INTERVAL_SEC] * (300 - often)
    assert pace.pause(changed=True) == POLL_INTERVAL_SEC


async def test_with_notices_it_is_asked_hardly_ever_until_one_comes(file: Path) -> None:
    told = asyncio.Event()
    pace = Pace(asyncio.get_running_loop(), FileNotices(file), told.set)
    pauses = [pace.pause(changed=True), *(pace.pause(changed=False) for _ in range(30))]
    assert pauses[0] == POLL_INTERVAL_SEC
    assert pauses == sorted(pauses)
    assert pauses[-1] == TOLD_INTERVAL_SEC
    append(file)
    async with asyncio.timeout(PATIENCE_SEC):
        await told.wait()
    pauses = [pace.pause(changed=False) for _ in range(40)]
    assert pauses[0] < 0.001, "what was told of can be read as soon as it is on the disk"
    assert pauses == sorted(pauses)
    assert pauses[-1] == TOLD_INTERVAL_SEC
    for asked, pause in zip(accumulate(pauses), pauses[1:], strict=False):
        assert pause <= max(0.002, 1.2 * asked) if pause < POLL_INTERVAL_SEC else pause <= 0.7 * asked
    assert pace.pause(changed=True) == POLL_INTERVAL_SEC
    pace.close()


async def test_many_writes_are_one_wake_until_the_store_was_asked_again(file: Path) -> None:
    wakes, loop = list[float](), asyncio.get_running_loop()
    pace = Pace(loop, FileNotices(file), lambda: wakes.append(loop.time()))
    for changed in (True, False):
        pace.pause(changed=changed)
    for _ in range(50):
        append(file)
        await asyncio.sleep(0)
    assert len(wakes) == 1
    pace.pause(changed=True)
    for _ in range(50):
        append(file)
        await asyncio.sleep(0)
    assert len(wakes) == 1, "what changes is asked again in 5 ms anyway"
    pace.pause(changed=False)
    await asyncio.sleep(0.01)
    assert len(wakes) == 2, "what came while nobody listened is told"
    pace.close()


def test_an_event_loop_that_cannot_wait_for_a_descriptor_asks_as_without_notices(file: Path) -> None:
    class Deaf(asyncio.SelectorEventLoop):
        deaf = False

        def add_reader(self, *arguments: Any) -> None:  # type: ignore[override]  # of what it takes nothing is used here
            if self.deaf:
                raise NotImplementedError  # as the proactor
            super().add_reader(*arguments)

    loop, notices = Deaf(), FileNotices(file)
    with closing(loop):
        loop.deaf = True
        pace = Pace(loop, notices, lambda: None)
        assert {pace.pause(changed=False) for _ in range(300)} == {POLL_INTERVAL_SEC, QUIET_INTERVAL_SEC}
        assert notices.fileno() == -1
        pace.close()


async def test_a_closed_pace_wakes_nobody(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "TOLD_INTERVAL_SEC", PATIENCE_SEC)
    wakes: list[bool] = []
    pace = Pace(asyncio.get_running_loop(), FileNotices(file), lambda: wakes.append(True))
    for _ in range(30):
        pace.pause(changed=False)
    pace.close()
    append(file)
    await asyncio.sleep(0.01)
    assert wakes == []
