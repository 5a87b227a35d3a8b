"""Every algorithm against strongSwan, with a pre-shared key, by either side."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.lab import premises
from gateway.lab.strongswan import Child
from tests.interop.strongswan import (
    CHILD,
    CONNECTION,
    GCM,
    SERVER,
    SUITES,
    VM,
    VM_SUBNETS,
    Initiator,
    World,
    connected,
    lost,
    matrix,
    transfers,
)

pytestmark = [pytest.mark.netns, pytest.mark.interop]

# strongSwan's own words for what was agreed on.
NAMES = {
    "gcm256-ecp384": "AES_GCM_16-256 PRF_HMAC_SHA2_384 ECP_384",
    "chacha-x25519": "CHACHA20_POLY1305-256 PRF_HMAC_SHA2_256 CURVE_25519",
    "cbc256-sha256-ecp256": "AES_CBC-256 HMAC_SHA2_256_128 PRF_HMAC_SHA2_256 ECP_256",
    "cbc256-sha384-modp2048": "AES_CBC-256 HMAC_SHA2_384_192 PRF_HMAC_SHA2_384 MODP_2048",
    "cbc128-sha512-ecp521": "AES_CBC-128 HMAC_SHA2_512_256 PRF_HMAC_SHA2_512 ECP_521",
    "gcm128-ecp256": "AES_GCM_16-128 PRF_HMAC_SHA2_256 ECP_256",
}
QUICK = {("chacha-x25519", Initiator.ISTHMUS), ("cbc256-sha256-ecp256", Initiator.STRONGSWAN)}
MATRIX = matrix(SUITES, QUICK)

# Who has dialled makes no difference to what goes through the tunnel then.
both = pytest.mark.parametrize(
    "initiator", [Initiator.ISTHMUS, pytest.param(Initiator.STRONGSWAN, marks=pytest.mark.long)]
)


@pytest.mark.parametrize(("name", "initiator"), MATRIX)
def test_tunnel_carries_packets_both_ways_and_after_rekeys_with_a_new_exchange(
    world: World, name: str, initiator: Initiator
) -> None:
    gateway, swan = connected(world, initiator, suite=SUITES[name])
    server, vm = world.server("seattle"), world.vm("red-web1")

    assert lost(vm, SERVER) == 0
    assert lost(server, VM) == 0
    (sa,) = swan.security_associations()
    assert sa.suite == NAMES[name].replace("CHACHA20_POLY1305-256", "CHACHA20_POLY1305")
    # The group of the first child SA is the IKE SA's; only a new exchange proves that of its own.
    swan.rekey_child(CHILD)
    gateway.wait_for("seattle", lambda site: site.child_rekeys >= 1, "rekeyed")
    assert lost(server, VM) == 0
    swan.rekey(CONNECTION)
    gateway.wait_for("seattle", lambda site: site.ike_rekeys >= 1, "rekeyed")
    assert lost(vm, SERVER) == 0


@both
def test_tunnel_carries_ipv6_and_transfers_by_tcp(world: World, initiator: Initiator) -> None:
    connected(world, initiator)
    server, vm = world.server("seattle"), world.vm("red-web1")
    assert lost(vm, premises.SERVER[1]) == 0
    assert lost(server, "fd00:1::5") == 0
    assert transfers(world, vm, server, SERVER, 5_000_000)
    assert transfers(world, server, vm, VM, 5_000_000)


@both
def test_gateway_is_the_one_extra_hop(
    world: World, initiator: Initiator, require_tools: Callable[..., None]
) -> None:
    require_tools("traceroute")
    connected(world, initiator)
    said = world.server("seattle").run("traceroute", "-n", "-q", "1", "-w", "2", VM).stdout
    hops = [line.split()[1] for line in said.splitlines()[1:]]
    assert hops == [premises.DEVICE[0], "10.0.1.1", VM]


@pytest.mark.long
@pytest.mark.parametrize("initiator", Initiator)
def test_device_that_wants_one_child_sa_a_pair_of_prefixes_gets_them(
    world: World, initiator: Initiator
) -> None:
    children = {
        f"{CHILD}{version}": Child(local=(premises.PREFIXES[n],), remote=(VM_SUBNETS[n],), proposals=GCM[1])
        for n, version in enumerate((4, 6))
    }
    _, swan = connected(
        world, initiator, site={"selectors": "pairs"}, connection={"children": children}, child=f"{CHILD}4"
    )
    if initiator is Initiator.STRONGSWAN:
        swan.initiate(f"{CHILD}6")
    server = world.server("seattle")
    assert lost(world.vm("red-web1"), SERVER) == 0
    assert lost(world.vm("red-web1"), premises.SERVER[1]) == 0
    assert lost(server, VM) == 0
    assert lost(server, "fd00:1::5") == 0
    assert len(swan.security_associations()[0].children) == 2
