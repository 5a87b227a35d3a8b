"""What goes on: an answer that is written while things happen, until it is done or its reader has gone.

A reader who is slow slows down what tells, by a queue of bounded length, and is cut if nothing more
can be written for too long. One who leaves ends what is done for them.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from gateway.api.operating import Operating, Written, asker_of, problem_of
from gateway.api.table import Form, Operation
from gateway.http.calls import Call
from gateway.http.connections import Connection
from gateway.http.headers import protect
from gateway.http.principals import Unauthenticated
from gateway.http.problems import HttpProblem
from gateway.operating.commands import NotAllowed
from policies.errors import ConfigurationError

log = logging.getLogger("isthmus.api")

SOON = 0.25
"""Seconds in which a command says what is wrong with its arguments, and is answered by a problem."""
TICK_SECONDS = 5.0
"""Between two looks at whether a reader is still known; and, of lines, two signs of life."""


class Lines:
    """A line of JSON for each thing."""

    def begin(self) -> bytes:
        """Nothing."""
        return b""

    def add(self, thing: Any, /) -> bytes:
        """The line."""
        return msgspec.json.encode(thing) + b"\n"

    def end(self) -> bytes:
        """Nothing."""
        return b""


async def follow(
    operating: Operating, operation: Operation, call: Call, arguments: dict[str, Any], written: Written
) -> web.StreamResponse:
    """Write what a stream tells. Raises HttpProblem where it does not begin."""
    response = web.StreamResponse(headers={"Content-Type": operation.form.value})
    protect(response)
    if call.request.method == "HEAD":
        return response
    name = call.principal.name
    operating.enter(name)
    try:
        await _Following(operating, operation, call, arguments, written, response).run()
    finally:
        operating.leave(name)
    return response


class _Following:
    """One stream to one reader."""

    def __init__(
        self,
        operating: Operating,
        operation: Operation,
        call: Call,
        arguments: dict[str, Any],
        written: Written,
        response: web.StreamResponse,
    ) -> None:
        self._operating = operating
        self._operation = operation
        self._call = call
        self._arguments = arguments
        self._written = written
        self._response = response
        self._credentials = operating.door.credentials
        self._beginning = asyncio.Lock()

    async def run(self) -> None:
        """Write until it is done, or the reader has gone. Raises HttpProblem where it does not begin."""
        connection = self._call.request.protocol
        telling = asyncio.create_task(self._tell())
        left = asyncio.create_task(
            connection.left.wait() if isinstance(connection, Connection) else asyncio.Event().wait()
        )
        leaving = asyncio.create_task(self._operating.leaving.wait())
        ends: set[asyncio.Task[Any]] = {telling, left, leaving}
        try:
            await asyncio.wait(ends, timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
            while not any(task.done() for task in ends) and self._is_known():
                await self._begin()
                if self._operation.form is Form.LINES:
                    await self._response.write(b"\n")
                await asyncio.wait(ends, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in ends:
                task.cancel()
            await asyncio.wait(ends)
        if not left.done() or left.cancelled():
            await self._end(telling)

    async def _tell(self) -> None:
        asked = self._operating.asking.follow(
            asker_of(self._call.principal), self._operation.command, self._arguments
        )
        async with aclosing(asked) as told:
            async for things in told:
                await self._begin()
                if octets := b"".join(map(self._written.add, things)):
                    await self._response.write(octets)

    async def _begin(self) -> None:
        async with self._beginning:
            if not self._response.prepared:
                await self._response.prepare(self._call.request)
                if octets := self._written.begin():
                    await self._response.write(octets)

    async def _end(self, telling: asyncio.Task[None]) -> None:
        error = None if telling.cancelled() else telling.exception()
        if error is None and not telling.cancelled():
            await self._begin()
            if octets := self._written.end():
                await self._response.write(octets)
            return
        if not self._response.prepared and isinstance(error, (ConfigurationError, NotAllowed)):
            raise problem_of(error)
        if not self._response.prepared and error is None:
            raise HttpProblem(401, "the credential is no longer known")
        if error is not None and not isinstance(error, ConnectionError):
            log.warning("%s ends early: %s", self._operation.path, error, extra={"event": "stream-cut"})
        # A reader must not take what is cut short for the whole.
        transport = self._call.request.transport
        if transport is not None:
            transport.abort()

    def _is_known(self) -> bool:
        """Whether what the reader has shown still says who that is."""
        door = self._operating.door
        if door.credentials is not self._credentials:
            try:
                if door.identify(self._call.request) != self._call.principal:
                    return False
            except Unauthenticated:
                return False
            self._credentials = door.credentials
        return True
