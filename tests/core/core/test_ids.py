from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid

import pytest

from converge.core.ids import new_id


def test_ids_are_uuids_of_version_4_in_the_usual_text_form() -> None:
    for made in [new_id() for _ in range(1000)]:
        parsed = uuid.UUID(made)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, made)


def test_ids_do_not_repeat_over_many_blocks_and_threads() -> None:
    lists: list[list[str]] = [[] for _ in range(4)]

    def fill(into: list[str]) -> None:
        into.extend(new_id() for _ in range(20_000))

    threads = [threading.Thread(target=fill, args=(into,)) for into in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({made for into in lists for made in into}) == 80_000


def test_the_next_id_does_not_follow_from_the_last() -> None:
    made = sorted(new_id() for _ in range(2000))
    ends = [int(one[-10:], 16) for one in made]
    assert len(set(ends)) == 2000
    for bit in range(40):  # each bit is set in about half of them: 7 standard deviations
        assert abs(sum(end >> bit & 1 for end in ends) - 1000) < 7 * 22.4


FORKING = """
import os, sys
from converge.core.ids import new_id
new_id()
read, write = os.pipe()
child = os.fork()
mine = [new_id() for _ in range(200)]
if child == 0:
    os.write(write, "\\n".join(mine).encode())
    os._exit(0)
os.close(write)
theirs = b""
while piece := os.read(read, 65536):
    theirs += piece
os.waitpid(child, 0)
assert len(theirs.split()) == 200
print(len(set(mine) & set(theirs.decode().split())))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_does_not_give_out_its_parents_ids() -> None:
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "0"
