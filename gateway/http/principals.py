"""Who a request is from: known by a token, or by the name in a client's certificate."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from policies.errors import ConfigurationError, Problem
from policies.services import Credential, Role

SHORTEST_TOKEN = 16
LONGEST_TOKEN = 4096


class Principal(msgspec.Struct, frozen=True):
    """Whoever asks, and what they may do."""

    name: str
    role: Role
    tenants: frozenset[str] = frozenset()
    """What a reader may see; a host's tenants are in the network."""


ANYBODY = Principal("local", Role.OPERATOR)
"""Who everybody is where no credential is configured, which is for loopback only."""


class Unauthenticated(Exception):
    """Nobody we know. The message may be told to whoever asks."""


class Credentials:
    """Everybody who may ask, found by what they show.

    Tokens are kept as digests under a key of this process's own: neither memory nor the time
    that a look-up takes says anything about a token.
    """

    def __init__(self, tokens: Iterable[tuple[bytes, Principal]], subjects: dict[str, Principal]) -> None:
        self._key = secrets.token_bytes(32)
        self._by_digest: dict[bytes, tuple[bytes, Principal]] = {}
        for token, principal in tokens:
            digest = self._digest(token)
            self._by_digest[digest] = digest, principal
        self._by_subject = dict(subjects)

    @classmethod
    def load(cls, credentials: Iterable[Credential], section: str = "lookup") -> Credentials:
        """Read the tokens' files. Raises ConfigurationError with everything that is wrong with them.

        `section` of the configuration is where they are named.
        """
        problems: list[Problem] = []
        tokens: dict[bytes, Principal] = {}
        subjects: dict[str, Principal] = {}
        for credential in credentials:
            principal = Principal(credential.name, credential.role, frozenset(credential.tenants))
            if credential.token_file is not None:
                try:
                    token = _token(credential.token_file)
                except (OSError, ValueError) as error:
                    reason = error.strerror if isinstance(error, OSError) else str(error)
                    problems.append(Problem(f"{section}.token", f"{credential.token_file}: {reason}"))
                    continue
                if token in tokens:
                    message = f"{credential.name} and {tokens[token].name} have one token; give each its own"
                    problems.append(Problem(f"{section}.token", message))
                tokens[token] = principal
            if credential.subject is not None:
                subjects[credential.subject] = principal
        if problems:
            raise ConfigurationError(problems)
        return cls(tokens.items(), subjects)

    def __bool__(self) -> bool:
        return bool(self._by_digest or self._by_subject)

    @property
    def has_certificates(self) -> bool:
        """Whether anybody is known by a certificate."""
        return bool(self._by_subject)

    def identify(self, authorization: str | None, names: Iterable[str] = ()) -> Principal:
        """Return who shows a token (the Authorization header) or else a certificate with these names.

        Raises Unauthenticated.
        """
        if not self:
            return ANYBODY
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise Unauthenticated("only bearer tokens are taken")
            return self._bearer(token.strip())
        for name in names:
            if (found := self._by_subject.get(name)) is not None:
                return found
        raise Unauthenticated("a token or a client certificate is wanted")

    def _bearer(self, token: str) -> Principal:
        digest = self._digest(token.encode("utf-8", "surrogateescape"))
        found = self._by_digest.get(digest)
        if found is None or not hmac.compare_digest(found[0], digest):
            raise Unauthenticated("the token is not known")
        return found[1]

    def _digest(self, token: bytes) -> bytes:
        return hashlib.blake2b(token, key=self._key, digest_size=32).digest()


NOBODY = Credentials((), {})
"""No credential at all: everybody is an operator, on loopback only."""


def certificate_names(certificate: object) -> Iterator[str]:
    """The common name and the DNS names of a verified certificate, as Python's ssl tells of it."""
    if not isinstance(certificate, dict):
        return
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                yield value
    for key, value in certificate.get("subjectAltName", ()):
        if key == "DNS":
            yield value


def _token(path: Path) -> bytes:
    """Read a token. Raises OSError, or ValueError where it cannot be one."""
    with path.open("rb") as file:
        token = file.read(LONGEST_TOKEN + 2).strip()
    if not SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN:
        raise ValueError(f"a token has {SHORTEST_TOKEN} to {LONGEST_TOKEN} characters")
    if not all(0x21 <= octet <= 0x7E for octet in token):
        raise ValueError("a token is printable ASCII on one line, without spaces")
    return token
