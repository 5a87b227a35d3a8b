from __future__ import annotations

import os
import struct

import pytest

from gateway.fastpath import elf, kernel
from gateway.packets import ip
from gateway.packets.checksum import internet_checksum
from tests.bench.fast_frames import CLIENT, FIRST, INNER, OBJECT, VSID
from tests.bench.fast_line import EDGE, RECEIVER, SENDER, Line, LiveWay, traffic

TENANTS, RECORDS, STRIDE = 3, 50, 97
TRAFFIC = traffic(64, tenants=TENANTS, records=RECORDS, stride=STRIDE)


def test_a_frame_has_the_size_that_is_asked_for_inside() -> None:
    assert len(TRAFFIC.frame()) == 14 + 20 + 8 + 64


@pytest.mark.usefixtures("require_bpf")
def test_headers_are_written_anew_for_every_packet_to_destinations_all_over() -> None:
    with kernel.load(elf.read_object(OBJECT.read_bytes())) as loaded:
        loaded.maps["programs"].update(struct.pack("<I", 0), struct.pack("<I", loaded.programs["nothing"]))
        plan = loaded.maps["plan"].memory()
        said = TRAFFIC.plan(0)
        plan[: len(said)] = said
        frame = bytes(len(TRAFFIC.frame()))
        met = set()
        for _ in range(5000):
            frame = kernel.test_run(loaded.programs["decide"], frame).data
            header = frame[INNER : INNER + 20]
            assert internet_checksum(header) == 0
            assert header[12:16] == CLIENT
            tenant, odd = divmod(int.from_bytes(frame[38:41]) - VSID, 2)
            number, rest = divmod(int.from_bytes(header[16:]) - int.from_bytes(FIRST), STRIDE)
            assert odd == rest == 0
            assert frame[42:48] == b"\x02\x69\x73" + frame[38:41]
            met.add((tenant, number))
    assert met == {(tenant, number) for tenant in range(TENANTS) for number in range(RECORDS)}
    assert frame[14:34] == ip.build(SENDER, EDGE, 47, bytes(8 + 64))[:20]


@pytest.mark.netns
@pytest.mark.usefixtures("require_bpf")
def test_what_the_kernel_forwards_is_counted_to_the_last_frame() -> None:
    with Line(max(os.sched_getaffinity(0))) as line:
        line.forward_by_kernel()
        line.settle()
        LiveWay(line, traffic(64, destination=RECEIVER)).check()
