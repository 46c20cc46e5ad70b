"""The distributions as users get them: built from a copy of the checkout, installed into environments of their own.

An environment starts with the declared dependencies and nothing else, linked from the environment that runs the tests.
pip then installs our wheels without an index: a dependency that is not declared is not there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest
from attrs import field, frozen
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Mode: TypeAlias = Literal["wheel", "editable"]

ROOT = Path(__file__).parents[2]
NAMES = tuple(sorted(folder.parent.name for folder in ROOT.glob("converge-*/pyproject.toml")))
PLANTED = ("src/converge/__pycache__/planted.cpython-311.pyc", "tests/test_planted.py", ".pytest_cache/planted")
"""What lies about in a checkout in use, relative to a distribution's folder; none of it may reach a user."""


@frozen
class Wheel:
    """A built wheel, read from its zip."""

    path: Path
    files: dict[str, bytes] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Wheel:
        with zipfile.ZipFile(path) as archive:
            return cls(path, {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")})

    @property
    def paths(self) -> set[str]:
        """What it installs, without its metadata."""
        return {name for name in self.files if ".dist-info/" not in name}

    def metadata_file(self, name: str) -> str:
        found = [data for path, data in self.files.items() if path.endswith(f".dist-info/{name}")]
        return found[0].decode() if found else ""

    @property
    def requirements(self) -> list[str]:
        return Parser().parsestr(self.metadata_file("METADATA")).get_all("Requires-Dist", [])


@frozen
class Built:
    """One distribution: the wheel built from the tree, the sdist, and the wheel built from that sdist."""

    name: str
    source: Path
    wheel: Wheel
    sdist: Path
    wheel_of_sdist: Wheel


@frozen
class Environment:
    """A virtual environment."""

    folder: Path
    modes: Mapping[str, Mode]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.folder)}))

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `bin/<command>` in an empty folder and without the caller's settings."""
        empty = self.folder / "empty"
        empty.mkdir(exist_ok=True)
        program = [str(self.folder / "bin" / command[0]), *command[1:]]
        done = subprocess.run(program, cwd=empty, env=clean_environ(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 or not check, f"{command} failed in {self.folder.name}:\n{done.stdout}{done.stderr}"
        return done

    def evaluate(self, code: str, *arguments: str) -> object:
        """What `code` prints as JSON; a warning there is an error."""
        return json.loads(self.run("python", "-I", "-W", "error", "-c", code, *arguments).stdout)

    def pip(self, *arguments: str, isolated: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the tests' own pip on this environment; without any index when `isolated`."""
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", *arguments]
        environ = clean_environ() | {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"} if isolated else None
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240)


class Environments:
    """Makes environments, each set of distributions and modes once."""

    def __init__(self, folder: Path, built: Mapping[str, Built]) -> None:
        self._folder, self._built = folder, built
        self._made: dict[tuple[tuple[str, Mode], ...], Environment] = {}

    def get(self, modes: Mapping[str, Mode]) -> Environment:
        """One to look at and not to change."""
        key = tuple(sorted(modes.items()))
        if key not in self._made:
            label = "-".join(f"{name.removeprefix('converge-')}.{mode}" for name, mode in key)
            self._made[key] = self.new(label, modes)
        return self._made[key]

    def new(
        self, label: str, modes: Mapping[str, Mode], *, sources: Path | None = None, extras: str = ""
    ) -> Environment:
        """One of the caller's own. `extras`, such as `[testing]`, are installed too; editables lead to `sources`."""
        environment = self.empty(label, modes)
        wanted = []
        for name, mode in modes.items():
            source = self._built[name].source if sources is None else sources / name
            path = self._built[name].wheel.path if mode == "wheel" else _editable_wheel(source, environment.folder)
            wanted.append(f"{path}{extras}")
        requirements = [text for name in modes for text in self._built[name].wheel.requirements]
        _link_dependencies(requirements, {""} | set(extras.strip("[]").split(",")), environment.site_packages)
        done = environment.pip("install", *wanted)
        assert done.returncode == 0, f"{label}: {done.stdout}{done.stderr}"
        return environment

    def empty(self, label: str, modes: Mapping[str, Mode]) -> Environment:
        folder = self._folder / label
        venv.create(folder, with_pip=False, symlinks=True)
        return Environment(folder, dict(modes))


def clean_environ() -> dict[str, str]:
    """This process's environment without what points Python, pip, mypy or Converge anywhere."""
    pointing = ("PYTHON", "PIP_", "MYPY", "CONVERGE_", "VIRTUAL_ENV", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(pointing)}
    return kept | {"PYTHONNOUSERSITE": "1", "NO_COLOR": "1", "COLUMNS": "400"}


def copy_distributions(to: Path) -> Path:
    """The distributions' folders as they are in the checkout, caches and all."""
    for name in NAMES:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("dist", "build", "*.tmp"))
    return to


def _link_dependencies(requirements: Iterable[str], extras: set[str], site_packages: Path) -> None:
    """Make what `requirements` need, and all that needs, visible in `site_packages`; our own distributions are not."""
    waiting = [(Requirement(text), extras) for text in requirements]
    linked: set[tuple[str, str]] = set()
    while waiting:
        requirement, chosen = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = {name} if requirement.marker is None else set()
        if requirement.marker is not None and any(requirement.marker.evaluate({"extra": extra}) for extra in chosen):
            wanted = {name}
        for found in wanted - set(NAMES):
            further = {"", *requirement.extras}
            new = {(found, extra) for extra in further} - linked
            if new:
                linked |= new
                _link(metadata.distribution(found), site_packages)
                waiting += [(Requirement(text), further) for text in metadata.distribution(found).requires or ()]


def _link(distribution: metadata.Distribution, site_packages: Path) -> None:
    tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    for top in tops:
        link = site_packages / top
        if not link.exists():
            link.symlink_to(Path(str(distribution.locate_file(top))))


def _editable_wheel(source: Path, into: Path) -> Path:
    """The wheel that `pip install -e` asks the build backend for (PEP 660)."""
    code = "import sys; from hatchling.build import build_editable; print(build_editable(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(into)], cwd=source, capture_output=True, text=True, check=True
    )
    return into / done.stdout.splitlines()[-1]


def _build(*arguments: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *arguments]
    done = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"


def _build_one(source: Path, out: Path) -> Built:
    _build("--wheel", "--outdir", str(out / "tree"), str(source))
    _build("--outdir", str(out / "sdist"), str(source))  # the sdist, then a wheel from it
    (wheel,), (sdist,) = (out / "tree").glob("*.whl"), (out / "sdist").glob("*.tar.gz")
    (again,) = (out / "sdist").glob("*.whl")
    return Built(source.name, source, Wheel.read(wheel), sdist, Wheel.read(again))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Every distribution by name, built from a copy in which rubbish lies about."""
    workspace = copy_distributions(tmp_path_factory.mktemp("workspace"))
    for name in NAMES:
        for planted in PLANTED:
            path = workspace / name / planted
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"rubbish")
    out = tmp_path_factory.mktemp("built")
    with ThreadPoolExecutor(2) as pool:
        return {each.name: each for each in pool.map(lambda name: _build_one(workspace / name, out / name), NAMES)}


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory, built: dict[str, Built]) -> Environments:
    return Environments(tmp_path_factory.mktemp("environments"), built)
