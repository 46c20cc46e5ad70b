from __future__ import annotations

import os
import select
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.core.plugins.conftest import OURS

if TYPE_CHECKING:
    from converge.plugins import CheckResult, PluginManager
    from tests.core.plugins.conftest import Site

GOOD = "class Store:\n    pass\n"


def results(manager: PluginManager, timeout: float = 30.0) -> dict[str, CheckResult]:
    found = [result for result in manager.check("store", timeout) if result.plugin.distribution.startswith("dummy")]
    return {result.plugin.name: result for result in found}


def test_each_plugin_is_judged_on_its_own_and_the_host_lives_on(here: Site, manager: PluginManager) -> None:
    sources = {
        "good": GOOD,
        "noisy": "import os, sys\nprint('x' * 100_000)\nos.write(2, b'y' * 100_000)\n" + GOOD,
        "reading": "input()\n" + GOOD,
        "threaded": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n" + GOOD,
        "raising": "raise ValueError('no')",
        "exiting": "import sys; sys.exit(0)",
        "ending": "import os; os._exit(0)",
        "crashing": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "interrupting": "raise KeyboardInterrupt",
        "odd": "class Odd(BaseException): pass\nraise Odd",
        "missing": "import no_such_module_anywhere",
        "future": "class Store:\n    converge_api = 2\n",
        "blocked": "raise SystemExit",
    }
    for name, source in sources.items():
        here.store(name, source)
    here.store("same", GOOD, distribution="dummy-one")
    here.store("same", GOOD, distribution="dummy-two")
    manager.disable(["store:blocked"], source="a test")
    found = results(manager)
    assert {name: result.status for name, result in found.items()} == {
        "good": "ok",
        "noisy": "ok",
        "reading": "broken",
        "threaded": "ok",
        "raising": "broken",
        "exiting": "broken",
        "ending": "broken",
        "crashing": "broken",
        "interrupting": "broken",
        "odd": "broken",
        "missing": "broken",
        "future": "incompatible",
        "blocked": "disabled",
        "same": "ambiguous",
    }
    assert "dummy-raising 1.0" in found["raising"].detail
    assert "ValueError: no" in found["raising"].detail
    assert found["ending"].detail == "its import ended the process, which ended with exit code 0"
    assert found["crashing"].detail == "its import ended the process, which was killed by signal 9"
    assert "'no_such_module_anywhere' is not installed" in found["missing"].detail
    assert found["blocked"].detail == "a test (store:blocked)"
    assert "also offered by dummy-" in found["same"].detail
    assert [name for name, result in found.items() if result.good] == [
        name for name, result in found.items() if result.status in ("ok", "disabled")
    ]
    assert not [module for module in sys.modules if module.startswith("dummy_")]


def test_a_hanging_import_is_killed_with_what_it_started(
    here: Site, manager: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = here.folder / "pids"
    monkeypatch.setenv("DUMMY_PIDS", str(pids))
    here.store(
        "hanging",
        """
        import os, pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path(os.environ["DUMMY_PIDS"]).write_text(f"{os.getpid()} {child.pid}")
        time.sleep(600)
        """,
    )
    manager.disable(OURS, source="a test")
    started = time.monotonic()
    found = results(manager, timeout=3.0)["hanging"]
    assert found.status == "timeout"
    assert found.detail == "its import was not done after 3 s and was killed"
    assert 3.0 <= found.seconds < 6.0
    assert time.monotonic() - started < 10.0
    for pid in map(int, pids.read_text().split()):
        assert ended(pid)


def test_a_check_that_is_given_up_leaves_no_process(
    here: Site, manager: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager.disable([*OURS, "store:blocked"], source="a test")
    pids = here.folder / "pids"
    monkeypatch.setenv("DUMMY_PIDS", str(pids))
    for number in range(20):
        here.store(
            f"hanging{number}",
            """
            import os, time
            with open(os.environ["DUMMY_PIDS"], "a") as file:
                file.write(f"{os.getpid()} ")
            time.sleep(600)
            """,
        )
    here.store("good", GOOD)
    started = time.monotonic()
    checking = manager.check("store", 60.0)
    assert next(result for result in checking if result.status == "ok").plugin.name == "good"
    checking.close()
    assert time.monotonic() - started < 30.0
    if pids.exists():
        assert all(ended(pid) for pid in map(int, pids.read_text().split()))


def test_the_path_of_this_process_is_the_path_of_the_check(here: Site, manager: PluginManager) -> None:
    here.store("good", "import helper_beside_it\n" + GOOD)
    (here.folder / "helper_beside_it.py").write_text("")
    assert results(manager)["good"].status == "ok"


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_timeout_is_positive(manager: PluginManager, timeout: float) -> None:
    with pytest.raises(ValueError, match="positive number of seconds"):
        manager.check(timeout=timeout)


def ended(pid: int) -> bool:
    """Whether the process ends within ten seconds: a killed one needs a moment to be gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 10.0)[0])
    finally:
        os.close(handle)
