from __future__ import annotations

from gateway.packets import ip
from policies.errors import MalformedPacket
from policies.facts import UDP
from tests.fuzz.mutation import Repair, ipv4_checksum_at, mutations

CORPUS = [
    ip.build(bytes([10, 0, 0, last]), bytes([10, 0, 1, 1]), UDP, bytes(4) + b"\0\x20" + bytes(26))
    for last in (1, 2)
]


def test_the_same_seed_gives_the_same_inputs() -> None:
    assert list(mutations(CORPUS, 1, 200)) == list(mutations(CORPUS, 1, 200))
    assert list(mutations(CORPUS, 1, 200)) != list(mutations(CORPUS, 2, 200))


def test_the_count_is_what_was_asked_for_and_most_inputs_differ() -> None:
    inputs = list(mutations(CORPUS, 1, 1000))

    assert len(inputs) == 1000
    assert len(set(inputs)) > 900


def accepted(repair: Repair | None) -> int:
    count = 0
    for packet in mutations(CORPUS, 1, 1000, repair):
        try:
            ip.decode_untrusted(packet)
        except MalformedPacket:
            continue
        count += 1
    return count


def test_many_more_inputs_get_past_the_header_with_its_checksum_put_right() -> None:
    assert accepted(None) < 400
    assert accepted(ipv4_checksum_at(0)) > accepted(None) * 1.2
