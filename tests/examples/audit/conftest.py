"""The example's modules import by their own names, as they do when `converge run` starts in their folder."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "audit"))
