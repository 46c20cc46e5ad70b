from __future__ import annotations

import importlib
import json
import os
import stat
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

analysis = importlib.import_module("analysis")
election = importlib.import_module("election")
report = importlib.import_module("report")

HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m\u202e.py"
SOURCES = {
    "a.py": b"def f(x):\n    return x and 1\n",
    "b.py": b"def g(:\n",
    "pkg/c.py": b"x = 1\n",
    HOSTILE: b"def h():\n    if a:\n        pass\n",
}
MEMBERS = {"beta": ["pkg/c.py", HOSTILE], "alpha": ["a.py", "b.py"], "idle": []}
SEATS = [election.Seat(HOSTILE, 2, {"alpha": "a.py", "beta": HOSTILE, "idle": HOSTILE})]


def results() -> list[Any]:
    return [analysis.analyse(data, path) for path, data in SOURCES.items()]


def job(*paths: str) -> dict[str, Any]:
    return {"id": "0123456789abcdef", "root": "some/<folder>", "paths": list(paths or SOURCES)}


def made() -> Any:
    return report.summary(job(), results(), SEATS, MEMBERS)


def test_the_summary_counts_everything_and_is_plain_json_data() -> None:
    found = made()
    assert found["job"] == "0123456789abcdef"
    assert found["root"] == "some/<folder>"
    assert found["counts"] == {"files": 4, "parsed": 3, "failed": 1, "lines": 7, "functions": 2}
    assert found["failures"] == [{"path": "b.py", "error": "line 1: invalid syntax"}]
    assert found["members"] == {"alpha": 2, "beta": 2, "idle": 0}
    (elected,) = found["elected"]
    assert (elected["result"]["path"], elected["rounds"], elected["support"]) == (HOSTILE, 2, 2)
    assert elected["votes"] == {"alpha": "a.py", "beta": HOSTILE, "idle": HOSTILE}
    assert json.loads(json.dumps(found)) == found


def test_the_summary_does_not_depend_on_the_order_of_its_input() -> None:
    backwards = report.summary(
        job(*reversed(SOURCES)), results()[::-1], SEATS, {name: MEMBERS[name][::-1] for name in reversed(MEMBERS)}
    )
    assert json.dumps(backwards) == json.dumps({**made(), "elected": backwards["elected"]})


def test_a_missing_result_and_one_too_many_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'a\.py': missing from the results; each file counts exactly once"):
        report.summary(job(), results()[1:], [], MEMBERS)
    with pytest.raises(ValueError, match=r"'a\.py': more than once in the results"):
        report.summary(job(), [*results(), results()[0]], [], MEMBERS)
    with pytest.raises(ValueError, match=r"'d\.py': not in the job but in the results"):
        report.summary(job(), [*results(), analysis.analyse(b"", "d.py")], [], MEMBERS)
    with pytest.raises(ValueError, match=r"'a\.py': more than once in the job"):
        report.summary(job(*SOURCES, "a.py"), results(), [], MEMBERS)


def test_a_file_that_no_member_or_two_members_analysed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'a\.py', 'b\.py': missing from the members' files"):
        report.summary(job(), results(), [], {**MEMBERS, "alpha": []})
    with pytest.raises(ValueError, match=r"'a\.py': more than once in the members' files"):
        report.summary(job(), results(), [], {**MEMBERS, "idle": ["a.py"]})


def test_many_wrong_paths_are_named_in_part_and_counted() -> None:
    with pytest.raises(ValueError, match=r"'0', '1', '2' and 7 more: missing from the results"):
        report.summary(job(*"0123456789"), [], [], {})


def test_an_elected_module_without_a_result_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'z\.py' is elected but has no result"):
        report.summary(job(), results(), [election.Seat("z.py", 1, {})], MEMBERS)


def test_an_audit_of_nothing_has_a_report_too(tmp_path: Path) -> None:
    empty = report.summary({"id": "0", "root": ".", "paths": []}, [], [], {})
    assert report.table(empty) == [report.table(made())[0]]
    report.write_html(tmp_path / "r.html", empty)
    assert "No module was elected." in (tmp_path / "r.html").read_text()


def test_the_table_has_a_header_and_a_row_for_each_seat_and_nothing_a_terminal_would_obey() -> None:
    header, row = report.table(made())
    assert dict(zip(header, row, strict=True)) == {
        "#": "1",
        "module": "<script>alert(1)</script>&\"'\\x1b[31m\\u202e.py",
        "lines": "3",
        "functions": "1",
        "complexity": "3",
        "most complex function": "h (2)",
        "longest function": "h (3 lines)",
        "votes": "2 of 3, round 2",
    }


def test_a_module_without_functions_has_dashes_in_the_table() -> None:
    found = report.summary(job(), results(), [election.Seat("pkg/c.py", 1, {"alpha": "pkg/c.py"})], MEMBERS)
    assert report.table(found)[1] == ["1", "pkg/c.py", "1", "0", "1", "-", "-", "1 of 1, round 1"]


def test_written_json_reads_back_equal(tmp_path: Path) -> None:
    found = made()
    found["root"] = "caf\udce9"  # a folder whose name is not UTF-8
    report.write_json(tmp_path / "new" / "r.json", found)
    assert json.loads((tmp_path / "new" / "r.json").read_text(encoding="utf-8")) == found


@pytest.mark.parametrize("write", ["write_json", "write_html"])
def test_a_report_replaces_the_old_one_whole_and_leaves_no_other_file(tmp_path: Path, write: str) -> None:
    path = tmp_path / "report"
    path.write_text("old")
    with path.open() as reader:
        getattr(report, write)(str(path), made())
        assert reader.read() == "old"  # one who reads while it is written sees the old file to its end
    assert path.read_text(encoding="utf-8") != "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


def test_a_report_that_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "report" / "sub").mkdir(parents=True)
    with pytest.raises(OSError, match="report"):
        report.write_json(tmp_path / "report", made())
    assert [entry.name for entry in tmp_path.iterdir()] == ["report"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_report_is_readable_as_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    report.write_json(tmp_path / "r.json", made())
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "r.json")]
    assert modes[0] == modes[1]


class Page(HTMLParser):
    """Checks that each element is closed in its place, and collects what a browser would fetch or run."""

    VOID = frozenset({"meta", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.fetched: list[str] = []
        self.scripted: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "action", "data"}]
        self.scripted += [name for name, _ in attrs if name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.words.append(data)


def page(tmp_path: Path) -> Page:
    report.write_html(tmp_path / "r.html", made())
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    return Page(text)


def test_the_page_is_balanced_and_built_from_the_elements_that_mean_it(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert found.open == []
    assert {"title", "main", "h1", "h2", "table", "caption", "thead", "tbody", "th", "dl"} <= set(found.tags)
    assert found.tags.count("table") == 3
    assert found.tags.count("h1") == found.tags.count("main") == 1


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert found.fetched == ["data:,"]
    assert found.scripted == []
    assert "script" not in found.tags
    style = found.words[found.words.index(next(word for word in found.words if "font:" in word))]
    assert "url(" not in style
    assert "@import" not in style
    assert "color-scheme: light dark" in style


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert "Audit of some/<folder>" in found.words
    assert "<script>alert(1)</script>&\"'\\x1b[31m\\u202e.py" in found.words
    assert "line 1: invalid syntax" in found.words
    assert not any("\x1b" in word or "\u202e" in word for word in found.words)
