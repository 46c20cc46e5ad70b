"""The pages hang together: every page is listed, every link leads somewhere, every Python block is Python."""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob("converge-*/README.md")])
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(#[^)]*)?\)")
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[tuple[str, str]]:
    return [
        (str(page.relative_to(ROOT)), textwrap.dedent(text))
        for page in PAGES
        for _, found, text in BLOCK.findall(page.read_text())
        if found == language
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = [target for target, _ in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_page_is_listed_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    pages = {str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md") if "_build" not in page.parts}
    unlisted = {page for page in pages - {"index"} if page not in index.split() and not page.startswith("design/")}
    assert unlisted == set()
    assert "design/*" in index


def test_every_python_block_is_python() -> None:
    found = blocks("python")
    assert found
    for page, text in found:
        compile(text, page, "exec")


def test_every_toml_block_is_toml() -> None:
    found = blocks("toml")
    assert found
    for page, text in found:
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            pytest.fail(f"{page}: {error}")


def test_no_file_names_the_host_of_a_package_index_or_a_path_of_a_machine() -> None:
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "/home" + "/", "/root" + "/")
    files = [*PAGES, *ROOT.glob("*.toml"), *ROOT.glob("converge-*/pyproject.toml"), ROOT / "Makefile"]
    assert [(str(file), host) for file in files for host in hosts if host in file.read_text()] == []
