"""Undoes what GRO did on the way in: a packet larger than the underlay carries is several."""

from __future__ import annotations

from gateway.packets import ethernet, ip, nvgre
from gateway.packets.segmentation import segment
from policies.errors import MalformedPacket
from policies.facts import TCP


def split_untrusted(payload: bytes, largest: int) -> list[bytes]:
    """Cut a merged NVGRE packet into packets of at most `largest` octets, GRE header included.

    Only TCP segments are merged. Anything else of that size was reassembled from
    fragments, which RFC 7637 section 4.4 lets us take, or is malformed: it is
    returned whole, and whoever reads it next judges it.
    """
    try:
        nvgre.decode_untrusted(payload)
        frame = payload[nvgre.HEADER_LENGTH :]
        facts = ip.decode_untrusted(frame[ethernet.HEADER_LENGTH :])
        if facts.protocol != TCP or facts.is_fragment:
            return [payload]
        data_offset = ethernet.HEADER_LENGTH + facts.header_length
        tcp_header_length = (frame[data_offset + 12] >> 4) * 4
        room = largest - nvgre.HEADER_LENGTH - data_offset - tcp_header_length
        header = payload[: nvgre.HEADER_LENGTH]
        return [header + each for each in segment(frame, room)]
    except MalformedPacket:
        return [payload]
