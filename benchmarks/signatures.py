"""What a verified message costs: alone, in batches, and with either library, beside the bare signature.

Run: `python benchmarks/signatures.py [rounds]` (default 15). In each round every case handles 64 new messages of some
300 bytes, in turn, so that a slow moment meets all alike; the figures are medians over the rounds, in microseconds a
message. A case signs, or opens (verifies and decodes) from bytes as a receiver that has seen nothing. Bare is a
signature of that library made and checked, with nothing around it. Exit code 1 when messages in batches of 64 are
signed and opened at less than `LIMIT` times the rate of messages signed alone, both with `cryptography`.
"""

from __future__ import annotations

import gc
import importlib
import json
import statistics
import sys
import time
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any

from converge.core import ed25519, wire
from converge.core.identity import Identity
from converge.core.message import BATCH_SIZE, Message, sign_batch
from converge.core.verified_trees import VerifiedTrees

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 6.0
BACKENDS = ("cryptography", "pynacl")
PAYLOAD = {"kind": "bid", "task": "t-4711", "amount": 12.5, "note": "x" * 40, "tags": ["a", "b"], "n": 42}
COUNT = BATCH_SIZE
Timings = dict[str, list[float]]


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    taken: Timings = defaultdict(list)
    seed = bytes(range(32))
    for _ in range(rounds):
        for backend in BACKENDS:
            use(backend)
            key = ed25519.load_private_key(seed)
            measure(taken, backend, Identity(key.public_key, seed))
    median = {case: statistics.median(values) for case, values in taken.items()}
    report(median)
    ratios = {
        f"{name} {step}": both(median, name, "bare") / both(median, name, step)
        for name in BACKENDS
        for step in ("alone", "batch")
    }
    ratio = both(median, "cryptography", "alone") / both(median, "cryptography", "batch")
    print(
        json.dumps(
            {
                "benchmark": "signatures",
                "python": sys.version.partition(" ")[0],
                "rounds": rounds,
                "microseconds": {case: round(value, 2) for case, value in median.items()},
                "to_bare": {case: round(value, 2) for case, value in ratios.items()},
                "ratio": round(ratio, 2),
                "limit": LIMIT,
            }
        )
    )
    return int(ratio < LIMIT)


def use(backend: str) -> None:
    """Sign and verify with this library from here on, as if the other one were not installed."""
    vars(ed25519)["_backend"] = importlib.import_module(f"converge.core.ed25519_{backend}")
    ed25519.load_public_key.cache_clear()


def measure(taken: Timings, backend: str, me: Identity) -> None:
    digests = [number.to_bytes(52, "big") for number in range(COUNT)]
    signatures = timed(taken[f"{backend} bare sign"], lambda: [me.sign(digest) for digest in digests])
    pairs = list(zip(signatures, digests, strict=True))
    timed(taken[f"{backend} bare open"], lambda: [ed25519.verify(me.public_key, *pair) for pair in pairs])
    signers: dict[str, Callable[[list[Message]], list[Message]]] = {
        "alone": lambda drafts: [draft.sign(me) for draft in drafts],
        "batch": lambda drafts: sign_batch(drafts, me),
    }
    for step, sign in signers.items():
        drafts = [Message(recipient=me.fingerprint, payload=PAYLOAD) for _ in range(COUNT)]
        signed = timed(taken[f"{backend} {step} sign"], partial(sign, drafts))
        frames = [message.to_bytes() for message in signed]
        vars(wire)["_verified_trees"] = VerifiedTrees()
        timed(taken[f"{backend} {step} open"], partial(opened, frames))


def opened(frames: list[bytes]) -> list[Message]:
    return [Message.open(frame) for frame in frames]


def timed(into: list[float], work: Callable[[], list[Any]]) -> list[Any]:
    """What `work` returns, its microseconds for each of them noted down."""
    gc.collect()
    start = time.perf_counter()
    result = work()
    into.append((time.perf_counter() - start) * 1e6 / COUNT)
    return result


def both(median: dict[str, float], backend: str, step: str) -> float:
    return median[f"{backend} {step} sign"] + median[f"{backend} {step} open"]


def report(median: dict[str, float]) -> None:
    print(f"{'µs a message':24}{'sign':>8}{'open':>8}{'both':>8}{'per second':>12}")
    for backend in BACKENDS:
        for step in ("bare", "alone", "batch"):
            sign, read = (median[f"{backend} {step} {half}"] for half in ("sign", "open"))
            print(f"{backend + ' ' + step:24}{sign:8.1f}{read:8.1f}{sign + read:8.1f}{1e6 / (sign + read):12,.0f}")


if __name__ == "__main__":
    sys.exit(main())
