"""The kills of `test_audit.py`, many more of them, several in one run."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import children_of

if TYPE_CHECKING:
    from tests.e2e.conftest import Audit

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("seed", range(20))
def test_a_run_that_is_killed_three_times_still_counts_every_file_once(audit: Audit, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        process = audit.start()
        audit.wait_until_in_the_middle(chance)
        if chance.random() < 0.5:
            os.kill(chance.choice(children_of(process.pid)), signal.SIGKILL)
            audit.finish(process)
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        done = sum(record.state == "completed" for record in audit.records().values())
        if done > audit.files // 2:
            break
    audit.finish(audit.start())
    audit.check_report()
