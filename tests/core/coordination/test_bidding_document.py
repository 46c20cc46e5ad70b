"""The code of docs/auctions.md runs and prints what the page says; the figures on it are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from converge.coordination import auction_record, auction_rules, delegation_record, negotiation_record
from converge.coordination.bidding import AuctionType
from converge.coordination.negotiation import NegotiationState

TEXT = (Path(__file__).parents[3] / "docs" / "auctions.md").read_text()


def test_the_code_on_the_page_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/auctions.md", "exec", dont_inherit=True), namespace)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == re.findall(r"print\(.*\)  # (.*)", TEXT)
    assert printed[3] == f"False delegation {namespace['first']!r} has been revoked"


def test_the_page_names_each_type_state_and_rule() -> None:
    for auction_type in AuctionType:
        assert f"| `{auction_type.name}` |" in TEXT
    for state in NegotiationState:
        assert state.name in TEXT
    for rule in {name for known in auction_rules._KNOWN.values() for name in known} - {"type"}:
        assert f"`{rule}" in TEXT, rule


def test_the_bounds_on_the_page_are_those_of_the_code() -> None:
    auctions = (auction_record.MAX_BIDDERS, auction_record.MAX_HISTORY, auction_record.MAX_CONTENT_BYTES)
    talks = (negotiation_record.MAX_PARTICIPANTS, negotiation_record.MAX_CONTENT_BYTES, negotiation_record.MAX_HISTORY)
    assert auctions == (1_000, 100, 16 * 1024)
    assert talks == (100, 64 * 1024, 1 + 19)
    assert delegation_record.MAX_DEPTH == 8
    for bound in ("1,000 bids", "latest 100 of an English one", "16 KiB", "2 to 100 participants", "64 KiB a proposal"):
        assert bound in " ".join(TEXT.split())
    assert "the latest 19 proposals" in TEXT
    assert "at most 8 links" in TEXT
