"""What an import costs: the runtime against the libraries that it stands on.

Run: `python benchmarks/coldstart.py [rounds]` (default 15, at least 11). Every round starts one new process for each
case, so that a slow moment of the machine meets all of them alike; the figures are medians over the rounds. The ratio
is that of what two imports add to a bare interpreter. Ours and the libraries' modules are byte-compiled alike, as pip
leaves them: into a cache of this run, in a round that is not counted. Exit code 1 when importing the runtime costs more
than twice its libraries, or loads a module that it must not.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time

LIMIT = 2.0
FEWEST_ROUNDS = 11
BARE, LIBRARIES, RUNTIME = "bare python", "seven libraries", "converge.runtime.loop"
PLUGINS, HELP = "converge.plugins", "converge --help"
CASES = {
    BARE: "pass",
    LIBRARIES: "import attrs, cryptography.hazmat.primitives.asymmetric.ed25519, msgpack, pluggy, importlib_metadata, "
    "asyncio, logging",
    RUNTIME: "import converge.runtime.loop",
    PLUGINS: "import converge.plugins",
    HELP: "import sys; sys.argv = ['converge', '--help']; from converge.cli.main import main; main()",
}
UNWANTED = ("anthropic", "apsw", "cattrs", "click", "mistralai", "openai", "rich", "websockets")
"""Top-level packages that nobody pays for who only runs agents."""


def main() -> int:
    rounds = max(FEWEST_ROUNDS, int(sys.argv[1])) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory(prefix="converge-coldstart-") as cache:
        python = [sys.executable, "-I", "-X", f"pycache_prefix={cache}", "-c"]
        wall = measure(python, rounds)
        loaded = loaded_modules(python, CASES[RUNTIME])
    added = {case: milliseconds - wall[BARE] for case, milliseconds in wall.items()}
    ratio = added[RUNTIME] / added[LIBRARIES]
    unwanted = sorted({name.partition(".")[0] for name in loaded} & set(UNWANTED))
    print(f"{'case':24}{'wall ms':>10}{'over bare':>12}{'of libraries':>14}")
    for case, milliseconds in wall.items():
        print(f"{case:24}{milliseconds:10.1f}{added[case]:12.1f}{added[case] / added[LIBRARIES]:13.2f}x")
    print(
        json.dumps(
            {
                "benchmark": "coldstart",
                "python": sys.version.partition(" ")[0],
                "rounds": rounds,
                "over_bare_ms": {case: round(value, 1) for case, value in added.items() if case != BARE},
                "ratio": round(ratio, 3),
                "limit": LIMIT,
                "modules": len(loaded),
                "unwanted": unwanted,
            }
        )
    )
    if unwanted:
        print(f"importing {RUNTIME} loads {', '.join(unwanted)}; import them where they are used", file=sys.stderr)
    if ratio > LIMIT:
        print(f"importing {RUNTIME} costs {ratio:.2f} times its libraries; the limit is {LIMIT}", file=sys.stderr)
    return int(ratio > LIMIT or bool(unwanted))


def measure(python: list[str], rounds: int) -> dict[str, float]:
    """The median wall time of each case in milliseconds, after one round that fills the caches."""
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    for number in range(rounds + 1):
        for case, code in CASES.items():
            milliseconds = run(python, code)
            if number:
                taken[case].append(milliseconds)
    return {case: statistics.median(values) for case, values in taken.items()}


def run(python: list[str], code: str) -> float:
    start = time.perf_counter()
    subprocess.run([*python, code], stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1e3


def loaded_modules(python: list[str], code: str) -> list[str]:
    """The names of all modules that are loaded after `code`."""
    ask = f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([*python, ask], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout)
    return names


if __name__ == "__main__":
    sys.exit(main())
