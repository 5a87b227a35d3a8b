"""Keeps a server of HTTP busy as nobody should: run it with the server's port, and end it.

Some connections say a little every second and never finish a request; some send octets that are no
HTTP, and come again as soon as they are thrown out; and some ask, and never read what they are answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys

SLOW, NONSENSE, DEAF = 200, 8, 50

_BEGINNING = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n"
_ASKED = _BEGINNING.replace(b"/v1/status", b"/openapi.json") + b"\r\n"


async def say_slowly(port: int) -> None:
    """Begin a request, and add a header a second."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(_BEGINNING)
    for number in range(3600):
        writer.write(b"X-%d: y\r\n" % number)
        await writer.drain()
        await asyncio.sleep(1.0)


async def say_nonsense(port: int) -> None:
    """Send what is no HTTP, and wait for the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(random.randbytes(random.randrange(1, 2000)) + b"\r\n\r\n")
    await asyncio.wait_for(reader.read(), 1.0)
    writer.close()


async def hear_nothing(port: int) -> None:
    """Ask for much, many times over, and read none of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(_ASKED * 100)
    await asyncio.sleep(30.0)
    del reader
    writer.transport.abort()


async def main(port: int) -> None:
    """Do all of it until ended."""

    async def again_and_again(behaviour: object, pause: float) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                await behaviour(port)  # type: ignore[operator]
            await asyncio.sleep(pause)

    await asyncio.gather(
        *(again_and_again(say_slowly, 1.0) for _ in range(SLOW)),
        *(again_and_again(say_nonsense, 0.02) for _ in range(NONSENSE)),
        *(again_and_again(hear_nothing, 1.0) for _ in range(DEAF)),
    )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
