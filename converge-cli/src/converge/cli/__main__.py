"""`python -m converge.cli`."""

from __future__ import annotations

from converge.cli.main import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
