"""The message that has begun and not ended is found, however its bytes are cut."""

from __future__ import annotations

import random

import pytest

from converge.network.transport.websocket.progress import MessageProgress

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


def frame(payload: bytes, *, fin: bool = True, opcode: int = 2, masked: bool = True) -> bytes:
    size = len(payload)
    mask = 0x80 if masked else 0
    if size < 126:
        head = bytes([mask | size])
    elif size < 2**16:
        head = bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([mask | 127]) + size.to_bytes(8, "big")
    return bytes([(0x80 if fin else 0) | opcode]) + head + (b"abcd" if masked else b"") + payload


def after(*chunks: bytes) -> MessageProgress:
    progress = MessageProgress()
    for now, chunk in enumerate([REQUEST, *chunks]):
        progress.feed(chunk, float(now))
    return progress


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_whole_message_leaves_nothing_open_and_a_part_does(size: int) -> None:
    whole = frame(bytes(size))
    assert after(whole).since is None
    assert after(whole, whole).since is None
    assert after(whole[:-1] if size else whole[:1]).since == 1.0


def test_the_time_is_that_of_the_first_byte_of_the_message_that_is_open() -> None:
    long = frame(bytes(300))
    assert after(long[:1], long[1:2], long[2:9]).since == 1.0
    assert after(long[:9], long[9:] + long[:4]).since == 2.0
    assert after(long[:9], long[9:]).since is None


def test_fragments_are_one_message_that_ends_with_the_last_of_them() -> None:
    first, middle, last = frame(b"a", fin=False), frame(b"b", fin=False, opcode=0), frame(b"c", opcode=0)
    assert after(first, middle).since == 1.0
    assert after(first, frame(b"", opcode=9), middle).since == 1.0, "a ping in between ends nothing"
    assert after(first, middle, last).since is None


def test_the_request_may_come_in_pieces_and_with_the_first_message_behind_it() -> None:
    progress = MessageProgress()
    for byte in REQUEST:
        progress.feed(bytes([byte]), 1.0)
    assert progress.since is None
    progress = MessageProgress()
    progress.feed(REQUEST + frame(b"ab")[:3], 5.0)
    assert progress.since == 5.0


@pytest.mark.parametrize("seed", range(20))
def test_any_cut_gives_the_same(seed: int) -> None:
    choose = random.Random(seed)
    stream = b"".join(frame(choose.randbytes(choose.choice([0, 5, 200, 70_000]))) for _ in range(8))
    progress = MessageProgress()
    progress.feed(REQUEST, 0.0)
    at = 0
    while at < len(stream):
        step = choose.choice([1, 2, 3, 100, 50_000])
        progress.feed(stream[at : at + step], 1.0)
        at += step
        assert (progress.since is None) == (at >= len(stream) or at in boundaries(stream))


def boundaries(stream: bytes) -> set[int]:
    found, at = set(), 0
    while at < len(stream):
        length = stream[at + 1] & 0x7F
        width = {126: 2, 127: 8}.get(length, 0)
        size = int.from_bytes(stream[at + 2 : at + 2 + width], "big") if width else length
        at += 2 + width + 4 + size
        found.add(at)
    return found
