from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from gateway.emissions import Emitter
from gateway.forwarding.drops import DropReason, Drops
from gateway.forwarding.verdicts import Drop, Forward, ToPort, ToProvider, ToSite, ToUnderlay
from gateway.packets import ip
from policies.addresses import CustomerAddress, MacAddress, ProviderAddress, Vsid
from policies.facts import UDP

PA = ProviderAddress.parse("192.0.2.1")
CA = CustomerAddress.parse("10.0.1.5")
TO_UNDERLAY = ToUnderlay(PA, PA, 0, b"payload", Vsid(5001), "red")
PACKET = ip.build(CA, CA, UDP, bytes.fromhex("c001003500080000"))
TO_SITE = ToSite(("red", "seattle"), PACKET, ip.decode_untrusted(PACKET), 0, "red")
TO_PROVIDER = ToProvider(PACKET, Vsid(5001), "red")
TO_PORT = ToPort((Vsid(5001), MacAddress(b"\2\0\0\0\0\1")), b"frame", "blue")


def failing(number: int) -> Callable[[object], None]:
    def send(emission: object) -> None:
        raise OSError(number, "no")

    return send


def test_each_emission_goes_where_it_belongs() -> None:
    underlay: list[ToUnderlay] = []
    ports: list[ToPort] = []
    sites: list[ToSite] = []
    rewritten: list[ToProvider] = []
    emitter = Emitter(Drops(), underlay.append, ports.append, sites.append, rewritten.append)
    emitter.carry_out(Forward((TO_UNDERLAY, TO_PORT, TO_SITE, TO_UNDERLAY, TO_PROVIDER)))
    assert (underlay, ports, sites) == ([TO_UNDERLAY, TO_UNDERLAY], [TO_PORT], [TO_SITE])
    assert rewritten == [TO_PROVIDER]


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EAGAIN, DropReason.QUEUE_FULL),
        (errno.ENOBUFS, DropReason.QUEUE_FULL),
        (errno.EMSGSIZE, DropReason.TOO_BIG),
        (errno.ENETUNREACH, DropReason.SEND_FAILED),
        (errno.EPERM, DropReason.SEND_FAILED),
        (errno.ENETDOWN, DropReason.SEND_FAILED),
    ],
)
def test_what_cannot_be_sent_is_counted_for_its_tenant(number: int, reason: DropReason) -> None:
    drops = Drops()
    emitter = Emitter(drops, failing(number), failing(number), failing(number), failing(number))
    emitter.carry_out(Forward((TO_UNDERLAY, TO_PORT, TO_SITE, TO_PROVIDER)))
    assert drops.counts == {(reason, "red"): 3, (reason, "blue"): 1}


def test_one_failure_does_not_keep_the_others_from_being_sent() -> None:
    ports: list[ToPort] = []
    emitter = Emitter(Drops(), failing(errno.EPERM), ports.append, failing(errno.EPERM), failing(errno.EPERM))
    emitter.carry_out(Forward((TO_UNDERLAY, TO_SITE, TO_PORT)))
    assert ports == [TO_PORT]


def test_a_drop_tells_its_sender_and_is_not_counted_again() -> None:
    drops, underlay = Drops(), list[ToUnderlay]()
    fails = failing(errno.EPERM)
    Emitter(drops, underlay.append, fails, fails, fails).carry_out(
        Drop(DropReason.HOP_LIMIT, "red", (TO_UNDERLAY,))
    )
    assert underlay == [TO_UNDERLAY]
    assert not drops.counts


@pytest.mark.parametrize("number", [errno.ENETDOWN, errno.ENXIO, errno.ENODEV])
def test_frame_for_a_port_that_is_not_there_is_held_and_nothing_else_is(number: int) -> None:
    drops, held = Drops(), list[ToPort]()
    emitter = Emitter(drops, failing(number), failing(number), failing(number), failing(number), held.append)
    emitter.carry_out(Forward((TO_UNDERLAY, TO_PORT, TO_SITE)))
    assert held == [TO_PORT]
    assert drops.counts == {(DropReason.SEND_FAILED, "red"): 2}


def test_frame_that_a_port_refuses_for_another_reason_is_counted() -> None:
    drops, held = Drops(), list[ToPort]()
    Emitter(drops, failing(0), failing(errno.EMSGSIZE), failing(0), failing(0), held.append).send(TO_PORT)
    assert (held, drops.counts) == ([], {(DropReason.TOO_BIG, "blue"): 1})
