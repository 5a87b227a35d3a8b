from __future__ import annotations

import io
from typing import Any

import pytest
import trio
from scapy.utils import PcapNgReader

from gateway.operating.capture import Frame, Told, Wanted
from gateway.operating.commands import Asker, Stream, Tell
from tests.gateway.api.appliance import Served, served
from tests.gateway.lookup.serving import Asker as HttpAsker

PACKET = bytes.fromhex("450000140000000040010000") + bytes([10, 0, 1, 5, 10, 0, 1, 6])


def frame(number: int) -> Frame:
    return Frame(
        at=1.0 + number,
        place="red/web",
        tenant="red",
        is_ethernet=False,
        is_inbound=True,
        octets=PACKET,
        length=len(PACKET),
    )


@pytest.mark.parametrize("query", ["", "?snaplen=64", "?snaplen=999999999999", "?frames=0"])
def test_capture_is_a_file_that_wireshark_reads(query: str) -> None:
    async def tell_frames(_asker: Asker, wanted: Wanted, tell: Tell) -> None:
        await tell(Told([]))
        await tell(Told([frame(1), frame(2)]))
        await tell(Told([frame(3)], lost=5))

    async def ask(node: Served) -> tuple[int, str, bytes]:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            asker = HttpAsker(session, f"http://127.0.0.1:{node.port}", None)
            answer = await asker("GET", f"/v1/capture{query}")
            return answer.status, answer.headers["Content-Type"], answer.body

    async def main() -> Any:
        commands = {"capture": Stream(tell_frames, Wanted, told=Told)}
        async with served(commands=commands) as node:
            return await node.loop.run(ask, node)

    status, kind, body = trio.run(main)
    if query not in {"", "?snaplen=64"}:
        assert (status, kind) == (422, "application/problem+json")
        return
    assert (status, kind) == (200, "application/x-pcapng")
    assert [bytes(packet) for packet in PcapNgReader(io.BytesIO(body))] == [PACKET] * 3
