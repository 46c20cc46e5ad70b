"""What is loaded before a server is asked for."""

from __future__ import annotations

import subprocess
import sys


def test_the_sdk_is_not_imported_before_a_server_is_asked() -> None:
    code = "import sys, converge.extensions.mcp; print(sorted({'mcp', 'starlette', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
