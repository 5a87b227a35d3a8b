from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from policies.errors import ConfigurationError
from policies.model import IkeIdentity
from policies.secret import Secret
from tests.tunnels.ike import pki
from tests.tunnels.ike.pki import make
from tunnels.ike import credentials
from tunnels.ike.credentials import Credentials

AUTHORITY = make("CN=Red root", authority=True)
SUB = make("CN=Red sub", AUTHORITY, authority=True)
EDGE = make("CN=edge", SUB, alternative=["edge.example"])
WORDS = "correct horse battery staple"


def identity(folder: Path, **files: bytes) -> IkeIdentity:
    """Write each of these files; those that end in a number are several of a kind."""
    paths = {}
    for name, content in files.items():
        paths[name] = folder / name
        paths[name].write_bytes(content)
    return IkeIdentity(
        "edge.example",
        "gw.red.example",
        psk_file=paths.get("psk"),
        certificate_file=paths.get("certificate"),
        key_file=paths.get("key"),
        authority_files=tuple(path for name, path in paths.items() if name.startswith("authority")),
        revocation_files=tuple(path for name, path in paths.items() if name.startswith("revocation")),
    )


def problems(folder: Path, **files: bytes) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        credentials.load(identity(folder, **files))
    for content in files.values():
        secret = content.strip()
        told = "".join(traceback.format_exception(caught.value))
        assert not secret or secret not in told.encode(), "a file's content is told"
    assert WORDS not in repr(chain_of(caught.value))
    return [str(each).replace(f"{folder}/", "") for each in caught.value.problems]


def chain_of(error: BaseException | None) -> list[object]:
    """An exception and all that hang behind it, with what they hold."""
    found: list[object] = []
    while error is not None:
        found += [error.args, vars(error), getattr(error, "object", None)]
        error = error.__cause__ or error.__context__
    return found


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"correct horse", b"correct horse"),
        (b"correct horse\n", b"correct horse"),
        (b"correct horse\r\n", b"correct horse"),
        (b"correct horse \n\n", b"correct horse \n"),
        (b"0xDeadBeef\n", b"\xde\xad\xbe\xef"),
        (b"0s3q2+7w==\n", b"\xde\xad\xbe\xef"),
        (b"\xff\x00\xfe", b"\xff\x00\xfe"),
    ],
)
def test_shared_secret_is_read_as_swanctl_does(tmp_path: Path, content: bytes, secret: bytes) -> None:
    assert credentials.load(identity(tmp_path, psk=content)) == Credentials(psk=Secret(secret))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty; put the secret in it"),
        (b"\n", "is empty; put the secret in it"),
        (b"0x\n", "is empty; put the secret in it"),
        (b"0x" + WORDS.encode(), "begins as hexadecimal and does not go on so"),
        (b"0xabc", "begins as hexadecimal and does not go on so"),
        (b"0s" + WORDS.encode(), "begins as base64 and does not go on so"),
        (b"0s\xff\xff", "begins as base64 and does not go on so"),
    ],
)
def test_shared_secret_that_cannot_be_read_is_told_without_any_of_it(
    tmp_path: Path, content: bytes, words: str
) -> None:
    assert problems(tmp_path, psk=content) == [f"psk: {words}"]


def test_certificates_key_authorities_and_lists_are_read(tmp_path: Path) -> None:
    pem = pki.revocation_list(AUTHORITY).public_bytes(Encoding.PEM)
    der = pki.revocation_list(SUB).public_bytes(Encoding.DER)
    loaded = credentials.load(
        identity(
            tmp_path,
            certificate=EDGE.pem + SUB.pem,
            key=EDGE.key_pem,
            authority1=AUTHORITY.pem,
            authority2=SUB.pem,
            revocation1=pem,
            revocation2=der,
        )
    )

    assert loaded.certificates == (EDGE.certificate, SUB.certificate)
    assert loaded.key is not None
    assert loaded.key.key.public_key() == EDGE.key.public_key()
    assert loaded.authorities == (AUTHORITY.certificate, SUB.certificate)
    assert [each.issuer for each in loaded.revocations] == [
        AUTHORITY.certificate.subject,
        SUB.certificate.subject,
    ]


def test_credentials_read_twice_are_equal_and_with_another_key_are_not(tmp_path: Path) -> None:
    files = {"certificate": EDGE.pem, "key": EDGE.key_pem, "authority": AUTHORITY.pem}
    first, second = (credentials.load(identity(tmp_path, **files)) for _ in range(2))
    other = make("CN=edge", SUB, alternative=["edge.example"])

    assert first == second
    assert hash(first) == hash(second)
    files |= {"certificate": other.pem, "key": other.key_pem}
    assert credentials.load(identity(tmp_path, **files)) != first


def test_credentials_show_no_secret(tmp_path: Path) -> None:
    files = {"psk": WORDS.encode(), "certificate": EDGE.pem, "key": EDGE.key_pem}
    loaded = credentials.load(identity(tmp_path, **files))

    assert loaded.psk is not None
    assert isinstance(EDGE.key, ec.EllipticCurvePrivateKey)
    number = EDGE.key.private_numbers().private_value
    for text in (repr(loaded), str(loaded), f"{loaded}", f"{loaded.key} {loaded.psk}"):
        assert "horse" not in text
        assert str(number) not in text
        assert f"{number:x}" not in text


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("certificate", "is not a certificate in PEM, or several"),
        ("key", "is not a private key in PEM"),
        ("authority", "is not a certificate in PEM, or several"),
        ("revocation", "is not a certificate revocation list in PEM or DER"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"garbage " + WORDS.encode(), b"-----BEGIN X509 CRL-----\nAAAA\n"])
def test_file_of_another_content_is_told_without_any_of_it(
    tmp_path: Path, file: str, words: str, content: bytes
) -> None:
    files = {
        "certificate": EDGE.pem,
        "key": EDGE.key_pem,
        "authority": AUTHORITY.pem,
        "revocation": pki.revocation_list(AUTHORITY).public_bytes(Encoding.PEM),
    }

    assert problems(tmp_path, **files | {file: content}) == [f"{file}: {words}"]


def test_every_file_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    assert problems(tmp_path, psk=b"", certificate=b"?", key=b"?", authority=b"?") == [
        "psk: is empty; put the secret in it",
        "certificate: is not a certificate in PEM, or several",
        "key: is not a private key in PEM",
        "authority: is not a certificate in PEM, or several",
    ]


def test_missing_file_is_told(tmp_path: Path) -> None:
    ike = IkeIdentity("edge.example", "gw.red.example", psk_file=tmp_path / "psk")

    with pytest.raises(ConfigurationError, match="psk: No such file or directory"):
        credentials.load(ike)


def test_encrypted_key_is_told(tmp_path: Path) -> None:
    encrypted = EDGE.key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(WORDS.encode())
    )

    told = problems(tmp_path, certificate=EDGE.pem, key=encrypted, authority=AUTHORITY.pem)
    assert told == ["key: is encrypted; nobody is there to type its password"]


def test_key_of_another_certificate_is_told(tmp_path: Path) -> None:
    told = problems(tmp_path, certificate=EDGE.pem, key=SUB.key_pem, authority=AUTHORITY.pem)

    assert len(told) == 1
    assert told[0].startswith("key: is not the key of the first certificate in ")


def test_certificate_for_another_identity_is_told(tmp_path: Path) -> None:
    other = make("CN=other", SUB)

    assert problems(tmp_path, certificate=other.pem, key=other.key_pem, authority=AUTHORITY.pem) == [
        "certificate: is not for local_id edge.example: it names CN=other"
    ]


def test_key_that_is_too_short_or_of_a_wrong_kind_is_told(tmp_path: Path) -> None:
    short = make("CN=edge", SUB, key=pki.rsa_key(1024), alternative=["edge.example"])
    ed25519_pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )

    assert problems(tmp_path, certificate=short.pem, key=short.key_pem, authority=AUTHORITY.pem) == [
        "key: is an RSA key of 1024 bits; 2048 are required"
    ]
    assert problems(tmp_path, certificate=EDGE.pem, key=ed25519_pem, authority=AUTHORITY.pem) == [
        "key: is neither an RSA key nor one of P-256, P-384 or P-521"
    ]


def test_certificate_without_its_key_and_nothing_at_all_are_told(tmp_path: Path) -> None:
    assert problems(tmp_path, psk=b"secret", certificate=EDGE.pem) == [
        "certificate: a certificate and its key go together"
    ]
    assert problems(tmp_path) == [
        "nothing proves who we are; give a shared secret, or a certificate and its key",
        "nothing proves who the peer is; give a shared secret or authorities",
    ]
