from __future__ import annotations

import hashlib
import importlib
import os
import pickle
import sys
import sysconfig
from pathlib import Path

import pytest

corpus = importlib.import_module("corpus")

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX file system")


def make(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return root


def paths(root: Path) -> list[str]:
    return [file.path for file in corpus.find(str(root))]


def test_find_lists_python_files_sorted_by_posix_path_with_size_and_digest(tmp_path: Path) -> None:
    make(tmp_path, b__z="z", a="x = 1\n", B="", b="y")
    (tmp_path / "notes.txt").write_text("no code")
    files = corpus.find(str(tmp_path))
    assert [file.path for file in files] == ["B.py", "a.py", "b.py", "b/z.py"]
    assert files[1] == corpus.SourceFile("a.py", 6, hashlib.sha256(b"x = 1\n").hexdigest())
    assert [file.error for file in files] == [None] * 4


def test_a_single_file_is_a_corpus_of_one(tmp_path: Path) -> None:
    make(tmp_path, a="1", b="2")
    assert paths(tmp_path / "b.py") == ["b.py"]
    assert corpus.root_of(str(tmp_path / "b.py")) == tmp_path


def test_hidden_cache_and_site_packages_folders_are_skipped_at_any_depth(tmp_path: Path) -> None:
    for folder in (".git", "__pycache__", "site-packages", "pkg/.venv/lib", "pkg/site-packages/x", "pkg"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "m.py").touch()
    assert paths(tmp_path) == ["pkg/m.py"]


def test_a_root_that_is_itself_in_a_skipped_folder_is_searched(tmp_path: Path) -> None:
    make(tmp_path / "site-packages", a="1")
    assert paths(tmp_path / "site-packages") == ["a.py"]


def test_a_folder_named_like_a_python_file_is_searched_not_read(tmp_path: Path) -> None:
    make(tmp_path / "odd.py", a="1")
    assert paths(tmp_path) == ["odd.py/a.py"]


@posix
def test_links_to_folders_are_not_followed_so_a_loop_ends_and_links_to_files_are_read(tmp_path: Path) -> None:
    make(tmp_path, pkg__a="1")
    (tmp_path / "pkg" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "pkg")
    (tmp_path / "b.py").symlink_to(tmp_path / "pkg" / "a.py")
    files = corpus.find(str(tmp_path))
    assert [file.path for file in files] == ["b.py", "pkg/a.py"]
    assert files[0].sha256 == files[1].sha256


@posix
def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path: Path) -> None:
    make(tmp_path, good="1")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.py").symlink_to(tmp_path / "self.py")
    os.mkfifo(tmp_path / "pipe.py")
    found = {file.path: file for file in corpus.find(str(tmp_path))}
    assert sorted(found) == ["gone.py", "good.py", "pipe.py", "self.py"]
    assert found["gone.py"].error == "cannot be read: No such file or directory"
    assert found["pipe.py"].error == "cannot be read: 'pipe.py' is not a regular file"
    assert "symbolic links" in found["self.py"].error
    assert all((file.size, file.sha256) == (0, "") for file in found.values() if file.error)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_files_and_folders_without_permission_are_listed_with_their_reason(tmp_path: Path) -> None:
    make(tmp_path, secret="1", locked__a="1")
    (tmp_path / "secret.py").chmod(0)
    (tmp_path / "locked").chmod(0)
    try:
        found = {file.path: file.error for file in corpus.find(str(tmp_path))}
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert found == dict.fromkeys(["locked", "secret.py"], "cannot be read: Permission denied")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are arbitrary bytes on Linux")
def test_a_file_name_that_is_not_utf8_is_listed_in_escaped_form(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.py")).touch()
    (file,) = corpus.find(str(tmp_path))
    assert file.path.encode() == b"caf\\udce9.py"
    assert "not valid UTF-8" in file.error


def test_stdlib_is_the_running_interpreters_without_site_packages() -> None:
    files = corpus.find("stdlib")
    found = {file.path for file in files}
    assert {"ast.py", "asyncio/tasks.py", "json/decoder.py"} <= found
    assert not any("site-packages" in path or "__pycache__" in path for path in found)
    assert corpus.root_of("stdlib") == Path(sysconfig.get_path("stdlib"))


def test_a_missing_path_and_one_without_python_are_clear_errors_that_pickle(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"'.*nowhere' does not exist; give a folder, a Python file or 'stdlib'"
    ):
        corpus.find(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"there is no Python file \(\*\.py\) in '.*'; give") as caught:
        corpus.find(str(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(corpus.EmptyCorpusError):
        corpus.find(str(tmp_path / "notes.txt"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), str(copy)) == (corpus.EmptyCorpusError, str(caught.value))


def test_the_job_id_depends_on_paths_and_contents_and_on_nothing_else(tmp_path: Path) -> None:
    here = corpus.find(str(make(tmp_path / "here", a="1", b="2")))
    there = corpus.find(str(make(tmp_path / "there", a="1", b="2")))
    edited = corpus.find(str(make(tmp_path / "edited", a="1", b="3")))
    renamed = corpus.find(str(make(tmp_path / "renamed", a="1", c="2")))
    ids = [corpus.job_id(files) for files in (here, there, edited, renamed)]
    assert ids[0] == ids[1] == corpus.job_id(reversed(here))
    assert len({*ids}) == 3
    assert all(len(job) == 16 and int(job, 16) >= 0 for job in ids)


def test_the_job_id_is_the_same_in_every_release() -> None:
    files = [corpus.SourceFile("a.py", 1, "00" * 32), corpus.SourceFile("b/é.py", 0, "", "cannot be read")]
    parts = [b"a.py", b"00" * 32, "b/é.py".encode(), b""]
    expected = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()[:16]
    assert corpus.job_id(files) == expected


def test_the_job_id_keeps_apart_lists_whose_joined_text_is_equal() -> None:
    one = [corpus.SourceFile("ab", 0, "c")]
    other = [corpus.SourceFile("a", 0, "bc")]
    assert corpus.job_id(one) != corpus.job_id(other)


def test_read_gives_the_contents_of_a_listed_file(tmp_path: Path) -> None:
    make(tmp_path, pkg__a="x = 1")
    assert corpus.read(corpus.root_of(str(tmp_path)), "pkg/a.py") == b"x = 1"


@pytest.mark.parametrize("path", ["../secret.py", "pkg/../../secret.py", "/etc/hostname"])
def test_read_refuses_a_path_that_leads_out_of_the_root(tmp_path: Path, path: str) -> None:
    make(tmp_path, secret="1", root__a="2")
    with pytest.raises(ValueError, match="leads out of the folder under audit"):
        corpus.read(tmp_path / "root", path)
