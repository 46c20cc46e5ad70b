"""The page names every metric there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LITERAL = re.compile(r'"(converge_[a-z_]+_total)"|(?:Sample|gauge)\(\s*"(converge_[a-z_]+)"')
MADE = {  # names that are put together
    *(f"converge_decisions_{status}_total" for status in ("done", "refused", "failed", "waiting")),
    *(f"converge_{part}_events_total" for part in ("transport", "tasks", "pools", "discovery")),
    *(f"converge_hub_{name}" for name in ("agents", "connections", "subscriptions", "unauthenticated")),
    *(f"converge_hub_waiting_{what}" for what in ("bytes", "messages")),
}


def in_source() -> set[str]:
    files = [file for source in ROOT.glob("converge-*/src") for file in source.rglob("*.py")]
    found = [LITERAL.findall(file.read_text()) for file in files]
    return {name for names in found for pair in names for name in pair if name}


def test_the_table_has_every_metric_and_no_other() -> None:
    page = (ROOT / "docs" / "observability.md").read_text()
    table = page.partition("| metric | counts |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    told = re.findall(r"`(converge_[a-z_]+)`", " ".join(rows))
    assert sorted(told) == sorted(in_source() | MADE)
