"""The life of a hub: where it listens, who may connect, how it ends; and TLS."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from converge.core.identity import Identity
from converge.core.message import Message
from converge.network.transport.websocket import (
    HubLimits,
    HubRefused,
    InsecureConnection,
    WebSocketHub,
    WebSocketTransport,
)
from converge.network.transport.websocket.packets import encode_messages
from tests.websocket.conftest import ALICE, BOB, CAROL, Agents, all_of, by_hand, to, until, within

if TYPE_CHECKING:
    from pathlib import Path


def write_certificate(folder: Path, name: str, host: str = "localhost") -> tuple[Path, Path]:
    """A certificate that signs itself, and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return cert_file, key_file


async def test_a_busy_port_is_an_os_error_that_leaves_nothing_and_it_can_be_entered_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        hub, before = WebSocketHub(port=port), asyncio.all_tasks()
        with pytest.raises(OSError, match="in use"):
            await hub.__aenter__()
        assert asyncio.all_tasks() == before
        with pytest.raises(RuntimeError, match="does not listen"):
            _ = hub.uri
    for _ in range(2):
        async with hub:
            assert hub.uri == f"ws://127.0.0.1:{port}"
            with pytest.raises(RuntimeError, match="listens already"):
                await hub.__aenter__()
            async with WebSocketTransport(ALICE.fingerprint, hub.uri, ALICE, hub_id=hub.hub_id):
                assert hub.peers == {ALICE.fingerprint}


async def test_a_hub_that_is_left_says_goodbye_and_frees_its_tasks(agents: Agents) -> None:
    before = asyncio.all_tasks()
    hub = WebSocketHub()
    async with hub:
        alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
        for n in range(200):
            await alice.send(to(BOB, ALICE, n))
        await until(lambda: hub.counters["carried"] == 200)
    assert await all_of(bob, 200) == list(range(200)), "what waited went out before the end"
    await alice.stop()
    await bob.stop()
    assert asyncio.all_tasks() == before
    assert hub.metrics()["connections"] == 0


async def test_a_hub_is_left_in_bounded_time_whatever_its_peers_do(agents: Agents) -> None:
    hub = WebSocketHub(limits=HubLimits(close_timeout_sec=0.2))
    async with AsyncExitStack() as stack, hub:
        stopped = await stack.enter_async_context(by_hand(hub, BOB))
        stopped.connection.transport.pause_reading()
        alice = await agents(hub, ALICE)
        for _ in range(60):
            await alice.send(Message(payload={"fill": b"x" * 100_000}).sign(ALICE))
        await until(lambda: hub.metrics()["waiting_messages"] > 0)
        stack.callback(stopped.connection.transport.abort)
        host, port = hub.uri.removeprefix("ws://").split(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(5)]
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "", "example.test", "::"])
def test_beyond_this_machine_a_hub_needs_tls_or_a_word_that_the_network_is_trusted(host: str) -> None:
    with pytest.raises(InsecureConnection, match="insecure=True"):
        WebSocketHub(host)
    WebSocketHub(host, insecure=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_on_this_machine_it_does_not(host: str) -> None:
    async with WebSocketHub(host) as hub, WebSocketTransport(ALICE.fingerprint, hub.uri, ALICE):
        assert hub.peers


def test_the_identity_of_a_hub_needs_its_private_key() -> None:
    with pytest.raises(ValueError, match="needs its private key"):
        WebSocketHub(identity=Identity.from_public_key(ALICE.public_key))


@pytest.mark.parametrize("limits", [{"max_connections": 0}, {"max_message_bytes": 2**20 + 1}, {"frame_timeout_sec": 0}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        HubLimits(**limits)


async def test_only_agents_that_are_allowed_connect(agents: Agents) -> None:
    async with WebSocketHub(allow=[ALICE.fingerprint]) as hub:
        await agents(hub, ALICE)
        with pytest.raises(HubRefused, match="is not allowed here") as refused:
            await agents(hub, BOB)
        assert refused.value.code == 4403
        hub.allow(BOB.fingerprint)
        await agents(hub, BOB)
        assert hub.peers == {ALICE.fingerprint, BOB.fingerprint}
        assert hub.counters["closed_forbidden"] == 1


async def test_what_comes_from_many_at_once_for_one_who_reads_it_is_not_dropped(agents: Agents) -> None:
    async with WebSocketHub(limits=HubLimits(max_waiting_messages=100)) as hub, AsyncExitStack() as stack:
        bob, senders = await agents(hub, BOB), [Identity.generate() for _ in range(4)]
        lines = [await stack.enter_async_context(by_hand(hub, sender)) for sender in senders]
        window = hub.limits.terms.window_messages
        packets = [encode_messages([to(BOB, sender, n).to_bytes() for n in range(window)]) for sender in senders]
        for line, packet in zip(lines, packets, strict=True):
            await line.send(packet)
        time.sleep(0.05)  # noqa: ASYNC251  # the hub reads all of them in one turn, as on a machine that is busy
        received = await all_of(bob, len(lines) * window)
    assert sorted(received) == sorted([*range(window)] * len(lines))


async def test_the_metrics_say_what_there_is(hub: WebSocketHub, agents: Agents) -> None:
    alice, bob = await agents(hub, ALICE), await agents(hub, BOB)
    await alice.send(to(BOB, ALICE, 1))
    await all_of(bob, 1)
    metrics = hub.metrics()
    wanted = {"agents": 2, "connections": 2, "unauthenticated": 0, "carried": 1, "waiting_bytes": 0}
    assert {name: metrics[name] for name in wanted} == wanted


# -- TLS


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_certificate(tmp_path, "hub")


async def test_with_tls_from_files_agents_verify_the_certificate(files: tuple[Path, Path], agents: Agents) -> None:
    async with WebSocketHub("localhost", cert=files[0], key=files[1]) as hub:
        assert hub.uri.startswith("wss://localhost:")
        alice = await agents(hub, ALICE, ca=files[0])
        bob = await agents(hub, BOB, ca=files[0], hub_id=hub.hub_id)
        await alice.send(to(BOB, ALICE, 5))
        assert await all_of(bob, 1) == [5]
        with pytest.raises(HubRefused, match="its certificate cannot be verified"):
            await agents(hub, CAROL)


async def test_with_the_hub_id_a_certificate_need_not_be_verified(files: tuple[Path, Path], agents: Agents) -> None:
    async with WebSocketHub(cert=files[0], key=files[1]) as hub:
        alice = await agents(hub, ALICE, hub_id=hub.hub_id)
        await alice.send(to(ALICE, ALICE, 5))
        assert await all_of(alice, 1) == [5]
        with pytest.raises(HubRefused, match="and the one wanted is"):
            await agents(hub, BOB, hub_id=ALICE.fingerprint)


async def test_contexts_do_as_well_as_files(files: tuple[Path, Path], agents: Agents) -> None:
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(*files)
    asking = ssl.create_default_context(cafile=files[0])
    async with WebSocketHub("localhost", ssl_context=serving) as hub:
        await agents(hub, ALICE, ssl_context=asking)


async def test_a_man_in_the_middle_with_another_certificate_cannot_pass_the_handshake_on(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    """He has TLS with both sides and passes every byte on; the agent would not notice by the certificate alone."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(*write_certificate(tmp_path, "middle"))
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    done = asyncio.Event()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = hub.uri.removeprefix("wss://").split(":")
        upper_reader, upper_writer = await asyncio.open_connection(host, int(port), ssl=blind)
        try:
            await asyncio.gather(copy(reader, upper_writer), copy(upper_reader, writer))
        finally:
            for each in (writer, upper_writer):
                each.transport.abort()
            done.set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with WebSocketHub(cert=files[0], key=files[1]) as hub:
        middle = await asyncio.start_server(pass_on, "127.0.0.1", 0, ssl=serving)
        async with middle:
            uri = f"wss://127.0.0.1:{middle.sockets[0].getsockname()[1]}"
            with pytest.raises(HubRefused, match="another certificate"):
                await WebSocketTransport(ALICE.fingerprint, uri, ALICE, hub_id=hub.hub_id).start()
            await within(5, done.wait())
        assert hub.counters["closed_unauthenticated"] == 1


def test_files_and_contexts_that_do_not_fit_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ValueError, match="not both"):
        WebSocketHub(ssl_context=empty, cert=files[0])
    with pytest.raises(ValueError, match="a key alone makes no TLS"):
        WebSocketHub(key=files[1])
    with pytest.raises(ValueError, match="shows no certificate"):
        WebSocketHub(ssl_context=empty)
    with pytest.raises(OSError, match=r"(?i)key.values.mismatch"):
        WebSocketHub(cert=files[0], key=write_certificate(tmp_path, "other")[1])
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    with pytest.raises(InsecureConnection, match="does not verify the certificate"):
        WebSocketTransport(ALICE.fingerprint, "wss://127.0.0.1:1", ALICE, ssl_context=unverified)
    with pytest.raises(ValueError, match="has no TLS"):
        WebSocketTransport(ALICE.fingerprint, "ws://127.0.0.1:1", ALICE, ca=files[0])
    with pytest.raises(ValueError, match="not both"):
        WebSocketTransport(ALICE.fingerprint, "wss://127.0.0.1:1", ALICE, ca=files[0], ssl_context=unverified)
