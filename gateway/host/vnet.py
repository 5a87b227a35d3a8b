"""What a VM's port hands us: frames whose last touches its stack left to the hardware.

The kernel says in a virtio_net_hdr what is left to do, and beside the frame
which VLAN tag it took off.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from gateway.packets import ethernet
from gateway.packets.segmentation import finish_checksum, segment
from policies.errors import MalformedPacket

# struct virtio_net_hdr of <linux/virtio_net.h>: flags, GSO type, length of the headers,
# size of a segment, start and offset of the checksum. The kernel writes its own byte order.
_HEADER = struct.Struct("=BBHHHH")
HEADER_LENGTH = _HEADER.size
NOTHING_LEFT = bytes(HEADER_LENGTH)

_NEEDS_CHECKSUM = 1
_ECN = 0x80
_GSO_TCP_IPV4 = 1
_GSO_TCP_IPV6 = 4
_GSO_UDP_L4 = 5
_SEGMENTED = frozenset({_GSO_TCP_IPV4, _GSO_TCP_IPV6, _GSO_UDP_L4})

# Names of <linux/if_packet.h> that Python lacks.
SOL_PACKET = 263
PACKET_AUXDATA = 8

# struct tpacket_auxdata of <linux/if_packet.h>: status, two lengths, two offsets, tag, its type.
_AUXDATA = struct.Struct("=IIIHHHH")
_VLAN_VALID = 1 << 4
_VLAN_TYPE_VALID = 1 << 6

_TAG = struct.Struct("!HH")
_TAG_AT = 12

# What Linux itself allows a super-packet of UDP datagrams (UDP_MAX_SEGMENTS of <linux/udp.h>). For TCP it
# is more than 64 kB at an MSS of 536 make, which are 122. A TCP peer may ask for less, down to 88 octets or
# so, and that works too: Linux puts about a millisecond's data into a super-packet (tcp_tso_autosize), so
# only above 90 Mbit/s of such segments is one refused, which TCP takes for congestion. Without a bound a
# VM would have us make 65,000 frames of one, while others wait.
MOST_SEGMENTS = 128

# Ethernet, IP and TCP with all the options that they have room for.
_LONGEST_HEADERS = ethernet.HEADER_LENGTH + 60 + 60

Ancillary = Sequence[tuple[int, int, bytes]]


def frames_untrusted(received: bytes, ancillary: Ancillary) -> list[bytes]:
    """Return the frames that the VM would have sent without offloads.

    `received` is the virtio_net_hdr and a frame. What makes no sense is returned as
    it is, for the pipeline to judge. Raises MalformedPacket, and nothing else, for a
    super-packet of more than about `MOST_SEGMENTS` segments.
    """
    untagged = received[HEADER_LENGTH:]
    frame = with_vlan_tag(untagged, ancillary)
    if frame is not untagged:
        # A tagged frame goes no further than the pipeline, so nothing else is finished.
        return [frame]
    if received.startswith(NOTHING_LEFT):
        return [frame]
    try:
        flags, gso_type, _, segment_size, start, offset = _HEADER.unpack_from(received)
    except struct.error:
        return [frame]
    is_super_packet = gso_type & ~_ECN in _SEGMENTED
    if is_super_packet and len(frame) > _LONGEST_HEADERS + MOST_SEGMENTS * segment_size:
        raise MalformedPacket(f"a super-packet of {len(frame)} octets in segments of {segment_size}")
    try:
        if is_super_packet:
            return segment(frame, segment_size)
        if flags & _NEEDS_CHECKSUM:
            return [finish_checksum(frame, start, offset)]
    except MalformedPacket:
        return [frame]
    return [frame]


def with_vlan_tag(frame: bytes, ancillary: Ancillary) -> bytes:
    """Return a frame with the VLAN tag that the kernel took off it, or the same object where it had none."""
    for level, kind, value in ancillary:
        if (level, kind) != (SOL_PACKET, PACKET_AUXDATA) or len(value) < _AUXDATA.size:
            continue
        status, _, _, _, _, tag, tag_type = _AUXDATA.unpack_from(value)
        if status & _VLAN_VALID:
            tag_type = tag_type if status & _VLAN_TYPE_VALID else ethernet.VLAN
            return frame[:_TAG_AT] + _TAG.pack(tag_type, tag) + frame[_TAG_AT:]
    return frame
