"""`converge approvals`: a person sees what waits, and answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from converge.coordination.approvals import Approvals
from converge.core.decisions import InvokeTool
from converge.extensions.storage.sqlite import SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Converge

STORE = ("--store", "sqlite:run.db")


@pytest.fixture
def asked(tmp_path: Path) -> str:
    with SQLiteStore(tmp_path / "run.db") as store:
        decision = InvokeTool("wire", {"euros": 10, "key": b"\x00", "to": "\x1b[2Jx"})
        return Approvals(store).ask("a" * 64, decision, about="InvokeTool wire \x1b[2J")


def test_what_waits_is_listed_shown_and_approved(converge: Converge, asked: str) -> None:
    listed = converge("approvals", "list", *STORE)
    assert listed.code == 0
    assert listed.out.startswith(asked)
    assert listed.out.endswith(r"waiting  agent aaaaaaaaaaaa  InvokeTool wire \x1b[2J" + "\n")
    shown = converge("approvals", "show", asked[:8], *STORE)
    assert '"euros": 10' in shown.out
    assert "\x1b" not in shown.out
    done = converge("approvals", "approve", asked[:8], "--by", "carol", "--reason", "fine", *STORE)
    assert (done.code, "approved by carol (fine)" in done.out) == (0, True)
    nothing = converge("approvals", "list", *STORE)
    assert (nothing.out, nothing.err) == ("", "nothing waits for an answer\n")
    (record,) = json.loads(converge("approvals", "list", "--all", "--json", *STORE).out)
    assert (record["state"], record["decided_by"], record["decision"]["type"]) == ("approved", "carol", "InvokeTool")


def test_who_answers_late_or_about_nothing_is_told_in_one_line(converge: Converge, asked: str) -> None:
    assert converge("approvals", "deny", asked, "--by", "carol", *STORE).code == 0
    late = converge("approvals", "approve", asked, "--by", "dave", *STORE)
    assert (late.code, late.err) == (1, f"Error: approval {asked!r}: it is denied by carol\n")
    unknown = converge("approvals", "approve", "nothing", *STORE)
    assert (unknown.code, "there is no approval 'nothing'" in unknown.err) == (1, True)
    assert converge("approvals", "show", "nothing", *STORE).code == 1


def test_without_a_name_the_login_name_is_kept(converge: Converge, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "erin")
    assert "denied by erin" in converge("approvals", "deny", asked, *STORE).out


def test_a_store_that_is_not_there_is_not_made(converge: Converge, tmp_path: Path) -> None:
    assert converge("approvals", "list", *STORE).code == 2
    assert not (tmp_path / "run.db").exists()
