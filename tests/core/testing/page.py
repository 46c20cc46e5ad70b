"""A page of the documentation that makes a package: its files, built, installed and run as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_FILE = re.compile(r"`([\w./]+\.(?:py|toml))`[^`]*:\n\n```(?:python|toml)\n(.*?)```", re.DOTALL)


class Page:
    """The page `docs/<name>.md`."""

    def __init__(self, name: str) -> None:
        self.text = (Path(__file__).parents[3] / "docs" / f"{name}.md").read_text()
        self.files: dict[str, str] = dict(_FILE.findall(self.text))

    @property
    def listed(self) -> set[str]:
        """The files in the tree that the page draws."""
        return {line.split("── ")[1] for line in self.text.splitlines() if "── " in line}

    def install(self, folder: Path) -> Path:
        """Write the files into `folder`, and install them into its folder `site`."""
        for name, text in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        done = subprocess.run([*pip, "--target", "site", "."], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return folder


def run(package: Path, *arguments: str) -> str:
    """What a Python with the package prints; it must succeed."""
    paths = os.pathsep.join([str(package / "site"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=package,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
