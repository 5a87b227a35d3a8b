"""Rekeys under traffic, and peers that die and come back."""

from __future__ import annotations

import time

import pytest

from tests.interop.strongswan import (
    CONNECTION,
    SERVER,
    VM,
    Initiator,
    Traffic,
    World,
    connected,
    lost,
)

pytestmark = [pytest.mark.netns, pytest.mark.interop]


OURS = {"lifetimes": {"child": "2 s", "ike": "3 s"}}
# strongSwan forgets to rekey a child SA in the very second in which it rekeys the IKE SA.
THEIRS = {"child_rekey_seconds": 3, "rekey_seconds": 5}


@pytest.mark.parametrize(
    ("initiator", "who", "seconds"),
    [
        pytest.param(Initiator.ISTHMUS, "both", 6, id="by both"),
        *(
            pytest.param(initiator, who, 12, id=f"{initiator} dialled, by {who}", marks=pytest.mark.long)
            for initiator in Initiator
            for who in ("us", "strongSwan", "both")
        ),
    ],
)
def test_rekeys_every_few_seconds_lose_no_packet(
    world: World, initiator: Initiator, who: str, seconds: int
) -> None:
    gateway, swan = connected(
        world,
        initiator,
        site=OURS if who in {"us", "both"} else {},
        connection=THEIRS if who in {"strongSwan", "both"} else {},
    )
    traffic = Traffic(world, world.server("seattle"), world.vm("red-web1"), VM, seconds)

    assert traffic.pings_lost() == 0
    assert traffic.slowest_second() > 0.5
    status = gateway.site("seattle")
    assert status.state == "up"
    assert status.child_rekeys >= seconds // 4
    assert status.ike_rekeys >= seconds // 6
    assert swan.is_up(CONNECTION)


@pytest.mark.long
@pytest.mark.parametrize("initiator", Initiator)
def test_killed_strongswan_is_up_again_by_itself_once_it_is_back(world: World, initiator: Initiator) -> None:
    gateway, swan = connected(
        world,
        initiator,
        site={"liveness": "2 s"},
        connection={"initiates": initiator is Initiator.STRONGSWAN},
    )
    swan.kill()
    assert lost(world.vm("red-web1"), SERVER, count=3, interval=1) == 3
    if initiator is Initiator.ISTHMUS:
        gateway.wait_for("seattle", lambda site: site.state != "up", "down", 15)
    swan.start()
    swan.wait_until_up(CONNECTION, 30)
    gateway.wait_until_up("seattle")
    assert lost(world.vm("red-web1"), SERVER) == 0
    assert lost(world.server("seattle"), VM) == 0


@pytest.mark.long
@pytest.mark.parametrize("initiator", Initiator)
def test_silent_peer_is_noticed_within_ten_seconds_of_traffic(world: World, initiator: Initiator) -> None:
    """With the defaults: the interface to the peer carries nothing more, and nobody says so."""
    gateway, _ = connected(world, initiator)
    world.premises["seattle"].device.run(
        "nft",
        "add table inet silence; add chain inet silence out "
        "{ type filter hook output priority 0; policy drop; }",
    )
    begun = time.monotonic()
    pings = world.start("ping", world.vm("red-web1"), "ping", "-q", "-i", "0.2", SERVER)
    gateway.wait_for("seattle", lambda site: site.state != "up", "down", 30)
    took = time.monotonic() - begun
    pings.stop()
    assert took < 13


@pytest.mark.long
@pytest.mark.parametrize("initiator", Initiator)
def test_killed_gateway_is_up_again_once_it_is_back(world: World, initiator: Initiator) -> None:
    dials = initiator is Initiator.STRONGSWAN
    gateway, _ = connected(
        world, initiator, connection={"initiates": dials, "liveness_seconds": 2 if dials else None}
    )
    gateway.kill()
    gateway = world.restart_gateway()
    gateway.wait_until_up("seattle", 40)
    assert lost(world.vm("red-web1"), SERVER) == 0
    assert lost(world.server("seattle"), VM) == 0


@pytest.mark.long
def test_stopped_gateway_says_goodbye(world: World) -> None:
    gateway, swan = connected(world, Initiator.ISTHMUS)
    gateway.process.stop()
    assert not swan.is_up(CONNECTION)
