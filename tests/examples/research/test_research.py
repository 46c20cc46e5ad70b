"""The example of three agents with a model: it runs as it is, and an answer without its sources is not published."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "research"
sys.path.insert(0, str(EXAMPLE))

from desk_library import Citation, Library  # noqa: E402  # the example's own module, found as `converge run` finds it

PATIENCE_SEC = 120


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The example in a folder of its own."""
    return Path(
        shutil.copytree(EXAMPLE, tmp_path / "research", ignore=shutil.ignore_patterns(".converge", "answer.md"))
    )


def converge(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "converge.cli", "run", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE_SEC, check=False,
        env={**{name: text for name, text in os.environ.items() if not name.endswith("_API_KEY")}, **environment},
    )  # fmt: skip


def test_a_scripted_run_publishes_an_answer_whose_sources_are_there(copy: Path) -> None:
    done = converge(copy, "scripted.toml")
    assert (done.returncode, done.stdout) == (0, "the answer is in answer.md\n"), done.stderr
    answer = (copy / "answer.md").read_text()
    assert answer.startswith("# Are there still leap seconds")
    library = Library(copy / "library")
    sources = [line for line in answer.splitlines() if line.startswith("[")]
    assert len(sources) == 3
    for source in sources:
        place, _, quote = source.partition(" ")[2].partition(": ")
        file, _, line = place.partition(":")
        assert library.problem(Citation(file, int(line), quote.strip("“”"))) is None
    again = converge(copy, "scripted.toml")
    assert (again.returncode, again.stdout) == (0, "the answer is in answer.md\n"), "all of it is done already"


@pytest.mark.parametrize(
    ("instead", "of", "said"),
    [
        (
            "at the end of 30",
            "at the end of 31 December 2016",
            "does not have 'inserted at the end of 30'",
        ),
        ('option = "reject"', 'option = "accept"', "the critic did not accept it: Every sentence has a source."),
    ],
    ids=["a quote that is not there", "a critic who rejects"],
)
def test_an_answer_that_does_not_hold_is_not_published(copy: Path, instead: str, of: str, said: str) -> None:
    text = (copy / "scripted.toml").read_text()
    assert of in text
    (copy / "scripted.toml").write_text(text.replace(of, instead))
    (copy / "desk.py").write_text((copy / "desk.py").read_text().replace("ROUNDS = 2", "ROUNDS = 1"))
    done = converge(copy, "scripted.toml")
    assert (done.returncode, done.stdout.startswith("no answer: "), said in done.stdout) == (0, True, True), done.stderr
    assert not (copy / "answer.md").exists()


def test_without_a_key_the_other_configuration_says_which_one_is_missing(copy: Path) -> None:
    done = converge(copy, "converge.toml")
    assert done.returncode == 1
    assert "no API key; set the environment variable ANTHROPIC_API_KEY, or give api_key" in done.stderr


@pytest.mark.parametrize("name", ["../desk.py", "/etc/hostname", "history.md\0", "", "..", "library/../../desk.py"])
def test_nothing_outside_of_the_library_is_read(name: str) -> None:
    with pytest.raises(LookupError, match="there is no text"):
        Library(EXAMPLE / "library").lines(name)


def test_a_link_out_of_the_library_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "secret.md").write_text("secret")
    (tmp_path / "library" / "link.md").symlink_to(tmp_path / "secret.md")
    assert Library(tmp_path / "library").names() == []


@pytest.mark.parametrize(
    ("citation", "problem"),
    [
        (Citation("history.md", 9, "All of them were positive"), None),
        (Citation("history.md", 8, "All of them were positive"), "line 8 of history.md does not have"),
        (Citation("history.md", 0, "x"), "no line 0"),
        (Citation("history.md", 99, "x"), "no line 99"),
        (Citation("history.md", 9, " "), "does not have"),
        (Citation("gone.md", 1, "x"), "there is no text 'gone.md'; there is computers.md, decision.md, history.md"),
    ],
)
def test_a_citation_holds_if_its_words_stand_in_its_line(citation: Citation, problem: str | None) -> None:
    found = Library(EXAMPLE / "library").problem(citation)
    assert found is None if problem is None else problem in str(found)


@pytest.mark.parametrize(
    "data", [None, [], {}, {"file": 1, "line": 1, "quote": "x"}, {"file": "a", "line": "1", "quote": ""}]
)
def test_what_is_no_citation_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        Citation.read(data)


def test_the_tools_find_lines_and_read_around_them() -> None:
    search, read_lines = Library(EXAMPLE / "library").tools()
    found = search.run({"words": ["smear", "NOON"]})
    assert (found[0]["file"], "noon to noon" in found[0]["text"]) == ("computers.md", True)
    assert search.run({"words": ["  "]}) == []
    assert [line["line"] for line in read_lines.run({"file": "history.md", "first": 9, "last": 500})] == [9, 10]
