"""Both sides configured unlike each other: what our side says, by whoever dials."""

from __future__ import annotations

import pytest

from gateway.lab.strongswan import Child
from tests.interop.strongswan import (
    CHILD,
    CONNECTION,
    GCM,
    SECRET,
    SUITES,
    VM_SUBNETS,
    Initiator,
    World,
    connection_of,
    started,
)

pytestmark = [pytest.mark.netns, pytest.mark.interop]

both = pytest.mark.parametrize(
    "initiator", [Initiator.ISTHMUS, pytest.param(Initiator.STRONGSWAN, marks=pytest.mark.long)]
)


@both
def test_wrong_secret_is_named_and_not_shown(world: World, initiator: Initiator) -> None:
    wrong = "another secret"
    gateway, _ = started(world, initiator, connection={"psk": wrong})
    gateway.wait_for_error("seattle", "authenticat|secret|AUTHENTICATION_FAILED")
    assert gateway.site("seattle").state != "up"
    for secret in (SECRET, wrong):
        assert secret not in gateway.process.output()
        assert secret not in repr(gateway.site("seattle"))


@both
def test_wrong_identity_is_named(world: World, initiator: Initiator) -> None:
    gateway, _ = started(world, initiator, connection={"local_id": "stranger.example"})
    expected = "authenticat|identit" if initiator is Initiator.ISTHMUS else "stranger.example"
    gateway.wait_for_error("seattle", expected)
    assert gateway.site("seattle").state != "up"


@both
@pytest.mark.parametrize("which", ["ike", "esp"])
def test_no_common_proposal_is_told_with_what_was_offered(
    world: World, initiator: Initiator, which: str
) -> None:
    ike, esp = GCM
    other_ike, other_esp = SUITES["cbc256-sha256-ecp256"]
    theirs = {"proposals": other_ike} if which == "ike" else {"children": {CHILD: child(proposals=other_esp)}}
    gateway, _ = started(world, initiator, connection=theirs)
    if initiator is Initiator.ISTHMUS:
        gateway.wait_for_error("seattle", "proposal")
    else:
        said = gateway.wait_for_error("seattle", "offered only")
        assert "aes256" in said
        assert (ike if which == "ike" else esp).partition("-")[0] in said
    assert gateway.site("seattle").state != "up"


@both
def test_selectors_that_do_not_match_are_told(world: World, initiator: Initiator) -> None:
    other = {"local": ("172.31.0.0/16",), "remote": ("10.99.0.0/16",)}
    gateway, _ = started(world, initiator, connection={"children": {CHILD: child(**other)}})
    if initiator is Initiator.ISTHMUS:
        gateway.wait_for_error("seattle", "selectors have nothing in common")
    else:
        gateway.wait_for_error("seattle", "asks for 10.99.0.0/16 === 172.31.0.0/16, which is not configured")
    assert gateway.site("seattle").state != "up"


@pytest.mark.long
def test_selectors_put_right_at_the_peer_need_nothing_of_us(world: World) -> None:
    right = connection_of("seattle")
    wrong = {CHILD: child(local=("172.31.0.0/16",), remote=("10.99.0.0/16",))}
    gateway, swan = started(world, Initiator.ISTHMUS, connection={"children": wrong})
    gateway.wait_for_error("seattle", "selectors")
    swan.connections[CONNECTION] = right
    swan.reload()
    gateway.wait_until_up("seattle", 60)


@pytest.mark.long
@pytest.mark.parametrize("initiator", Initiator)
def test_narrower_selectors_of_the_peer_are_taken(world: World, initiator: Initiator) -> None:
    narrow = {"local": ("172.16.0.0/24",), "remote": (VM_SUBNETS[0],)}
    gateway, swan = started(world, initiator, connection={"children": {CHILD: child(**narrow)}})
    gateway.wait_until_up("seattle")
    swan.wait_until_up(CONNECTION)
    (pair,) = gateway.site("seattle").children
    assert pair.remote == ["172.16.0.0/24"]
    assert pair.local == ["10.0.1.0/24"]


@pytest.mark.long
def test_right_secret_in_the_file_needs_only_a_reload(world: World) -> None:
    gateway, _ = started(world, Initiator.ISTHMUS, connection={"psk": "changed"})
    gateway.wait_for_error("seattle", "authenticat|secret")
    world.put_secret("seattle.psk", "changed")
    gateway.reload()
    gateway.wait_until_up("seattle", 60)


def child(**given: object) -> Child:
    """The usual child SA, but for what is given."""
    usual = {"local": ("172.16.0.0/16", "fd16::/64"), "remote": VM_SUBNETS, "proposals": GCM[1]}
    return Child(**{**usual, **given})  # type: ignore[arg-type]
