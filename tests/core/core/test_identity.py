from __future__ import annotations

import copy
import hashlib
import logging
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from converge.core import ed25519, ed25519_cryptography, ed25519_pynacl
from converge.core.errors import ConvergeError, IdentityError, SigningError
from converge.core.identity import Identity

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493

Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    """The sum of two points of edwards25519 in affine coordinates (RFC 8032 section 5.1.4)."""
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P


def times(factor: int, point: Point) -> Point:
    result = (0, 1)
    for bit in f"{factor:b}":
        result = add(result, result)
        if bit == "1":
            result = add(result, point)
    return result


def point_with(y: int) -> Point | None:
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if (x * x - square) % P == 0 else None


def encoded(y: int, sign: int = 0) -> bytes:
    return (y | sign << 255).to_bytes(32, "little")


def test_the_small_order_list_is_the_whole_torsion_group() -> None:
    numbers, torsion = random.Random(1), set[Point]()
    while len(torsion) < 8:
        point = point_with(numbers.randrange(P))
        if point is not None:
            torsion.add(times(GROUP_ORDER, point))
    assert {times(8, point) for point in torsion} == {(0, 1)}
    assert {y for _, y in torsion} == ed25519.SMALL_ORDER_Y


@pytest.mark.parametrize("y", sorted(ed25519.SMALL_ORDER_Y))
@pytest.mark.parametrize("sign", [0, 1])
def test_a_public_key_of_small_order_is_refused(backend: str, y: int, sign: int) -> None:
    with pytest.raises(IdentityError, match="small order"):
        Identity.from_public_key(encoded(y, sign))
    assert not ed25519.verify(encoded(y, sign), bytes(64), b"anything")


def test_openssl_alone_would_take_a_signature_of_nobody() -> None:
    neutral, forged = encoded(1), encoded(1) + bytes(32)
    Ed25519PublicKey.from_public_bytes(neutral).verify(forged, b"anything")
    assert not ed25519.verify(neutral, forged, b"anything")


@pytest.mark.parametrize("y", [P, P + 1, P + 3, 2**255 - 1])
@pytest.mark.parametrize("sign", [0, 1])
def test_a_public_key_that_is_not_canonical_is_refused(backend: str, y: int, sign: int) -> None:
    with pytest.raises(IdentityError, match="canonical"):
        Identity.from_public_key(encoded(y, sign))


def test_a_generated_identity_has_three_parts_that_belong_together(backend: str) -> None:
    identity = Identity.generate()
    assert isinstance(identity.private_key, bytes)
    assert (len(identity.public_key), len(identity.private_key)) == (32, 32)
    assert identity.fingerprint == hashlib.sha256(identity.public_key).hexdigest()
    assert Identity(identity.public_key, identity.private_key, identity.fingerprint) == identity
    assert Identity.generate() != identity


def test_the_keys_of_rfc_8032_sign_as_it_says(backend: str) -> None:
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = Identity(public, seed).sign(b"\x72")
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert ed25519.verify(public, signature, b"\x72")
    assert not ed25519.verify(public, signature, b"\x73")
    assert not ed25519.verify(public, signature[:-1], b"\x72")


def test_a_public_identity_cannot_sign_and_says_what_to_do() -> None:
    public = Identity.from_public_key(Identity.generate().public_key)
    assert public.private_key is None
    with pytest.raises(SigningError, match="load the identity from its key file"):
        public.sign(b"x")


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33), "a" * 32, None, bytearray(32), 7])
def test_a_malformed_key_is_an_identity_error(key: Any) -> None:
    good = Identity.generate()
    with pytest.raises(IdentityError):
        Identity(key)
    if key is not None:
        with pytest.raises(IdentityError):
            Identity(good.public_key, key)


def test_parts_that_do_not_belong_together_are_refused() -> None:
    one, other = Identity.generate(), Identity.generate()
    with pytest.raises(IdentityError, match="does not belong"):
        Identity(one.public_key, other.private_key)
    with pytest.raises(IdentityError, match=one.fingerprint):
        Identity(one.public_key, one.private_key, other.fingerprint)
    with pytest.raises(IdentityError, match="fingerprint"):
        Identity(one.public_key, fingerprint=one.fingerprint.upper())


ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826


def base_point() -> Point:
    x, y = point_with(4 * pow(5, -1, P) % P) or (0, 1)
    return (x if x % 2 == 0 else P - x), y


def point_bytes(point: Point) -> bytes:
    return encoded(point[1], point[0] & 1)


class Crafted(NamedTuple):
    """A key, a message, and a signature made with both scalars in hand, as only the key's owner can."""

    key: bytes
    nonce_point: bytes
    response: int
    data: bytes


def crafted(key: Point, nonce: bytes, secret: int, number: int, data: bytes) -> Crafted:
    encoded_key = point_bytes(key)
    challenge = int.from_bytes(hashlib.sha512(nonce + encoded_key + data).digest(), "little") % GROUP_ORDER
    return Crafted(encoded_key, nonce, (number + challenge * secret) % GROUP_ORDER, data)


def odd_signatures() -> dict[str, tuple[Crafted, bool]]:
    """Where implementations of Ed25519 are known to differ, and what is to be said of each (eprint 2020/1244)."""
    base, torsion = base_point(), point_with(ORDER_8) or (0, 1)
    secret, number = 2**200 + 12345, 2**190 + 54321
    key, nonce = times(secret, base), times(number, base)
    plain = crafted(key, point_bytes(nonce), secret, number, b"hello")
    cases = {
        "as RFC 8032 makes it": (plain, True),
        "S + L": (plain._replace(response=plain.response + GROUP_ORDER), False),
        "another S": (plain._replace(response=plain.response ^ 1), False),
        "R with a torsion component": (crafted(key, point_bytes(add(nonce, torsion)), secret, number, b"hello"), False),
        "R not canonical": (crafted(key, encoded(P + 1), secret, 0, b"hello"), False),
        "R neutral with a sign": (crafted(key, encoded(1, 1), secret, 0, b"hello"), False),
    }
    for y in sorted(ed25519.SMALL_ORDER_Y):
        cases[f"R of small order {y % 1000}"] = (crafted(key, encoded(y), secret, 0, b"hello"), False)
    mixed = add(key, torsion)
    for text in (b"%d" % number for number in range(16)):
        made = crafted(mixed, point_bytes(nonce), secret, number, text)
        challenge = hashlib.sha512(made.nonce_point + made.key + text).digest()
        residue = int.from_bytes(challenge, "little") % GROUP_ORDER % 8
        cases[f"key with a torsion component, message {text!r}"] = (made, residue == 0)
    return cases


ODD = odd_signatures()


@pytest.mark.parametrize("name", ODD)
def test_both_backends_judge_odd_signatures_alike(backend: str, name: str) -> None:
    made, good = ODD[name]
    signature = made.nonce_point + made.response.to_bytes(32, "little")
    assert ed25519.verify(made.key, signature, made.data) is good


def test_odd_signatures_are_no_idle_cases() -> None:
    """Some of those that are refused here would pass a library that is asked alone."""
    made, _ = ODD["R of small order 1"]
    signature = made.nonce_point + made.response.to_bytes(32, "little")
    Ed25519PublicKey.from_public_bytes(made.key).verify(signature, made.data)
    assert sum(good for _, good in ODD.values()) >= 2


def test_both_backends_make_the_same_keys_and_signatures() -> None:
    numbers = random.Random(8032)
    for size in (0, 1, 31, 32, 33, 1000):
        seed, data = numbers.randbytes(32), numbers.randbytes(size)
        made = []
        for module in (ed25519_cryptography, ed25519_pynacl):
            key = module.private_key(seed)
            signature = key.sign(data)
            made.append((key.public_key, signature, key.seed()))
            for other in (ed25519_cryptography, ed25519_pynacl):
                assert other.verifier(key.public_key)(signature, data)
                assert not other.verifier(key.public_key)(signature, data + b"x")
        assert made[0] == made[1]


def test_random_keys_and_changed_signatures_are_judged_alike() -> None:
    numbers = random.Random(25519)
    key = ed25519_cryptography.private_key(bytes(32))
    signature = key.sign(b"data")
    for _ in range(300):
        public, changed = numbers.randbytes(32), bytearray(signature)
        changed[numbers.randrange(64)] ^= 1 << numbers.randrange(8)
        for pair in ((public, signature), (key.public_key, bytes(changed))):
            assert [
                module.verifier(pair[0])(pair[1], b"data") for module in (ed25519_cryptography, ed25519_pynacl)
            ] == [
                False,
                False,
            ]


@pytest.mark.parametrize("size", [0, 63, 65, 68, 128])
def test_a_signature_of_another_length_is_none(backend: str, size: int) -> None:
    """Also where it could be cut elsewhere: a library that takes signature and data joined must not be fooled."""
    identity = Identity.generate()
    joined = identity.sign(b"data") + b"data"
    assert not ed25519.verify(identity.public_key, joined[:size], joined[size:] or b"data")


def test_what_is_no_bytes_is_a_type_error(backend: str) -> None:
    identity = Identity.generate()
    for wrong in ("data", None, 5, bytearray(b"data")):
        with pytest.raises(TypeError, match="bytes"):
            identity.sign(wrong)  # type: ignore[arg-type]  # what is tested
        with pytest.raises(TypeError, match="bytes"):
            ed25519.verify(identity.public_key, identity.sign(b""), wrong)  # type: ignore[arg-type]  # as above


def test_a_key_object_shows_no_secret(backend: str) -> None:
    seed = bytes(range(32))
    key = ed25519.load_private_key(seed)
    shown = [repr(key), str(key), *[repr(getattr(key, name, None)) for name in dir(key)]]
    assert not [text for text in shown for spelling in spellings(seed) if spelling in text]
    assert key.seed() == seed


def loaded_with(setup: str) -> tuple[str, set[str]]:
    code = (
        f"import sys\n{setup}\nfrom converge.core import ed25519, message, aead\nfrom converge.core.identity import "
        "Identity\nmessage.Message().sign(Identity.generate()).verify()\nprint(ed25519.BACKEND, *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    name, *modules = done.stdout.split()
    return name, {module.partition(".")[0] for module in modules} & {"nacl", "cryptography"}


def test_only_the_backend_in_use_is_loaded() -> None:
    assert loaded_with("") == ("pynacl", {"nacl"})


def test_without_pynacl_it_is_cryptography() -> None:
    assert loaded_with("sys.modules['nacl'] = None") == ("cryptography", {"nacl", "cryptography"})


def test_identity_errors_are_value_errors_of_converge() -> None:
    for kind in (IdentityError, SigningError):
        assert issubclass(kind, ValueError)
        assert issubclass(kind, ConvergeError)


def test_an_identity_is_immutable() -> None:
    identity: Any = Identity.generate()
    for name in ("public_key", "private_key", "fingerprint", "_signer", "new"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(identity, name, b"")
    with pytest.raises(AttributeError, match="immutable"):
        del identity._signer


def test_evolve_checks_the_changed_copy() -> None:
    one, other = Identity.generate(), Identity.generate()
    assert one.evolve() == one
    assert one.evolve(private_key=None) == Identity.from_public_key(one.public_key)
    assert one.evolve(public_key=other.public_key) == Identity.from_public_key(other.public_key)
    assert one.evolve(public_key=other.public_key, private_key=other.private_key) == other
    with pytest.raises(IdentityError):
        one.evolve(private_key=other.private_key)
    with pytest.raises(IdentityError):
        one.evolve(fingerprint=other.fingerprint)
    with pytest.raises(TypeError):
        one.evolve(name="alice")


def test_equality_goes_by_public_key_and_by_being_able_to_sign() -> None:
    identity = Identity.generate()
    again, public = Identity(identity.public_key, identity.private_key), Identity.from_public_key(identity.public_key)
    assert identity == again
    assert hash(identity) == hash(again)
    assert identity != public
    assert identity != identity.fingerprint
    assert len({identity, again, public}) == 2


def spellings(secret: bytes) -> list[str]:
    import base64

    return [
        secret.hex(),
        repr(secret)[2:-1],
        base64.b64encode(secret).decode(),
        str(list(secret)),
        str(int.from_bytes(secret)),
    ]


def test_no_text_shows_the_private_key(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    identity, other = Identity.generate(), Identity.generate()
    secret = identity.private_key or b""

    @attrs.define
    class Holder:
        identity: Identity

    logging.getLogger("t").warning("%s %r %s", identity, identity, {"id": identity})
    texts = [repr(identity), str(identity), f"{identity}", repr(attrs.asdict(Holder(identity))), caplog.text]
    failures: list[Any] = [
        lambda: Identity(other.public_key, secret),
        lambda: Identity(identity.public_key, secret, "wrong"),
        lambda: Identity(identity.public_key, secret + b"x"),
        lambda: pickle.dumps(identity),
        lambda: setattr(identity, "public_key", secret),
        lambda: identity.save(tmp_path),
        lambda: identity.save(tmp_path / "x", password=""),
    ]
    for failure in failures:
        try:
            failure()
        except Exception:
            texts.append(traceback.format_exc())
    assert len(texts) == 5 + len(failures)
    assert not [text for text in texts for spelling in spellings(secret) if spelling in text]
    assert identity.fingerprint in repr(identity)


def test_no_attribute_holds_the_raw_private_key() -> None:
    identity = Identity.generate()
    names = [name for name in dir(identity) if name != "private_key"]
    assert identity.private_key not in [getattr(identity, name, None) for name in names]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_identity_is_never_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match=r"save\(\)"):
        pickle.dumps(Identity.generate(), protocol)


def test_a_copy_is_the_identity_itself() -> None:
    identity = Identity.generate()
    assert copy.copy(identity) is identity
    assert copy.deepcopy({"x": identity})["x"] is identity


@pytest.mark.parametrize("password", [None, "correct horse", b"\x00bytes"])
def test_a_saved_identity_loads_again(tmp_path: Path, password: str | bytes | None) -> None:
    identity, path = Identity.generate(), tmp_path / "agent.pem"
    identity.save(path, password)
    assert Identity.load(str(path), password) == identity
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["agent.pem"]


def test_the_file_is_pkcs8_that_other_programs_read(tmp_path: Path) -> None:
    identity = Identity.generate()
    identity.save(tmp_path / "plain.pem")
    identity.save(tmp_path / "sealed.pem", "secret")
    key = load_pem_private_key((tmp_path / "plain.pem").read_bytes(), None)
    assert key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()) == identity.private_key
    assert (tmp_path / "sealed.pem").read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "agent.pem"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"never overwritten.*agent\.pem"):
        Identity.generate().save(path)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["agent.pem"]


def test_a_public_identity_has_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="no private key"):
        Identity.generate().evolve(private_key=None).save(tmp_path / "x")


def test_an_empty_password_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="empty"):
        Identity.generate().save(tmp_path / "x", "")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o601, 0o644, 0o666])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "agent.pem"
    Identity.generate().save(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        Identity.load(path)


def test_a_wrong_missing_or_needless_password_is_told_apart(tmp_path: Path) -> None:
    plain, sealed, identity = tmp_path / "plain.pem", tmp_path / "sealed.pem", Identity.generate()
    identity.save(plain)
    identity.save(sealed, "right")
    with pytest.raises(IdentityError, match=r"sealed\.pem.*password is wrong"):
        Identity.load(sealed, "wrong")
    for missing in (None, ""):
        with pytest.raises(IdentityError, match=r"sealed\.pem is encrypted; give its password"):
            Identity.load(sealed, missing)
    with pytest.raises(IdentityError, match=r"plain\.pem is not encrypted"):
        Identity.load(plain, "right")


def test_what_is_no_ed25519_key_file_is_an_identity_error_naming_it(tmp_path: Path) -> None:
    other_kind = ed448.Ed448PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    whole = tmp_path / "whole.pem"
    Identity.generate().save(whole)
    contents = {
        "empty": b"",
        "junk": b"\xff" * 100,
        "other": other_kind,
        "cut": whole.read_bytes()[:60],
        "huge": bytes(100_000),
        "sealed-junk": b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.touch(0o600)
        path.write_bytes(content)
        with pytest.raises(IdentityError, match=name):
            Identity.load(path, "x" if name == "sealed-junk" else None)


def test_folders_and_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(0o700)
    for name in ("pipe", "folder"):
        with pytest.raises(IdentityError, match=f"{name} is not a regular file"):
            Identity.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Identity.load(tmp_path / "absent")


SAVE_AND_DIE = """
import os, signal, sys
from converge.core.identity import Identity
path, last = sys.argv[1], int(sys.argv[2])
identity, seen = Identity.generate(), 0

def step(*_):
    global seen
    seen += 1
    if seen == last:
        os.kill(os.getpid(), signal.SIGKILL)

def traced(frame, event, argument):
    if frame.f_code.co_filename.endswith("key_file.py"):
        step()
        return traced
sys.settrace(traced)
identity.save(path)
"""


def test_a_process_killed_while_saving_leaves_a_whole_key_file_or_none(tmp_path: Path) -> None:
    outcomes = []
    for last in range(1, 60, 3):  # the n-th line of key_file.py that runs is the last one
        path = tmp_path / f"{last}.pem"
        ended = subprocess.run([sys.executable, "-c", SAVE_AND_DIE, path, str(last)], check=False)
        if path.exists():
            assert Identity.load(path).private_key
        outcomes.append((ended.returncode, path.exists()))
        if ended.returncode == 0:
            break
    assert (-signal.SIGKILL, False) in outcomes
    assert (-signal.SIGKILL, True) in outcomes
    assert outcomes[-1] == (0, True)
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.iterdir())
