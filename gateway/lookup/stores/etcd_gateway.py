"""etcd v3 through its JSON gateway: which member is asked, and what each says.

A request goes to one member after the other until one answers. It is repeated although
an earlier attempt may have been carried out: every transaction here compares what it
has read, so it is never made twice.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from enum import Enum
from typing import TypeVar

import aiohttp
import msgspec

from gateway.lookup.forms import Malformed
from gateway.lookup.lines import Lines
from gateway.lookup.store import StoreUnavailable
from gateway.lookup.stores.etcd_wire import (
    Answer,
    Failure,
    RangeAnswer,
    TxnAnswer,
    WatchAnswer,
    WatchLine,
    read,
)
from policies.errors import ConfigurationError, Problem
from policies.services import Etcd

T = TypeVar("T")

CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 2.0
"""How long a member may be silent before the next is asked."""
PATIENCE_SECONDS = 6.0
"""How long members are tried: longer than they take to elect a leader."""
PAUSE_SECONDS = 0.1
"""After every member has failed once."""
QUIET_SECONDS = 1.0
"""A watch that is quiet for so long is no proof of life: its member is asked for one."""
# A path that is cut says nothing. The kernel gives such a connection up after about 5 s.
KEEPALIVE = {
    socket.TCP_KEEPIDLE: 2,
    socket.TCP_KEEPINTVL: 1,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 5000,
}

# gRPC's codes for what no other member would answer otherwise: invalid argument, permission denied,
# failed precondition, unimplemented, unauthenticated.
FINAL = frozenset({3, 7, 9, 12, 16})
OUT_OF_RANGE = 11
NO_SPACE = "database space exceeded"

# A member that has lost the others refuses at once, and ends its watches, instead of being silently behind.
HEADERS = {"Content-Type": "application/json", "Grpc-Metadata-hasleader": "true"}
WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
CLOSED = "the store is closed"


class Pause(Enum):
    """A watch has told what there was."""

    SHORT = "short"
    """For now."""
    LONG = "long"
    """And nothing came for a while, though the member lives."""


class NoAnswer(Exception):
    """One member has not answered usefully; another may. The message says why, without its address."""


class OutOfRange(Exception):
    """A revision is compacted, or yet to come."""


class EtcdGateway:
    """A cluster, by its members' client URLs. The one that answered last is asked first."""

    def __init__(self, settings: Etcd) -> None:
        """Raises ConfigurationError where the certificates cannot be read."""
        self._members = deque(settings.endpoints)
        connector = aiohttp.TCPConnector(limit=0, ssl=_tls(settings), socket_factory=_socket)
        self._session = aiohttp.ClientSession(connector=connector)

    async def close(self) -> None:
        """End every connection. Whatever is under way fails, and so does what comes after."""
        self._members.clear()
        await self._session.close()

    async def range(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        revision: int = 0,
        limit: int = 0,
        seconds: float = ANSWER_SECONDS,
    ) -> RangeAnswer:
        """Read a key, or those before `end`; linearizably, or as they were at a revision.

        Raises OutOfRange, StoreUnavailable.
        """
        request = {"key": key, "range_end": end, "revision": revision, "limit": limit}
        answer, _ = await self._call("kv/range", request, RangeAnswer, seconds)
        return answer

    async def read(self, keys: Iterable[bytes], *, revision: int = 0) -> TxnAnswer:
        """Read some keys at one revision, which is the current one unless named.

        Raises OutOfRange, StoreUnavailable.
        """
        request = {"success": [{"request_range": {"key": key, "revision": revision}} for key in keys]}
        answer, _ = await self._call("kv/txn", request, TxnAnswer)
        return answer

    async def write(
        self, unchanged: Mapping[bytes, int], values: Mapping[bytes, bytes], otherwise: bytes
    ) -> TxnAnswer:
        """Set keys if others are still of the revisions that they had; else read the key `otherwise`.

        Revision 0 is a key's that is not there. Raises StoreUnavailable: then it may have been done.
        """
        compare = [
            {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": revision}
            for key, revision in unchanged.items()
        ]
        request = {
            "compare": compare,
            "success": [{"request_put": {"key": key, "value": value}} for key, value in values.items()],
            "failure": [{"request_range": {"key": otherwise}}],
        }
        answer, is_repeated = await self._call("kv/txn", request, TxnAnswer)
        return msgspec.structs.replace(answer, is_repeated=is_repeated)

    async def compact(self, revision: int) -> None:
        """Forget the history up to a revision. Raises OutOfRange, StoreUnavailable."""
        await self._call("kv/compaction", {"revision": revision}, Answer)

    def attempts(self) -> Attempts:
        """Begin to look for a member that answers."""
        return Attempts(self._members)

    async def watch(
        self, member: str, key: bytes, end: bytes, start: int
    ) -> AsyncGenerator[WatchAnswer | Pause]:
        """Yield what a member tells of a range of keys from a revision on, and where it pauses.

        It must show that it lives and has a leader whenever it has paused for QUIET_SECONDS.
        Raises NoAnswer when it is lost, and StoreUnavailable.
        """
        create = {"key": key, "range_end": end, "start_revision": start}
        create |= {"fragment": True, "progress_notify": True}
        lines = Lines()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                response = await self._post(member, "watch", {"create_request": create}, WATCH_TIMEOUT)
            async with response:
                await _check_status(response)
                while True:
                    try:
                        async with asyncio.timeout(QUIET_SECONDS):
                            chunk = await response.content.readany()
                    except TimeoutError:
                        await self.ask(member, "kv/range", {"key": key}, RangeAnswer)
                        yield Pause.LONG
                        continue
                    if not chunk:
                        raise NoAnswer("its watch has ended")
                    for line in lines.feed(chunk):
                        yield _watch_answer(line)
                    yield Pause.SHORT
        except (aiohttp.ClientError, OSError, msgspec.DecodeError, Malformed) as error:
            raise NoAnswer(_words(error)) from None

    async def ask(
        self, member: str, path: str, request: object, kind: type[T], seconds: float = ANSWER_SECONDS
    ) -> T:
        """Ask one member. Raises NoAnswer, OutOfRange, StoreUnavailable."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=seconds)
        try:
            async with await self._post(member, path, request, timeout) as response:
                await _check_status(response)
                return read(await response.read(), kind)
        except (aiohttp.ClientError, OSError, msgspec.DecodeError) as error:
            raise NoAnswer(_words(error)) from None

    async def _call(
        self, path: str, request: object, kind: type[T], seconds: float = ANSWER_SECONDS
    ) -> tuple[T, bool]:
        """Ask one member after the other; also return whether any was asked in vain."""
        attempts = self.attempts()
        while True:
            member = attempts.member
            try:
                answer = await self.ask(member, path, request, kind, seconds)
            except NoAnswer as failure:
                await attempts.failed(member, failure)
            else:
                return answer, attempts.have_failed

    async def _post(
        self, member: str, path: str, request: object, timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        if self._session.closed:
            raise StoreUnavailable(CLOSED)
        return await self._session.post(
            f"{member}/v3/{path}", data=msgspec.json.encode(request), headers=HEADERS, timeout=timeout
        )


class Attempts:
    """Goes from member to member, for as long as there is patience."""

    def __init__(self, members: deque[str]) -> None:
        self._members = members
        self._until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        self._reasons: dict[str, str] = {}
        self._since_pause = 0

    @property
    def member(self) -> str:
        """Whom to ask. Raises StoreUnavailable once the gateway is closed."""
        if not self._members:
            raise StoreUnavailable(CLOSED)
        return self._members[0]

    @property
    def have_failed(self) -> bool:
        """Whether anybody was asked in vain."""
        return bool(self._reasons)

    async def failed(self, member: str, failure: NoAnswer) -> None:
        """Go on to the next member, after a pause if it was the last. Raises StoreUnavailable."""
        self._reasons[member] = str(failure)
        if self._members and self._members[0] == member:  # or somebody else has gone on already
            self._members.rotate(-1)
        if asyncio.get_running_loop().time() > self._until:
            reasons = "; ".join(f"{each}: {why}" for each, why in self._reasons.items())
            raise StoreUnavailable(f"etcd does not answer; {reasons}")
        self._since_pause += 1
        if self._since_pause >= len(self._members):
            self._since_pause = 0
            await asyncio.sleep(PAUSE_SECONDS)


async def _check_status(response: aiohttp.ClientResponse) -> None:
    """Raise what an answer says if it is none."""
    if response.status == 200:
        return
    body = await response.read()
    try:
        failure = read(body, Failure)
    except msgspec.DecodeError:
        raise NoAnswer(f"says {response.status} {response.reason}, not as etcd does") from None
    if failure.code == OUT_OF_RANGE:
        raise OutOfRange(failure.message)
    if failure.code in FINAL or NO_SPACE in failure.message:
        raise StoreUnavailable(f"{response.url.origin()} refuses: {failure.message}")
    raise NoAnswer(failure.message)


def _watch_answer(line: bytes) -> WatchAnswer:
    found = read(line, WatchLine)
    if found.result is None:
        raise NoAnswer(found.error.message if found.error else "says nothing that is known")
    return found.result


def _tls(settings: Etcd) -> ssl.SSLContext | bool:
    """Return how members are known and who we are to them. Raises ConfigurationError."""
    if not any(endpoint.startswith("https:") for endpoint in settings.endpoints):
        return True
    try:
        context = ssl.create_default_context(cafile=settings.authority_file)
    except OSError as error:
        message = f"{settings.authority_file} cannot be used as an authority's certificates: {_words(error)}"
        raise ConfigurationError([Problem("lookup.etcd.ca", message)]) from None
    if settings.certificate_file is not None:
        try:
            context.load_cert_chain(settings.certificate_file, settings.key_file)
        except OSError as error:
            message = f"{settings.certificate_file} and its key cannot be used: {_words(error)}"
            raise ConfigurationError([Problem("lookup.etcd.cert", message)]) from None
    return context


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, *_ = address
    found = socket.socket(family, kind, protocol)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        found.setsockopt(socket.IPPROTO_TCP, option, value)
    return found


def _words(error: Exception) -> str:
    """Say what is wrong with a connection, for an operator."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            inner = error.certificate_error
            return f"its certificate is refused here: {getattr(inner, 'verify_message', '') or inner}"
        case aiohttp.ClientConnectorError():
            return _words(error.os_error)
        case TimeoutError():
            return "is silent"
        case msgspec.DecodeError():
            return f"does not speak as etcd does: {error}"
        case ssl.SSLError():
            return f"TLS fails: {error.reason.lower().replace('_', ' ') if error.reason else error}"
        case OSError(__cause__=ssl.SSLError() as inner):
            return _words(inner)
        case socket.gaierror():
            return (error.strerror or str(error)).lower()
        case OSError(errno=int(number)):
            return os.strerror(number).lower()
    return str(error) or type(error).__name__
