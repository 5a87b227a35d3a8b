"""One request, with who asks: its body and its query read within limits, and its answer made."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from gateway.http.headers import SAFE_HEADERS
from gateway.http.principals import Principal
from gateway.http.problems import HttpProblem

T = TypeVar("T")


class Bound(msgspec.Struct, frozen=True):
    """How large a body may be, in octets, and how long it may take to come, in seconds."""

    octets: int
    seconds: float


SMALL = Bound(1 << 20, 10.0)

JSON = "application/json"
_HEADERS = {"Content-Type": JSON, **SAFE_HEADERS}

_NUMBER = re.compile(r"[0-9]{1,19}")


class Call:
    """One request, and who asks."""

    __slots__ = ("parts", "principal", "query_text", "request")

    def __init__(
        self, request: web.BaseRequest, principal: Principal, parts: tuple[str, ...], query_text: str
    ) -> None:
        self.request = request
        self.principal = principal
        self.parts = parts
        """What the path has where its route has a name in braces."""
        self.query_text = query_text

    def query(self, *known: str) -> dict[str, str]:
        """Return the query's parameters. Raises HttpProblem for one that is unknown or there twice."""
        if not self.query_text:
            return {}
        try:
            pairs = parse_qsl(self.query_text, keep_blank_values=True, errors="strict", max_num_fields=32)
        except ValueError:
            raise HttpProblem(400, "the query cannot be read") from None
        found: dict[str, str] = {}
        for name, value in pairs:
            if name not in known:
                raise HttpProblem(
                    400, f"query: {name[:64]!r} is unknown; known: {', '.join(known) or 'nothing'}"
                )
            if name in found:
                raise HttpProblem(400, f"query: {name} is there twice")
            found[name] = value
        return found

    async def body(self, decoder: msgspec.json.Decoder[T], bound: Bound | None = None) -> T:
        """Return the body, decoded. Raises HttpProblem."""
        content = await self.body_octets(bound or SMALL)
        try:
            return decoder.decode(content)
        except RecursionError:
            raise HttpProblem(400, "the body is nested too deeply") from None
        except (msgspec.MsgspecError, ValueError) as error:
            raise HttpProblem(400, f"body: {error}") from None

    async def body_octets(self, bound: Bound) -> bytes:
        """Return a body of JSON as it came. Raises HttpProblem."""
        request = self.request
        kind = request.headers.get("Content-Type", "")
        if kind != JSON and not _is_json(kind):
            raise HttpProblem(415, f"the body is wanted as {JSON}", headers={"Accept": JSON})
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise HttpProblem(
                415, "the body is wanted without an encoding", headers={"Accept-Encoding": "identity"}
            )
        length = request.content_length
        if length is not None and length > bound.octets:
            raise too_large(bound)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(bound.seconds):
                content = bytearray()
                async for chunk in request.content.iter_any():
                    content += chunk
                    if len(content) > bound.octets:
                        raise too_large(bound)
                return bytes(content)
        except TimeoutError:
            problem = HttpProblem(408, f"the body took longer than {bound.seconds:g} s")
            problem.headers["Connection"] = "close"
            raise problem from None
        except web.RequestPayloadError:
            raise HttpProblem(400, "the body cannot be read") from None


def too_large(bound: Bound) -> HttpProblem:
    """A body is larger than is taken."""
    return HttpProblem(413, f"a body has at most {bound.octets} octets", headers={"Connection": "close"})


def answer(body: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(
        status=status, body=body, headers=_HEADERS if headers is None else {**_HEADERS, **headers}
    )


def read_number(path: str, text: str, lowest: int, highest: int) -> int:
    """Read a whole number from text. Raises HttpProblem."""
    if not _NUMBER.fullmatch(text) or not lowest <= (number := int(text)) <= highest:
        raise HttpProblem(400, f"{path}: a whole number from {lowest} to {highest} is wanted")
    return number


def read_text(read: Callable[[str], T], path: str, text: str) -> T:
    """Read a value from text by a function that raises ValueError. Raises HttpProblem."""
    try:
        return read(text)
    except ValueError as error:
        raise HttpProblem(400, f"{path}: {error}") from None


def _is_json(kind: str) -> bool:
    """RFC 8259 defines no parameter; a charset of UTF-8 says what is so anyway."""
    name, _, parameter = kind.partition(";")
    return name.strip().lower() == JSON and parameter.strip().lower().replace('"', "") in {
        "",
        "charset=utf-8",
    }
