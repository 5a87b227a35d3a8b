"""A server that answers everything by the same octets: what the generator itself can ask at most."""

from __future__ import annotations

import asyncio
import os
import sys

from tests.bench.lookup_node import go_first

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 150\r\n\r\n" + bytes(150)


class Canned(asyncio.Protocol):
    """Takes whatever comes for a request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            self._answer = transport.write

    def data_received(self, _data: bytes) -> None:
        self._answer(ANSWER)


async def main() -> None:
    """Serve until ended."""
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", 0)
    print(f"port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    os.sched_setaffinity(0, [int(sys.argv[1])])
    go_first()
    asyncio.run(main())
